"""The FAISS-like indexes beside FAISS itself."""

import copy
import struct
from itertools import pairwise

import numpy as np
import pytest

from xmkern.integrations.faiss import IndexBinaryFlat, IndexBinaryIDMap, read_index_binary

faiss = pytest.importorskip("faiss")

D = 64
LACKING = 2**31 - 1


def random_codes(seed, count, d=D):
    return np.random.default_rng(seed).integers(0, 256, (count, d // 8), np.uint8)


def pairs(lims, distances, ids):
    """What a range search found, as a sorted list a query: the order within one is nobody's promise."""
    bounds = lims.astype(int)
    return [sorted(zip(distances[a:b].tolist(), ids[a:b].tolist(), strict=True)) for a, b in pairwise(bounds)]


def assert_same_search(ours, theirs, queries, k):
    """Distances are equal; labels are, but among those at one distance, of which each may keep others at the end."""
    distances, labels = ours.search(queries, k)
    their_distances, their_labels = theirs.search(queries, k)
    assert (distances.dtype, labels.dtype) == (their_distances.dtype, their_labels.dtype)
    np.testing.assert_array_equal(distances, their_distances)
    for row in range(len(queries)):
        surely = distances[row] < distances[row, -1]
        mine = sorted(zip(distances[row, surely], labels[row, surely], strict=True))
        assert mine == sorted(zip(distances[row, surely], their_labels[row, surely], strict=True))
    np.testing.assert_array_equal(labels == -1, their_labels == -1)


def assert_same_index(ours, theirs, k=7, threshs=(0, 1, 20, 28, 65)):
    assert (ours.ntotal, ours.d, ours.code_size) == (theirs.ntotal, theirs.d, theirs.code_size)
    assert ours.is_trained == theirs.is_trained
    queries = random_codes(99, 9, ours.d)
    assert_same_search(ours, theirs, queries, k)
    for thresh in threshs:
        found, expected = ours.range_search(queries, thresh), theirs.range_search(queries, thresh)
        assert [part.dtype for part in found] == [part.dtype for part in expected]
        assert pairs(*found) == pairs(*expected)


def both(d=D):
    return IndexBinaryFlat(d), faiss.IndexBinaryFlat(d)


def both_maps(d=D):
    return IndexBinaryIDMap(IndexBinaryFlat(d)), faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(d))


@pytest.mark.parametrize("d", [8, 64, 104, 256])
@pytest.mark.parametrize("count", [0, 1, 5, 500])
def test_flat(d, count):
    ours, theirs = both(d)
    for index in (ours, theirs):
        index.add(random_codes(0, count, d))
        index.add(random_codes(1, count, d))
    assert_same_index(ours, theirs)
    if count:
        np.testing.assert_array_equal(ours.reconstruct(count), theirs.reconstruct(count))
    for index in (ours, theirs):
        index.reset()
        index.add(random_codes(2, 3, d))
    assert_same_index(ours, theirs)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_has_codes_of_its_own(copied):
    flat, mapped = IndexBinaryFlat(D), IndexBinaryIDMap(IndexBinaryFlat(D))
    for count in (3, 1):  # the buffers have room for more then
        flat.add(random_codes(0, count))
        mapped.add_with_ids(random_codes(0, count), np.arange(count))
    flats, maps = (flat, copied(flat)), (mapped, copied(mapped))
    for seed in (0, 1):
        flats[seed].add(random_codes(seed, 1))
        maps[seed].add_with_ids(random_codes(seed, 1), [10 + seed])
    for seed in (0, 1):
        np.testing.assert_array_equal(flats[seed].reconstruct(4), random_codes(seed, 1)[0])
        np.testing.assert_array_equal(maps[seed].reconstruct(10 + seed), random_codes(seed, 1)[0])
        assert maps[seed].id_map.tolist() == [0, 1, 2, 0, 10 + seed]
        assert flats[seed].ntotal == maps[seed].ntotal == 5


def test_padding_where_codes_are_lacking():
    index = IndexBinaryFlat(D)
    index.add(np.zeros((1, 8), np.uint8))
    distances, labels = index.search(np.ones((1, 8), np.uint8), 3)
    assert distances.tolist() == [[8, LACKING, LACKING]]
    assert labels.tolist() == [[0, -1, -1]]


def test_the_threshold_is_outside():
    for index in both():
        index.add(np.zeros((1, 8), np.uint8))
        query = np.ones((1, 8), np.uint8)
        assert index.range_search(query, 8)[2].tolist() == []
        assert index.range_search(query, 9)[2].tolist() == [0]


@pytest.mark.parametrize("gone", [[], [0], [3, 3, 77], [19, 0, 7], list(range(20)), [-1]])
def test_remove_from_flat_moves_the_rest_up(gone):
    ours, theirs = both()
    counts = []
    for index in (ours, theirs):
        index.add(random_codes(0, 20))
        counts.append(index.remove_ids(np.array(gone, np.int64)))
        index.add(random_codes(1, 2))
    assert counts[0] == counts[1]
    assert_same_index(ours, theirs)
    for key in range(ours.ntotal):
        np.testing.assert_array_equal(ours.reconstruct(key), theirs.reconstruct(key))


def test_id_map():
    ours, theirs = both_maps()
    ids = np.random.default_rng(0).permutation(1000)[:200]
    for index in (ours, theirs):
        index.add_with_ids(random_codes(0, 200), ids)
    assert_same_index(ours, theirs)
    np.testing.assert_array_equal(ours.reconstruct(int(ids[5])), theirs.reconstruct(int(ids[5])))
    gone = np.append(ids[::3], 5000)
    assert ours.remove_ids(gone) == theirs.remove_ids(gone) == 67
    assert_same_index(ours, theirs, k=200)
    assert ours.id_map.tolist() == faiss.vector_to_array(theirs.id_map).tolist()
    ours.reset()
    assert ours.ntotal == 0
    assert ours.search(random_codes(0, 1), 1)[1].tolist() == [[-1]]


def test_id_map_with_equal_ids():
    index = IndexBinaryIDMap(IndexBinaryFlat(D))
    codes = random_codes(0, 4)
    index.add_with_ids(codes, np.array([5, 6, 5, 7]))
    np.testing.assert_array_equal(index.reconstruct(5), codes[2])
    assert index.remove_ids(np.array([5])) == 2
    assert index.id_map.tolist() == [6, 7]
    np.testing.assert_array_equal(index.reconstruct(7), codes[3])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda flat, x: IndexBinaryFlat(12), ValueError, "d must"),
        (lambda flat, x: flat.add(x[:, :3]), ValueError, "x must"),
        (lambda flat, x: flat.add(x.astype(int)), TypeError, "x must"),
        (lambda flat, x: flat.search(x, 0), ValueError, "k must"),
        (lambda flat, x: flat.reconstruct(4), ValueError, "key must"),
        (lambda flat, x: flat.reconstruct(-1), ValueError, "key must"),
        (lambda flat, x: flat.remove_ids(np.zeros(1)), TypeError, "x must"),
        (lambda flat, x: flat.add_with_ids(x, np.arange(4)), RuntimeError, "IDMap"),
        (lambda flat, x: IndexBinaryIDMap(flat), ValueError, "index must be empty"),
        (lambda flat, x: IndexBinaryIDMap(IndexBinaryFlat(D)).add(x), RuntimeError, "add_with_ids"),
        (lambda flat, x: IndexBinaryIDMap(IndexBinaryFlat(D)).add_with_ids(x, [1]), ValueError, "ids must"),
        (lambda flat, x: IndexBinaryIDMap(IndexBinaryFlat(D)).reconstruct(1), ValueError, "key must"),
    ],
)
def test_errors(call, error, words):
    flat, x = IndexBinaryFlat(D), random_codes(0, 4)
    flat.add(x)
    with pytest.raises(error, match=words):
        call(flat, x)
    assert flat.ntotal == 4


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("d", [8, 200])
@pytest.mark.parametrize("kind", ["flat", "map", "map2"])
def test_reads_files_of_faiss(tmp_path, count, d, kind):
    codes, path = random_codes(0, count, d), tmp_path / "index"
    theirs = faiss.IndexBinaryFlat(d)
    if kind == "flat":
        theirs.add(codes)
    else:
        theirs = {"map": faiss.IndexBinaryIDMap, "map2": faiss.IndexBinaryIDMap2}[kind](theirs)
        theirs.add_with_ids(codes, np.arange(count) * 7 + 3)
    faiss.write_index_binary(theirs, str(path))
    ours = read_index_binary(path)
    assert isinstance(ours, IndexBinaryFlat if kind == "flat" else IndexBinaryIDMap)
    assert_same_index(ours, theirs)


