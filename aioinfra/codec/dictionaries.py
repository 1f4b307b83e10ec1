"""Trained zstd dictionaries (RFC 8878, section 5): what many small values have in common, kept once.

A dictionary is named after its content: the id that stands in it, and in every frame made with it, is drawn from
a digest of the rest. So a dictionary cannot change under its id, and one that was damaged has no id that fits.

A dictionary is made of pieces of the values that it was trained on: it is as secret as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import zstandard

from aioinfra.codec.bounds import check_whole
from aioinfra.codec.zstd import Zstd, check_size, dictionary_of
from aioinfra.errors import CodecError, DecodeError, InvalidArgument

DEFAULT_SIZE: Final = 32 << 10
LEAST_SIZE: Final = 1 << 10
MOST_SIZE: Final = 512 << 10
"""Bytes of a dictionary. More than some 100 KB hardly ever saves more."""

LEAST_SAMPLES: Final = 50
"""Fewer say too little about what comes; zstd itself refuses fewer than seven."""

MOST_SAMPLE_BYTES: Final = 64 << 20

MOST_LIFE: Final = 30 * 86_400.0
"""Seconds. Values that live longer, or for good, use no dictionary: it might go before them."""

_MAGIC: Final = (0xEC30A437).to_bytes(4, "little")
_BODY_AT: Final = 8  # after magic and id
_FIRST_ID: Final = 1 << 15  # below, and from 2**31, ids are for a public register
_IDS: Final = (1 << 31) - _FIRST_ID
_KEPT: Final = 16  # some 300 KB each, at the usual size


class UnknownDictionary(DecodeError):
    """A frame made with a dictionary that is not here. ``id`` tells which: fetch it, and open again."""

    def __init__(self, dictionary_id: int) -> None:
        super().__init__(dictionary_id)
        self.id = dictionary_id

    def __str__(self) -> str:
        return f"a zstd frame that needs dictionary {self.id}, which is not here"


class NotTrainable(CodecError):
    """The samples are too few or too small, or have too little in common, for a dictionary."""


@dataclass(frozen=True, slots=True)
class Dictionary:
    """One dictionary, checked: the bytes may come from anywhere.

    Attributes:
        content: as `zstd -D` takes it.
        id: from 32,768 to 2**31 - 1, drawn from the content.

    Raises:
        DecodeError: not a dictionary, not intact, or beyond `MOST_SIZE`.
    """

    content: bytes = field(repr=False)
    id: int = field(init=False)

    def __post_init__(self) -> None:
        content: object = self.content
        if not isinstance(content, bytes) or not _BODY_AT < len(content) <= MOST_SIZE:
            raise DecodeError(f"not a dictionary of at most {MOST_SIZE} bytes")
        if not content.startswith(_MAGIC):
            raise DecodeError("not a zstd dictionary")
        named = int.from_bytes(content[len(_MAGIC) : _BODY_AT], "little")
        if named != _id_of(content[_BODY_AT:]):
            raise DecodeError("a dictionary whose id does not fit its content")
        object.__setattr__(self, "id", named)
        self.zstd()

    def zstd(self, level: int = 3, max_output: int = 64 << 20) -> Zstd:
        """A compressor and decompressor with it; some 50 us, the first compression some 300."""
        data = zstandard.ZstdCompressionDict(self.content, dict_type=zstandard.DICT_TYPE_FULLDICT)
        try:
            return Zstd(level, max_output, data)  # the tables are read, and checked, here
        except zstandard.ZstdError:
            raise DecodeError("a malformed zstd dictionary") from None


def train(samples: Sequence[bytes], size: int = DEFAULT_SIZE, level: int = 3) -> Dictionary:
    """A dictionary of at most ``size`` bytes from payloads like those to come.

    CPU for a second at most for 10 MB of samples, without the GIL: use a thread. About 100 times ``size`` is as
    much as helps. The algorithm is zstd's own (COVER, with its parameters tried out on a part of the samples).

    Raises:
        InvalidArgument: an argument is out of its bounds.
        NotTrainable: there is no dictionary in these samples.
    """
    check_whole("size", size, LEAST_SIZE, MOST_SIZE)
    if not all(isinstance(sample, bytes) for sample in samples):
        raise InvalidArgument("samples", "must be bytes, each of them")
    if sum(map(len, samples)) > MOST_SAMPLE_BYTES:
        raise InvalidArgument("samples", f"must have at most {MOST_SAMPLE_BYTES} bytes together")
    if len(samples) < LEAST_SAMPLES:
        raise NotTrainable(f"{len(samples)} samples are too few: at least {LEAST_SAMPLES} are needed")
    try:
        trained = zstandard.train_dictionary(size, list(samples), dict_id=_FIRST_ID, level=level).as_bytes()
    except zstandard.ZstdError:
        raise NotTrainable(f"{len(samples)} samples, which are too small or have nothing in common") from None
    body = trained[_BODY_AT:]
    return Dictionary(_MAGIC + _id_of(body).to_bytes(4, "little") + body)


def _id_of(body: bytes) -> int:
    """31 bits tell the versions of one cache apart; a wrong guess is found by a frame's checksum."""
    return _FIRST_ID + int.from_bytes(blake2b(body, digest_size=8).digest(), "little") % _IDS


