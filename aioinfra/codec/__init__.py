"""Values to bytes and back, with no I/O.

A value is written by one codec (`json`, `msgpack`, or the signed `pickle`), compressed when that saves
(`zstd`), and sealed in an `envelope` whose header says how to read it. `schema` names the shape of an
annotation, so that a changed model is another key.

The one rule of every codec: what is read back equals what was written, or writing raises EncodeError; and
reading bytes from outside either gives a value or raises DecodeError, never anything else.
"""
