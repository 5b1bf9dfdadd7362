"""What every rank of a process group checks; rank 0 prints a line of JSON per check, with the first error or null.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.distributed.checks
"""

import json
import traceback
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.nn import open_clip_loss
from xmkern import distributed, functional
from xmkern.distributed import ShardedBinaryIndex, exchange
from xmkern.hamming import BinaryIndex
from xmkern.nn import ClipLoss, SigLipLoss
from xmkern.testing import assert_matches_reference

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def mean_over_ranks(x):
    x = x / dist.get_world_size()
    dist.all_reduce(x)
    return x


def averaged(x):
    """x, whose gradient is averaged over the ranks, as DDP does it with those of parameters."""
    x = x.view_as(x)
    x.register_hook(mean_over_ranks)
    return x


def features(rows, columns=12, dtype=torch.float32):
    """x and y of the global batch, the same on all ranks, a little correlated; scale and bias in one vector.

    As one vector their gradients are one, by whose size its error is judged: that of the bias is nothing but rounding
    in a loss that a bias does not change.
    """
    torch.manual_seed(rows)
    x, y = torch.randn(2, rows, columns)
    x, y = normalize(x + y, dim=1).to(dtype), normalize(y, dim=1).to(dtype)
    numbers = torch.tensor([4.0, -2.0], dtype=torch.promote_types(dtype, torch.float32))
    return {"x": x.requires_grad_(), "y": y.requires_grad_(), "numbers": numbers.requires_grad_()}


def uneven():
    return [3, 0, 5, 1][: dist.get_world_size()]


def own(sizes):
    """The place of this rank's rows."""
    start = sum(sizes[: dist.get_rank()])
    return slice(start, start + sizes[dist.get_rank()])


CALLS = {
    "info_nce": ("info_nce", {}),
    "info_nce one way": ("info_nce", {"symmetric": False}),
    "info_nce normalised": ("info_nce", {"normalize": True}),
    "sigmoid": ("sigmoid_contrastive", {}),
    "sigmoid normalised": ("sigmoid_contrastive", {"normalize": True}),
}


def check_equal_to_one_process(call, sizes, dtype, **options):
    """Averages over ranks, of losses and of gradients, are the loss of the global batch and its gradients."""
    name, arguments = CALLS[call]

    def spread(x, y, numbers):
        numbers = averaged(numbers)
        rows = averaged(x)[own(sizes)], averaged(y)[own(sizes)]
        loss = getattr(distributed, name)(*rows, numbers[0], logit_bias=numbers[1], sizes=sizes, **arguments, **options)
        return loss - loss.detach() + mean_over_ranks(loss.detach())

    def single(x, y, numbers):
        call = getattr(functional, name)
        return call(x, y, numbers[0], logit_bias=numbers[1], **arguments, backend="reference")

    assert_matches_reference(spread, features(sum(sizes), dtype=dtype), reference=single)


def for_each_way(exchange):
    world = dist.get_world_size()
    for call in CALLS:
        check_equal_to_one_process(call, [5] * world, torch.float32, exchange=exchange)
        check_equal_to_one_process(call, uneven(), torch.float64, exchange=exchange)
        check_equal_to_one_process(call, uneven(), torch.float32, exchange=exchange, backend="reference")
    check_equal_to_one_process("info_nce normalised", [4] * world, torch.bfloat16, exchange=exchange)
    check_equal_to_one_process("sigmoid", uneven(), torch.float16, exchange=exchange)
    check_equal_to_one_process("info_nce", [1] * world, torch.float32, exchange=exchange)
    check_equal_to_one_process("info_nce", [0] * world, torch.float32, exchange=exchange)


@check
def the_ring_equals_one_process():
    for_each_way("ring")


@check
def gathering_equals_one_process():
    for_each_way("gather")


