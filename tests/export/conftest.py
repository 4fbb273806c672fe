"""Networks that are exported here are traced once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _shared_traces(shared_traces: None) -> None:
    """Whatever exports here."""


@pytest.fixture(scope="session")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a large network; nobody writes to it."""
    from export.onnx import export_onnx
    from ssd_train import build_network

    return export_onnx(build_network("ssd_300_vgg16_atrous_voc", "random"), tmp_path_factory.mktemp("vgg"))