def test_other_kinds_are_refused(tmp_path):
    index = faiss.IndexBinaryHNSW(D)
    index.add(random_codes(0, 10))
    faiss.write_index_binary(index, str(tmp_path / "index"))
    with pytest.raises(ValueError, match=r"path: .* kind"):
        read_index_binary(tmp_path / "index")


def test_damaged_files_are_refused(tmp_path):
    """Truncations, extensions and every length field: FAISS's files have no checksum, so codes may be altered."""
    path = tmp_path / "index"
    theirs = faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(D))
    theirs.add_with_ids(random_codes(0, 10), np.arange(10))
    faiss.write_index_binary(theirs, str(path))
    good = path.read_bytes()
    damaged = [good[:length] for length in range(len(good))] + [good + b"\0", good + good]
    # kind, d, code_size, ntotal of the map and of the index inside, and the lengths of the two arrays
    fields = [(0, "<I"), (4, "<i"), (8, "<i"), (12, "<q"), (25, "<I"), (29, "<i"), (33, "<i"), (37, "<q")]
    fields += [(50, "<Q"), (138, "<Q")]
    for offset, kind in fields:
        (value,) = struct.unpack_from(kind, good, offset)
        limit = 1 << (8 * struct.calcsize(kind))
        for wrong in (0, 1, value - 1, value + 1, 2 * value, limit // 2 - 1, limit // 4, limit // 8, -1):
            data = bytearray(good)
            struct.pack_into(kind.upper(), data, offset, wrong % limit)
            damaged.append(bytes(data))
    assert len(damaged) > 300
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ValueError, match="path: "):
            read_index_binary(path)
