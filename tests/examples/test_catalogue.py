"""The catalogue's own parts: what it reads from distributions, its reports, its maildir, its counts."""

from __future__ import annotations

import hashlib
import mailbox
import multiprocessing
import sys
import xml.etree.ElementTree as ET
from contextlib import closing
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest

from catalogue import distributions, mail, report
from catalogue.analytics import Analytics
from catalogue.distributions import File, Package
from catalogue.imports import ImportGraph, modules_of

ORIGIN = report.Origin("r1", "req-1", 4711, "2026-01-02 03:04:05+00:00")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages directory with one distribution, Made_Up 1.2."""
    files = {
        "made_up/__init__.py": "from made_up.core import run\n",
        "made_up/core.py": "import json, other_thing.sub\nfrom . import extra\nfrom .extra import more\n",
        "made_up/extra.py": "from .. import nothing\nmore = 1\n",
        "made_up/broken.py": "print 'Python 2'\n",
        "made_up/data.bin": "x" * 1000,
        "Made_Up-1.2.dist-info/METADATA": dedent(
            """\
            Metadata-Version: 2.1
            Name: Made_Up
            Version: 1.2
            Summary: <b>bold & brave</b>
            Requires-Dist: other-thing>=1
            """
        ),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    record = "".join(f"{name},,\n" for name in [*files, "made_up/gone.py", "Made_Up-1.2.dist-info/RECORD"])
    (tmp_path / "Made_Up-1.2.dist-info" / "RECORD").write_text(record, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def read(name: str) -> tuple[Package, list[File], ImportGraph]:
    distribution = distributions.find(name)
    assert distribution is not None
    located = distributions.paths(distribution)
    modules = modules_of(located)
    graph = ImportGraph({module for module, _ in modules})
    graph.read(modules)
    files = distributions.hashed(located)
    return distributions.describe(distribution, files, graph.external), files, graph


def parsed(html: str | bytes) -> ET.Element:
    return ET.fromstring(html)  # noqa: S314 - written by our own code


def test_a_distribution_is_found_in_any_spelling_and_read_from_its_real_files(site: Path) -> None:
    package, files, _ = read("made-up")
    assert (package.name, package.version, package.requires) == ("made-up", "1.2", ["other-thing>=1"])
    assert package.files == len(files) == 7  # RECORD itself is one, the file that is gone is not
    assert package.largest[0] == File("made_up/data.bin", 1000, hashlib.sha256(b"x" * 1000).hexdigest())
    assert package.size == sum(file.size for file in files)


def test_the_digest_changes_with_any_file(site: Path) -> None:
    before, _, _ = read("Made_Up")
    (site / "made_up" / "extra.py").write_text("more = 2\n", encoding="utf-8")
    after, _, _ = read("Made_Up")
    assert before.digest != after.digest


def test_the_import_graph_resolves_relative_imports_and_tells_own_from_foreign(site: Path) -> None:
    _, _, graph = read("made-up")
    assert graph.edges == {("made_up", "made_up.core"), ("made_up.core", "made_up.extra")}
    assert graph.external == {"other_thing", "nothing"}  # json is the standard library's


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a b", "x" * 101, "no-such-package-here", "a\0b"])
def test_names_that_are_none_find_nothing(name: str) -> None:
    assert distributions.find(name) is None


def test_every_distribution_installed_here_is_listed_once_and_can_be_read() -> None:
    listings = distributions.listings()
    names = [listing.name for listing in listings]
    assert names == sorted(set(names))
    assert "rich" in names
    package, _, graph = read("rich")
    assert package.version == metadata.version("rich")
    assert "pygments" in package.imports
    assert ("rich.table", "rich.console") in graph.edges


def test_a_report_is_well_formed_and_shows_foreign_text_as_text(site: Path, tmp_path: Path) -> None:
    package, files, graph = read("made-up")
    path = tmp_path / "r1.html"
    report.write(path, report.render(package, files, graph, ORIGIN))
    root = parsed(path.read_bytes())
    assert [meta.get("content") for meta in root.iter("meta") if meta.get("name") == "request-id"] == [
        "req-1"
    ]
    lead = next(element for element in root.iter("p") if element.get("class") == "lead")
    assert lead.text == "<b>bold & brave</b>"
    assert len(list(root.iter("circle"))) == 3
    assert list(tmp_path.glob("*.partial")) == []


def test_a_report_survives_control_characters_and_an_empty_distribution() -> None:
    package = Package("odd", "0", "bell\x07 and null\x00", "", [], 0, 0, "", [], [])
    root = parsed(report.render(package, [], ImportGraph(), ORIGIN))
    assert next(element for element in root.iter("p")).text == "bell and null"


def test_a_message_delivered_twice_is_one_message(tmp_path: Path) -> None:
    for folder in ("tmp", "new", "cur"):
        (tmp_path / folder).mkdir()
    message = mail.compose("ada@example.org", "Ready", "It is.", job_id="j:1/2", request_id="req-1")
    first, second = (mail.deliver(tmp_path, message, "j:1/2") for _ in range(2))
    assert first == second
    received = list(mailbox.Maildir(tmp_path, create=False))
    assert [(one["To"], one["X-Job-Id"], one["X-Request-Id"]) for one in received] == [
        ("ada@example.org", "j:1/2", "req-1")
    ]


def test_a_message_cannot_be_given_headers_through_its_subject() -> None:
    with pytest.raises(ValueError, match="linefeed"):
        mail.compose("ada@example.org", "Hi\r\nBcc: eve@example.org", "", job_id="j", request_id=None)


def _count(path: str, first: int) -> None:
    with closing(Analytics(Path(path))) as analytics:
        for number in range(first, first + 50):
            analytics.count(f"package-{number % 3}", f"job-{number}")


def test_views_are_counted_once_a_job_by_several_processes_at_once(tmp_path: Path) -> None:
    """All start on a file that is not there yet, and every second job runs in two of them."""
    path = tmp_path / "analytics.sqlite3"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_count, args=(str(path), 25 * number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    with closing(Analytics(path)) as analytics:
        totals = analytics.totals()
    assert sum(totals.values()) == 125
    assert set(totals) == {"package-0", "package-1", "package-2"}
