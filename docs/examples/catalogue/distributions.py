"""What the Python distributions installed here are made of.

Everything is read from the files on disk and blocks while it reads: call it from a thread.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
LARGEST = 8  # files listed by name in a package's entry


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of the catalogue."""

    name: str
    version: str
    summary: str


@dataclass(frozen=True, slots=True)
class File:
    """An installed file: its path below site-packages, its size in bytes and its SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Package:
    """One distribution. ``digest`` changes when the content of any installed file does."""

    name: str
    version: str
    summary: str
    license: str
    requires: list[str]
    files: int
    size: int
    digest: str
    largest: list[File]
    imports: list[str]


def canonical(name: str) -> str:
    """A name as indexes compare it: ``Typing_Extensions`` is ``typing-extensions`` (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def listings() -> list[Listing]:
    """All installed distributions by name. Reads one metadata file each."""
    found: dict[str, Listing] = {}
    for distribution in metadata.distributions():
        headers = distribution.metadata
        name = _text(headers, "Name")
        if name:  # a half-removed distribution has none
            listing = Listing(canonical(name), distribution.version, _text(headers, "Summary"))
            found.setdefault(listing.name, listing)  # the first one on sys.path is the one imported
    return sorted(found.values(), key=lambda listing: listing.name)


def find(name: str) -> metadata.Distribution | None:
    """The installed distribution of that name, in any spelling, or None."""
    if not _NAME.fullmatch(name):
        return None
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def paths(distribution: metadata.Distribution) -> list[tuple[str, Path]]:
    """Recorded path and real path of every file that is there, in order of the recorded path."""
    located = [(str(file), Path(str(file.locate()))) for file in distribution.files or ()]
    return sorted((recorded, real) for recorded, real in located if real.is_file())


def hashed(located: Iterable[tuple[str, Path]]) -> list[File]:
    """Read and hash files."""
    return [_hash(recorded, real) for recorded, real in located]


def digest_of(files: Iterable[File]) -> str:
    """One SHA-256 over the files' paths and hashes, in the order given."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.path}\0{file.sha256}\n".encode())
    return total.hexdigest()


def describe(distribution: metadata.Distribution, files: list[File], imports: Iterable[str]) -> Package:
    """Put together the entry of a distribution whose files and imports are already read."""
    headers = distribution.metadata
    return Package(
        name=canonical(headers["Name"]),
        version=distribution.version,
        summary=_text(headers, "Summary"),
        # Some put the whole licence where its name belongs.
        license=_text(headers, "License-Expression") or _text(headers, "License").partition("\n")[0][:80],
        requires=sorted(distribution.requires or ()),
        files=len(files),
        size=sum(file.size for file in files),
        digest=digest_of(files),
        largest=sorted(files, key=lambda file: -file.size)[:LARGEST],
        imports=sorted(imports),
    )


def _hash(recorded: str, real: Path) -> File:
    content = real.read_bytes()
    return File(recorded, len(content), hashlib.sha256(content).hexdigest())


def _text(headers: metadata.PackageMetadata, name: str) -> str:
    return headers[name].strip() if name in headers else ""
