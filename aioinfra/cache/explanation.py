"""What `CacheManager.explain` answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Layer = Literal["l1", "server", "memory", "absent"]
State = Literal["fresh", "stale", "unusable", "absent"]
L1State = Literal["hit", "unvouched", "other type", "expired", "absent", "off"]
Loading = Literal["no", "here", "elsewhere", "failed"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of one key, but for the value. Sizes in bytes, times in seconds.

    Attributes:
        key: within the namespace.
        layer: where a get would find something now: L1; the server; memory, which answers in an outage, or always
            where there is no server; nowhere.
        state: "fresh" is answered; "stale" may be, see ``reasons``; "unusable" is there and counts as absent.
        reasons: why it is not fresh, or not where it should be.
        l1: what L1 says to a reader: "hit"; "unvouched" while the server has not confirmed that nothing was missed;
            "other type" where it was decoded for another function; "expired"; "absent"; "off".
        age: since the value began to be made, by the server's clock.
        fresh_for: until it is no longer fresh; negative since then. None for good.
        server_ttl: until the server drops the key (PTTL). None without an expiry, and where there is no key.
        kind: of what the server has under the key ("string"; anything else is no value); None for nothing.
        codec: "json", "msgpack", "pickle" or "bytes", as the value says.
        compression: "none", "zstd" or "dictionary".
        dictionary: the id of the trained dictionary that the value needs.
        stored_size: of all that lies under the key (STRLEN): header, tags and payload.
        payload_size: of the payload as stored.
        plain_size: of the payload before compression.
        tags: that the value carries.
        compute_time: that its loader took; 0 for one that was set.
        failure: whether it stands for a load that failed.
        loading: whether the value is being made: "here", or "elsewhere" in the fleet; "failed" while others are
            told to wait after a failed load.
        lease_ttl: until another process may make it, unless the lease is renewed.
        encoding: OBJECT ENCODING, where that is allowed.
        idle: OBJECT IDLETIME as it was before this question, which the server counts as a use; None where it is not
            allowed, or not kept (an LFU policy).
    """

    key: str
    layer: Layer = "absent"
    state: State = "absent"
    reasons: tuple[str, ...] = ()
    l1: L1State = "off"
    age: float | None = None
    fresh_for: float | None = None
    server_ttl: float | None = None
    kind: str | None = None
    codec: str | None = None
    compression: str | None = None
    dictionary: int | None = None
    stored_size: int | None = None
    payload_size: int | None = None
    plain_size: int | None = None
    tags: tuple[str, ...] = ()
    compute_time: float | None = None
    failure: bool = False
    loading: Loading = "no"
    lease_ttl: float | None = None
    encoding: str | None = None
    idle: float | None = None

    def as_dict(self) -> Mapping[str, Any]:
        """For a JSON answer."""
        return asdict(self)

    def __str__(self) -> str:
        """Lines for people; what is not known is left out. Keys and tags are escaped."""
        return "\n".join(f"{name:<11}{text}" for name, text in self._lines() if text)

    def _lines(self) -> list[tuple[str, str]]:
        life = None if self.fresh_for is None else _seconds(abs(self.fresh_for))
        since = self.fresh_for is not None and self.fresh_for <= 0
        return [
            ("key", repr(self.key)),
            ("layer", self.layer),
            ("state", self.state + (" (a failed load)" if self.failure else "")),
            *[("why", reason) for reason in self.reasons],
            ("l1", self.l1),
            ("age", "" if self.age is None else _seconds(self.age)),
            ("fresh", self._fresh(life, since=since)),
            ("server ttl", "" if self.kind is None else self._ttl()),
            ("codec", self.codec or ""),
            ("sizes", self._sizes()),
            ("tags", ", ".join(map(repr, self.tags))),
            ("made in", _seconds(self.compute_time) if self.compute_time else ""),
            ("loading", self._loading()),
            ("object", self._object()),
        ]

    def _fresh(self, life: str | None, *, since: bool) -> str:
        if self.codec is None:
            return ""
        return "for good" if life is None else f"until {life} ago" if since else f"for {life}"

    def _ttl(self) -> str:
        return "none" if self.server_ttl is None else _seconds(self.server_ttl)

    def _sizes(self) -> str:
        if self.stored_size is None or self.codec is None:
            return "" if self.stored_size is None else f"{self.stored_size} bytes"
        packed = self.compression if self.dictionary is None else f"zstd, dictionary {self.dictionary}"
        plain = "" if self.compression == "none" else f" ({packed}, {self.plain_size} plain)"
        return f"{self.stored_size} bytes, payload {self.payload_size}{plain}"

    def _loading(self) -> str:
        if self.loading == "no":
            return ""
        return self.loading if self.lease_ttl is None else f"{self.loading}, lease {_seconds(self.lease_ttl)}"

    def _object(self) -> str:
        idle = "" if self.idle is None else f"idle {_seconds(self.idle)}"
        return ", ".join(part for part in (self.encoding, idle) if part)


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 60 else f"{value:.0f} s"
