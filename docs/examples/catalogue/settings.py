"""Where the catalogue keeps its files: everything lies under one directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """The directories of one installation. Web process and workers must be given the same ``home``."""

    home: Path

    @classmethod
    def from_env(cls) -> Settings:
        """``CATALOGUE_HOME``, or ``catalogue-data`` in the working directory."""
        return cls(Path(os.environ.get("CATALOGUE_HOME") or "catalogue-data").absolute())

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    @property
    def maildir(self) -> Path:
        return self.home / "maildir"

    @property
    def analytics(self) -> Path:
        return self.home / "analytics.sqlite3"

    def report(self, report_id: str) -> Path:
        """The file of one report, written or not."""
        return self.reports / f"{report_id}.html"

    def create(self) -> None:
        """Make what is missing; safe to call from several processes at once."""
        self.reports.mkdir(parents=True, exist_ok=True)
        for folder in ("tmp", "new", "cur"):
            (self.maildir / folder).mkdir(parents=True, exist_ok=True)
