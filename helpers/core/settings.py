"""Every knob of the course: its type, its default, and where its value came from.

Later wins: default → profile → `.env` → environment → make's command line and notebook parameters.
One spelling everywhere: the name in `.env` is the name in a parameters cell and the name here.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from helpers.core.errors import CourseError
from helpers.core.hardware import profile_for_this_machine as hardware_profile_for_this_machine
from helpers.core.paths import ROOT, relative_path

PROFILES_FILE = Path(__file__).with_name("profiles.toml")
CHECKED_PREFIXES = ("QLORA_", "FULL_", "LORA_", "PAPERS_")
SECRETS = ("HF_TOKEN", "NCBI_API_KEY", "NCBI_EMAIL", "JUDGE_API_KEY", "API_TOKEN")

AMBIENT = (
    "ENV_FILE",
    "ARTEFACTS_DIR",
    "NCBI_EMAIL",
    "NCBI_API_KEY",
    "HF_TOKEN",
    "NCBI_EUTILS_BASE",
    "ARXIV_API_BASE",
    "HF_ENDPOINT",
    "JUDGE_BASE_URL",
    "JUDGE_API_KEY",
)  # readable by every stage, never a notebook parameter, never part of a key

Profile = Literal["auto", "smoke", "cpu", "t4", "gpu24", "gpu80"]
Url = Annotated[str, AfterValidator(lambda url: str(AnyHttpUrl(url)).rstrip("/"))]
Rate = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
FromRoot = Annotated[  # a relative path is relative to the repository, wherever the process stands
    Path, AfterValidator(lambda path: ROOT / path.expanduser()), PlainSerializer(relative_path, when_used="json")
]
RunName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$", max_length=40)]
RESERVED_RUNS = (
    *("base", "work", "controls", "export", "qlora_model", "full_finetuned_model"),
    *("raw", "benchmark", "topics", "sample", "general", "receipts", "items", "cards", "recorded"),
)
MUST_EXIST = ("QUESTIONS_FILE", "PAPERS_ARCHIVE", "PAPERS_IDS", "PAPERS_EXCLUDE", "TRAINING_DATA")


def check_run_name(run: str) -> str:
    if run.lower() in RESERVED_RUNS:
        raise ValueError(f"{run} is a folder of the course itself")
    return run


class Settings(BaseSettings):
    """The resolved settings. Build them with `load`, which also says where each value came from."""

    model_config = SettingsConfigDict(extra="forbid", case_sensitive=True, frozen=True, env_prefix="\0none")

    PROFILE: Profile = Field("auto", description="which row of profiles.toml; auto looks at the hardware")
    RUN: Annotated[RunName, AfterValidator(check_run_name)] = Field(
        "", description="a name for this run's own folders; unset writes to the plain ones"
    )
    ENV_FILE: str = Field(".env", description="settings file, relative to the repository; empty reads none")
    ARTEFACTS_DIR: FromRoot | None = Field(
        None, description="a folder (on Drive, say) that finished stages are copied to and restored from"
    )

    MODEL_NAME: Annotated[str, StringConstraints(min_length=1)] = Field(
        "smollm2-135m", description="the base model: smollm2-135m (embedded) or any Hugging Face id"
    )
    MODEL_REVISION: str | None = Field(None, description="branch, tag or commit of a Hugging Face model")
    DTYPE: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="precision of the arithmetic; auto asks the hardware"
    )
    ATTENTION: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto", description="attention implementation; auto: flash attention where it can run"
    )

    QUESTIONS_FILE: FromRoot | None = Field(None, description="your own questions, JSON or CSV")
    MAX_NEW_TOKENS: Annotated[int, Field(ge=1, le=32768)] = Field(160, description="longest answer, in tokens")
    SAMPLES: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="sampled answers to each question, besides the greedy one, to see their spread"
    )
    MAX_ITEMS: Annotated[int, Field(ge=10)] = Field(300, description="most items of one instrument")
    PUBLIC_BENCHMARKS: str = Field(
        "", description="public benchmarks besides our own instruments, by name, separated by commas (needs the Hub)"
    )
    JUDGE_MODEL: Words | None = Field(
        None, description="a model behind JUDGE_BASE_URL that grades the answers a second time, reported apart"
    )
    JUDGE_BASE_URL: Url = Field("http://127.0.0.1:8000/v1", description="OpenAI-compatible address of the judge")
    JUDGE_API_KEY: SecretStr | None = Field(None, description="key for JUDGE_BASE_URL, if it wants one")

    TOPIC: Annotated[str, StringConstraints(min_length=1)] = Field(
        "autoimmune", description="a name in data/topics, or a path to a topic file"
    )
    PAPERS_SOURCE: Literal["auto", "online", "archive", "sample"] = Field(
        "auto", description="auto asks PubMed and arXiv, and reads the archive where PubMed is out of reach"
    )
    PAPERS_ARCHIVE: FromRoot | None = Field(
        None, description="PubMed XML for the archive route: a file or a folder, .gz or plain"
    )
    PAPERS_QUERY: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = Field(
        None, description="a PubMed query in place of the topic's"
    )
    PAPERS_IDS: FromRoot | None = Field(None, description="a file of PMIDs, one a line, in place of a query")
    MAX_PAPERS: Annotated[int, Field(ge=10)] = Field(300, description="most papers kept after screening")
    PAPERS_EXCLUDE: FromRoot | None = Field(
        None, description="a file of PMIDs never to train on (those of a public benchmark, say), one a line"
    )
    ROWS_PER_PAPER: Annotated[int, Field(ge=1, le=50)] = Field(
        12, description="most training rows made from one paper"
    )
    VIEWS: str = Field("all", description="kinds of training rows: all, or names separated by commas")
    TRAINING_DATA: FromRoot | None = Field(None, description="your own training rows in place of stage 3's")

    MAX_SEQ_LENGTH: Annotated[int, Field(ge=64, le=131072)] = Field(
        512, description="longest training row, in tokens; longer ones are cut"
    )
    TOKEN_BUDGET: Annotated[int, Field(ge=100)] = Field(
        100_000, description="a training ends after this many tokens, or after its epochs if that is sooner"
    )
    REPLAY_RATIO: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.1, description="share of general English among the tokens trained on, against forgetting"
    )
    GRAD_ACCUMULATION: Annotated[int, Field(ge=1, le=4096)] = Field(
        2, description="micro-batches to one update; times the batch size it is the effective batch"
    )
    GRADIENT_CHECKPOINTING: Literal["auto", "on", "off"] = Field(
        "auto", description="recompute activations to save memory; auto: on a GPU only"
    )
    EARLY_STOPPING: Literal["off", "held_out", "guard"] = Field(
        "off", description="stop when this loss has risen for two looks, and keep the best weights seen"
    )
    SEED: Annotated[int, Field(ge=0, lt=2**31)] = Field(42, description="seed of every random choice")
    SEEDS: Annotated[int, Field(ge=1, le=20)] = Field(
        1, description="how often each training is repeated, with seeds from SEED on; 1 trains once"
    )
    CONTROLS: Literal["off", "placebo", "full"] = Field(
        "placebo", description="placebo: also train on papers of other fields; full: A/A and positive control too"
    )

    QLORA_EPOCHS: Count = Field(3, description="passes over the training rows")
    QLORA_BATCH_SIZE: Count = Field(8, description="rows to a micro-batch, at most")
    QLORA_LR: Rate = Field(2e-4, description="peak learning rate, then cosine to 0")
    LORA_R: Annotated[int, Field(ge=1, le=1024)] = Field(16, description="rank of the adapter's matrices")
    LORA_ALPHA: Annotated[float, Field(gt=0)] = Field(32, description="the update is scaled by alpha / rank")
    LORA_DROPOUT: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the adapter")
    LORA_TARGET_MODULES: str = Field("all-linear", description="all-linear, or module names separated by commas")

    FULL_FINETUNE: Literal["auto", "on", "off"] = Field(
        "auto", description="train all weights; auto asks whether they fit"
    )
    FULL_EPOCHS: Count = Field(3, description="passes over the training rows")
    FULL_BATCH_SIZE: Count = Field(8, description="rows to a micro-batch, at most")
    FULL_LR: Rate = Field(1e-5, description="peak learning rate, then cosine to 0")

    WHICH: Literal["base", "qlora", "full"] = Field(
        "base", description="which model a test notebook asks, make serve serves and make export exports"
    )
    API_HOST: Words = Field("127.0.0.1", description="address of make serve; other than loopback it needs API_TOKEN")
    PORT: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port of make serve; 0 takes a free one")
    API_TOKEN: SecretStr | None = Field(
        None, description="what clients of make serve must know; at least 16 characters"
    )
    MERGED: Literal["on", "off"] = Field("off", description="make export adds the adapter merged into its base")

    NCBI_EMAIL: SecretStr | None = Field(None, description="your e-mail address, which NCBI asks for")
    NCBI_API_KEY: SecretStr | None = Field(None, description="raises NCBI's limit from 3 to 10 requests a second")
    HF_TOKEN: SecretStr | None = Field(None, description="Hugging Face token, for gated models")
    NCBI_EUTILS_BASE: Url = Field("https://eutils.ncbi.nlm.nih.gov/entrez/eutils", description="E-utilities address")
    ARXIV_API_BASE: Url = Field("https://export.arxiv.org/api/query", description="arXiv API address")
    HF_ENDPOINT: Url = Field("https://huggingface.co", description="Hugging Face Hub address")

    _readable: frozenset[str] | None = PrivateAttr(None)

    def __getattribute__(self, name: str) -> object:
        """A setting. Raises CourseError for one that this stage does not declare (see `readable_in`)."""
        if name.isupper():
            readable = (super().__getattribute__("__pydantic_private__") or {}).get("_readable")
            if readable is not None and name not in readable:
                raise CourseError(
                    f"this stage reads {name}, which its parameters cell does not declare",
                    f"add the line {name} = None to that cell",
                )
        return super().__getattribute__(name)

    def readable_in(self, names: Iterable[str]) -> "Settings":
        """The same settings, of which only these can be read: what a stage reads is part of its key."""
        limited = self.model_copy()
        limited._readable = frozenset(names)
        return limited

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` passes in: it merges the origins itself, to remember them."""
        return (init_settings,)


