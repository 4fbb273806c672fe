"""What docs/python.md and the README show of Python runs as it stands there, and gives what the comments say."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest

from export.onnx import export_onnx
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes

# Exports a network.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_traces")]

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are run: the detector of shapes under their names, and two pictures of shapes."""
    root = tmp_path_factory.mktemp("python")
    model = export_onnx(build_network("ssd_300_mobilenet0.25_custom", "shapes"), root / "models")
    for name in ("shapes.onnx", "ssd_512_resnet50_v1_custom.fp32.onnx"):
        shutil.copy(model, root / "models" / name)
    write_shapes(root / "shapes", train=1, val=1, seed=1)
    (root / "photos").mkdir()
    for path, name in zip(sorted((root / "shapes" / "JPEGImages").iterdir()), ("one.jpg", "two.jpg"), strict=True):
        shutil.copy(path, root / "photos" / name)
    return root


def run(page: str, texts: list[str]) -> dict[str, Any]:
    """Run blocks one after the other, and return what they named."""
    names: dict[str, Any] = {}
    for number, text in enumerate(texts):
        exec(compile(text, f"{page}, block {number}", "exec"), names)
    return names


def test_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    names = run("docs/python.md", blocks("docs/python.md"))
    printed = capsys.readouterr().out
    assert re.match(r"Detections\(\d+: [a-z]+ [01]\.\d\d, ", printed)
    assert "images[1]: photos/missing.jpg: cannot be read (No such file or directory); check the path" in printed
    assert len(names["several"]) == 3 and len(names["everything"]) == 2
    assert cv2.imread("one.png").shape == cv2.imread("photos/one.jpg").shape
    entries = json.loads(Path("one.json").read_text())["detections"]
    assert Path("one.txt").read_text().count("\n") == Path("one.xml").read_text().count("<object>") == len(entries)
    # Of the three classes that the example has ids for.
    named = [entry for entry in entries if entry["class_name"] in ("circle", "square", "triangle")]
    assert len(names["results"]) == len(named) > 0
    assert names["again"].detect("photos/one.jpg").scores.min() >= 0.3


def test_the_readmes_example_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (detecting,) = [text for text in blocks("README.md") if "load_detector" in text]
    found = run("README.md", [detecting])["found"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found) > 0 and lines[0].split()[0] == found.names[0]
