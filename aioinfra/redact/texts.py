"""Secrets in free text: URLs with logins, ``key=value`` with a secret key, Authorization values, card numbers."""

from __future__ import annotations

import re
from typing import Final

from aioinfra.redact.keys import SECRET, Keys
from aioinfra.redact.options import MASK

_HTTP: Final = ("http", "https")

# Every pattern is linear in the text: no unbounded run can be entered from more than one place.
_URLS = re.compile(r"://[^\s\"'<>]*")
_PORT = re.compile(r"(\d{1,5}|port|\{\w*\})?[).,;:\]}]*", re.IGNORECASE)
_USER = re.compile(r"[\w.+-]*")
_KEY = re.compile(r"""(?<![\w.-])([A-Za-z][\w.-]{0,63}+)["']?+\s{0,3}+[=:]\s{0,3}""")
_VALUE = re.compile(r"""\"[^"]{0,256}"|'[^']{0,256}'|[^\s,;&"'(){}\[\]]+""")
# These look back only behind their first character: a search for a set of characters is what re does fastest.
_AUTH_SCHEME = re.compile(r"([Bb](?<!\w.)(?:earer|EARER|asic|ASIC))\s{1,3}[\w.~+/=-]{6,}")
_CARD = re.compile(r"[2-6](?<![\d.].)(?:[ -]?\d){12,18}(?![\d.])")

_SHORTEST_CARD: Final = 13


class Texts:
    """Masks what looks like a secret. Every step is linear in the text."""

    __slots__ = ("_keys", "_max_text")

    def __init__(self, keys: Keys, max_text: int) -> None:
        self._keys = keys
        self._max_text = max_text

    def cut(self, text: str) -> str:
        """At most `max_text` characters, of the type str itself."""
        if len(text) > self._max_text:
            return f"{text[: self._max_text]}… ({len(text)} characters)"
        return text if type(text) is str else str.__str__(text)

    def text(self, text: str) -> str:
        """A suspect text: bounded and scanned."""
        if len(text) > self._max_text:
            text = f"{_mask_cut_url(text[: self._max_text])}… ({len(text)} characters)"
        elif type(text) is not str:
            text = str.__str__(text)
        if "://" in text and (
            "@" in text or text.count("://") != text.count("http://") + text.count("https://")
        ):
            text = _URLS.sub(self._urls, text)
        text = self._assignments(_AUTH_SCHEME.sub(_mask_credentials, text))
        return _CARD.sub(_mask_card, text) if len(text) >= _SHORTEST_CARD else text

    def url(self, url: str) -> str:
        """A URL without its secrets."""
        scheme, mark, rest = url.partition("://")
        if not mark:
            login, at, place = url.rpartition("@")
            return f"{_mask_login(login)}{place}" if at else url
        if scheme.lower() not in _HTTP:
            return f"{scheme}://{self._server(rest)}"
        if "@" not in rest and "=" not in rest:
            return url
        place, query = _cut_before(rest, "?#")
        authority, path = _cut_before(place, "/")
        login, at, host = authority.rpartition("@")
        asked, hash_mark, fragment = query.partition("#")
        return (
            f"{scheme}://{_mask_login(login) if at else ''}{host}{path}"
            f"{self._assignments(asked)}{hash_mark}{self._assignments(fragment)}"
        )

    def _server(self, rest: str) -> str:
        """What follows ``://`` in the URL of a server, of which a password is the usual part.

        Everything up to the last ``@`` is taken for credentials, what is no number for no port, and no fragment is
        shown: a password with an unescaped slash makes no valid URL, and must not leak for that.
        """
        login, at, place = rest.rpartition("@")
        place, hash_mark, fragment = place.partition("#")
        authority, path = _cut_before(place, "/?")
        host, colon, port = authority.rpartition(":")
        if colon and not authority.endswith("]") and not _PORT.fullmatch(port):
            authority, path = f"{host}:{MASK}", ""
        hidden = f"{hash_mark}{MASK}" if fragment else hash_mark
        return f"{_mask_login(login) if at else ''}{authority}{self._assignments(path)}{hidden}"

    def _urls(self, found: re.Match[str]) -> str:
        """A run of text from the first ``://`` on, which may hold several URLs, without their credentials."""
        before, *parts = found[0].split("://")
        scheme = found.string[max(0, found.start() - len("https")) : found.start()]
        for index, part in enumerate(parts):
            if not scheme.lower().endswith(_HTTP):
                _, at, place = "://".join(parts[index:]).rpartition("@")
                return "://".join([before, *parts[:index], (f"{MASK}@" if at else "") + self._server(place)])
            authority, path = _cut_before(part, "/?#")
            parts[index] = f"{MASK}@{authority.rpartition('@')[2]}{path}" if "@" in authority else part
            scheme = part
        return "://".join([before, *parts])

    def _assignments(self, text: str) -> str:
        """``key=value`` and ``key: value`` with the values of secret keys masked.

        A value is read only behind a secret key: that of another key may hold assignments itself (a URL).
        """
        if "=" not in text and ":" not in text:
            return text
        parts: list[str] = []
        done = 0
        decisions = self._keys.decisions
        for key in _KEY.finditer(text):
            decision = decisions.get(key[1])
            if decision is None:
                decision = self._keys.decide(key[1])
            if key.start() < done or decision != SECRET:
                continue
            value = _VALUE.match(text, key.end())
            if value is not None:
                parts += text[done : key.end()], MASK
                done = value.end()
        return "".join([*parts, text[done:]])


def _cut_before(text: str, marks: str) -> tuple[str, str]:
    """``text`` split before the first of ``marks``."""
    at = min((found for mark in marks if (found := text.find(mark)) >= 0), default=len(text))
    return text[:at], text[at:]


def _mask_login(login: str) -> str:
    """``user:[redacted]@`` where it is plain what the user's name is."""
    user, colon, _ = login.partition(":")
    return f"{user}:{MASK}@" if colon and _USER.fullmatch(user) else f"{MASK}@"


def _mask_cut_url(text: str) -> str:
    """A text that was cut, without a URL at its end: what tells a login from a host may have been cut away."""
    tail = text.rsplit(None, 1)[-1] if text else ""
    at = tail.find("://")
    return text if at < 0 else f"{text[: len(text) - len(tail) + at]}://{MASK}"


def _mask_credentials(found: re.Match[str]) -> str:
    return f"{found[1]} {MASK}"


def _mask_card(found: re.Match[str]) -> str:
    """Mask a number that passes the check of ISO/IEC 7812-1 annex B (Luhn)."""
    digits = [int(character) for character in found[0] if character.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return found[0] if (sum(digits[-1::-2]) + sum(doubled)) % 10 else MASK
