"""A detector that finds something, its pictures, and what one process finds in them."""

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import run

from ssd_train.datasets.generated_files import write_shapes

PICTURES = 40


@pytest.fixture(scope="session")
def model(shared_traces: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.onnx import export_onnx
    from ssd_train import build_network

    return export_onnx(build_network("ssd_300_mobilenet0.25_custom", "shapes"), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of shapes, one of them broken."""
    root = tmp_path_factory.mktemp("shapes") / "data"
    write_shapes(root, train=1, val=PICTURES - 2, seed=1)
    (root / "JPEGImages" / "broken.jpg").write_bytes(b"no picture")
    return root / "JPEGImages"


@pytest.fixture(scope="session")
def in_one_piece(model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `detect` in one process finds: a picture's name -> its entry."""
    out = tmp_path_factory.mktemp("one")
    assert run("detect", model, pictures, "--out", out, "--save", "json", "--threads", 1).exit_code == 2
    images = json.loads((out / "detections.json").read_text())["images"]
    return {Path(entry["file"]).name: entry for entry in images}
