"""The HTML templates, compiled once a process. Values are escaped, a name that is missing is an error."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from catalogue.distributions import Listing

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")


def home(listings: list[Listing]) -> str:
    """The page for people."""
    return environment().get_template("home.html").render(listings=listings)


@cache
def environment() -> Environment:
    """The templates beside this file, with the filter ``readable`` for a number of bytes."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    made.filters["readable"] = readable
    return made


def readable(size: int) -> str:
    """Bytes as a person reads them."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _printable(value: object) -> object:
    """HTML has no way to write control characters, and metadata of strangers may hold some."""
    return _UNPRINTABLE.sub("", value) if isinstance(value, str) else value
