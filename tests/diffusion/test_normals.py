"""The normal numbers: Philox's known answers, the same bits everywhere, and that they are normal."""

import pytest
import torch

import xmkern.functional as xf
from xmkern.ops.attention.reference import philox
from xmkern.ops.diffusion.normals import normals
from xmkern.testing import each_capability, threads

# kat_vectors of Random123, philox4x32 of 10 rounds: counter, key, words
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers_of_philox(counter, key, words):
    low, high = (int(word, 16) for word in key.split())
    seed = torch.tensor([low, high], dtype=torch.uint32).view(torch.int64)
    got = philox([torch.tensor([int(word, 16)]) for word in counter.split()], seed)
    assert [f"{int(word):08x}" for word in got] == words.split()


def test_the_kernels_draw_the_reference_bit_for_bit(capability):
    for seed, offset in ((0, 0), (-1, 63), (12345, 64), (-7, 2**38 + 11)):
        expected = normals(50_003, seed, offset)
        assert torch.equal(xf.philox_normal([50_003], seed, offset, backend="cpu"), expected)


def test_more_numbers_than_float32_rounds_alike(capability):
    """A million, so that the rare ways through the arithmetic are met."""
    assert torch.equal(xf.philox_normal([1 << 20], 99, backend="cpu"), normals(1 << 20, 99, 0))


def test_results_do_not_depend_on_threads_or_parts(capability):
    whole = xf.philox_normal((7, 20_001), 3, 10)
    for count in (1, 2, 5):
        with threads(count):
            assert torch.equal(xf.philox_normal((7, 20_001), 3, 10), whole)
    parts = [xf.philox_normal([n], 3, 10 + at) for at, n in ((0, 1), (1, 30_000), (30_001, 7 * 20_001 - 30_001))]
    assert torch.equal(torch.cat(parts), whole.flatten())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_are_roundings(dtype):
    expected = xf.philox_normal([1000], 4)
    got = xf.philox_normal([1000], 4, dtype=dtype)
    assert torch.equal(got, expected.to(dtype))
    out = torch.empty(10, 100, dtype=dtype)
    assert xf.philox_normal((10, 100), 4, out=out) is out
    assert torch.equal(out.flatten(), got)


def kolmogorov_smirnov(x, cdf):
    """sqrt(n) times the greatest distance of the empirical from the distribution function; above 1.95 once in 1000."""
    n, p = len(x), cdf(x.double().sort().values)
    steps = torch.arange(n + 1) / n
    return float(torch.maximum((steps[1:] - p).max(), (p - steps[:-1]).max())) * n**0.5


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_they_are_normal(seed):
    n = 1 << 20
    x = xf.philox_normal([n], seed).double()
    assert kolmogorov_smirnov(x, torch.special.ndtr) < 1.95
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs(x.pow(power).mean() - moment) < 4 * (variance / n) ** 0.5
    for apart in (1, 4, 15, 16, 17, 32, 63, 64, 128):
        for a, b in ((x[apart:], x[:-apart]), (x[apart:] ** 2 - 1, (x[:-apart] ** 2 - 1) / 2)):
            assert abs((a * b).mean()) < 4.5 * n**-0.5


def test_they_are_normal_in_the_tails_and_the_middle():
    x = xf.philox_normal([1 << 22], 8).double()
    for low, high in ((-20, -4.5), (-4.5, -3), (-1e-3, 1e-3), (3, 4.5), (4.5, 20)):
        share = float(
            torch.special.ndtr(torch.tensor(high)) - torch.special.ndtr(torch.tensor(low, dtype=torch.double))
        )
        found, expected = int(((x > low) & (x <= high)).sum()), share * len(x)
        assert abs(found - expected) < 4.5 * expected**0.5


def test_seeds_and_offsets_are_different_sequences():
    numbers = torch.stack([xf.philox_normal([4096], seed) for seed in (0, 1, 2, 2**32, 2**63, -1)])
    correlations = torch.corrcoef(numbers) - torch.eye(len(numbers))
    assert correlations.abs().max() < 0.08
    assert not torch.equal(xf.philox_normal([64], 0, 2**36), xf.philox_normal([64], 0))


def test_every_capability_gives_the_same_bits():
    drawn = [xf.philox_normal([100_000], 17, 5, dtype=torch.bfloat16) for _ in each_capability()]
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
