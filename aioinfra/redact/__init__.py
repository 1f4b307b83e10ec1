"""One redaction policy for logs, spans, errors, reprs and previews.

A key is secret by its words: ``user_email``, ``userEmail`` and ``X-User-Email`` are, ``tokens_used`` and
``tokenizer`` are not. The decision for a key is made once and cached, bounded. A mapping is copied only
where something in it changes. What comes out is also bounded (depth, members, characters) and made of plain
values: objects with fields become mappings, since their repr would show what their keys say to hide, and
any other object becomes its repr, scanned.

Free text is scanned for secrets where it is suspect (messages of exceptions, reprs, other libraries' lines,
whatever holds a URL), elsewhere only on request (`RedactOptions.scan_values`), because a scan costs about as much
as a whole log line.
"""

from aioinfra.redact.options import MASK, RedactOptions
from aioinfra.redact.redactor import DEFAULT_REDACTOR, Redactor, redact_url
from aioinfra.redact.values import describe, name_of

__all__ = ["DEFAULT_REDACTOR", "MASK", "RedactOptions", "Redactor", "describe", "name_of", "redact_url"]