@check
def a_frozen_side_changes_nothing_on_the_other():
    sizes = uneven()
    place = own(sizes)
    x, y = (features(sum(sizes))[side].detach()[place] for side in "xy")

    def gradients(name, live, **options):
        sides = [side.clone().requires_grad_(wanted) for side, wanted in zip((x, y), live, strict=True)]
        getattr(distributed, name)(*sides, 3.0, sizes=sizes, **options).backward()
        return [side.grad for side in sides]

    for call, (name, arguments) in CALLS.items():
        for way in ("ring", "gather"):
            options = {"exchange": way, **arguments}
            both = gradients(name, (True, True), **options)
            assert torch.equal(gradients(name, (True, False), **options)[0], both[0]), (call, way)
            assert torch.equal(gradients(name, (False, True), **options)[1], both[1]), (call, way)


@check
def shares_are_scaled_as_documented():
    """In plain PyTorch: a rank's share, and gradients of the sum over ranks, which may weigh their shares."""
    world, rows = dist.get_world_size(), 4
    x, y, numbers = (each.detach() for each in features(rows * world, dtype=torch.float64).values())
    place, weights = own([rows] * world), torch.arange(1.0, world + 1, dtype=torch.float64)
    whole = [x.requires_grad_(), y.requires_grad_(), numbers[0].clone().requires_grad_()]
    z = whole[2] * x @ y.mT
    losses = [nn.functional.cross_entropy(side, torch.arange(len(z)), reduction="none") for side in (z, z.mT)]
    shares = (sum(losses) / 2).unflatten(0, (world, rows)).mean(1)
    grad_x, grad_y, grad_scale = torch.autograd.grad(weights @ shares, whole)
    for way in ("ring", "gather"):
        mine = [x.detach()[place].requires_grad_(), y.detach()[place].requires_grad_(), numbers[0].requires_grad_()]
        share = distributed.info_nce(*mine, exchange=way)
        torch.testing.assert_close(share, shares[dist.get_rank()])
        got = torch.autograd.grad(weights[dist.get_rank()] * share, mine)
        torch.testing.assert_close(got[:2], (grad_x[place], grad_y[place]))
        torch.testing.assert_close(mean_over_ranks(got[2]) * world, grad_scale)


