"""One loop for all systems."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xmkern.zoo import checkpoint
from xmkern.zoo.recipes import RECIPES, Recipe
from xmkern.zoo.tasks import Score, Task


@dataclass
class Result:
    """What a training came to.

    Attributes:
        name: of the system.
        model: trained, in evaluation mode.
        task: what it was trained for.
        losses: of every step.
        seconds: of the training alone.
        score: the metric and the baseline, on what was never seen.
        passed: whether the metric beats the baseline by the recipe's margin.
    """

    name: str
    model: Any
    task: Task
    score: Score
    passed: bool
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def train(
    name: str,
    *,
    seed: int = 0,
    steps: int | None = None,
    file: Path | None = None,
    every: int = 100,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Result:
    """Trains a system by its recipe and measures it. The same seed gives the same run.

    Args:
        name: a key of :data:`xmkern.zoo.recipes.RECIPES`.
        seed: of weights, batches and split.
        steps: instead of the recipe's.
        file: where the checkpoint is kept, every so many steps and at the end; if it is there, the training goes on.
        every: how many steps lie between two checkpoints.
        report: called after each step with its number, how many there are, and the loss.

    Raises:
        ValueError: there is no such recipe, or (OtherRun) the file is of another run.
    """
    if name not in RECIPES:
        raise ValueError(f"name must be one of {', '.join(RECIPES)}, not {name!r}")
    recipe = RECIPES[name]
    count = recipe.steps if steps is None else steps
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    task, model = recipe.make_task(seed), recipe.make_model(name)
    optimizer, rate = _optimizer(model, recipe, count)
    run = {"name": name, "seed": seed, "steps": count}
    losses: list[float] = []
    seconds, fitted = 0.0, not recipe.fit
    if file is not None and file.exists():
        facts = checkpoint.load(file, model, optimizer, generator)
        if facts["run"] != run:
            raise checkpoint.OtherRun(f"{file} is of another run, {facts['run']}, not {run}")
        losses, seconds, fitted = facts["losses"], facts["seconds"], facts["fitted"]

    def keep() -> None:
        if file is not None:
            facts = {"run": run, "losses": losses, "seconds": seconds, "fitted": fitted}
            checkpoint.save(file, model, optimizer, generator, facts)

    start = time.perf_counter() - seconds
    model.train()
    for step in range(len(losses), count):
        for group in optimizer.param_groups:
            group["lr"] = rate(step) * group["pace"]
        loss = model.loss(task.batch(recipe.batch, generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds = time.perf_counter() - start
        report(step + 1, count, losses[-1])
        if (step + 1) % every == 0 or step + 1 == count:
            keep()
    model.eval()
    if not fitted:
        model.fit(task.batch(recipe.fit, generator))
        seconds, fitted = time.perf_counter() - start, True
        keep()
    score = task.evaluate(model)
    return Result(name, model, task, score, score.value >= score.baseline + recipe.margin, losses, seconds)


def _optimizer(model: nn.Module, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
    """AdamW, and the rate of each step: up for a tenth of the steps, then down to nothing on a straight line.

    Vectors and numbers (biases, norms, temperatures) do not decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        pace = next((pace for start, pace in recipe.paces.items() if name.startswith(start)), 1.0)
        groups.setdefault((recipe.weight_decay if p.dim() > 1 else 0.0, pace), []).append(p)
    optimizer = torch.optim.AdamW(
        [{"params": params, "weight_decay": decay, "pace": pace} for (decay, pace), params in groups.items()],
        recipe.rate,
        recipe.betas,
    )
    warm = max(1, steps // 10)

    def rate(step: int) -> float:
        return recipe.rate * min((step + 1) / warm, (steps - step) / max(1, steps - warm))

    return optimizer, rate
