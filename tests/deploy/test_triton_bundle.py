"""A model repository is what Triton's published schema and the file itself say, and is written whole or not at all."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kserve_server import read_pbtxt
from small_onnx import CLASSES, SPEC, write_small
from tiny_data import blocks, write_image, write_turned

from export.engine.file import BuildOptions, EngineInfo, TensorInfo, write_info
from ssd_deploy.bundles import BUNDLES
from ssd_deploy.bundles.folder import write_bundle
from ssd_deploy.bundles.triton.text_format import EnumName, to_text
from ssd_train.errors import ModelError, ResultError
from ssd_train.files import PART_SUFFIX
from ssd_train.preprocess import load_image, preprocess
from ssd_train.spec import DetectorSpec

ODD_TEXT = 'a "quoted" \\ name,\twith\nlines, \x01 and 鳥 🐦'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("model") / "cells.v2.onnx")


def write_engine(path: Path, *, flavour: str = "tensorrt", **options: int) -> Path:
    """Write the JSON of an engine, and a plan that nobody opens."""
    path.write_bytes(b"a plan")
    info = EngineInfo(
        flavour=flavour,
        tensorrt_version="10.16.0",
        spec=DetectorSpec(network="small", class_names=CLASSES, input_size=(24, 32)),
        options=BuildOptions(**options),
        inputs={"images": TensorInfo(dtype="FLOAT", shape=(-1, 3, 24, 32))},
        outputs={
            "boxes": TensorInfo(dtype="FLOAT", shape=(-1, 100, 4)),
            "scores": TensorInfo(dtype="HALF", shape=(-1, 100)),
            "labels": TensorInfo(dtype="INT64", shape=(-1, 100)),
        },
        gpu="a GPU",
        compute_capability="8.9",
        onnx_sha256="0" * 64,
        plan_sha256="0" * 64,
        size_bytes=6,
        build_seconds=1.0,
        layer_precisions=None,
        warnings=(),
    )
    write_info(path, info)
    return path


def config_of(model: Path, out: Path) -> dict[str, Any]:
    write_bundle(BUNDLES["triton"], model, out)
    return read_pbtxt((out / model.stem / "config.pbtxt").read_text(encoding="utf-8"))


def schema() -> ModuleType:
    """Triton's messages, from its client: that module alone, since the client's own needs gRPC."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("tritonclient, which brings Triton's schema, is not installed")
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_repository_has_a_configuration_the_classes_and_one_version(model: Path, tmp_path: Path) -> None:
    files = write_bundle(BUNDLES["triton"], model, tmp_path / "repository")
    assert sorted(str(path.relative_to(tmp_path)) for path in files) == [
        "repository/cells.v2/1/model.onnx",
        "repository/cells.v2/config.pbtxt",
        "repository/cells.v2/labels.txt",
    ]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(files)
    assert (tmp_path / "repository/cells.v2/1/model.onnx").read_bytes() == model.read_bytes()
    assert (tmp_path / "repository/cells.v2/labels.txt").read_text().splitlines() == list(CLASSES)


def test_tensors_types_and_batches_are_the_files(model: Path, tmp_path: Path) -> None:
    config = config_of(model, tmp_path)
    assert config["name"] == "cells.v2"
    assert config["platform"] == "onnxruntime_onnx"
    assert config["max_batch_size"] == 8
    assert config["input"] == [{"name": "images", "data_type": "TYPE_FP32", "dims": [3, 24, 32]}]
    assert config["output"] == [
        {"name": "boxes", "data_type": "TYPE_FP32", "dims": [5, 4]},
        {"name": "scores", "data_type": "TYPE_FP32", "dims": [5]},
        {"name": "labels", "data_type": "TYPE_INT64", "dims": [5]},
    ]
    assert config["instance_group"] == [{"kind": "KIND_AUTO", "count": 1}]
    assert "dynamic_batching" in config


def test_a_file_of_one_batch_size_is_not_batched_by_the_server(tmp_path: Path) -> None:
    config = config_of(write_small(tmp_path / "one.onnx", batch=1), tmp_path / "out")
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == [1, 3, 24, 32]
    assert config["output"][1]["dims"] == [1, 5]
    assert "dynamic_batching" not in config


