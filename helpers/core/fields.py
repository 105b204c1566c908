"""Every setting of the course: its name, its type, its default, and what it is for.

One spelling everywhere: the name in `.env` is the name in a parameters cell and the name here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    StringConstraints,
)

from helpers.core.errors import CourseError
from helpers.core.paths import ROOT, relative_path

SECRETS = ("HF_TOKEN", "NCBI_API_KEY", "NCBI_EMAIL", "JUDGE_API_KEY", "API_TOKEN")

AMBIENT = (  # readable by every stage, never a notebook parameter, never part of a key
    *("ENV_FILE", "ARTEFACTS_DIR", "TIME_LIMIT", "TRACKING", "NCBI_EMAIL", "NCBI_API_KEY", "HF_TOKEN"),
    *("NCBI_EUTILS_BASE", "ARXIV_API_BASE", "HF_ENDPOINT", "JUDGE_BASE_URL", "JUDGE_API_KEY"),
)

Profile = Literal["auto", "smoke", "cpu", "t4", "gpu24", "gpu80"]
Url = Annotated[str, AfterValidator(lambda url: str(AnyHttpUrl(url)).rstrip("/"))]
Rate = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
OnOff = Literal["on", "off"]
FromRoot = Annotated[  # a relative path is relative to the repository, wherever the process stands
    Path, AfterValidator(lambda path: ROOT / path.expanduser()), PlainSerializer(relative_path, when_used="json")
]
RunName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$", max_length=40)]
RESERVED_RUNS = (
    *("base", "work", "controls", "export", "qlora_model", "full_finetuned_model"),
    *("raw", "benchmark", "topics", "sample", "general", "receipts", "items", "cards", "recorded"),
)


def check_run_name(run: str) -> str:
    if run.lower() in RESERVED_RUNS:
        raise ValueError(f"{run} is a folder of the course itself")
    return run


class Settings(BaseModel):
    """The resolved settings. Build them with `load_settings`, which also says where each value came from."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    PROFILE: Profile = Field("auto", description="which row of profiles.toml; auto looks at the hardware")
    RUN: Annotated[RunName, AfterValidator(check_run_name)] = Field(
        "", description="a name for this run's own folders; unset writes to the plain ones"
    )
    ENV_FILE: str = Field(".env", description="settings file, relative to the repository; empty reads none")
    ARTEFACTS_DIR: FromRoot | None = Field(
        None, description="a folder (on Drive, say) that finished stages are copied to and restored from"
    )
    TIME_LIMIT: Annotated[float, Field(gt=0)] | None = Field(
        None, description="minutes that make pipeline may take; a stage that will not fit is not begun"
    )

    MODEL_NAME: Words = Field(
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

    TOPIC: Words = Field("autoimmune", description="a name in data/topics, or a path to a topic file")
    PAPERS_SOURCE: Literal["auto", "online", "archive", "folder", "sample"] = Field(
        "auto", description="auto asks PubMed and arXiv, and reads the archive where PubMed is out of reach"
    )
    PAPERS_FOLDER: FromRoot | None = Field(None, description="a folder of your own papers, for PAPERS_SOURCE=folder")
    FULL_TEXT: OnOff = Field("off", description="also read full texts, where their licence is one of LICENCES")
    LICENCES: str = Field(
        "CC0, CC BY, CC BY-SA", description="licences whose full texts may be read, separated by commas"
    )
    PAPERS_SCREEN: Literal["auto", "on", "off"] = Field(
        "auto", description="drop papers that are off the topic; auto: unless they are your own"
    )
    PAPERS_ARCHIVE: FromRoot | None = Field(
        None, description="PubMed XML for the archive route: a file or a folder, .gz or plain"
    )
    PAPERS_QUERY: Words | None = Field(None, description="a PubMed query in place of the topic's")
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
    EXPOSURES: Annotated[int, Field(ge=1, le=1000)] = Field(
        24, description="how often each fact of a drilled paper is read"
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
    CONTROLS: Literal["off", "control", "placebo", "full"] = Field(
        "control",
        description="control: the positive control by the run's own recipe; placebo: also papers of other fields; "
        "full: also a second seed",
    )
    TRACKING: Literal["off", "tensorboard", "trackio"] = Field(
        "off", description="where the curves of a training are logged besides the report"
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
    MERGED: OnOff = Field("off", description="make export adds the adapter merged into its base")

    NCBI_EMAIL: SecretStr | None = Field(None, description="your e-mail address, which NCBI asks for")
    NCBI_API_KEY: SecretStr | None = Field(None, description="raises NCBI's limit from 3 to 10 requests a second")
    HF_TOKEN: SecretStr | None = Field(None, description="Hugging Face token, for gated models")
    NCBI_EUTILS_BASE: Url = Field("https://eutils.ncbi.nlm.nih.gov/entrez/eutils", description="E-utilities address")
    ARXIV_API_BASE: Url = Field("https://export.arxiv.org/api/query", description="arXiv API address")
    HF_ENDPOINT: Url = Field("https://huggingface.co", description="Hugging Face Hub address")

    _readable: frozenset[str] | None = PrivateAttr(None)
    _given: dict[str, str] = PrivateAttr(default_factory=dict)

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

    @property
    def given(self) -> dict[str, str]:
        """{name: value as it was written} of what the user set for this process, not in a file; secrets left out.

        A command that is suggested repeats them: without them it would do something else.
        """
        return self._given


NAMES = tuple(Settings.model_fields)
