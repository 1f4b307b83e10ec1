"""One redaction policy for logs, spans, errors, reprs and previews.

A key is secret by its words: ``user_email``, ``userEmail`` and ``X-User-Email`` are, ``tokens_used`` and
``tokenizer`` are not. The decision for a key is made once and cached, bounded. A mapping is copied only
where something in it changes. What comes out is also bounded (depth, members, characters) and made of plain
values: objects with fields become mappings, since their repr would show what their keys say to hide, and
any other object becomes its repr, scanned.

Free text is scanned for secrets where it is suspect (messages of exceptions, reprs, other libraries' lines),
elsewhere only on request (`RedactOptions.scan_values`), because a scan costs about as much as a whole log line.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from itertools import islice, pairwise
from numbers import Integral, Real
from typing import Any, Final

MASK: Final = "[redacted]"

_PLAIN: Final = 0
_SECRET: Final = 1
_URL: Final = 2
_TRUSTED: Final = 3

# fmt: off
_SECRET_WORDS: Final = frozenset({
    "password", "passwords", "passwd", "pwd", "passphrase", "passphrases", "passcode", "secret", "secrets",
    "token", "apikey", "apikeys", "authorization", "cookie", "cookies", "credential", "credentials", "creds",
    "bearer", "jwt", "otp", "totp", "session", "sessionid", "privatekey", "secretkey", "accesskey",
    "creditcard", "cardnumber", "cvv", "cvc", "ssn", "iban", "csrf", "xsrf",
    "phone", "phones", "telephone", "email", "emails",
})
_SECRET_ENDINGS: Final = ("password", "passwd", "passphrase", "secret", "token", "apikey", "email")
_SECRET_PAIRS: Final = frozenset({
    ("api", "key"), ("api", "keys"), ("private", "key"), ("private", "keys"), ("access", "key"),
    ("signing", "key"), ("encryption", "key"), ("master", "key"), ("auth", "key"), ("auth", "header"),
    ("api", "tokens"), ("access", "tokens"), ("refresh", "tokens"), ("auth", "tokens"),
    ("credit", "card"), ("card", "number"), ("security", "code"), ("social", "security"),
    ("connection", "string"), ("e", "mail"),
})
# What a key says *about* a secret: token_count, session_ttl, password_length, emails_sent.
_HARMLESS_LAST: Final = frozenset({
    "count", "counts", "type", "length", "len", "size", "limit", "total", "usage", "used", "ttl", "expiry",
    "expires", "age", "seconds", "ms", "bytes", "sent",
})
# fmt: on
_URL_WORDS: Final = frozenset({"url", "urls", "uri", "dsn"})

_HTTP: Final = frozenset({"http", "https"})

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_KEY_CHARACTERS: Final = 256

# Every pattern is linear in the text: no unbounded run can be entered from more than one place.
_URLS = re.compile(r"://[^\s\"'<>]*")
_PORT = re.compile(r"(\d{1,5}|port|\{\w*\})?[).,;:\]}]*", re.IGNORECASE)
_USER = re.compile(r"[\w.+-]*")
_KEY = re.compile(r"""(?<![\w.-])([A-Za-z][\w.-]{0,63}+)["']?+\s{0,3}+[=:]\s{0,3}""")
_VALUE = re.compile(r"""\"[^"]{0,256}"|'[^']{0,256}'|[^\s,;&"'(){}\[\]]+""")
_AUTH_SCHEME = re.compile(r"\b([Bb]earer|BEARER|[Bb]asic|BASIC)\s{1,3}[\w.~+/=-]{6,}")
_CARD = re.compile(r"(?<![\d.])[2-6](?:[ -]?\d){12,18}(?![\d.])")

_SHORTEST_CARD: Final = 13

_SCALARS: Final = frozenset({int, float, bool, type(None)})
# Written by the renderers as they are.
_KEPT: Final = (dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal)


