"""A model of OpenVINO Model Server computes what the file does, and says what it is where the server gives it out."""

import json
from pathlib import Path

import numpy as np
import pytest
from kserve_server import serving
from small_onnx import CLASSES, KEPT, write_small

from ssd_deploy.backends.kserve import KServeRunner
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.bundles import BUNDLES
from ssd_deploy.bundles.folder import write_bundle
from ssd_train.errors import ModelError
from ssd_train.spec import DetectorSpec

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("model") / "cells.onnx")


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    files = write_bundle(BUNDLES["ovms"], model, out)
    assert {path for path in out.rglob("*") if path.is_file()} == set(files)
    return out


def test_the_configuration_names_a_folder_with_one_version_and_asks_for_float32(folder: Path) -> None:
    (entry,) = json.loads((folder / "cells.json").read_text())["model_config_list"]
    # Relative to the configuration's own folder (OpenVINO Model Server, docs/parameters.md).
    versions = list((folder / entry["config"]["base_path"]).iterdir())
    assert entry["config"]["name"] == "cells"
    assert [path.name for path in versions] == ["1"]
    assert sorted(path.name for path in versions[0].iterdir()) == ["model.bin", "model.xml"]
    # A key and a value that OpenVINO takes.
    network = openvino.Core().read_model(versions[0] / "model.xml")
    compiled = openvino.Core().compile_model(network, "CPU", entry["config"]["plugin_config"])
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


@pytest.mark.parametrize("count", [1, 3])
def test_it_computes_what_the_file_computes(model: Path, folder: Path, count: int) -> None:
    images = np.random.default_rng(0).normal(0, 1, (count, 3, 24, 32)).astype(np.float32)
    expected = OnnxRuntimeRunner(model).run(images)
    compiled = openvino.Core().compile_model(folder / "cells" / "1" / "model.xml", "CPU")
    found = {name: value for output, value in compiled(images).items() for name in output.get_names()}
    assert found["boxes"].shape == (count, KEPT, 4)
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=0, atol=1e-6)
        assert found[name].dtype == getattr(expected, name).dtype


def test_a_client_learns_from_the_server_what_the_model_is(folder: Path, model: Path, tmp_path: Path) -> None:
    network = openvino.Core().read_model(folder / "cells" / "1" / "model.xml")
    said = {key: str(value) for key, value in network.get_rt_info("model_info").value.items()}
    assert DetectorSpec.from_metadata(said, "the server").class_names == CLASSES
    write_bundle(BUNDLES["triton"], model, tmp_path)
    # As that server answers: no configuration, and what is in the file.
    with serving(tmp_path / "cells", has_config=False, rt_info={"model_info": said}) as address:
        runner = KServeRunner(address)
    assert runner.spec.class_names == CLASSES
    assert runner.max_batch_size is None


def test_an_engine_and_a_name_that_no_address_has_are_refused(tmp_path: Path) -> None:
    for name, said in (("a.engine", "is an engine"), ("a b.onnx", "rename the file")):
        with pytest.raises(ModelError, match=said):
            write_bundle(BUNDLES["ovms"], write_small(tmp_path / name), tmp_path / "out")
    assert not (tmp_path / "out").exists()
