"""The documentation runs: its files are written, its commands executed, what it says they print is compared.

In README.md and docs/*.md
* a ``python`` block whose first line is a comment with a file name becomes that file;
* another ``python`` block runs as a script;
* a ``console`` block's lines that start with ``$ `` are commands; one that ends in ``&`` goes on in the background
  until the document ends. The lines that follow are its output, where ``...`` stands for anything.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w/]+\.py)\n")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Reader:
    """Follows a document in a directory of its own, as somebody at a terminal would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.background: list[subprocess.Popen[bytes]] = []
        unset = ("REDIS_URL", "REDIS_HOST", "JOBS_REDIS_URL", "ENVIRONMENT", "LOG_LEVEL", "LOG_FORMAT")
        self.environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def follow(self, text: str) -> None:
        for kind, body in BLOCK.findall(text):
            named = FILE_NAME.match(body)
            if kind == "console":
                self.type_in(body)
            elif named:
                path = self.directory / named.group(1)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(body, encoding="utf-8")
            else:
                self.run([sys.executable, "-c", body], body)
        files = [path.relative_to(self.directory) for path in self.directory.rglob("*.py")]
        modules = [".".join(path.with_suffix("").parts) for path in files]
        if modules:
            self.run([sys.executable, "-c", f"import {', '.join(modules)}"], "importing what was written")

    def type_in(self, body: str) -> None:
        for command, expected in _commands(body):
            if command.endswith("&"):
                arguments = command.removesuffix("&").split()
                self.background.append(
                    subprocess.Popen(
                        arguments, cwd=self.directory, env=self.environment, stderr=subprocess.DEVNULL
                    )
                )
                continue
            printed = self.run(["bash", "-c", command], command)
            pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*")
            assert re.fullmatch(pattern, printed.strip(), re.DOTALL), (
                f"$ {command}\nprinted\n{printed}\nbut the document says\n{expected}"
            )

    def run(self, arguments: list[str], shown: str) -> str:
        done = subprocess.run(
            arguments,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{shown}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def leave(self) -> None:
        for process in self.background:
            process.send_signal(signal.SIGTERM)
        for process in self.background:
            try:
                process.wait(20)
            finally:
                process.kill()


def _commands(body: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output that is said to follow."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command.strip(), output


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.leave()


@pytest.mark.timeout(180)  # a page may be long, and start servers and workers
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_document_runs(document: Path, reader: Reader) -> None:
    reader.follow(document.read_text(encoding="utf-8"))


def test_a_wrong_output_is_noticed(reader: Reader) -> None:
    reader.follow("```console\n$ echo right\nright\n```\n")
    with pytest.raises(AssertionError, match="the document says"):
        reader.follow("```console\n$ echo right\nwrong\n```\n")
