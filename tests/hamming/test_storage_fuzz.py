"""Files of the index: what was saved comes back, and a damaged file gives a ValueError and nothing else."""

import hashlib
import os
import struct

import numpy as np
import pytest
import torch

from xmkern.hamming import BinaryIndex, storage

HEADER = struct.Struct("<8sIIIIQQQ")
START = HEADER.size + 16


def make_index(count=20, bits=61, method="flat") -> BinaryIndex:
    flags = np.random.default_rng(0).random((count, bits)) < 0.5
    index = BinaryIndex(bits, method)
    index.add(np.packbits(flags, axis=1, bitorder="little"), np.arange(count) * 3)
    return index


def saved(path, *args) -> bytes:
    make_index(*args).save(path)
    return path.read_bytes()


def sealed(header: tuple, body: bytes) -> bytes:
    """A file of any content with the digest that belongs to it."""
    head = HEADER.pack(*header)
    return head + hashlib.blake2b(head + body, digest_size=16).digest() + body


def assert_refused(path, data: bytes, mmap: bool) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match="path: "):
        BinaryIndex.load(path, mmap=mmap)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(("count", "bits"), [(0, 64), (1, 1), (3, 9), (20, 61), (1000, 4096)])
@pytest.mark.parametrize("method", ["flat", "auto"])
def test_round_trip(tmp_path, count, bits, method, mmap):
    index = make_index(count, bits, method)
    index.save(tmp_path / "index")
    again = BinaryIndex.load(str(tmp_path / "index"), mmap=mmap)
    assert (again.bits, again.method, again.ids.tolist()) == (bits, method, index.ids.tolist())
    queries = index._snapshot.codes[:5]
    for got, wanted in zip(again.search(queries, 4), index.search(queries, 4), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert os.listdir(tmp_path) == ["index"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/index")
    for count in (3, 5):  # to nothing yet, then to an older index
        make_index(count).save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert len(BinaryIndex.load(tmp_path / "folder" / "index")) == count
    assert os.listdir(tmp_path / "folder") == ["index"]


def test_paths_of_bytes(tmp_path):
    make_index(3).save(os.fsencode(tmp_path / "index"))
    assert len(BinaryIndex.load(os.fsencode(tmp_path / "index"))) == 3


def test_a_loaded_index_changes_and_its_file_does_not(tmp_path):
    before = saved(tmp_path / "index")
    index = BinaryIndex.load(tmp_path / "index")
    torch.from_numpy(index._snapshot.codes)  # warns, an error here, if it cannot be written to
    index._snapshot.codes[0] = 0
    index.add(index._snapshot.codes[:2])
    index.remove([3, 6])
    assert index.ids.tolist() == [0, *range(9, 60, 3), 58, 59]
    assert (tmp_path / "index").read_bytes() == before
    index.save(tmp_path / "index")  # over the file that is still mapped
    assert BinaryIndex.load(tmp_path / "index").ids.tolist() == index.ids.tolist()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    before = saved(tmp_path / "index")

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        make_index(40).save(tmp_path / "index")
    assert (tmp_path / "index").read_bytes() == before
    assert os.listdir(tmp_path) == ["index"]


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        BinaryIndex.load(tmp_path / "index")


def test_mutated_files_are_refused(tmp_path):
    """Every bit of a file flipped by itself, every truncation, and more."""
    path = tmp_path / "index"
    good = saved(path, 10)
    rng = np.random.default_rng(1)
    tried = 0
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        assert_refused(path, bytes(data), mmap=bit % 2 == 0)
        tried += 1
    for length in range(len(good)):
        assert_refused(path, good[:length], mmap=length % 2 == 0)
        tried += 1
    for extra in (1, 7, 8, 16, 4096):
        assert_refused(path, good + bytes(extra), mmap=True)
        assert_refused(path, good + rng.bytes(extra), mmap=False)
        assert_refused(path, bytes(extra), mmap=False)
        tried += 3
    for _ in range(500):  # a run of bytes written over, removed or repeated
        begin, end = sorted(rng.integers(0, len(good) + 1, 2))
        middle = [rng.bytes(end - begin), b"", 2 * good[begin:end]][rng.integers(3)]
        data = good[:begin] + middle + good[end:]
        if data != good:
            assert_refused(path, data, mmap=True)
            tried += 1
    assert tried >= 2000


# Fields of the header, as HEADER orders them.
VERSION, BITS, METHOD, ZERO, COUNT, CODES, IDS = range(1, 8)
HUGE = [2**64 - 1, 2**63, 2**62, 2**61, 2**40, 2**32, 2**31]


@pytest.mark.parametrize("field", [VERSION, BITS, METHOD, ZERO, COUNT, CODES, IDS])
def test_wrong_fields_with_a_right_checksum_are_refused(tmp_path, field):
    path = tmp_path / "index"
    good = saved(path)
    header, body = HEADER.unpack(good[: HEADER.size]), good[START:]
    assert sealed(header, body) == good
    small = field in (VERSION, BITS, METHOD, ZERO)
    values = [0, 1, 3, 7, 19, 21, 56, 72, 4097, 2**31, 2**32 - 1] + ([] if small else HUGE)
    harmless = {VERSION: {1}, BITS: set(), METHOD: {0, 1, 2}, ZERO: {0}}.get(field, set())
    for value in set(values) - harmless:
        changed = list(header)
        changed[field] = value
        assert_refused(path, sealed(tuple(changed), body), mmap=value % 2 == 0)


def test_lengths_are_checked_before_memory_is_taken(tmp_path):
    """A consistent header that promises an exabyte."""
    count = 2**56
    assert_refused(tmp_path / "index", sealed((b"XMKERNBI", 1, 64, 0, 0, count, 8 * count, 8 * count), b""), False)


@pytest.mark.parametrize("ids", [[0, 0], [-1, 4]])
def test_wrong_ids_with_a_right_checksum_are_refused(tmp_path, ids):
    body = bytes(16) + struct.pack("<2q", *ids)
    assert_refused(tmp_path / "index", sealed((b"XMKERNBI", 1, 64, 0, 0, 2, 16, 16), body), True)


def test_wrong_padding_with_a_right_checksum_is_refused(tmp_path):
    body = b"\x00" * 7 + b"\x10" + struct.pack("<q", 0)
    assert_refused(tmp_path / "index", sealed((b"XMKERNBI", 1, 60, 0, 0, 1, 8, 8), body), True)
    (tmp_path / "index").write_bytes(sealed((b"XMKERNBI", 1, 61, 0, 0, 1, 8, 8), body))
    assert len(BinaryIndex.load(tmp_path / "index")) == 1


def test_the_format_is_pinned(tmp_path):
    """A file of today is read by tomorrow's release: these bytes may only change with the version."""
    index = BinaryIndex(12, "auto")
    index.add(np.array([[1, 2], [3, 4], [5, 6]], np.uint8), [7, 8, 300])
    index.save(tmp_path / "index")
    header = (b"XMKERNBI", 1, 12, 2, 0, 3, 8, 24)
    body = bytes([1, 2, 3, 4, 5, 6, 0, 0]) + struct.pack("<3q", 7, 8, 300)
    assert (tmp_path / "index").read_bytes() == sealed(header, body)
    assert storage.VERSION == 1
