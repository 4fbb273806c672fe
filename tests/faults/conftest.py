"""A detector, data and pictures for all commands, made once."""

import shutil
from pathlib import Path

import pytest
import torch
from commands import NETWORK, Material

from ssd_train.datasets.generated_files import write_shapes


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    from export.onnx import export_onnx
    from ssd_train import build_network

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("material")
    data = write_shapes(folder / "data", train=4, val=3, seed=0)
    (folder / "pictures").mkdir()
    for path in sorted((data / "JPEGImages").iterdir())[:5]:
        shutil.copy(path, folder / "pictures")
    model = export_onnx(build_network(NETWORK, weights="shapes"), folder)
    return Material(model=model, data=data, pictures=folder / "pictures")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
