"""PubMed's large files read several at a time, each by a process of its own: `python -m helpers.papers.bulk`.

They are started by command line and not forked, so this works from a notebook's kernel and from any script.
"""

import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from helpers.core import RAW, ROOT, CourseError, relative_path
from helpers.papers.paper import Paper
from helpers.papers.pubmed_xml import NotPubMed, parse_pubmed
from helpers.papers.topic import Glance, Topic

LARGE = 2**21  # bytes; a smaller file is read sooner than a process starts
LOOK = 500  # records between two looks whether the parent is still there
REFUSED = 3  # exit status: the file is no PubMed XML


class File(NamedTuple):
    """A file to read, and the day its records count as fetched."""

    path: Path
    day: str


class Reader:
    """A process that reads a file into a temporary one. Iterate over it once, then close it."""

    def __init__(self, file: File, worth: Glance | None):
        RAW.mkdir(parents=True, exist_ok=True)
        self.output = tempfile.TemporaryFile(dir=RAW)  # noqa: SIM115 - open until `close`
        topic = worth.topic.model_dump_json() if worth else ""
        command = [
            sys.executable,
            "-m",
            "helpers.papers.bulk",
            str(file.path.absolute()),
            file.day,
            topic,
            str(os.getpid()),
        ]
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.PIPE, cwd=ROOT)

    def __iter__(self) -> Iterator[Paper]:
        """The file's papers. Raises NotPubMed, or ChildProcessError if the process was killed or failed."""
        told = self.process.communicate()[1].decode(errors="replace").strip()
        if self.process.returncode == REFUSED:
            raise NotPubMed(told)
        if self.process.returncode:
            raise ChildProcessError(f"its process ended with status {self.process.returncode}: {told[-300:]}")
        self.output.seek(0)
        yield from map(Paper.model_validate_json, self.output)

    def close(self) -> None:
        with self.process, self.output:
            self.process.kill()


def read_files(files: list[File], worth: Glance | None = None) -> Iterator[tuple[File, Paper]]:
    """Every record of every file, with its file, in the order of the files; one for each processor at a time.

    Memory does not grow with the files: what a process has read waits on disk, and no more are started meanwhile.
    Raises CourseError naming the file that is not PubMed XML, is cut short, or could not be read.
    """
    coming, started = iter(files), deque()
    try:
        for file in files:
            for later in islice(coming, (os.cpu_count() or 1) - len(started)):
                apart = len(files) > 1 and later.path.stat().st_size >= LARGE
                started.append(Reader(later, worth) if apart else parse_pubmed(*later, worth))
            for paper in started[0]:
                yield file, paper
            started.popleft().close()
    except NotPubMed as error:
        raise CourseError(
            f"{relative_path(file.path)} cannot be read as PubMed XML: {error}",
            "download the file again, or take it out of PAPERS_ARCHIVE",
            "the-archive-cannot-be-read",
        ) from None
    except ChildProcessError as error:
        raise CourseError(
            f"{relative_path(file.path)} could not be read: {error}",
            "run it again; if memory is short, with fewer programs",
            "the-archive-cannot-be-read",
        ) from None
    finally:
        for reader in started:
            reader.close()


def main(path: str, day: str, topic: str, parent: str) -> None:
    """Read one file for `parent`; papers go to standard output, one JSON object a line."""
    worth = Glance(Topic.model_validate_json(topic)) if topic else None
    try:
        for number, paper in enumerate(parse_pubmed(path, day, worth, threads=False)):
            if number % LOOK == 0 and os.getppid() != int(parent):
                sys.exit("the reading was given up")
            sys.stdout.buffer.write(paper.model_dump_json(exclude_defaults=True).encode() + b"\n")
    except NotPubMed as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main(*sys.argv[1:])
