"""Files are complete or absent, whatever happens while they are written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": ', "is not JSON"),
        (b"", "is not JSON"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"\\uDFFF": 1}', "half a character"),
        ('{"a": "Sjögren"}'.encode("cp1252"), r"is not UTF-8 \(byte 9\)"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
        (b"1" * 5000, "is not JSON"),
        (b"[1]", "holds a list, and not an object"),
        (b"null", "holds null, and not an object"),
        (b"true", "holds true or false, and not an object"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_the_json_that_is_wanted_is_named(tmp_path, content, said):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(CourseError, match=rf"bad\.json {said}|bad\.json holds {said}"):
        io.read_json(tmp_path / "bad.json", dict)


def test_a_file_that_is_not_there_and_a_folder_in_its_place_are_named(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for read in (io.read_json, io.read_jsonl):
        with pytest.raises(CourseError, match=r"folder\.json cannot be read: Is a directory"):
            read(tmp_path / "folder.json")
    with pytest.raises(CourseError, match="does not exist"):
        io.read_json(tmp_path / "absent.json")


def test_a_byte_order_mark_and_a_whole_pair_are_read(tmp_path):
    (tmp_path / "a.json").write_bytes('\ufeff{"a": "\\ud83d\\ude00"}\n'.encode())
    assert io.read_json(tmp_path / "a.json") == io.read_jsonl(tmp_path / "a.json")[0] == {"a": "😀"}


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u d8091e-.tfn', max_size=200).map(str.encode))
def test_any_bytes_are_a_value_that_can_be_written_again_or_a_course_error(content):
    try:
        value = io.parse_json(content, "it")
    except CourseError as error:
        assert error.problem.startswith("it ")
    else:
        json.dumps(value, ensure_ascii=False).encode()


def test_a_line_ends_at_a_line_feed_only_and_a_strict_reader_names_the_bad_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"a": "one\u2028two\x85three"}, {"b": 1}]
    io.write_jsonl(path, rows)
    assert io.read_jsonl(path, strict=True) == rows
    with path.open("ab") as file:
        file.write(b'\n[1]\n"text"\n{"c": "\\ud800"}\n' + b"[" * 100_000 + b'\n{"d": 1}\n')
    assert io.read_jsonl(path) == [*rows, {"d": 1}]
    with pytest.raises(CourseError, match=r"rows\.jsonl, line 4 holds a list, and not an object"):
        io.read_jsonl(path, strict=True)


@pytest.mark.parametrize("write", [io.write_text, lambda path, text: io.append_jsonl(path, [{}])])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path, write):
    (tmp_path / "raw").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        CourseError, match=r"raw is a link to .*gone, which is not there\n→ make that folder, or remove"
    ):
        write(tmp_path / "raw" / "deep" / "a.json", "")
    with pytest.raises(CourseError, match=r"file is a file where a folder should be"):
        write(tmp_path / "file" / "a.json", "")
    with pytest.raises(CourseError, match=r"folder is a folder where a file should be"):
        write(tmp_path / "folder", "")
    assert not leftovers(tmp_path)


def test_a_read_only_place_is_named(tmp_path):
    for number in (errno.EROFS, errno.EACCES):
        with (
            pytest.raises(CourseError, match=r"a\.json cannot be written: .*\n→ copy the course to a folder that is"),
            io.atomic_file(tmp_path / "a.json"),
        ):
            raise OSError(number, os.strerror(number))


def test_what_is_wrong_in_a_program_is_not_called_the_disks_fault(tmp_path):
    with pytest.raises(ValueError, match="mine"), io.atomic_file(tmp_path / "a.json"):
        raise ValueError("mine")


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


def test_a_sweep_leaves_alone_what_another_living_process_is_writing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        theirs, mine = tmp_path / f"{io.TEMPORARY}{other.pid}-x", tmp_path / f"{io.temporary_prefix()}y"
        theirs.mkdir()
        mine.write_text("")
        io.sweep_temporary(tmp_path)
        assert list(tmp_path.iterdir()) == [theirs], "what this process left before, it did not end"
        other.communicate(b"\n")
    io.sweep_temporary(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_killed_download_leaves_something_to_sweep(tmp_path):
    """pip is at work in a folder of its own when the process dies; the next command clears it away."""
    code = (
        "import os, sys, subprocess, pathlib\nfrom helpers.core import pypi\n"
        "pypi.subprocess.run = lambda *words, **how: os.kill(os.getpid(), 9)\n"
        "pypi.fetch_package('a==1', '0' * 64, pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "raw" / "a.whl"], cwd=ROOT)
    assert len(leftovers(tmp_path)) == 1
    io.sweep_temporary(tmp_path / "raw")
    assert not leftovers(tmp_path)
