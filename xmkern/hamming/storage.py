"""The file of an index. A header of 64 bytes, little endian, then two sections and nothing else:

    magic 8s | version u32 | bits u32 | method u32 | zero u32 | count u64 | codes u64 | ids u64 | blake2b 16s

codes: count * ceil(bits / 8) bytes and zeros up to a multiple of 8; ids: count int64. The two lengths are in bytes. The
digest is over all of the file but itself.
"""

import hashlib
import mmap
import os
import secrets
import struct
from io import BufferedReader
from pathlib import Path

import numpy as np

MAGIC = b"XMKERNBI"
VERSION = 1
METHODS = ("flat", "mih", "auto")
MAX_BITS = 4096
FilePath = str | bytes | os.PathLike[str]

_HEADER = struct.Struct("<8sIIIIQQQ")
_DIGEST_BYTES = 16
_START = _HEADER.size + _DIGEST_BYTES
_CHUNK = 1 << 24


def save(path: FilePath, bits: int, method: str, codes: np.ndarray, ids: np.ndarray) -> None:
    """Writes the file whole or not at all. codes uint8 [N, W], ids int64 [N]."""
    codes = np.ascontiguousarray(codes)
    sections: list[bytes | memoryview] = [
        codes.reshape(-1).data,
        bytes(-codes.size % 8),
        ids.astype("<i8").view(np.uint8).data,
    ]
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        bits,
        METHODS.index(method),
        0,
        len(ids),
        sum(len(part) for part in sections[:2]),
        len(sections[2]),
    )
    digest = _digest(header, *sections)
    path = Path(os.path.realpath(os.fsdecode(path)))  # a link stays one: its target is replaced
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, "xb") as file:
            for part in (header, digest, *sections):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def load(path: FilePath, map_file: bool) -> tuple[int, str, np.ndarray, np.ndarray]:
    """-> bits, method, codes uint8 [N, W], ids int64 [N].

    Raises:
        ValueError: the file is no index, or truncated, or altered.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        bits, method, count, width, codes_bytes = _check_header(file.read(_START), size, path)
        # A private copy on write: arrays that may be written to, as torch wants them, and a file that never changes.
        data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if map_file else _read(file, size, path)
    view = memoryview(data)
    if _digest(view[: _HEADER.size], view[_START:]) != view[_HEADER.size : _START]:
        raise _bad(path, "its checksum does not match: it was altered or damaged")
    codes = np.frombuffer(data, np.uint8, count * width, _START).reshape(count, width)
    ids = np.frombuffer(data, "<i8", count, _START + codes_bytes)
    if ids.dtype != np.int64:
        ids = ids.astype(np.int64)
    # The checksum is no signature: what the index relies on is checked as well.
    if has_padding(codes, bits):
        raise _bad(path, f"its codes have bits set past the first {bits}")
    if count and (ids.min() < 0 or len(np.unique(ids)) != count):
        raise _bad(path, "its ids are negative or not unique")
    return bits, METHODS[method], codes, ids


def has_padding(codes: np.ndarray, bits: int) -> bool:
    """Whether codes uint8 [N, ceil(bits / 8)] have a bit set past the first ``bits``."""
    return bits % 8 != 0 and bool(np.any(codes[:, -1] >> (bits % 8)))


def _check_header(header: bytes, size: int, path: FilePath) -> tuple[int, int, int, int, int]:
    """-> bits, method, count, bytes a code, bytes of the codes' section; the lengths add up to the file's."""
    if len(header) < _START:
        raise _bad(path, f"it has {size} bytes, fewer than its header")
    magic, version, bits, method, zero, count, codes_bytes, ids_bytes = _HEADER.unpack(header[: _HEADER.size])
    if magic != MAGIC:
        raise _bad(path, "it does not begin with the magic bytes of one")
    if version != VERSION:
        raise _bad(path, f"it is of version {version}; this release reads version {VERSION}")
    if not 1 <= bits <= MAX_BITS or method >= len(METHODS) or zero != 0:
        raise _bad(path, "its header holds impossible values")
    width = (bits + 7) // 8
    if codes_bytes != (count * width + 7) // 8 * 8 or ids_bytes != 8 * count:
        raise _bad(path, f"its sections do not fit {count} codes of {bits} bits")
    if size != _START + codes_bytes + ids_bytes:
        raise _bad(path, f"it has {size} bytes instead of {_START + codes_bytes + ids_bytes}")
    return bits, method, count, width, codes_bytes


def _read(file: BufferedReader, size: int, path: FilePath) -> bytearray:
    data = bytearray(size)
    file.seek(0)
    if file.readinto(data) != size:
        raise _bad(path, "it shrank while it was read")
    return data


def _digest(*parts: bytes | memoryview) -> bytes:
    total = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        for start in range(0, len(part), _CHUNK):
            total.update(part[start : start + _CHUNK])
    return total.digest()


def _sync_folder(folder: Path) -> None:
    """Makes the new name survive a power cut, where folders can be synced."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bad(path: FilePath, why: str) -> ValueError:
    return ValueError(f"path: {os.fspath(path)!r} is no readable BinaryIndex: {why}")
