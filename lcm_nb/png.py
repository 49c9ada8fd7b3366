"""The chunks of a PNG file (PNG specification, section 5): whole, in bounded memory, and without a decoder."""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # what the pixels are made of


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each chunk up to the last.

    Raises
    ------
    ValueError
        If the file ends too early, or a chunk is not what its checksum says; what is wrong, for a sentence's middle.
    """
    place = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if len(data) < place + 12:
            raise ValueError("it ends too early")
        length, kind = struct.unpack_from(">I4s", data, place)
        if len(data) < place + 12 + length:
            raise ValueError("it ends too early")
        content = data[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, place + 8 + length)
        if zlib.crc32(content, zlib.crc32(kind)) != checksum:
            raise ValueError(f"the chunk {kind.decode('latin-1')!r} at byte {place:,} has another checksum")
        yield kind, content
        place += 12 + length


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    """Return the PNG file of these chunks."""
    packed = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        for kind, content in parts
    )
    return SIGNATURE + b"".join(packed)


def text(kind: bytes, content: bytes, keyword: str, most: int) -> str | None:
    """Return the text of a chunk with this keyword, None if it is another one.

    Raises
    ------
    ValueError
        If it is longer than ``most`` bytes, however small it was packed, or no text.
    """
    found, _, rest = content.partition(b"\0")
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or found != keyword.encode():
        return None
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    elif packed:
        rest = rest[1:]
    try:
        rest = zlib.decompressobj().decompress(rest, most + 1) if packed else rest
    except zlib.error:
        raise ValueError("its text is damaged") from None
    if len(rest) > most:
        raise ValueError(f"its text has more than {most:,} bytes")
    return rest.decode("utf-8" if kind == b"iTXt" else "latin-1")
