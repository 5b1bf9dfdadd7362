"""``python -m xmkern zoo``: list, card, train, report."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from xmkern.models import list_models, model_card
from xmkern.models.registry import SECTIONS
from xmkern.zoo import report
from xmkern.zoo.checkpoint import OtherRun
from xmkern.zoo.recipes import RECIPES
from xmkern.zoo.training import train


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m xmkern zoo", description="The systems of xmkern.models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="all systems, by section")
    listing.add_argument("--section", choices=SECTIONS)
    listing.set_defaults(run=show_list)
    card = commands.add_parser("card", help="what is known of a system")
    card.add_argument("name", choices=list_models())
    card.set_defaults(run=show_card)
    training = commands.add_parser("train", help="train a system on its task and print what it reached")
    training.add_argument("name", choices=RECIPES)
    training.add_argument("--out", type=Path, default=Path("zoo"), help="folder of checkpoint, curve and result")
    _common(training)
    training.set_defaults(run=run_training)
    page = commands.add_parser("report", help="train all systems and write a page of what they reached")
    page.add_argument("--out", type=Path, default=Path("zoo"))
    page.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    _common(page)
    page.set_defaults(run=run_report)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except OtherRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=_at_least(1), help="instead of the recipe's")
    parser.add_argument("--seed", type=_at_least(0), default=0)


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        return int(text)

    return integer


def show_list(args: argparse.Namespace) -> int:
    table = Table("system", "section", "what distinguishes it", "task")
    for name in list_models(args.section):
        card = model_card(name)
        table.add_row(name, card.section, card.summary, RECIPES[name].task if name in RECIPES else "-")
    Console().print(table)
    return 0


def show_card(args: argparse.Namespace) -> int:
    print(model_card(args.name))
    return 0


def run_training(args: argparse.Namespace) -> int:
    return 0 if _train(args.name, args) else 1


def run_report(args: argparse.Namespace) -> int:
    passed = [_train(name, args) for name in args.only]
    page = report.write_page(args.out)
    print(f"{page} has the table")
    return 0 if all(passed) else 1


def _train(name: str, args: argparse.Namespace) -> bool:
    """Trains, prints and writes what came out: whether it passed."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task(name, total=None, loss=float("nan"))
        result = train(
            name,
            seed=args.seed,
            steps=args.steps,
            file=args.out / name / "checkpoint.safetensors",
            report=lambda step, steps, loss: progress.update(bar, completed=step, total=steps, loss=loss),
        )
    task, score = result.task, result.score
    word = "passed" if result.passed else f"asked: {score.baseline + RECIPES[name].margin:.3f}"
    print(
        f"{name}: {task.metric} {score.value:.3f}, {task.baseline} {score.baseline:.3f} ({word}); "
        f"{result.seconds:.0f} s. {task.data.attribution}"
    )
    report.write_result(result, args.out / name)
    return result.passed