NAMES = tuple(Settings.model_fields)


def load_settings(
    parameters: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    command_line: Iterable[str] = (),
) -> tuple[Settings, dict[str, str]]:
    """The settings and, for each name, the origin of its value.

    `parameters` are a notebook's (None means "inherit"); names in `command_line` were typed after `make`.

    Raises CourseError naming the setting, the bad value and what is allowed.
    """
    environment = os.environ if environment is None else environment
    parameters = {name: value for name, value in (parameters or {}).items() if value is not None}
    check_names(parameters, "the parameters cell")
    checked = {name: value for name, value in environment.items() if name.startswith(CHECKED_PREFIXES)}
    check_names(checked, "the environment")
    from_environment = {name: environment[name] for name in NAMES if environment.get(name)}

    layers = {"default": {}, "profile": {}}
    env_file = parameters.get("ENV_FILE", environment.get("ENV_FILE", ".env"))
    layers[str(env_file) or ".env"] = read_env_file(str(env_file)) if env_file else {}
    layers["environment"] = {n: v for n, v in from_environment.items() if n not in command_line}
    layers["parameter"] = {n: v for n, v in parameters.items() if n not in command_line}
    layers["command line"] = {n: v for n, v in from_environment.items() if n in command_line}
    layers["command line"] |= {n: v for n, v in parameters.items() if n in command_line}

    wanted = "auto"
    for values in layers.values():
        wanted = values.get("PROFILE", wanted)
    layers["profile"] = profile_values(str(wanted))

    merged, origins = {}, dict.fromkeys(NAMES, "default")
    for origin, values in layers.items():
        for name, value in values.items():
            merged[name] = value
            origins[name] = f"{origin} {layers['profile']['PROFILE']}" if origin == "profile" else origin
    if wanted != "auto":
        origins["PROFILE"] = next(o for o in reversed(layers) if "PROFILE" in layers[o] and o != "profile")
    merged["PROFILE"] = layers["profile"]["PROFILE"]
    settings = validate_settings(merged, origins)
    for name in MUST_EXIST:
        if (path := getattr(settings, name)) and not path.exists():
            raise CourseError(
                f"{name}={merged[name]!s} ({origins[name]}): there is no such file",
                "give a path that exists, absolute or relative to the repository",
                "a-setting-is-refused",
            )
    return settings, origins