@check
def a_group_of_some_ranks():
    """The odd ranks make one batch, the even ones another; places in a group are not places among all."""
    world, rank = dist.get_world_size(), dist.get_rank()
    groups = [dist.new_group(range(first, world, 2)) for first in (0, 1)]
    inputs = features(3 * world)
    x, y = (inputs[name].detach().unflatten(0, (world, 3)) for name in ("x", "y"))
    expected = functional.sigmoid_contrastive(x[rank % 2 :: 2].flatten(0, 1), y[rank % 2 :: 2].flatten(0, 1), 5.0)
    for way in ("ring", "gather"):
        share = distributed.sigmoid_contrastive(x[rank], y[rank], 5.0, exchange=way, group=groups[rank % 2])
        dist.all_reduce(share, group=groups[rank % 2])
        torch.testing.assert_close(share / (world // 2), expected)


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(9, 6), nn.Linear(7, 6)
        self.log_scale, self.bias = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, images, texts):
        x, y = normalize(self.image(images), dim=1), normalize(self.text(texts), dim=1)
        return x, y, self.log_scale.exp(), self.bias


@check
def composes_with_ddp():
    """After a step's backward, parameters have the gradients of one process with the global batch."""
    world, rank, rows = dist.get_world_size(), dist.get_rank(), 4
    images, texts = torch.randn(world, rows, 9, dtype=torch.float64), torch.randn(world, rows, 7, dtype=torch.float64)
    where = {"rank": rank, "world_size": world}
    clip, siglip = open_clip_loss.ClipLoss(), open_clip_loss.SigLipLoss()
    losses = [
        (clip, lambda x, y, scale, bias: distributed.info_nce(x, y, scale, logit_bias=bias)),
        (clip, ClipLoss(local_loss=True, gather_with_grad=True, **where)),
        (clip, ClipLoss(gather_with_grad=True, **where)),
        (siglip, lambda x, y, scale, bias: distributed.sigmoid_contrastive(x, y, scale, bias, exchange="gather")),
        (siglip, SigLipLoss(**where)),
    ]
    single = Towers().double()
    spread = DistributedDataParallel(Towers().double())
    spread.module.load_state_dict(single.state_dict())
    for theirs, ours in losses:
        for model, loss, batch in (
            (single, theirs, (images.flatten(0, 1), texts.flatten(0, 1))),
            (spread, ours, (images[rank], texts[rank])),
        ):
            model.zero_grad()
            loss(*model(*batch)).backward()
        for name, parameter in single.named_parameters():
            torch.testing.assert_close(spread.module.get_parameter(name).grad, parameter.grad)


def check_equal_to_open_clip(ours, theirs, already_averaged=False):
    """Loss and gradients of this rank, by the rule of twice eager's error."""
    inputs = {name: x.detach() for name, x in features(5 * dist.get_world_size()).items()}
    place = own([5] * dist.get_world_size())
    inputs |= {"x": inputs["x"][place].clone(), "y": inputs["y"][place].clone()}

    def run(loss, change=lambda numbers: numbers):
        def call(x, y, numbers):
            numbers = change(numbers)
            return loss(x, y, numbers[0], numbers[1], output_dict=True)["contrastive_loss"]

        return call

    for x in inputs.values():
        x.requires_grad_()
    assert_matches_reference(run(ours), inputs, reference=run(theirs, averaged if already_averaged else lambda x: x))


@check
def clip_loss_equals_open_clips():
    for local in (False, True):
        for with_grad in (False, True):
            options = (local, with_grad, True, dist.get_rank(), dist.get_world_size())
            check_equal_to_open_clip(ClipLoss(*options), open_clip_loss.ClipLoss(*options), local and with_grad)


@check
def siglip_loss_equals_open_clips():
    for dist_impl in (None, "bidir", "shift", "reduce", "gather"):
        options = (True, dist.get_rank(), dist.get_world_size(), dist_impl)
        check_equal_to_open_clip(SigLipLoss(*options), open_clip_loss.SigLipLoss(*options))


def raised(error, call):
    """What the call says when it raises this, on every rank."""
    try:
        call()
    except error as caught:
        return str(caught)
    raise AssertionError(f"no {error.__name__}")


@check
def sharded_search_equals_one_index():
    """With few bits, so that most of what is found is as near as something else."""
    rank, world = dist.get_rank(), dist.get_world_size()
    sizes, more = uneven(), [40, 7, 0, 90][:world]
    codes = [torch.randint(16, (n, 1), dtype=torch.uint8) for n in [*sizes, *more]]
    queries = torch.randint(16, (sum(sizes), 1), dtype=torch.uint8)
    sharded, single = ShardedBinaryIndex(4), BinaryIndex(4)
    for start in (0, world):
        sharded.add(codes[start + rank])
    begin = [0, sum(sizes)]
    for r in range(world):  # one shard after the other, each with its ids of both times
        for start, counts, base in ((0, sizes, begin[0]), (world, more, begin[1])):
            first = base + sum(counts[:r])
            single.add(codes[start + r], range(first, first + counts[r]))
    for k in (0, 1, 5, 1000):
        expected = single.search(queries, k)
        for found, one in zip(sharded.search(queries[own(sizes)], k), expected, strict=True):
            assert torch.equal(found, one[own(sizes)])
        for found, one in zip(sharded.search(queries[own(sizes)].numpy(), k), expected, strict=True):
            assert (found == one[own(sizes)].numpy()).all()
    assert "by all ranks or by none" in raised(
        ValueError, lambda: sharded.add(codes[0], list(range(900, 900 + len(codes[0]))) if rank == 0 else None)
    )
    for taken in (2, 900):  # is there already; comes from every rank
        assert "must be new to all shards" in raised(ValueError, lambda ids=[taken]: sharded.add(codes[world][:1], ids))
    sharded.add(codes[world][:1], [1000 + rank])
    assert {1000 + rank} <= set(sharded.shard.ids.tolist())


@check
def sharded_ids_may_be_large():
    """Beyond what a float64 holds: of several types, from ranks that give none, and to the last that there is."""
    rank, world = dist.get_rank(), dist.get_world_size()
    codes, sharded = torch.zeros(2, 1, dtype=torch.uint8), ShardedBinaryIndex(4)
    sharded.add(codes[: 2 * (rank == 0)], [2**60, 2**60 + 1] if rank == 0 else [])
    sharded.add(codes[:1], np.array([2**60 + 2 + rank], np.uint64 if rank else np.int64))
    sharded.add(codes[:0] if rank else codes[:1], [] if rank else [2**63 - 1 - 2 * world])
    sharded.add(codes)
    assert sharded.shard.ids[-2:].tolist() == [2**63 - 2 * (world - rank), 2**63 - 2 * (world - rank) + 1]
    held = len(sharded.shard)
    assert "ids must be given" in raised(ValueError, lambda: sharded.add(codes[: rank == 0]))
    assert len(sharded.shard) == held


@check
def what_one_rank_gets_wrong_all_refuse():
    rank, sharded = dist.get_rank(), ShardedBinaryIndex(4)
    codes = torch.zeros(2, 1, dtype=torch.uint8)
    sharded.add(codes)
    for error, name, call in (
        (ValueError, "codes", lambda: sharded.add(codes if rank else codes | 16)),
        (TypeError, "codes", lambda: sharded.add(codes if rank else 3)),
        (TypeError, "ids", lambda: sharded.add(codes, [10 + 2 * rank, 11 + 2 * rank] if rank else ["a", "b"])),
        (ValueError, "queries", lambda: sharded.search(codes if rank else codes[0], 1)),
    ):
        said = raised(ValueError if rank else error, call)
        assert said.startswith(f"of rank 0: {name} must" if rank else f"{name} must"), said
    assert len(sharded.shard) == 2


class Watch(TorchDispatchMode):
    """The most elements that a tensor had, and the most bytes that all tensors made meanwhile had at a time."""

    def __init__(self):
        super().__init__()
        self.storages, self.elements, self.bytes = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.elements = max(self.elements, x.numel())
        self.storages = {key: each for key, each in self.storages.items() if not each[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self.storages.values()))
        return result


@check
def the_ring_holds_a_few_blocks():
    """Whatever the number of ranks: no tensor of all rows, eight blocks besides the inputs, and none is saved."""
    rows, columns = 8, 1000
    block = rows * columns * 4
    x, y = torch.randn(2, rows, columns).requires_grad_().unbind()
    scale = torch.tensor(2.0, requires_grad=True)
    watched = {}
    for name, call in (("info_nce", distributed.info_nce), ("sigmoid", distributed.sigmoid_contrastive)):
        for way in ("ring", "gather"):
            saved = []
            with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: None):
                call(x, y, scale, exchange=way)
            assert {each.data_ptr() for each in saved if each.numel() > rows} == {x.data_ptr(), y.data_ptr()}
            with Watch() as watch:
                torch.autograd.grad(call(x, y, scale, exchange=way), [x, y])
            watched[name, way] = watch
        assert watched[name, "ring"].elements == rows * columns
        assert watched[name, "gather"].elements == rows * columns * dist.get_world_size()
        assert watched[name, "ring"].bytes < 8.2 * block, watched[name, "ring"].bytes / block


@check
def the_ring_computes_while_it_exchanges():
    events = []
    post, world = dist.batch_isend_irecv, dist.get_world_size()

    def visit(x):
        events.append("visit")
        return (x,)

    def posting(transfers):
        events.append("post")
        return post(transfers)

    dist.batch_isend_irecv = posting
    try:
        exchange.ring((torch.ones(1),), visit, lambda some, more: some, [1] * world, None)
    finally:
        dist.batch_isend_irecv = post
    # The next rows, a visit, what it returned; for the last rows there are no next.
    assert events == ["post", "visit", "post"] * (world - 1) + ["visit", "post"]


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for name, function in CHECKS.items():
        torch.manual_seed(0)
        errors = [None] * dist.get_world_size()
        try:
            function()
            error = None
        except Exception:
            error = traceback.format_exc()
        dist.all_gather_object(errors, error)
        if dist.get_rank() == 0:
            print(json.dumps({name: next(filter(None, errors), None)}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
