"""What documents show runs, the site builds without a broken link, and the two READMEs say the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "dev" not in p.parts)]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLES = [(page, number, code) for page in PAGES for number, code in enumerate(BLOCK.findall(page.read_text()))]


@pytest.mark.parametrize(
    ("page", "code"),
    [(page, code) for page, _, code in EXAMPLES],
    ids=[f"{page.relative_to(ROOT)}-{number}" for page, number, _ in EXAMPLES],
)
def test_an_example_runs(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("1_000_000", "20_000"), str(page), "exec"), {"__name__": page.stem})


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    page = (tmp_path / "reference" / "functional.html").read_text()
    assert "scaled_dot_product_attention" in page
    assert "https://fonts" not in page
    assert "<code>clip</code>" in (tmp_path / "guide" / "zoo.html").read_text()


def test_both_readmes_have_the_same_parts_and_examples() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    without_comments = [[re.sub(r"\s*#.*", "", code) for code in BLOCK.findall(text)] for text in (english, chinese)]
    assert without_comments[0] == without_comments[1]
    tables = [re.findall(r"<!-- table: (\w+) -->", text) for text in (english, chinese)]
    assert tables[0] == tables[1]
    assert english.count("\n## ") == chinese.count("\n## ")