def validate_settings(merged: Mapping[str, object], origins: Mapping[str, str]) -> Settings:
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        shown = "(hidden)" if name in SECRETS else repr(merged.get(name))
        raise CourseError(
            f"{name}={shown} ({origins.get(name, 'unknown origin')}): {first['msg']}",
            f"{name} is {describe_allowed(name)}",
            "a-setting-is-refused",
        ) from None


def describe_allowed(name: str) -> str:
    """What a setting may be, in words a person can act on."""
    schema = Settings.model_json_schema()["properties"][name]
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    option = options[0]
    if "enum" in option:
        return "one of " + ", ".join(map(str, option["enum"]))
    words = {"integer": "a whole number", "number": "a number", "string": "text"}[option["type"]]
    bounds = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "above",
        "exclusiveMaximum": "below",
        "minLength": "not empty: characters at least",
        "maxLength": "characters at most",
        "pattern": "matching",
    }
    limits = [f"{words_for} {option[bound]}" for bound, words_for in bounds.items() if bound in option]
    return ", ".join([words, *limits]) + f" ({schema['description']})"


def looks_like_setting(name: str) -> bool:
    """Whether a notebook's variable is a setting, or a setting misspelt; DAYS and F are neither."""
    return name.isupper() and bool(difflib.get_close_matches(name, NAMES, n=1, cutoff=0.85))


