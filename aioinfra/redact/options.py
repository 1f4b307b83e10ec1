"""What a redaction policy is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MASK: Final = "[redacted]"


@dataclass(frozen=True, slots=True)
class RedactOptions:
    """What is masked and what is cut.

    Attributes:
        scan_values: also look into every text for Authorization values, ``key=value`` with a secret key, and
            payment card numbers. Texts that hold ``://`` are looked into always: URLs carry credentials.
        more_words: further words that make a key secret, lower case.
        trusted: keys whose values are not looked at on the outermost level of a mapping; for what the
            program itself put there.
        max_text: characters kept of one text.
        max_depth: nested containers entered.
        max_items: members looked at in one nested value; what lies beyond is cut.
    """

    scan_values: bool = False
    more_words: frozenset[str] = frozenset()
    trusted: frozenset[str] = frozenset()
    max_text: int = 16_384
    max_depth: int = 8
    max_items: int = 1_000
