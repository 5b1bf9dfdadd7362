"""Whole ways from noise to sample, by our schedulers and by those of diffusers, of the same model and noise."""

import inspect
import math
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from xmkern import diffusion

SHAPE = (2, 3, 4, 5)
# Of the largest number of a sample, in float32.
AGREEMENT = 1e-5


def model(x: Tensor, t: Any, doubled: bool) -> Tensor:
    """A smooth function of sample and time; with ``doubled``, of the variance too."""
    y = 0.8 * torch.tanh(1.2 * x + 0.7e-3 * float(t) - 0.3) + 0.15 * x.roll(1, -1)
    return torch.cat([y, torch.tanh(x.flip(-1)) ** 2], 1) if doubled else y


def walk(
    scheduler: Any, times: dict[str, Any], step: dict[str, Any], doubled: bool, dtype=torch.float32, seed: int = 5
) -> list[Tensor]:
    """All samples on the way."""
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(**times)
    x = (torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma).to(dtype)
    step = {name: value.to(dtype) if isinstance(value, Tensor) else value for name, value in step.items()}
    if "generator" in inspect.signature(scheduler.step).parameters:
        step = {**step, "generator": generator}
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # as pipelines do
    way: list[Tensor] = []
    last = None
    for t in scheduler.timesteps:
        if last is not None and hasattr(scheduler, "undo_step") and t > last:
            x = scheduler.undo_step(x, last, generator)
        else:
            x = scheduler.step(model(scheduler.scale_model_input(x, t), t, doubled), t, x, return_dict=False, **step)[0]
        way.append(x)
        last = t
    return way


def assert_same_ways(name: str, monkeypatch, *, times=None, step=None, doubled=False, **knobs: Any) -> None:
    """Our way is theirs to 1e-5; or, where float32 does not carry so far, theirs is no nearer to ours in float64, by
    the geometric mean of nine ways: of one it is luck, and a way that clips may turn off by much."""
    import diffusers

    theirs = getattr(diffusers, name)(**knobs)
    ours = getattr(diffusion, name)(**knobs)
    arguments = times or {"num_inference_steps": 50}, step or {}, doubled
    expected, got = walk(theirs, *arguments), walk(ours, *arguments)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=2e-7, atol=0)
    torch.testing.assert_close(float(ours.init_noise_sigma), float(theirs.init_noise_sigma), rtol=2e-7, atol=0)
    assert len(got) == len(expected)
    if distance(got, expected) <= AGREEMENT:
        return
    monkeypatch.setattr("xmkern.diffusion.base.draw", _draw)
    off: dict[Any, list[float]] = {ours: [], theirs: []}
    for seed in range(5, 14):
        exact = walk(ours, *arguments, dtype=torch.float64, seed=seed)
        for each, distances in off.items():
            distances.append(distance(walk(each, *arguments, seed=seed), exact))
    assert max(off[theirs]) < 100 * AGREEMENT
    assert math.prod(off[ours]) <= math.prod(off[theirs])


def _draw(shape, generator, device, dtype) -> Tensor:
    """The noise of float32, whatever the type."""
    return torch.randn(shape, generator=generator).to(dtype)


def distance(way: list[Tensor], other: list[Tensor]) -> float:
    return max(((x.double() - y).abs().max() / y.abs().max()).item() for x, y in zip(way, other, strict=True))


def pairs(**ways: list[Any]) -> list[dict[str, Any]]:
    """Combinations of values, in which each two values of two names come together at least once."""
    names = list(ways)
    open_pairs = {
        (a, i, b, j) for a, b in combinations(names, 2) for i, j in product(range(len(ways[a])), range(len(ways[b])))
    }
    chosen = []
    while open_pairs:
        row: dict[str, int] = {}
        a, i, b, j = min(open_pairs)
        row[a], row[b] = i, j
        for name in names:
            if name not in row:
                row[name] = max(range(len(ways[name])), key=lambda k, n=name: _closes(row, n, k, open_pairs))
        open_pairs -= {(a, row[a], b, row[b]) for a, b in combinations(names, 2)}
        chosen.append({name: ways[name][k] for name, k in row.items()})
    return chosen


def _closes(row: dict[str, int], name: str, k: int, open_pairs: set[tuple[str, int, str, int]]) -> int:
    return sum((a, i, name, k) in open_pairs or (name, k, a, i) in open_pairs for a, i in row.items())