@dataclass(frozen=True, slots=True)
class RedactOptions:
    """What is masked and what is cut.

    Attributes:
        scan_values: also look into every text for Authorization values, URL credentials, ``key=value``
            with a secret key, and payment card numbers.
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


class Redactor:
    """Applies one policy. Safe to share between threads; holds nothing but decisions about keys."""

    __slots__ = ("_policy",)

    def __init__(self, options: RedactOptions = RedactOptions()) -> None:
        self._policy = _Policy(options)

    def is_secret(self, key: str) -> bool:
        """Whether a value under this key is masked."""
        return self._policy.decide(key) == _SECRET

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
            if decision == _PLAIN:
                if (kind is str and len(value) <= unscanned) or kind in _SCALARS:
                    continue
            elif decision == _TRUSTED:
                continue
            safe = (
                MASK if decision == _SECRET and kind is str else policy.member(decision, value, _Walk(policy))
            )
            if safe is not value:
                if changed is None:
                    changed = dict(values)
                changed[key] = safe
        return values if changed is None else changed

    def value(self, value: Any) -> Any:
        """Any value made safe: masked by its keys, bounded, of plain types. Never raises."""
        return _Walk(self._policy).value(value)

    def text(self, text: str) -> str:
        """A text with everything masked that looks like a secret, bounded. Linear in its length."""
        return self._policy.text(text)

    def url(self, url: str) -> str:
        """A URL without password, and without the values of secret query parameters."""
        return self._policy.url(url)


class _Policy:
    """What to do with one key, one text, one URL.

    ``unscanned`` is the length up to which a text under a plain key may stay as it is; -1 when every text is
    scanned.
    """

    __slots__ = ("decisions", "options", "unscanned", "words")

    _MAX_DECISIONS: Final = 4_096

    def __init__(self, options: RedactOptions) -> None:
        self.options = options
        self.words = _SECRET_WORDS | options.more_words
        self.decisions: dict[object, int] = {}
        self.unscanned = -1 if options.scan_values else options.max_text

    def decide(self, key: object) -> int:
        """What holds for a key; remembered for keys of sane length."""
        if not isinstance(key, str):
            return _PLAIN
        decision = _TRUSTED if key in self.options.trusted else self._classify(key)
        if len(self.decisions) >= self._MAX_DECISIONS:
            self.decisions.clear()
        if len(key) <= _KEY_CHARACTERS:
            self.decisions[key] = decision
        return decision

    def _classify(self, key: str) -> int:
        words = [word.lower() for word in _WORD.findall(key[:_KEY_CHARACTERS])]
        if not words or (len(words) > 1 and words[-1] in _HARMLESS_LAST):
            return _PLAIN
        if (
            any(word in self.words or word.endswith(_SECRET_ENDINGS) for word in words)
            or not _SECRET_PAIRS.isdisjoint(pairwise(words))
            or (len(words) > 1 and words[-1] == "pass")
        ):
            return _SECRET
        return _PLAIN if _URL_WORDS.isdisjoint(words) else _URL

    def member(self, decision: int, value: Any, walk: _Walk) -> Any:
        """A value under a key of that decision; the same object when it may stay."""
        if decision == _SECRET:
            return value if value is None or type(value) is bool else MASK
        if decision == _URL and issubclass(type(value), str):
            return self.url(self.cut(value))
        return walk.value(value)

    def string(self, text: str) -> str:
        """A text that is some value: bounded, scanned only on request."""
        return self.text(text) if self.options.scan_values else self.cut(text)

    def cut(self, text: str) -> str:
        """At most `max_text` characters, of the type str itself."""
        if len(text) > self.options.max_text:
            return f"{text[: self.options.max_text]}… ({len(text)} characters)"
        return text if type(text) is str else str.__str__(text)

    def text(self, text: str) -> str:
        """A suspect text: bounded and scanned."""
        if len(text) > self.options.max_text:
            text = f"{_mask_cut_url(text[: self.options.max_text])}… ({len(text)} characters)"
        elif type(text) is not str:
            text = str.__str__(text)
        if "://" in text and (
            "@" in text or text.count("://") != text.count("http://") + text.count("https://")
        ):
            text = _URLS.sub(self._urls, text)
        if _AUTH_SCHEME.search(text):
            text = _AUTH_SCHEME.sub(lambda found: f"{found[1]} {MASK}", text)
        text = self._assignments(text)
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
            if not scheme.lower().endswith(tuple(_HTTP)):
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
        decisions = self.decisions
        for key in _KEY.finditer(text):
            decision = decisions.get(key[1])
            if decision is None:
                decision = self.decide(key[1])
            if key.start() < done or decision != _SECRET:
                continue
            value = _VALUE.match(text, key.end())
            if value is not None:
                parts += text[done : key.end()], MASK
                done = value.end()
        return "".join([*parts, text[done:]])


class _Walk:
    """One descent into one nested value: what is left of the budget, and the way back for cycles."""

    __slots__ = ("_left", "_path", "_policy")

    def __init__(self, policy: _Policy) -> None:
        self._policy = policy
        self._left = policy.options.max_items
        self._path: list[int] = []

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is str:
            return self._policy.string(value)
        if kind is dict:
            return self._enter(value, self._mapping)
        if kind is list or kind is tuple:
            return self._enter(value, self._members)
        try:
            return self._object(value)
        except Exception as error:  # noqa: BLE001 - what it inherits or overrides may raise anything
            return f"<unreadable {name_of(kind)}: {name_of(type(error))}>"

    def _enter(self, value: Any, step: Callable[[Any], Any]) -> Any:
        if id(value) in self._path:
            return "[cycle]"
        if len(self._path) >= self._policy.options.max_depth:
            return "[too deep]"
        self._path.append(id(value))
        try:
            return step(value)
        except Exception as error:  # noqa: BLE001 - a container whose iteration raises must not end a log line
            return f"<unreadable {name_of(type(value))}: {name_of(type(error))}>"
        finally:
            self._path.pop()

    def _fields(self, value: Any) -> Any:
        return self._mapping({name: getattr(value, name, None) for name in _field_names(value)})

    def _mapping(self, values: Mapping[Any, Any]) -> Mapping[Any, Any]:
        room = self._room(len(values))
        if type(values) is not dict or room < len(values):
            cut = {"…": f"{len(values)} members"} if room < len(values) else {}
            values = dict(islice(values.items(), room)) | cut
        policy, decisions, unscanned = self._policy, self._policy.decisions, self._policy.unscanned
        changed: dict[Any, Any] | None = None
        for key, value in values.items():
            decision = decisions.get(key)
            if decision is None:
                if type(key) is not str or len(key) > _KEY_CHARACTERS:
                    return self._mapping({_name(name): member for name, member in values.items()})
                decision = policy.decide(key)
            kind = type(value)
            if not decision and (kind in _SCALARS or (kind is str and len(value) <= unscanned)):
                continue
            member = policy.member(decision, value, self)
            if member is not value:
                if changed is None:
                    changed = dict(values)
                changed[key] = member
        return values if changed is None else changed

    def _members(self, values: Collection[Any]) -> Any:
        room = self._room(len(values))
        if room < len(values):
            values = [*islice(values, room), "…"]
        elif type(values) is not list and type(values) is not tuple:
            values = list(values)
        unscanned = self._policy.unscanned
        changed: list[Any] | None = None
        for index, value in enumerate(values):
            kind = type(value)
            if kind in _SCALARS or (kind is str and len(value) <= unscanned):
                continue
            member = self.value(value)
            if member is not value:
                if changed is None:
                    changed = list(values)
                changed[index] = member
        return values if changed is None else changed

    def _room(self, members: int) -> int:
        """How many of so many members may be looked at."""
        room = max(0, min(members, self._left))
        self._left -= members
        return room

    def _object(self, value: Any) -> Any:
        if isinstance(value, Enum):
            return self.value(value.value) if isinstance(value.value, str | int) else value.name
        if isinstance(value, str):
            return self._policy.string(value)
        if isinstance(value, _KEPT):
            return value
        if isinstance(value, Real):
            return int(value) if isinstance(value, Integral) else float(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, BaseException):
            return self._policy.text(f"{type(value).__name__}: {describe(value)}")
        if isinstance(value, Mapping):
            return self._enter(value, self._mapping)
        if not isinstance(value, type) and _field_names(value):
            return self._enter(value, self._fields)
        if isinstance(value, list | tuple | Set | deque):
            return self._enter(value, self._members)
        return self._policy.text(_printed(value))


name_of: Final[Callable[[type], str]] = vars(type)["__name__"].__get__
"""A class's name from the slot of type itself: a metaclass may answer for ``__name__`` and raise."""