def test_an_engine_is_a_plan_for_a_gpu_with_the_batches_it_was_built_for(tmp_path: Path) -> None:
    config = config_of(write_engine(tmp_path / "fast.engine", max_batch=16), tmp_path / "out")
    assert (tmp_path / "out/fast/1/model.plan").read_bytes() == b"a plan"
    assert config["platform"] == "tensorrt_plan"
    assert config["max_batch_size"] == 16
    assert config["instance_group"] == [{"kind": "KIND_GPU", "count": 1}]
    assert [each["data_type"] for each in config["output"]] == ["TYPE_FP32", "TYPE_FP16", "TYPE_INT64"]


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ({"winograd": "{}"}, "KIND_CPU"),
        ({"int8_target": "cpu"}, "KIND_CPU"),
        ({"int8_target": "portable"}, "KIND_AUTO"),
    ],
)
def test_what_was_made_for_cpus_runs_on_cpus(entries: dict[str, str], kind: str, tmp_path: Path) -> None:
    config = config_of(write_small(tmp_path / "a.onnx", entries=entries), tmp_path / "out")
    assert config["instance_group"][0]["kind"] == kind


def test_the_parameters_say_what_the_detector_is(model: Path, tmp_path: Path) -> None:
    parameters = {each["key"]: each["value"]["string_value"] for each in config_of(model, tmp_path)["parameters"]}
    entries = {key.removeprefix("ssd_deploy."): value for key, value in parameters.items()}
    assert all(key.startswith("ssd_deploy.") for key in parameters)
    spec = DetectorSpec.from_metadata(entries, "the server")
    assert spec.class_names == CLASSES
    assert spec.input_size == (24, 32)


@pytest.mark.parametrize("kind", ["onnx", "fixed", "engine"])
def test_tritons_own_schema_takes_the_configuration(kind: str, tmp_path: Path) -> None:
    from google.protobuf import text_format
    from google.protobuf.json_format import MessageToDict

    path = {
        "onnx": lambda: write_small(tmp_path / "a.onnx", entries={"note": ODD_TEXT}),
        "fixed": lambda: write_small(tmp_path / "a.onnx", batch=2),
        "engine": lambda: write_engine(tmp_path / "a.engine"),
    }[kind]()
    ours = config_of(path, tmp_path / "out")
    text = (tmp_path / "out" / "a" / "config.pbtxt").read_text(encoding="utf-8")
    found = text_format.Parse(text, schema().ModelConfig())
    assert found.max_batch_size == ours["max_batch_size"]
    assert [(each.name, list(each.dims)) for each in (*found.input, *found.output)] == [
        (each["name"], each["dims"]) for each in (*ours["input"], *ours["output"])
    ]
    assert {key: each.string_value for key, each in found.parameters.items()} == {
        each["key"]: each["value"]["string_value"] for each in ours["parameters"]
    }
    if kind == "onnx":
        assert found.parameters["ssd_deploy.note"].string_value == ODD_TEXT
    assert MessageToDict(found)["instanceGroup"] == [
        {"count": 1} | ({"kind": "KIND_GPU"} if kind == "engine" else {})  # KIND_AUTO is the default, and left out
    ]
    assert found.WhichOneof("scheduling_choice") == (None if kind == "fixed" else "dynamic_batching")


