"""Bytes that we did not sign are never unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from aioinfra.codec.pickle import SignedPickle
from aioinfra.errors import DecodeError, EncodeError, InvalidArgument, UntrustedPayload

OLD, NEW = "the old key of the tests", "the new key of the tests"


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_the_canary_sings_when_it_is_unpickled(tmp_path: Path) -> None:
    codec = SignedPickle(OLD)
    codec.decode(codec.encode(Canary(tmp_path / "sang")))
    assert (tmp_path / "sang").exists()


def test_unsigned_tampered_and_foreign_payloads_are_never_unpickled(tmp_path: Path) -> None:
    canary = Canary(tmp_path / "sang")
    plain = pickle.dumps(canary)
    signed = SignedPickle(OLD).encode(canary)
    flipped = [bytes([*signed[:at], signed[at] ^ 1, *signed[at + 1 :]]) for at in range(len(signed))]
    attempts = [
        plain,
        b"",
        b"x",
        b"\0" * 32,
        b"\0" * 32 + plain,
        signed[:-1],
        signed + b"x",
        signed[32:],
        *flipped,
    ]
    for payload in attempts:
        with pytest.raises(UntrustedPayload):
            SignedPickle(OLD).decode(payload)
    with pytest.raises(UntrustedPayload):
        SignedPickle(NEW).decode(signed)
    assert not (tmp_path / "sang").exists()


def test_keys_rotate() -> None:
    written_before = SignedPickle(OLD).encode({1, 2})
    during = SignedPickle([NEW, OLD])
    assert during.decode(written_before) == {1, 2}
    written_during = during.encode({3})
    assert SignedPickle(NEW).decode(written_during) == {3}
    with pytest.raises(UntrustedPayload):
        SignedPickle(NEW).decode(written_before)


@pytest.mark.parametrize("key", ["", "short", b"fifteen bytes..", [], [NEW, "short"], None, 5, [None]])
def test_weak_and_missing_keys_are_refused(key: object) -> None:
    with pytest.raises((InvalidArgument, TypeError)):
        SignedPickle(key)  # type: ignore[arg-type]  # the point of the test


def test_what_cannot_be_pickled_or_unpickled_is_a_codec_error() -> None:
    codec = SignedPickle(NEW)
    with pytest.raises(EncodeError):
        codec.encode(lambda: None)

    class Broken:
        def __reduce__(self) -> tuple[object, ...]:
            return (int, ("not a number",))

    with pytest.raises(DecodeError):
        codec.decode(codec.encode(Broken()))


def test_a_key_is_in_no_repr() -> None:
    assert NEW not in repr(SignedPickle(NEW))
