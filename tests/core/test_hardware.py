"""What is chosen follows from what the machine can do, and a wish that it cannot fulfil says so first."""

import json
import os
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from support import tiny

from helpers.core import hardware
from helpers.core.errors import CourseError
from helpers.core.paths import ROOT

device_report = import_module("helpers.training.device_report")

pytestmark = pytest.mark.alone  # it times the processor

CARDS = {"none": (0, (0, 0)), "t4": (15, (7, 5)), "a10": (22.5, (8, 6)), "h100": (79.2, (9, 0))}
FAST, SLOW = {"float32": 16e-3, "bfloat16": 4e-3}, {"float32": 16e-3, "bfloat16": 256e-3}
CHOSEN = """
from helpers.core import hardware
from helpers.training import device_report
from types import SimpleNamespace
from pathlib import Path
hardware.MEASURED = Path({measured!r})
rows = device_report(SimpleNamespace(DTYPE="auto", ATTENTION="auto", MODEL_NAME="smollm2-135m"))
print(hardware.compute_dtype(), [row["chosen"] for row in rows if row["what"] == "precision"], sep="|")
"""


@pytest.fixture
def card(monkeypatch):
    """Makes this machine look like one with that GPU, or with none and products of these speeds."""

    def look_like(name, flash=False, seconds=FAST):
        gibibytes, capability = CARDS[name]
        times = {"float16": 50 * seconds["float32"], **seconds}
        looks = {
            "gpu_memory": lambda: int(gibibytes * 2**30),
            "gpu_capability": lambda: capability,
            "flash_installed": lambda: flash,
            "cpu_precisions": lambda names=tuple(seconds): {n: times[n] for n in names},
        }
        for module in (hardware, device_report):
            for function in looks.keys() & vars(module).keys():
                monkeypatch.setattr(module, function, looks[function])

    return look_like


@pytest.mark.parametrize(
    ("name", "seconds", "dtype"),
    [("none", FAST, "bfloat16"), ("none", SLOW, "float32"), ("t4", FAST, "float16"), ("a10", SLOW, "bfloat16")],
)
def test_the_precision_is_the_hardwares_best(card, name, seconds, dtype):
    card(name, seconds=seconds)
    assert hardware.compute_dtype() == dtype
    assert hardware.compute_dtype("float32") == "float32"
    assert hardware.half_precision() == ("float16" if name == "t4" else "bfloat16")


def test_equal_speed_is_no_reason_to_round(card):
    card("none", seconds={"float32": 1.0, "bfloat16": 0.97})
    assert hardware.compute_dtype() == "float32"


def test_a_precision_that_the_gpu_lacks_is_refused(card):
    card("t4")
    with pytest.raises(
        CourseError, match=r"^DTYPE=bfloat16: this GPU has compute capability 7\.5.*\n→ set DTYPE=auto"
    ):
        hardware.compute_dtype("bfloat16")
    assert hardware.compute_dtype("float16") == "float16"


def test_a_precision_that_is_hopeless_on_the_cpu_is_refused_and_a_slow_one_is_called_slow(card):
    card("none", seconds=SLOW)
    with pytest.raises(
        CourseError, match=r"^DTYPE=float16: a product takes this CPU 50 times as long.*\n→ set DTYPE="
    ):
        hardware.compute_dtype("float16")
    assert hardware.compute_dtype("bfloat16") == "bfloat16"
    (row,) = (row for row in shown(DTYPE="bfloat16") if row["what"] == "precision")
    assert row["why"].startswith("asked for; slow: 16 times as long as in float32") and row["override"] == "DTYPE"


@pytest.mark.parametrize(
    ("name", "installed", "dtype", "reason"),
    [
        ("none", True, "bfloat16", "it needs a CUDA GPU, and there is none here"),
        ("t4", True, "float16", "it needs compute capability 8.0, and this GPU has 7.5"),
        ("a10", True, "float32", "it computes in 16 bits, and the precision here is float32"),
        ("a10", False, "bfloat16", "the package flash-attn is not installed"),
    ],
)
def test_flash_attention_is_taken_only_where_it_can_run(card, name, installed, dtype, reason):
    card(name, flash=installed)
    assert hardware.attention_implementation("auto", dtype) == "sdpa"
    assert (
        hardware.attention_implementation("eager", dtype) == "eager"
        and hardware.attention_implementation("sdpa", dtype) == "sdpa"
    )
    with pytest.raises(CourseError) as error:
        hardware.attention_implementation("flash_attention_2", dtype)
    assert error.value.problem == f"ATTENTION=flash_attention_2: {reason}"
    assert error.value.way_out == "set ATTENTION=auto, sdpa or eager"