def test_the_text_format_has_names_of_enums_bare_and_text_in_quotes() -> None:
    message = {"name": 'a"b', "kind": EnumName("KIND_GPU"), "dims": (1, 2), "group": [{"n": 1}, {}]}
    assert to_text(message) == 'name: "a\\"b"\nkind: KIND_GPU\ndims: [1, 2]\ngroup {\n  n: 1\n}\ngroup {\n}\n'


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda folder: write_small(folder / "two words.onnx"), "rename the file"),
        (lambda folder: write_engine(folder / "a.engine", flavour="tensorrt-rtx"), "an engine of tensorrt-rtx"),
        (lambda folder: write_engine(folder / "a.engine", min_batch=2, max_batch=4), "--min-batch 1"),
        (lambda folder: write_small(folder / "a.onnx", entries={"cpu_graph_for": "{}"}), "rewritten for one CPU"),
    ],
)
def test_what_triton_could_not_serve_is_refused_and_leaves_nothing(
    write: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    model = write(tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ModelError, match=said):
        write_bundle(BUNDLES["triton"], model, tmp_path / "out")
    assert set(tmp_path.rglob("*")) == before


def test_a_second_bundle_replaces_its_own_and_keeps_the_other_models(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "out" / "other" / "config.pbtxt"
    other.parent.mkdir(parents=True)
    other.write_text("of somebody else")
    for _ in range(2):
        write_bundle(BUNDLES["triton"], model, tmp_path / "out")
    assert other.read_text() == "of somebody else"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cells.v2", "other"]


def test_a_file_that_is_no_bundles_own_is_never_lost(model: Path, tmp_path: Path) -> None:
    write_bundle(BUNDLES["triton"], model, tmp_path / "out")
    kept = tmp_path / "out" / "cells.v2" / "2" / "model.onnx"
    kept.parent.mkdir()
    kept.write_text("a second version")
    with pytest.raises(ResultError, match=r"would lose cells\.v2/2"):
        write_bundle(BUNDLES["triton"], model, tmp_path / "out")
    assert kept.read_text() == "a second version"
    assert not list(tmp_path.rglob(f"*{PART_SUFFIX}"))


def test_a_bundle_that_fails_half_way_leaves_what_was_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    write_bundle(BUNDLES["triton"], model, tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr("shutil.copyfile", fail)
    for out in ("out", "new"):
        with pytest.raises(ResultError, match="No space left"):
            write_bundle(BUNDLES["triton"], model, tmp_path / out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_the_command_prints_the_files_and_refuses_what_is_no_file(
    run_cli: Callable[..., tuple[int, str]], mistake: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    code, output = run_cli("bundle", "triton", model, "--out", tmp_path / "out", "--json", "-", "--quiet")
    assert code == 0
    assert json.loads(output)["files"][0] == str(tmp_path / "out" / "cells.v2" / "config.pbtxt")
    assert "choose triton" in mistake("bundle", "trition", model, "--out", tmp_path / "out")
    assert "is a file" in mistake("bundle", "triton", model, "--out", model)
    assert "is no file" in mistake("bundle", "triton", "ssd_300_mobilenet0.25_voc", "--out", tmp_path / "out")


def prepare_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """Import a repository's `model.py` with a fake of what Triton's Python backend gives it; returns both."""
    fake = ModuleType("triton_python_backend_utils")
    fake.Tensor = lambda name, values: SimpleNamespace(name=name, as_numpy=lambda: values)  # type: ignore[attr-defined]
    fake.TritonError = lambda message: message  # type: ignore[attr-defined]
    fake.InferenceResponse = lambda output_tensors, error=None: SimpleNamespace(  # type: ignore[attr-defined]
        tensors={each.name: each.as_numpy() for each in output_tensors}, error=error
    )
    fake.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, fake


def test_pictures_are_prepared_on_the_server_as_here(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_bundle(BUNDLES["triton-pictures"], model, tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.v2", "cells.v2.pictures", "cells.v2.prepare"]
    module, fake = prepare_model(tmp_path / "cells.v2.prepare", monkeypatch)
    config = read_pbtxt((tmp_path / "cells.v2.prepare" / "config.pbtxt").read_text(encoding="utf-8"))
    parameters = {each["key"]: each["value"] for each in config["parameters"]}
    prepare = module.TritonPythonModel()
    prepare.initialize({"model_name": config["name"], "model_config": json.dumps({"parameters": parameters})})
    # The second is turned by its Exif entry.
    paths = [
        write_image(tmp_path / "a.png", blocks(48, 64, 8, 0)),
        write_turned(tmp_path / "b.jpg", blocks(30, 40, 8, 1)),
    ]
    files_bytes = np.array([[path.read_bytes()] for path in paths], object)
    good, bad = prepare.execute([
        {"pictures": fake.Tensor("pictures", files_bytes)},
        {"pictures": fake.Tensor("pictures", np.array([[b"no picture"]], object))},
    ])  # fmt: skip
    assert good.error is None
    np.testing.assert_array_equal(good.tensors["images"], [preprocess(load_image(path), SPEC) for path in paths])
    np.testing.assert_array_equal(good.tensors["image_sizes"], [(48, 64), (30, 40)])
    assert [each["name"] for each in config["output"]] == list(good.tensors)
    assert good.tensors["images"].dtype == np.float32 and good.tensors["image_sizes"].dtype == np.int32
    assert bad.error.startswith("picture 0: not an image")


def test_tritons_own_schema_takes_the_ensemble_and_its_tensors_fit_together(model: Path, tmp_path: Path) -> None:
    from google.protobuf import text_format

    write_bundle(BUNDLES["triton-pictures"], model, tmp_path)
    messages = schema()
    parsed = {
        folder.name: text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), messages.ModelConfig())
        for folder in tmp_path.iterdir()
    }
    ensemble = parsed["cells.v2.pictures"]
    assert ensemble.WhichOneof("scheduling_choice") == "ensemble_scheduling"
    assert {each.max_batch_size for each in parsed.values()} == {8}
    known = {each.name: (each.data_type, list(each.dims)) for each in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        for each in parsed[step.model_name].input:
            assert known[step.input_map[each.name]] == (each.data_type, list(each.dims))
        for each in parsed[step.model_name].output:
            known[step.output_map[each.name]] = (each.data_type, list(each.dims))
    assert [known[each.name] for each in ensemble.output] == [
        (each.data_type, list(each.dims)) for each in ensemble.output
    ]
    assert (tmp_path / "cells.v2.pictures" / "1").is_dir()


def test_pictures_need_a_file_of_any_batch(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="batches of one size alone"):
        write_bundle(BUNDLES["triton-pictures"], write_small(tmp_path / "a.onnx", batch=1), tmp_path / "out")