def describe(error: BaseException) -> str:
    """The text of an exception; never raises, not scanned."""
    try:
        return str.__str__(str(error))  # a subclass of str may override what is done to it next
    except Exception as failure:  # noqa: BLE001 - __str__ may raise anything
        return f"<unprintable: {type(failure).__name__}>"


def redact_url(url: str) -> str:
    """A URL without password, and without the values of secret query parameters."""
    return DEFAULT_REDACTOR.url(url)


def _field_names(value: Any) -> tuple[str, ...]:
    """Field names of a dataclass, msgspec.Struct, pydantic model, attrs class or named tuple; else empty."""
    cls = type(value)
    for attribute in ("__dataclass_fields__", "__struct_fields__", "__pydantic_fields__", "_fields"):
        names = getattr(cls, attribute, None)
        if isinstance(names, Mapping | tuple):
            return tuple(name for name in names if isinstance(name, str))
    return tuple(field.name for field in getattr(cls, "__attrs_attrs__", ()))


def _printed(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - any repr may raise anything
        return f"<unprintable {type(value).__name__}: {type(error).__name__}>"


def _name(key: Any) -> str:
    try:
        return str(key)[:_KEY_CHARACTERS]
    except Exception:  # noqa: BLE001 - a key's __str__ may raise anything
        return f"<unprintable {type(key).__name__}>"


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


def _mask_card(found: re.Match[str]) -> str:
    """Mask a number that passes the check of ISO/IEC 7812-1 annex B (Luhn)."""
    digits = [int(character) for character in found[0] if character.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return found[0] if (sum(digits[-1::-2]) + sum(doubled)) % 10 else MASK


DEFAULT_REDACTOR: Final = Redactor()
"""The policy with default options, for whoever has no other."""