@pytest.mark.parametrize(("name", "dtype"), [("a10", "bfloat16"), ("h100", "float16")])
def test_flash_attention_is_taken_where_it_can_run(card, name, dtype):
    card(name, flash=True)
    assert (
        hardware.attention_implementation("auto", dtype)
        == hardware.attention_implementation("flash_attention_2", dtype)
        == "flash_attention_2"
    )


@pytest.mark.parametrize(
    ("gibibytes", "name"), [(0, "cpu"), (15, "t4"), (22.5, "gpu24"), (40, "gpu24"), (79.2, "gpu80")]
)
def test_the_profile_is_the_largest_the_card_carries(monkeypatch, gibibytes, name):
    monkeypatch.setattr(hardware, "gpu_memory", lambda: int(gibibytes * 2**30))
    assert hardware.profile_for_this_machine() == name


def test_precision_is_measured_once_on_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "MEASURED", tmp_path / "cpu.json")
    measure, calls = hardware.cpu_precisions.__wrapped__, []
    monkeypatch.setattr(hardware, "matmul_seconds", lambda name: calls.append(name) or float(len(calls)))
    first = measure()
    assert first == {"float32": 1.0, "bfloat16": 2.0} and measure() == first and len(calls) == 2
    assert measure(("float32", "float16")) == {"float32": 1.0, "float16": 3.0}
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(hardware.platform, "node", lambda: "another machine")
        assert measure() != first, "a folder that moved is measured anew"
    assert measure() == first, "and what it was on before is still known"
    for torn in ("{", "[]", '{"machine": [], "seconds": {}}', '{"machines": 3}'):
        (tmp_path / "cpu.json").write_text(torn)
        assert set(measure()) == set(first)


@pytest.mark.parametrize("limit", ["ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"])
def test_a_limit_on_the_instructions_makes_it_another_machine(monkeypatch, limit):
    before = hardware.describe_machine()
    monkeypatch.setenv(limit, "AVX2")
    assert hardware.describe_machine() == before | {"limits": before["limits"] | {limit: "AVX2"}} != before
    assert json.loads(json.dumps(before)) == before, "it is compared with what a file says"


def test_a_laptop_without_fast_bfloat16_computes_in_float32(tmp_path):
    """Torch's own kernels and oneDNN's held to AVX2, which has no instruction for bfloat16."""
    tiny.embedded()
    measured = tmp_path / "cpu.json"
    code = CHOSEN.format(measured=str(measured))
    laptop = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=laptop, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "float32|['float32']"
    (entry,) = json.loads(measured.read_text())["machines"]
    assert entry["machine"]["limits"].items() >= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}.items()
    assert entry["seconds"]["bfloat16"] > entry["seconds"]["float32"]


def test_precision_is_measured_and_not_assumed():
    seconds = {name: hardware.matmul_seconds(name, size=64, budget=0.01) for name in ("float32", "bfloat16")}
    assert all(0 < value < 1 for value in seconds.values())
    assert hardware.peak_memory() >= 2**20


def shown(**wishes):
    tiny.embedded()
    wanted = {"DTYPE": "auto", "ATTENTION": "auto", "MODEL_NAME": "smollm2-135m"} | wishes
    return device_report.device_report(SimpleNamespace(**wanted))


@pytest.mark.parametrize(
    ("name", "flash", "chosen"),
    [
        ("none", False, ["CPU", "bfloat16", "sdpa", "row_by_row", "NF4 values, kept in bfloat16", "AdamW, fused"]),
        ("t4", True, ["GPU", "float16", "sdpa", "sdpa", "NF4, products in float16", "AdamW, fused"]),
        ("a10", True, ["GPU", "bfloat16", *["flash_attention_2"] * 2, "NF4, products in bfloat16", "AdamW, fused"]),
        ("h100", False, ["GPU", "bfloat16", "sdpa", "sdpa", "NF4, products in bfloat16", "AdamW, fused"]),
    ],
)
def test_the_table_says_what_is_chosen_and_why(card, monkeypatch, name, flash, chosen):
    card(name, flash=flash)
    monkeypatch.setattr(device_report, "require_four_bit", lambda: None)
    rows = shown()
    assert [row["chosen"] for row in rows] == chosen
    assert all(set(row) == {"what", "chosen", "why", "override"} and all(row.values()) for row in rows)


def test_the_table_refuses_what_cannot_be_had(card):
    card("none")
    with pytest.raises(CourseError, match="ATTENTION=flash_attention_2: it needs a CUDA GPU"):
        shown(ATTENTION="flash_attention_2")
    assert [row["chosen"] for row in shown(ATTENTION="eager")][2:4] == ["eager", "eager"]