def check_names(values: Iterable[str], where: str) -> None:
    """Refuse a name that is no setting, with the nearest one that is."""
    for name in values:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.6)
            raise CourseError(
                f"{name} (in {where}) is not a setting",
                f"did you mean {near[0]}?" if near else "see .env.example for every name",
                "a-setting-is-refused",
            )


def read_env_file(name: str) -> dict[str, str]:
    """Settings in a `.env` file; {} if the default one is not there."""
    path = ROOT / name
    if not path.is_file():
        if name == ".env":
            return {}
        raise CourseError(
            f"ENV_FILE={name!r}: there is no such file",
            "give a path relative to the repository",
            "a-setting-is-refused",
        )
    values = {key: value for key, value in dotenv_values(path).items() if value}
    check_names(values, relative_path(path))
    return values


def profile_values(name: str) -> dict[str, object]:
    """The settings of a profile, its own name among them; "auto" is resolved by the hardware.

    Raises CourseError for a profile that is not in profiles.toml or sets an unknown name.
    """
    profiles = tomllib.loads(PROFILES_FILE.read_text(encoding="utf-8"))
    if name == "auto":
        name = hardware_profile_for_this_machine()
    if name not in profiles:
        raise CourseError(
            f"PROFILE={name!r} is not a profile",
            f"PROFILE is one of auto, {', '.join(profiles)}",
            "a-setting-is-refused",
        )
    check_names(profiles[name], f"profile {name}")
    return {**profiles[name], "PROFILE": name}


def show_setting(settings: Settings, name: str) -> str:
    """A value as the settings table shows it; secrets only as set or not."""
    value = getattr(settings, name)
    if name in SECRETS:
        return "set" if value else "not set"
    if isinstance(value, Path):
        return relative_path(value)
    return "" if value is None else str(value)


def settings_as_json(settings: Settings, names: Iterable[str]) -> dict[str, object]:
    """The named settings as plain JSON values, for keys and receipts. Secrets are refused."""
    names = list(names)
    if secret := set(names) & set(SECRETS):
        raise ValueError(f"secrets do not go into artefacts: {sorted(secret)}")
    return settings.model_dump(mode="json", include=set(names))
