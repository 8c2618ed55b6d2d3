"""Long lists as parameters, packed at once.

The driver dumps a list item by item, in Python: a microsecond each, several columns of every task.
Here a whole list of integers becomes the binary form of `bigint[]` by copies of strides, and one of
texts that of `text[]` by one join; one of UUIDs is put together as `uuid[]`. They are lists still:
a connection that was made before this module was imported dumps them as any other.

Layout: `array_send` of PostgreSQL's src/backend/utils/adt/arrayfuncs.c.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from struct import Struct
from typing import Any
from uuid import UUID

import psycopg
from psycopg import pq
from psycopg.adapt import Dumper

_INT8_OID, _INT8S_OID = 20, 1016
_TEXT_OID, _TEXTS_OID = 25, 1009
_UUID_OID, _UUIDS_OID = 2950, 2951
# Dimensions, whether there are NULLs, the type of the items.
_EMPTY = Struct("!iii")
# And the length and the lower bound of the one dimension.
_HEAD = Struct("!iiiii")
# Four bytes of length before each item's eight.
_ITEM = 12
_LENGTH = Struct("!i").pack
_UUID_LENGTH = _LENGTH(16)
_NULL = _LENGTH(-1)
_UTF8 = "utf-8"
# Up to so many, one call is faster than the strides.
_FEW = 16


@lru_cache
def _packing(count: int) -> Callable[..., bytes]:
    return Struct("!iiiii" + "iq" * count).pack


class Int8s(list[int]):
    """A list that is a `bigint[]`."""


class Texts(list[str | None]):
    """A list that is a `text[]`."""


class Uuids(list[UUID]):
    """A list that is a `uuid[]`."""


class _Int8sDumper(Dumper):
    format = pq.Format.BINARY
    oid = _INT8S_OID

    def dump(self, obj: Any) -> bytes:
        return packed_int8s(obj)


class _TextsDumper(Dumper):
    format = pq.Format.BINARY
    oid = _TEXTS_OID

    def dump(self, obj: Any) -> bytes:
        encoding = self.connection.info.encoding if self.connection else _UTF8
        # A database without an encoding takes any bytes; the driver sends it UTF-8 as well.
        return packed_texts(obj, _UTF8 if encoding == "ascii" else encoding)


class _UuidsDumper(Dumper):
    format = pq.Format.BINARY
    oid = _UUIDS_OID

    def dump(self, obj: Any) -> bytes:
        return packed_uuids(obj)


def packed_int8s(values: Sequence[int]) -> bytes:
    """Return the binary form of a one-dimensional `bigint[]`; OverflowError beyond 64 bits."""
    count = len(values)
    if not count:
        return _EMPTY.pack(0, 0, _INT8_OID)
    if count <= _FEW:
        with suppress(struct.error):  # told below by the error that everybody knows
            parts = [part for value in values for part in (8, value)]
            return _packing(count)(1, 0, _INT8_OID, count, 1, *parts)
    items = array("q", values)
    if sys.byteorder == "little":
        items.byteswap()
    raw = items.tobytes()
    head = _HEAD.size
    out = bytearray(head + _ITEM * count)
    out[:head] = _HEAD.pack(1, 0, _INT8_OID, count, 1)
    out[head + 3 :: _ITEM] = b"\x08" * count
    for place in range(8):
        out[head + 4 + place :: _ITEM] = raw[place::8]
    return bytes(out)


def packed_texts(values: Sequence[str | None], encoding: str) -> bytes:
    """Return the binary form of a one-dimensional `text[]`."""
    if not values:
        return _EMPTY.pack(0, 0, _TEXT_OID)
    try:
        # All of them are encoded at once.
        items = "\0".join(values).encode(encoding).split(b"\0")  # type: ignore[arg-type]
    except TypeError:
        return _packed_nulls(values, encoding)
    if len(items) != len(values):
        # One holds the byte that they were joined by; the server will say what it thinks of that.
        return _packed_nulls(values, encoding)
    parts = [_HEAD.pack(1, 0, _TEXT_OID, len(items), 1)] * (2 * len(items) + 1)
    parts[1::2] = map(_LENGTH, map(len, items))
    parts[2::2] = items
    return b"".join(parts)


def packed_uuids(values: Sequence[UUID]) -> bytes:
    """Return the binary form of a one-dimensional `uuid[]`."""
    if not values:
        return _EMPTY.pack(0, 0, _UUID_OID)
    head = _HEAD.pack(1, 0, _UUID_OID, len(values), 1)
    return head + b"".join([_UUID_LENGTH + value.bytes for value in values])


def _packed_nulls(values: Sequence[str | None], encoding: str) -> bytes:
    parts = [_HEAD.pack(1, None in values, _TEXT_OID, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            item = value.encode(encoding)
            parts += (_LENGTH(len(item)), item)
    return b"".join(parts)


psycopg.adapters.register_dumper(Int8s, _Int8sDumper)
psycopg.adapters.register_dumper(Texts, _TextsDumper)
psycopg.adapters.register_dumper(Uuids, _UuidsDumper)
