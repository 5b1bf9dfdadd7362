"""The Hamming calls against their reference, numpy and FAISS."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads

CALLS = ["pack_bits", "unpack_bits", "hamming_distance", "hamming_topk", "hamming_range"]
KERNELS = [name for name in CALLS if name != "unpack_bits"]


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_match_the_reference(name, capability):
    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(getattr(strategies, name)())
    def check(inputs):
        assert_matches_reference(name, inputs, backend="cpu")

    check()


def random_codes(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@given(strategies.pack_bits())
def test_packing_is_numpys_little_endian_order(inputs):
    x = inputs["x"]
    bits = x if x.dtype == torch.bool else x >= 0
    assert np.array_equal(xf.pack_bits(x).numpy(), np.packbits(bits.numpy(), axis=1, bitorder="little"))


@given(strategies.unpack_bits())
def test_unpacking_inverts_packing(inputs):
    bits = xf.unpack_bits(**inputs)
    expected = np.unpackbits(inputs["codes"].numpy(), axis=1, bitorder="little", count=inputs["bits"])
    assert np.array_equal(bits.numpy(), expected.astype(bool))
    assert torch.equal(xf.unpack_bits(xf.pack_bits(bits), inputs["bits"]), bits)


def test_signs_that_are_neither_above_nor_below_zero():
    x = torch.tensor([[0.0, -0.0, float("nan"), -1e-45, 1e-45, float("-inf"), float("inf"), -1.0]])
    assert xf.pack_bits(x).tolist() == [[0b01010011]]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64])
def test_numbers_without_a_sign_are_not_less_than_zero(dtype, backend):
    assert xf.pack_bits(torch.tensor([[0, 1, 250]]).to(dtype), backend=backend).tolist() == [[0b111]]


def test_any_byte_but_zero_is_true(capability):
    flags = np.random.default_rng(0).integers(-3, 4, (3, 101), dtype=np.int8)
    expected = np.packbits(flags != 0, axis=1, bitorder="little")
    assert np.array_equal(xf.pack_bits(flags.view(bool), backend="cpu"), expected)


def test_distances_are_numpys():
    a, b = random_codes(20, 13), random_codes(50, 13, seed=1)
    expected = np.unpackbits(a.numpy()[:, None] ^ b.numpy()[None], axis=2).sum(2)
    assert np.array_equal(xf.hamming_distance(a, b).numpy(), expected)


@pytest.mark.parametrize("queries", [1, 11, 12, 600])
@pytest.mark.parametrize("width", [1, 8, 9, 16, 32, 48, 64, 72, 512])
def test_results_do_not_depend_on_threads(queries, width, capability):
    q, c = random_codes(queries, width), random_codes(40_000 if width < 64 else 3_000, width, seed=1)
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            results.append((*xf.hamming_topk(q, c, 10), *xf.hamming_range(q, c, 3 * width)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("queries", [3, 30])
def test_ties_go_to_the_smaller_index_across_parts(queries):
    q = random_codes(queries, 8)
    c = random_codes(5, 8, seed=1).repeat(20_000, 1)
    distances, indices = xf.hamming_topk(q, c, 50)
    key = distances.long() * len(c) + indices
    assert (key.diff(dim=1) > 0).all()
    assert torch.equal(distances, xf.hamming_distance(q, c).gather(1, indices))
    nearest = xf.hamming_distance(q, c[:5]).min(dim=1)
    assert torch.equal(indices[:, 0] % 5, nearest.indices)
    assert (distances == nearest.values[:, None]).all()


def test_faiss_finds_the_same_distances():
    faiss = pytest.importorskip("faiss")
    for bits in (8, 64, 72, 256, 1024):
        q, c = random_codes(30, bits // 8).numpy(), random_codes(5000, bits // 8, seed=1).numpy()
        index = faiss.IndexBinaryFlat(bits)
        index.add(c)
        assert np.array_equal(index.search(q, 20)[0], xf.hamming_topk(q, c, 20)[0])
        radius = bits // 2 - 3
        lims, distances, _ = index.range_search(q, radius + 1)  # FAISS excludes the radius itself
        ours = xf.hamming_range(q, c, radius)
        assert np.array_equal(lims.astype(np.int64), ours[0])
        for i in range(len(q)):
            row = slice(ours[0][i], ours[0][i + 1])
            assert np.array_equal(np.sort(distances[row]).astype(np.int32), ours[1][row])


def test_the_kind_that_comes_in_comes_out():
    tensor = random_codes(3, 4)
    for part in xf.hamming_range(tensor.numpy(), tensor.numpy(), 9):
        assert isinstance(part, np.ndarray)
    for part in xf.hamming_topk(tensor, tensor, 2):
        assert isinstance(part, torch.Tensor)
    frozen = tensor.numpy().copy()
    frozen.flags.writeable = False
    assert xf.hamming_topk(frozen, frozen, 1)[1].tolist() == [[0], [1], [2]]


def test_arrays_that_torch_does_not_take():
    x = np.random.default_rng(0).standard_normal((5, 20))
    records = np.zeros((5, 20), [("flag", "i1"), ("x", "<f8")])
    records["x"] = x
    for strange in (x.astype(">f8"), records["x"], x[::-1, ::-1].copy()[::-1, ::-1]):
        assert np.array_equal(xf.pack_bits(strange), xf.pack_bits(x))
    codes = xf.pack_bits(x)
    assert xf.hamming_topk(codes[::-2], codes[::-1], 1)[1].tolist() == [[0], [2], [4]]


@pytest.mark.parametrize(("radius", "found"), [(-0.5, []), (0.5, [0]), (1.5, [0, 1]), (float("inf"), [0, 1, 2])])
def test_a_radius_between_two_distances(radius, found):
    codes = np.array([[0], [1], [3]], np.uint8)
    assert xf.hamming_range(codes[:1], codes, radius)[2].tolist() == found


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: xf.pack_bits([1.0]), TypeError, "x must be a torch tensor"),
        (lambda: xf.pack_bits(torch.zeros(3)), ValueError, "x must have two axes"),
        (lambda: xf.pack_bits(torch.zeros(3, 0)), ValueError, "x must have 1 to 4096 columns"),
        (lambda: xf.pack_bits(torch.zeros(3, 4097)), ValueError, "x must have 1 to 4096 columns"),
        (lambda: xf.pack_bits(torch.zeros(3, 4, dtype=torch.complex64)), TypeError, "x must hold real numbers"),
        (lambda: xf.unpack_bits(random_codes(2, 1), 9), ValueError, "bits must be 1 to 8"),
        (lambda: xf.hamming_distance(torch.zeros(2, 2), random_codes(2, 2)), TypeError, "a must be packed bits"),
        (
            lambda: xf.hamming_topk(random_codes(2, 2), random_codes(2, 3), 1),
            ValueError,
            "codes must have as many bytes",
        ),
        (lambda: xf.hamming_topk(random_codes(2, 2), random_codes(2, 2), -1), ValueError, "k must not be negative"),
        (
            lambda: xf.hamming_topk(random_codes(2, 513), random_codes(2, 513), 1),
            ValueError,
            "queries must have 1 to 512",
        ),
        (
            lambda: xf.hamming_distance(random_codes(2, 2), random_codes(2, 2), backend="warp"),
            ValueError,
            "backend must be",
        ),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name):
    op = ops()[name]
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


def test_a_compiled_graph_has_no_break():
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def search(x, y):
        return xf.hamming_topk(xf.pack_bits(x), xf.pack_bits(y), 3)

    for rows in (5, 9, 30):
        x, y = torch.randn(rows, 40), torch.randn(100, 40)
        expected = xf.hamming_topk(xf.pack_bits(x), xf.pack_bits(y), 3)
        assert all(torch.equal(a, b) for a, b in zip(search(x, y), expected, strict=True))


def test_vmap_runs_each_element():
    q, c = random_codes(4, 3, 8), random_codes(50, 8, seed=1)
    distances, indices = torch.vmap(lambda each: xf.hamming_topk(each, c, 5))(q)
    flat = xf.hamming_topk(q.reshape(12, 8), c, 5)
    assert torch.equal(distances.reshape(12, 5), flat[0])
    assert torch.equal(indices.reshape(12, 5), flat[1])


def test_a_named_backend_that_cannot_serve_says_why():
    codes = random_codes(3, 4)
    with pytest.raises(ValueError, match=r"backend=.triton. cannot serve this call of hamming_topk: .*(GPU|Triton)"):
        xf.hamming_topk(codes, codes, 1, backend="triton")
