"""Which keys hold secrets: by their words, decided once a key."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from aioinfra.redact.options import RedactOptions

PLAIN: Final = 0
SECRET: Final = 1
URL: Final = 2
TRUSTED: Final = 3

KEY_CHARACTERS: Final = 256
"""Of a longer key the rest is not looked at, and it is not remembered."""

# fmt: off
_SECRET_WORDS: Final = frozenset({
    "password", "passwords", "passwd", "pwd", "passphrase", "passphrases", "passcode", "secret", "secrets",
    "token", "apikey", "apikeys", "authorization", "cookie", "cookies", "credential", "credentials", "creds",
    "bearer", "jwt", "otp", "totp", "session", "sessionid", "privatekey", "secretkey", "accesskey",
    "creditcard", "cardnumber", "cvv", "cvc", "ssn", "iban", "csrf", "xsrf",
    "phone", "phones", "telephone", "email", "emails", "signature",
})
_SECRET_ENDINGS: Final = ("password", "passwd", "passphrase", "secret", "token", "apikey", "email")
_SECRET_PAIRS: Final = frozenset({
    ("api", "key"), ("api", "keys"), ("private", "key"), ("private", "keys"), ("access", "key"),
    ("signing", "key"), ("encryption", "key"), ("master", "key"), ("auth", "key"), ("auth", "header"),
    ("api", "tokens"), ("access", "tokens"), ("refresh", "tokens"), ("auth", "tokens"),
    ("credit", "card"), ("card", "number"), ("security", "code"), ("social", "security"),
    ("connection", "string"), ("e", "mail"), ("pass", "word"), ("hmac", "key"), ("ssh", "key"), ("license", "key"),
    ("cc", "number"), ("account", "number"), ("passport", "number"),
})
# What a key says *about* a secret: token_count, session_ttl, password_length, emails_sent.
_HARMLESS_LAST: Final = frozenset({
    "count", "counts", "type", "length", "len", "size", "limit", "total", "usage", "used", "ttl", "expiry",
    "expires", "age", "seconds", "ms", "bytes", "sent",
})
# fmt: on
_URL_WORDS: Final = frozenset({"url", "urls", "uri", "dsn"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Keys:
    """Decisions about keys, remembered in ``decisions``: looked up there first on hot paths."""

    __slots__ = ("_trusted", "_words", "decisions")

    _MAX_DECISIONS: Final = 4_096

    def __init__(self, options: RedactOptions) -> None:
        self._trusted = options.trusted
        self._words = _SECRET_WORDS | options.more_words
        self.decisions: dict[object, int] = {}

    def decide(self, key: object) -> int:
        """What holds for a key; remembered for keys of sane length."""
        if not isinstance(key, str):
            return PLAIN
        decision = TRUSTED if key in self._trusted else self._classify(key)
        if len(self.decisions) >= self._MAX_DECISIONS:
            self.decisions.clear()
        if len(key) <= KEY_CHARACTERS:
            self.decisions[key] = decision
        return decision

    def _classify(self, key: str) -> int:
        words = [word.lower() for word in _WORD.findall(key[:KEY_CHARACTERS])]
        if not words or (len(words) > 1 and words[-1] in _HARMLESS_LAST):
            return PLAIN
        if (
            any(word in self._words or word.endswith(_SECRET_ENDINGS) for word in words)
            or not _SECRET_PAIRS.isdisjoint(pairwise(words))
            or words[-1] in ("pass", "auth")
        ):
            return SECRET
        return PLAIN if _URL_WORDS.isdisjoint(words) else URL