class Dictionaries:
    """The dictionaries that one process knows: one to compress with, or none, and those to decompress with.

    Keeps the compressors, which are not thread-safe: one thread. At most ``most`` dictionaries are kept; beyond
    that one goes that was not used lately, the current one never.

    Args:
        level: of zstd, -7 to 19.
        max_output: bytes that a frame may expand to.
        most: dictionaries to keep.
    """

    __slots__ = ("_compress", "_current", "_known", "_level", "_max_output", "_most", "_used")

    def __init__(self, level: int = 3, max_output: int = 64 << 20, most: int = _KEPT) -> None:
        check_whole("most", most, 2, 1000)  # the current one, and one to come
        self._level = level
        self._max_output = max_output
        self._most = most
        self._known: dict[int, tuple[Dictionary, Zstd]] = {}  # oldest first
        self._used: set[int] = set()
        self._current: Dictionary | None = None
        self._compress: Zstd | None = None

    def __contains__(self, dictionary_id: int) -> bool:
        return dictionary_id in self._known

    def __iter__(self) -> Iterator[Dictionary]:
        return iter([dictionary for dictionary, _ in self._known.values()])

    def __len__(self) -> int:
        return len(self._known)

    @property
    def current(self) -> Dictionary | None:
        """What values are compressed with; None for no dictionary."""
        return self._current

    def add(self, dictionary: Dictionary) -> None:
        """Decompress with it from now on."""
        if dictionary.id in self._known:
            return
        while len(self._known) >= self._most:
            self._forget_one()
        self._known[dictionary.id] = (dictionary, dictionary.zstd(self._level, self._max_output))

    def use(self, dictionary: Dictionary | None) -> None:
        """Compress with it from now on, or with none."""
        if dictionary is None:
            self._current = self._compress = None
            return
        self.add(dictionary)
        self._current, self._compress = self._known[dictionary.id]

    def compress(self, payload: bytes) -> bytes:
        """One frame, made with the current dictionary.

        Raises:
            LookupError: there is none.
        """
        zstd, current = self._compress, self._current
        if zstd is None or current is None:
            raise LookupError("there is no current dictionary")
        self._used.add(current.id)
        return zstd.compress(payload)

    def decompress(self, frame: bytes) -> bytes:
        """The payload of exactly one frame.

        Raises:
            UnknownDictionary: its dictionary is not here.
            DecodeError: not one intact frame with a dictionary, or PayloadTooLarge.
        """
        dictionary_id = dictionary_of(frame)
        known = self._known.get(dictionary_id)
        if known is None:
            check_size(frame, self._max_output)  # nothing is fetched for a frame that would be refused
            if dictionary_id == 0:
                raise DecodeError("a zstd frame without a dictionary, where one is announced")
            raise UnknownDictionary(dictionary_id)
        self._used.add(dictionary_id)
        return known[1].decompress(frame)

    def take_used(self) -> list[Dictionary]:
        """Those that were used since the last call."""
        used, self._used = self._used, set()
        return [known[0] for known in map(self._known.get, used) if known is not None]

    def mark_used(self, dictionaries: Iterable[Dictionary]) -> None:
        """Give back what was taken and not dealt with."""
        self._used.update(dictionary.id for dictionary in dictionaries)

    def _forget_one(self) -> None:
        current = self._current
        others = [one for one in self._known if current is None or one != current.id]
        idle = [one for one in others if one not in self._used]
        del self._known[(idle or others)[0]]
