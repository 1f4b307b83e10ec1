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
# Found backwards, from the sign of assignment on: signs are rare, and a set of characters is found fastest.
_KEYS = re.compile(r"""[=:](?:\s|[nrt]\\){0,16}+["'\\\]]{0,4}+([\w.-]{0,63}[A-Za-z])""")
_KEYS_IN_URLS = re.compile(r"""(?:[=:]|[ADad]3%)(?:\s|[nrt]\\){0,16}+["'\\\]]{0,4}+([\w.-]{0,63}[A-Za-z])""")
_OPTIONS = re.compile(r"--([A-Za-z][\w-]{0,63}+)\s{1,16}+(?!-)")
_GAP = re.compile(r"(?:[\s=:>]|\\[nrt]){0,64}+")  # what stands between the sign and the value
# A quoted text ends at its quote, or with the text: one that was cut off is masked as well.
_QUOTED = r"""(?:"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]++|\\.)*+(?:'|\\?\Z))"""
_ESCAPED = r"""(?:\\{1,8}"[^"]*+(?:"|\Z)|\\{1,8}'[^']*+(?:'|\Z))"""
# A sign of punctuation belongs to a secret unless white space, the end or another assignment follows.
_NEXT_KEY = r"""["'\\]{0,3}+[\w.-]{1,64}+["'\\\]]{0,4}+\s{0,3}+[=:]"""
_RUN = rf"""(?:[^\s,;&"'(){{}}\[\]]++|[,;&"'(){{}}\[\]]{{1,8}}+(?!\s|\Z|{_NEXT_KEY}))*+"""
_VALUE = re.compile(rf"(?:[A-Za-z]{{0,2}}{_QUOTED}|{_ESCAPED})*+{_RUN}", re.DOTALL)
_OPENING = re.compile(r"[\w$.@]{0,64}+[(\[{]")
_BRACKETS = re.compile(rf"[(\[{{]|[)\]}}]|{_QUOTED}", re.DOTALL)
_PAIR = re.compile(rf"(\(b?'([\w.-]{{1,64}}+)', )b?{_QUOTED}(?=\)|\Z)", re.DOTALL)  # the repr of a pair
_HEADERS: Final = ("authorization", "cookie")  # a scheme and several values may stand in them
_HEADER_VALUE = {quote: re.compile(rf"""(?![\s"'(\[{{\\])[^\r\n{quote}]++""") for quote in ("", "'", '"')}
_SPACED_LOGIN = re.compile(
    r"""://([\w.+-]{0,64}+:)(?!\d{0,5}+[\s/?#).,;:\]}])[^\s@"'<>]{0,128}+[ \t](?:[^@\r\n/]++|/(?!/)){0,128}+@"""
)
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
            text = _URLS.sub(self._urls, _SPACED_LOGIN.sub(_mask_spaced_login, text))
        text = self._assignments(_AUTH_SCHEME.sub(_mask_credentials, text))
        if "('" in text or "(b'" in text:
            text = _PAIR.sub(self._pair, text)
        return _CARD.sub(_mask_card, text) if len(text) >= _SHORTEST_CARD else text

    def url(self, url: str) -> str:
        """A URL without its secrets."""
        scheme, mark, rest = url.partition("://")
        if not mark:
            login, at, place = url.rpartition("@")
            return f"{_mask_login(login)}{place}" if at else self._assignments(url)
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

    def _pair(self, found: re.Match[str]) -> str:
        return f"{found[1]}{MASK}" if self._keys.decide(found[2]) == SECRET else found[0]

    def _assignments(self, text: str) -> str:
        """``key=value``, ``key: value`` and ``--key value`` with the values of secret keys masked.

        A value is read only behind a secret key: that of another key may hold assignments itself (a URL).
        """
        if "=" not in text and ":" not in text and "%3" not in text and "--" not in text:
            return text
        parts: list[str] = []
        done = 0
        for begin, key_end in self._secrets(text):
            gap = _GAP.match(text, key_end)
            at = gap.end() if gap is not None else key_end
            if begin < done:
                continue
            end = _value_end(text, begin, key_end, at)
            if end > at:
                parts += text[done:at], MASK
                done = end
        return "".join([*parts, text[done:]]) if parts else text

    def _secrets(self, text: str) -> list[tuple[int, int]]:
        """Where secret keys begin, and where their sign of assignment ends, in order."""
        secrets: list[tuple[int, int]] = []
        decisions, decide, size = self._keys.decisions, self._keys.decide, len(text)
        for found in (_KEYS_IN_URLS if "%3" in text else _KEYS).finditer(text[::-1]):
            key = found[1][::-1]
            decision = decisions.get(key)
            if decision is None:
                decision = decide(key)
            if decision == SECRET:
                secrets.append((size - found.end(), size - found.start()))
        secrets.reverse()
        if "--" in text:
            options = [found for found in _OPTIONS.finditer(text) if decide(found[1]) == SECRET]
            secrets = sorted([*secrets, *(found.span() for found in options)])
        return secrets


def _value_end(text: str, begin: int, key_end: int, at: int) -> int:
    """Where the value ends that begins at ``at``, of the secret key at ``begin``.

    When in doubt it is taken for longer: a bracket or quote that is never closed masks the rest.
    """
    key = text[begin : begin + 80].lower()
    if any(header in key for header in _HEADERS) and (text[key_end - 1] == ":" or "cookie" not in key):
        before = text[begin - 1 : begin] if begin else ""
        header = _HEADER_VALUE.get(before, _HEADER_VALUE[""]).match(text, at)
        if header is not None:
            return header.end()
    opening = _OPENING.match(text, at)
    if opening is not None:
        at = _closing(text, opening.end())
    value = _VALUE.match(text, at)
    return value.end() if value is not None else at


def _closing(text: str, at: int) -> int:
    """Behind the bracket that closes the one just before ``at``; the end without such."""
    depth = 1
    for found in _BRACKETS.finditer(text, at):
        if found[0] in ("(", "[", "{"):
            depth += 1
        elif found[0] in (")", "]", "}"):
            depth -= 1
            if not depth:
                return found.end()
    return len(text)


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
    tail = text.rsplit(None, 1)[-1] if text and not text.isspace() else ""
    at = tail.find("://")
    return text if at < 0 else f"{text[: len(text) - len(tail) + at]}://{MASK}"


def _mask_spaced_login(found: re.Match[str]) -> str:
    return f"://{found[1]}{MASK}@"


def _mask_credentials(found: re.Match[str]) -> str:
    return f"{found[1]} {MASK}"


def _mask_card(found: re.Match[str]) -> str:
    """Mask a number that passes the check of ISO/IEC 7812-1 annex B (Luhn)."""
    digits = [int(character) for character in found[0] if character.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return found[0] if (sum(digits[-1::-2]) + sum(doubled)) % 10 else MASK
