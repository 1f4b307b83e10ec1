"""The redactor: one policy, applied to mappings, values, texts and URLs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aioinfra.redact.keys import PLAIN, SECRET, TRUSTED
from aioinfra.redact.options import MASK, RedactOptions
from aioinfra.redact.values import SCALARS, Policy, Walk


class Redactor:
    """Applies one policy. Safe to share between threads; holds nothing but decisions about keys."""

    __slots__ = ("_policy",)

    def __init__(self, options: RedactOptions | None = None) -> None:
        self._policy = Policy(options or RedactOptions())

    def is_secret(self, key: str) -> bool:
        """Whether a value under this key is masked."""
        return self._policy.decide(key) == SECRET

    def mapping(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values made safe; the same object when nothing had to change.

        O(members). About 0.1 microseconds for a key seen before with a plain value.
        """
        policy = self._policy
        decisions, unscanned = policy.decisions, policy.unscanned
        changed: dict[str, Any] | None = None
        for key, value in values.items():
            decision = decisions.get(key)
            if decision is None:
                decision = policy.decide(key)
            kind = type(value)
            if decision == PLAIN:
                if (kind is str and len(value) <= unscanned and "://" not in value) or kind in SCALARS:
                    continue
            elif decision == TRUSTED:
                continue
            safe = (
                MASK if decision == SECRET and kind is str else policy.member(decision, value, Walk(policy))
            )
            if safe is not value:
                if changed is None:
                    changed = dict(values)
                changed[key] = safe
        return values if changed is None else changed

    def value(self, value: Any) -> Any:
        """Any value made safe: masked by its keys, bounded, of plain types. Never raises."""
        return Walk(self._policy).value(value)

    def text(self, text: str) -> str:
        """A text with everything masked that looks like a secret, bounded. Linear in its length."""
        return self._policy.texts.text(text)

    def url(self, url: str) -> str:
        """A URL without password, and without the values of secret query parameters."""
        return self._policy.texts.url(url)


DEFAULT_REDACTOR: Final = Redactor()
"""The policy with default options, for whoever has no other."""


def redact_url(url: str) -> str:
    """A URL without password, and without the values of secret query parameters."""
    return DEFAULT_REDACTOR.url(url)
