"""Settings: which origin wins, what is refused, and that .env.example is true.

`python tests/core/test_settings.py > .env.example` (from the repository, PYTHONPATH=.) renews that file.
"""

import random
import re
import string
import textwrap

import pytest

from helpers.core import settings
from helpers.core.errors import CourseError
from helpers.core.paths import ROOT
from helpers.core.settings import NAMES, SECRETS, Settings, load_settings

BARE = {"ENV_FILE": "", "PROFILE": "cpu"}


def example() -> str:
    """The text of .env.example: every setting, commented out, with its default."""
    lines = [
        "# Every setting of the course. Copy this file to .env and take the # from the lines you change.",
        "# Later wins: default, profile, .env, environment, make's command line and the notebooks' parameters cells.",
    ]
    for name, field in Settings.model_fields.items():
        lines += ["", *(f"# {line}" for line in textwrap.wrap(f"{field.description}{limits(name)}", 100))]
        default = field.get_default()
        lines.append(f"#{name}={'' if default is None else default}")
    return "\n".join(lines) + "\n"


def limits(name: str) -> str:
    """What a setting may be, where its description leaves that open."""
    words = settings.describe_allowed(name).removesuffix(f" ({Settings.model_fields[name].description})")
    return f"; {words}" if words.startswith(("one of", "a ")) else ""


def test_env_example_is_what_the_settings_are():
    assert (ROOT / ".env.example").read_text() == example(), "renew it: see the top of this file"
    values = [line for line in example().splitlines() if not line.startswith("#")]
    assert not any(values), "every line is commented out"


def test_env_example_taken_as_it_is_changes_nothing(tmp_path):
    taken = tmp_path / "taken.env"
    taken.write_text(re.sub("^#(?=[A-Z])", "", example(), flags=re.MULTILINE))
    resolved, _ = load_settings(environment={"ENV_FILE": str(taken), "PROFILE": "cpu"})
    chosen = {"ENV_FILE", "PROFILE"}
    assert resolved.model_dump(exclude=chosen) == Settings().model_dump(exclude=chosen)


def test_later_origins_win(tmp_path):
    env_file = tmp_path / "my.env"
    env_file.write_text("MAX_NEW_TOKENS=11\nSEED=11\nLORA_R=11\n")
    environment = {"PROFILE": "smoke", "ENV_FILE": str(env_file), "SEED": "12", "LORA_R": "12"}
    resolved, origins = load_settings({"LORA_R": 13, "SEED": None}, environment=environment)
    assert (resolved.TOKEN_BUDGET, origins["TOKEN_BUDGET"]) == (1200, "profile smoke")
    assert (resolved.MAX_NEW_TOKENS, origins["MAX_NEW_TOKENS"]) == (11, str(env_file))
    assert (resolved.SEED, origins["SEED"]) == (12, "environment")
    assert (resolved.LORA_R, origins["LORA_R"]) == (13, "parameter")
    assert origins["QLORA_EPOCHS"] == "profile smoke" and origins["LORA_ALPHA"] == "default"


def test_the_command_line_beats_a_parameters_cell():
    environment = {**BARE, "SEED": "5"}
    resolved, origins = load_settings({"SEED": "5"}, environment=environment, command_line=["SEED"])
    assert (resolved.SEED, origins["SEED"]) == (5, "command line")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MAX_PAPERS", "many", "a whole number, at least 10"),
        ("MAX_PAPERS", "9", "at least 10"),
        ("QLORA_LR", "2", "above 0"),
        ("LORA_DROPOUT", "1", "below 1"),
        ("DTYPE", "int8", "one of auto, bfloat16"),
        ("RUN", "a/b", "matching"),
        ("RUN", "base", "a folder of the course itself"),
        ("RUN", "..", "matching"),
        ("HF_ENDPOINT", "nonsense", "Hugging Face Hub address"),
        ("PROFILE", "huge", "one of auto, smoke"),
    ],
)
def test_a_wrong_value_names_the_setting_the_value_and_what_is_allowed(name, value, said):
    with pytest.raises(CourseError) as error:
        load_settings(environment={**BARE, name: value})
    assert name in str(error.value) and repr(value) in str(error.value) and said in str(error.value)


@pytest.mark.parametrize("where", ["parameters", "env file", "environment"])
def test_an_unknown_name_is_refused_with_the_nearest(where, tmp_path):
    (tmp_path / "x.env").write_text("QLORA_EPOCH=1")
    environment, parameters = dict(BARE), {}
    if where == "parameters":
        parameters = {"QLORA_EPOCH": 1}
    elif where == "env file":
        environment["ENV_FILE"] = str(tmp_path / "x.env")
    else:
        environment["QLORA_EPOCH"] = "1"
    with pytest.raises(CourseError, match=r"QLORA_EPOCH .*is not a setting\n→ did you mean QLORA_EPOCHS\?"):
        load_settings(parameters, environment=environment)


def test_other_programs_variables_are_none_of_our_business():
    load_settings(environment={**BARE, "PATH": "/bin", "MODEL": "x", "PAPER": "a4"})


def test_a_missing_env_file_is_refused_only_where_it_was_asked_for():
    with pytest.raises(CourseError, match="no such file"):
        load_settings(environment={"ENV_FILE": "nowhere.env", "PROFILE": "cpu"})


@pytest.mark.parametrize("profile", ["smoke", "cpu", "t4", "gpu24", "gpu80"])
def test_every_profile_is_valid(profile):
    resolved, origins = load_settings(environment={"ENV_FILE": "", "PROFILE": profile})
    assert (resolved.PROFILE, origins["PROFILE"]) == (profile, "environment")


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_never_shown(name):
    resolved, _ = load_settings(environment={**BARE, name: "hunter2"})
    assert "hunter2" not in repr(resolved) + settings.show_setting(resolved, name) + str(resolved.model_dump())
    with pytest.raises(ValueError, match="secrets do not go into artefacts"):
        settings.settings_as_json(resolved, [name])


def test_a_relative_path_starts_at_the_repository_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved, _ = load_settings({"QUESTIONS_FILE": "data/sample/expected.json"}, environment=BARE)
    assert resolved.QUESTIONS_FILE == ROOT / "data" / "sample" / "expected.json"
    assert settings.settings_as_json(resolved, ["QUESTIONS_FILE"]) == {"QUESTIONS_FILE": "data/sample/expected.json"}
    assert settings.show_setting(resolved, "QUESTIONS_FILE") == "data/sample/expected.json"


def test_a_file_that_is_not_there_is_named_before_anything_runs():
    with pytest.raises(CourseError, match=r"TRAINING_DATA=no/such\.json.*there is no such file"):
        load_settings({"TRAINING_DATA": "no/such.json"}, environment=BARE)


@pytest.mark.parametrize(("name", "is_one"), [("QLORA_EPOCH", True), ("F", False), ("DAYS", False)])
def test_a_misspelt_setting_is_told_from_a_variable(name, is_one):
    assert settings.looks_like_setting(name) is is_one


def test_every_setting_says_what_it_is():
    for name in NAMES:
        assert Settings.model_fields[name].description, name
        assert settings.describe_allowed(name)


def test_noise_gives_a_course_error_or_a_value_never_anything_else():
    noise = random.Random(1)
    for _ in range(300):
        name = noise.choice(NAMES)
        value = "".join(noise.choices(string.printable, k=noise.randint(0, 12)))
        try:
            load_settings({name: value}, environment=BARE)
        except CourseError as error:
            assert name in str(error)


if __name__ == "__main__":
    print(example(), end="")
