"""Pictures made small: a screen has few colours, so each pixel is a byte that names one."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

_COLOURS = 256
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def packed(picture: bytes) -> bytes:
    """Return an RGB or RGBA picture (PNG, 8 bits, not interlaced) with a palette of 256 colours."""
    chunks = list(_chunks(picture))
    header = next(body for kind, body in chunks if kind == b"IHDR")
    width, height, _, kind = struct.unpack(">IIBB", header[:10])
    size = {2: 3, 6: 4}[kind]
    raw = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    rows = list(_rows(raw, width * size, height, size))
    pixels = [[row[n : n + 3] for n in range(0, len(row), size)] for row in rows]
    counted = Counter(pixel for row in pixels for pixel in row)
    palette = [colour for colour, _ in counted.most_common(_COLOURS)]
    names = {colour: number for number, colour in enumerate(palette)}
    for colour in counted:
        if colour not in names:
            names[colour] = names[min(palette, key=lambda other: _distance(colour, other))]
    lines = b"".join(b"\0" + bytes(map(names.__getitem__, row)) for row in pixels)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", b"".join(palette)),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, body: bytes) -> bytes:
    checked = kind + body
    return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        yield picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        at += 12 + length


def _rows(raw: bytes, stride: int, height: int, size: int) -> Iterator[bytes]:
    """Yield the rows of pixels with their filters undone (PNG, section 9.2)."""
    above = bytearray(stride)
    for number in range(height):
        start = number * (stride + 1)
        how, row = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        if how == 1:
            for n in range(size, stride):
                row[n] = (row[n] + row[n - size]) & 255
        elif how == 2:
            for n in range(stride):
                row[n] = (row[n] + above[n]) & 255
        elif how == 3:
            for n in range(stride):
                left = row[n - size] if n >= size else 0
                row[n] = (row[n] + (left + above[n]) // 2) & 255
        elif how == 4:
            for n in range(stride):
                left, corner = (row[n - size], above[n - size]) if n >= size else (0, 0)
                row[n] = (row[n] + _paeth(left, above[n], corner)) & 255
        above = row
        yield bytes(row)


def _paeth(left: int, up: int, corner: int) -> int:
    near = left + up - corner
    to_left, to_up, to_corner = abs(near - left), abs(near - up), abs(near - corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner
