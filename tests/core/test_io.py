"""Files are complete or absent, whatever happens while they are written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from helpers.core import io
from helpers.core.errors import CourseError
from helpers.core.fingerprint import fingerprint_files
from helpers.core.paths import ROOT


class Interrupted(BaseException):
    pass


def leftovers(folder):
    return list(folder.rglob(f"{io.TEMPORARY}*"))


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, error):
    path = tmp_path / "sub" / "a.json"
    io.write_json(path, {"was": 1})
    with pytest.raises(error), io.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert io.read_json(path) == {"was": 1} and not leftovers(tmp_path)
    io.write_json(path, {"is": 2})
    assert io.read_json(path) == {"is": 2} and path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, error):
    path = tmp_path / "model"
    with io.atomic_folder(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "weights").write_text("1")
    with pytest.raises(error), io.atomic_folder(path) as temporary:
        (temporary / "weights").write_text("half")
        raise error
    assert (path / "deep" / "weights").read_text() == "1" and not leftovers(tmp_path)
    with io.atomic_folder(path) as temporary:
        (temporary / "new").write_text("2")
    assert [p.name for p in path.iterdir()] == ["new"] and not leftovers(tmp_path)


def test_a_full_disk_is_named(tmp_path):
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write: No space left on device")):
        with (
            pytest.raises(CourseError, match=r"the disk is full: .*big.bin could not be written"),
            io.atomic_file(tmp_path / "big.bin"),
        ):
            raise error
    assert not leftovers(tmp_path)
    with pytest.raises(CourseError, match=r"the model needs .* MiB are free"):
        io.require_space(tmp_path / "not" / "there", 2**60, "the model")


def test_rows_appended_survive_a_torn_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    io.append_jsonl(path, [{"a": 1}, {"b": "ü"}])
    with path.open("ab") as file:
        file.write(b'{"torn": ')
    assert io.read_jsonl(path) == [{"a": 1}, {"b": "ü"}]
    io.append_jsonl(path, [{"c": 3}])
    assert io.read_jsonl(path) == [{"a": 1}, {"b": "ü"}, {"c": 3}]
    assert io.read_jsonl(tmp_path / "none") == []


def test_what_is_not_json_is_named(tmp_path):
    (tmp_path / "bad.json").write_text('{"a": ')
    with pytest.raises(CourseError, match=r"bad\.json is not JSON"):
        io.read_json(tmp_path / "bad.json")
    with pytest.raises(CourseError, match="does not exist"):
        io.read_json(tmp_path / "absent.json")


def test_fingerprints_follow_content_and_not_dates(tmp_path):
    (tmp_path / "a").write_text("1")
    before = fingerprint_files(tmp_path)
    os.utime(tmp_path / "a", (1, 1))
    assert fingerprint_files(tmp_path) == before
    (tmp_path / "a").write_text("2")
    assert fingerprint_files(tmp_path) != before
    assert fingerprint_files(tmp_path / "absent") == {}


KILLED = """
import sys, time
from pathlib import Path
from helpers.core import write_json
for n in range(10**6):
    write_json(Path(sys.argv[1]), {"n": n, "fill": "x" * 20000})
"""


def test_a_killed_writer_leaves_a_whole_file_and_something_to_sweep(tmp_path):
    path = tmp_path / "state.json"
    for wait in (0.05, 0.15, 0.3):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, path], cwd=ROOT)
        while not path.exists():
            time.sleep(0.01)
        time.sleep(wait)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(json.loads(path.read_text())["fill"]) == 20000
    io.sweep_temporary(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
