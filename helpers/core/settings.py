"""Where the values of settings come from: which origin wins, and what is refused.

Later wins: default → profile → `.env` → environment → notebook parameters → make's command line. Every origin is
asked for its values by name, so that the origin of each value is known.
"""

import difflib
import io
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic import ValidationError

from helpers.core.errors import CourseError
from helpers.core.fields import AMBIENT, NAMES, SECRETS, Settings
from helpers.core.hardware import profile_for_this_machine
from helpers.core.paths import ROOT, relative_path

__all__ = ["AMBIENT", "NAMES", "SECRETS", "Settings"]  # what is read together with the functions below

PROFILES_FILE = Path(__file__).with_name("profiles.toml")
CHECKED_PREFIXES = ("QLORA_", "FULL_", "LORA_", "PAPERS_")
MUST_EXIST = (
    *("QUESTIONS_FILE", "TRAINING_DATA"),
    *("PAPERS_ARCHIVE", "PAPERS_FOLDER", "PAPERS_IDS", "PAPERS_EXCLUDE"),
)


def load_settings(
    parameters: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    command_line: Mapping[str, str] | None = None,
) -> tuple[Settings, dict[str, str]]:
    """The settings and, for each name, the origin of its value.

    `parameters` are a notebook's (None means "inherit"), `command_line` what was typed after `make`; an empty text
    in a file, the environment or the command line sets nothing.

    Raises CourseError naming the setting, the bad value, its origin and what is allowed.
    """
    environment = os.environ if environment is None else environment
    command_line = command_line or {}
    parameters = {name: value for name, value in (parameters or {}).items() if value is not None}
    check_names(parameters, "the parameters cell")
    check_names(command_line, "the command line")
    check_names((name for name in environment if name.startswith(CHECKED_PREFIXES)), "the environment")
    typed = {"environment": environment, "parameter": parameters, "command line": command_line}
    env_file = next((str(v["ENV_FILE"]) for v in reversed(typed.values()) if "ENV_FILE" in v), ".env")
    layers = {env_file or ".env": read_env_file(env_file)}
    layers["environment"] = {name: environment[name] for name in NAMES if environment.get(name)}
    layers["parameter"] = {name: value for name, value in parameters.items() if name not in command_line}
    layers["command line"] = {name: value for name, value in command_line.items() if value}

    origin = next((origin for origin, layer in reversed(layers.items()) if "PROFILE" in layer), "this machine")
    profile, of_profile = read_profile(str(layers.get(origin, {}).get("PROFILE", "auto")), origin)
    values, origins = (
        dict(of_profile),
        dict.fromkeys(NAMES, "default") | dict.fromkeys(of_profile, f"profile {profile}"),
    )
    for origin, layer in layers.items():
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    if values.get("PROFILE", "auto") == "auto":
        origins["PROFILE"] = "this machine"
    given = {name: str(value) for origin in typed for name, value in layers[origin].items() if name not in SECRETS}
    settings = validate_settings(values | {"PROFILE": profile}, origins)
    require_files(settings, values, origins)
    settings._given = given
    return settings, origins


def validate_settings(values: Mapping[str, object], origins: Mapping[str, str]) -> Settings:
    """The settings with these values. Raises CourseError for the first that is of a wrong type or out of range."""
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        shown = "(hidden)" if name in SECRETS else repr(values.get(name))
        raise CourseError(
            f"{name}={shown} ({origins.get(name, 'unknown origin')}): {first['msg']}",
            f"{name} is {describe_allowed(name)}",
            "a-setting-is-refused",
        ) from None


def require_files(settings: Settings, values: Mapping[str, object], origins: Mapping[str, str]) -> None:
    """Raises CourseError for the first setting that names a file which is not there."""
    for name in MUST_EXIST:
        if (path := getattr(settings, name)) and not path.exists():
            raise CourseError(
                f"{name}={values[name]!s} ({origins[name]}): there is no such file",
                "give a path that exists, absolute or relative to the repository",
                "a-setting-is-refused",
            )


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


def check_names(names: Iterable[str], where: str, known: Iterable[str] = NAMES) -> None:
    """Raises CourseError for a name that is not known, with the nearest one that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            raise CourseError(
                f"{name} (in {where}) is not a setting",
                f"did you mean {near[0]}?" if near else "see .env.example for every name",
                "a-setting-is-refused",
            )


def read_env_file(name: str) -> dict[str, str]:
    """The settings in a `.env` file, as they are written there; {} for "", or if the default one is not there.

    Raises CourseError naming file and line for anything but NAME=value with a known name, and for a file that is
    not UTF-8.
    """
    path = ROOT / Path(name).expanduser()
    if not name or (name == ".env" and not path.exists()):
        return {}
    if not path.is_file():
        raise CourseError(
            f"ENV_FILE={name!r}: there is no such file",
            "give a path relative to the repository",
            "a-setting-is-refused",
        )
    values = {}
    for binding in parse_stream(io.StringIO(decode_env_file(path))):
        where = f"{relative_path(path)}, line {binding.original.line}"
        if binding.error or (binding.key and (binding.value is None or "\n" in binding.value)):
            raise CourseError(
                f"{where}: this is not NAME=value",
                "write NAME=value on one line; a value with quotes or # in it goes between single quotes",
                "a-setting-is-refused",
            )
        if binding.key:
            check_names([binding.key], where)
            values[binding.key] = binding.value
    return {name: value for name, value in values.items() if value}


def decode_env_file(path: Path) -> str:
    """The text of a `.env` file. Raises CourseError if it is not UTF-8: UTF-16 (PowerShell's >), or cp1252."""
    content = path.read_bytes()
    try:
        if b"\0" not in content:
            return content.decode("utf-8-sig")
        problem = "UTF-16"
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 (line {line})"
    raise CourseError(
        f"{relative_path(path)} is {problem}, and settings are read as UTF-8",
        "save it as UTF-8: in an editor by Save with encoding, in PowerShell by Set-Content -Encoding utf8",
        "a-setting-is-refused",
    )


def read_profile(name: str, origin: str) -> tuple[str, dict[str, object]]:
    """The name of a profile ("auto" is resolved by the hardware) and what it sets; `origin` says who named it.

    Raises CourseError for a profile that is not in profiles.toml or sets an unknown name.
    """
    profiles = tomllib.loads(PROFILES_FILE.read_text(encoding="utf-8"))
    name = profile_for_this_machine() if name == "auto" else name
    if name not in profiles:
        raise CourseError(
            f"PROFILE={name!r} ({origin}): there is no such profile",
            f"PROFILE is one of auto, {', '.join(profiles)}",
            "a-setting-is-refused",
        )
    check_names(profiles[name], f"profile {name}")
    return name, profiles[name]


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
