"""BinaryIndex against a plain list of (id, code)."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xmkern import native
from xmkern.hamming import BinaryIndex, index, snapshot

METHODS = ["flat", "auto"] + (["mih"] if native.why_missing() is None else [])


def random_codes(seed: int, count: int, bits: int = 32) -> np.ndarray:
    flags = np.random.default_rng(seed).random((count, bits)) < 0.5
    return np.packbits(flags, axis=1, bitorder="little")


def distances_of(query: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.unpackbits(query ^ codes, axis=1).sum(1)


class Machine(RuleBasedStateMachine):
    """Any sequence of calls leaves the index as the list is."""

    @initialize(method=st.sampled_from(METHODS), bits=st.sampled_from([5, 32, 61]))
    def start(self, method, bits):
        self.index, self.bits, self.seed = BinaryIndex(bits, method), bits, 0
        self.ids: list[int] = []
        self.codes = np.empty((0, (bits + 7) // 8), np.uint8)

    def fresh(self, count):
        self.seed += 1
        return random_codes(self.seed, count, self.bits)

    @rule(count=st.integers(0, 40))
    def add(self, count):
        codes, first = self.fresh(count), max(self.ids, default=-1) + 1
        self.index.add(codes)
        self.ids += range(first, first + count)
        self.codes = np.concatenate([self.codes, codes])

    @rule(ids=st.lists(st.integers(0, 100), unique=True, max_size=10))
    def add_with_ids(self, ids):
        codes = self.fresh(len(ids))
        if set(ids) & set(self.ids):
            with pytest.raises(ValueError, match="ids must be new"):
                self.index.add(codes, ids)
            return
        self.index.add(torch.from_numpy(codes), torch.tensor(ids, dtype=torch.int64))
        self.ids += ids
        self.codes = np.concatenate([self.codes, codes])

    @rule(ids=st.lists(st.integers(0, 100), max_size=10))
    def remove(self, ids):
        keep = np.array([i not in ids for i in self.ids], bool)
        assert self.index.remove(ids) == np.sum(~keep)
        self.codes = self.codes[keep]
        self.ids = [i for i in self.ids if i not in ids]

    @rule(k=st.integers(0, 50), radius=st.integers(-1, 62), allowed=st.none() | st.lists(st.integers(0, 100)))
    def search(self, k, radius, allowed):
        queries = np.concatenate([self.fresh(2), self.codes[:1]])
        ids = np.array(self.ids, np.int64)
        inside = np.ones(len(ids), bool) if allowed is None else np.isin(ids, allowed)
        distances, found = self.index.search(queries, k, allowed)
        lims, range_distances, range_found = self.index.range_search(queries, radius, allowed)
        for q, query in enumerate(queries):
            all_distances = distances_of(query, self.codes[inside])
            order = np.argsort(all_distances, kind="stable")
            near, where = all_distances[order], ids[inside][order]
            padding = [-1] * max(0, k - len(near))
            assert distances[q].tolist() == [*near[:k], *padding]
            assert found[q].tolist() == [*where[:k], *padding]
            row = slice(lims[q], lims[q + 1])
            assert range_distances[row].tolist() == near[near <= radius].tolist()
            assert range_found[row].tolist() == where[near <= radius].tolist()

    @invariant()
    def same_ids(self):
        assert len(self.index) == len(self.ids)
        assert self.index.ids.tolist() == self.ids


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=15, deadline=None, derandomize=True)


@pytest.mark.parametrize("method", METHODS)
def test_kind_and_types(method):
    codes = random_codes(0, 50)
    built = BinaryIndex(32, method)
    built.add(codes)
    distances, ids = built.search(codes[:3], 2)
    assert isinstance(ids, np.ndarray)
    assert (distances.dtype, ids.dtype) == (np.int32, np.int64)
    result = built.range_search(torch.from_numpy(codes[:3]), 4)
    assert [part.dtype for part in result] == [torch.int64, torch.int32, torch.int64]
    allowed = built.range_search(torch.from_numpy(codes[:3]), 4, allowed=torch.tensor([1]))
    assert allowed[2].tolist() == [1]


@pytest.mark.skipif(native.why_missing() is not None, reason="hashing needs the native extension")
def test_tables_follow_the_codes(monkeypatch):
    """The tail behind the tables is scanned, and the tables rebuilt once it is long."""
    monkeypatch.setattr(snapshot, "_TAIL_ROWS", 100)
    built, flat = BinaryIndex(64, "mih"), BinaryIndex(64)
    sizes = []
    for step in range(12):
        codes = random_codes(step, 60, 64)
        built.add(codes)
        flat.add(codes)
        for got, wanted in zip(built.range_search(codes, 28), flat.range_search(codes, 28), strict=True):
            np.testing.assert_array_equal(got, wanted)
        sizes.append(len(built._snapshot.tables))
    assert sizes == [60, 60, 180, 180, 300, 300, 420, 420, 540, 540, 660, 660]
    assert built.remove([3]) == 1
    assert built._snapshot.tables is None


@pytest.mark.skipif(native.why_missing() is not None, reason="hashing needs the native extension")
def test_auto_hashes_when_it_pays(monkeypatch):
    monkeypatch.setattr(index, "_AUTO_ROWS", 100)
    monkeypatch.setattr(index, "_AUTO_QUERIES", 25)
    built = BinaryIndex(64, "auto")
    codes = random_codes(0, 200, 64)
    built.add(codes)
    expected = built.range_search(codes[:10], 4)
    built.range_search(codes[:10], 30)
    assert built._snapshot.tables is None
    for _ in range(2):
        for got, wanted in zip(built.range_search(codes[:10], 4), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert len(built._snapshot.tables) == 200


@pytest.mark.parametrize("method", METHODS)
def test_searches_beside_changes_see_one_state(method):
    """Each add brings one more copy of a single code, each with its number: a search must see a prefix of them."""
    code = random_codes(0, 1, 64)
    built = BinaryIndex(64, method)
    built.add(code)
    steps, failures, done = 300, [], threading.Event()

    def watch(search):
        try:
            seen = 0
            while not done.is_set():
                ids = search()
                if ids.tolist() != list(range(len(ids))) or len(ids) < seen:
                    failures.append(ids)
                seen = len(ids)
        except Exception as error:
            failures.append(error)

    def by_rank():
        ids = built.search(code, steps + 1)[1][0]
        return ids[ids >= 0]

    watchers = [lambda: built.range_search(code, 0)[2], by_rank]
    threads = [threading.Thread(target=watch, args=(search,)) for search in watchers]
    for thread in threads:
        thread.start()
    for _ in range(steps):
        built.add(code)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert by_rank().tolist() == list(range(steps + 1))


def test_a_change_leaves_older_states_alone():
    built = BinaryIndex(32)
    built.add(random_codes(0, 10))
    old = built._snapshot
    codes, ids = old.codes.copy(), old.ids.copy()
    built.add(random_codes(1, 3))
    built.add(random_codes(2, 100))
    built.remove(range(50))
    np.testing.assert_array_equal(old.codes, codes)
    np.testing.assert_array_equal(old.ids, ids)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda built: pickle.loads(pickle.dumps(built))])
@pytest.mark.parametrize("method", METHODS)
def test_a_copy_has_codes_of_its_own(method, copied):
    built = BinaryIndex(32, method)
    built.add(random_codes(0, 3))
    built.add(random_codes(1, 1), [7])  # the buffers have room for more now
    other = copied(built)
    assert (other.bits, other.method, other.ids.tolist()) == (32, method, [0, 1, 2, 7])
    for each, seed in ((built, 2), (other, 3)):
        each.add(random_codes(seed, 1), [seed + 10])
    built.remove([0])
    for each, seed, ids in ((built, 2, [1, 2, 7, 12]), (other, 3, [0, 1, 2, 7, 13])):
        assert each.ids.tolist() == ids
        assert [part.tolist() for part in each.search(random_codes(seed, 1), 1)] == [[[0]], [[seed + 10]]]


def test_concurrent_adds_lose_nothing():
    built = BinaryIndex(32)
    threads = [threading.Thread(target=lambda: [built.add(random_codes(0, 3)) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built.ids.tolist() == list(range(600))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda i, c: BinaryIndex(0), ValueError, "bits"),
        (lambda i, c: BinaryIndex(4097), ValueError, "bits"),
        (lambda i, c: BinaryIndex(64, "fast"), ValueError, "method"),
        (lambda i, c: i.add(c[:, :2]), ValueError, "codes"),
        (lambda i, c: i.add(c[0]), ValueError, "codes"),
        (lambda i, c: i.add(c.astype(np.int32)), TypeError, "codes"),
        (lambda i, c: i.add(torch.from_numpy(c).int()), TypeError, "codes"),
        (lambda i, c: i.add(c.tolist()), TypeError, "codes"),
        (lambda i, c: i.add(c | 0x80), ValueError, "codes must have zeros"),
        (lambda i, c: i.search(c | 0x80, 1), ValueError, "queries must have zeros"),
        (lambda i, c: i.add(c, [1]), ValueError, "ids must be as many"),
        (lambda i, c: i.add(c, np.zeros((9, 1), int)), ValueError, "ids must have one axis"),
        (lambda i, c: i.add(c, np.zeros(9)), TypeError, "ids"),
        (lambda i, c: i.add(c, np.arange(9) - 1), ValueError, "ids must not be negative"),
        (lambda i, c: i.add(c, [100] * 9), ValueError, "ids must differ"),
        (lambda i, c: i.add(c, np.arange(8, 17)), ValueError, "ids must be new"),
        (lambda i, c: i.add(c, np.full(9, 2**63, np.uint64)), ValueError, "ids must be less"),
        (lambda i, c: i.search(c, -1), ValueError, "k"),
        (lambda i, c: i.search(c, 1, allowed=[0.5]), TypeError, "allowed"),
        (lambda i, c: i.search(c[:, :1], 1), ValueError, "queries"),
        (lambda i, c: i.range_search(c, 1.5), TypeError, "integer"),
        (lambda i, c: i.remove("a"), TypeError, "ids"),
    ],
)
def test_errors_name_the_argument_and_change_nothing(call, error, words):
    built, codes = BinaryIndex(30), random_codes(0, 9, 30)
    built.add(codes)
    with pytest.raises(error, match=words):
        call(built, codes)
    assert built.ids.tolist() == list(range(9))


def test_ids_run_out():
    built = BinaryIndex(8)
    built.add(np.zeros((1, 1), np.uint8), [2**63 - 1])
    with pytest.raises(ValueError, match="ids must be given"):
        built.add(np.zeros((1, 1), np.uint8))
    built.add(np.zeros((1, 1), np.uint8), [0])
    assert built.search(np.zeros((1, 1), np.uint8), 3)[1].tolist() == [[2**63 - 1, 0, -1]]


def test_ids_continue_to_the_last():
    built = BinaryIndex(8)
    built.add(np.zeros((1, 1), np.uint8), [2**63 - 3])
    built.add(np.zeros((2, 1), np.uint8))
    assert built.ids.tolist() == [2**63 - 3, 2**63 - 2, 2**63 - 1]
