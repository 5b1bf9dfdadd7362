"""Multi-index hashing against the flat scan, which other tests hold against numpy and FAISS."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmkern import functional, native

pytestmark = pytest.mark.skipif(native.why_missing() is not None, reason=str(native.why_missing()))

NEVER_GIVE_UP, ALWAYS_GIVE_UP = 1e18, 0.0


def codes_of(flags: np.ndarray) -> np.ndarray:
    return np.packbits(flags, axis=1, bitorder="little")


def random_codes(rng: np.random.Generator, count: int, bits: int, ones: float = 0.5) -> np.ndarray:
    return codes_of(rng.random((count, bits)) < ones)


def near_codes(rng: np.random.Generator, codes: np.ndarray, count: int, bits: int, flips: int) -> np.ndarray:
    """Copies of codes with up to `flips` bits flipped."""
    flags = np.unpackbits(codes[rng.integers(0, len(codes), count)], axis=1, count=bits, bitorder="little")
    for row in flags:
        row[rng.integers(0, bits, rng.integers(0, flips + 1))] ^= 1
    return codes_of(flags)


def assert_same(found, expected) -> None:
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def check(codes, queries, indexed, bits, k, radius, patience) -> None:
    from xmkern.hamming.mih import Tables

    tables = Tables(codes[:indexed], bits)
    assert len(tables) == indexed
    assert_same(tables.topk(queries, codes, k, patience), functional.hamming_topk(queries, codes, k))
    assert_same(tables.range(queries, codes, radius, patience), functional.hamming_range(queries, codes, radius))


@given(st.data())
def test_any_shape(data):
    bits = data.draw(st.integers(1, 70), "bits")
    count = data.draw(st.sampled_from([0, 1, 2, 7, 100, 700]), "codes")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    ones = data.draw(st.sampled_from([0.5, 0.02, 0.0]), "share of ones")  # few ones make many ties and full buckets
    codes = random_codes(rng, count, bits, ones)
    queries = random_codes(rng, data.draw(st.integers(0, 40), "queries"), bits, ones)
    check(
        codes,
        queries,
        indexed=data.draw(st.integers(0, count), "indexed"),
        bits=bits,
        k=data.draw(st.sampled_from([0, 1, 3, count, count + 2]), "k"),
        radius=data.draw(st.integers(-1, bits), "radius"),
        patience=data.draw(st.sampled_from([NEVER_GIVE_UP, 1.0, 0.1, ALWAYS_GIVE_UP]), "patience"),
    )


@pytest.mark.parametrize("bits", [64, 128, 130, 256, 1000, 4096])
@pytest.mark.parametrize("radius", [0, 3, 9, 14])
def test_neighbours_of_long_codes_are_found(bits, radius):
    rng = np.random.default_rng(bits)
    codes = random_codes(rng, 3000, bits)
    queries = near_codes(rng, codes, 64, bits, radius)
    lims = functional.hamming_range(queries, codes, radius)[0]
    assert np.all(np.diff(lims) >= 1), "each query must have something to find"
    check(codes, queries, 2900, bits, 1, radius, NEVER_GIVE_UP)


def test_every_radius_of_a_small_space():
    """All codes of 10 bits, three times: each distance occurs, with ties, in each table."""
    codes = np.tile(np.arange(1024, dtype="<u2").view(np.uint8).reshape(-1, 2), (3, 1))
    for radius in range(11):
        check(codes, codes[[0, 341, 1023]], len(codes), 10, 3 * radius + 1, radius, NEVER_GIVE_UP)


def test_every_radius_of_a_divided_code():
    rng = np.random.default_rng(1)
    codes = random_codes(rng, 200, 24)
    for radius in range(25):
        check(codes, codes[:20], 200, 24, radius + 1, radius, NEVER_GIVE_UP)


def test_threads_do_not_matter():
    from xmkern.hamming.mih import Tables

    rng = np.random.default_rng(2)
    codes = random_codes(rng, 20_000, 64)
    queries = near_codes(rng, codes, 1000, 64, 6)  # enough for each thread to be woken
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            tables = Tables(codes[:15_000], 64)
            near = tables.range(queries, codes, 6, NEVER_GIVE_UP)
            found.append([*near, *tables.topk(queries[:100], codes, 5, NEVER_GIVE_UP)])
    finally:
        torch.set_num_threads(before)
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


def test_every_capability(capability):
    rng = np.random.default_rng(3)
    for bits in (64, 100, 200):
        codes = random_codes(rng, 5000, bits)
        check(codes, near_codes(rng, codes, 50, bits, 4), 4000, bits, 1, 4, NEVER_GIVE_UP)


def test_memory_is_a_few_times_the_codes():
    from xmkern.hamming.mih import Tables

    codes = random_codes(np.random.default_rng(4), 1 << 16, 64)
    # 4 tables of a position (4 bytes) and a code (8) each, and the offsets and key patterns: 2^16 of 4 bytes.
    assert Tables(codes, 64).nbytes == pytest.approx(len(codes) * (4 * 12 + 4 * 4 + 4), rel=1e-3)
