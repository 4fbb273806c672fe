"""Int8: the shipped detector, which is trained, quantized on drawn pictures and held against its float self."""

import functools
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QDQQuantizer
from onnxruntime.quantization.calibrate import TensorsData

from export import quantize as quantize_module
from export import sensitivity
from export.calibration import calibrate, find_calibration_images
from export.engine.build import build_engine
from export.engine.file import BuildOptions
from export.file_metadata import Int8Target, Quantization
from export.graph import layer_names, network_only, open_graph
from export.onnx import export_onnx
from export.quantize import quantize_graph
from export.quantize_options import METHODS, USUAL_IMAGES, USUAL_METHOD, QuantizeOptions
from export.sensitivity import find_float_layers, write_sensitivity
from export.steps import STEPS
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_train import build_network
from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.errors import DatasetError, ModelError
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.metrics.protocol import Protocol
from ssd_train.preprocess import load_image, preprocess
from ssd_train.spec import INPUT_NAME, DetectorSpec

NETWORK = "ssd_300_mobilenet0.25_custom"
CALIBRATION_PICTURES = 40
# An 11-point mAP of fewer pictures moves by a point when single scores do.
HELD_OUT_PICTURES = 500


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures to calibrate on in `train`, others to score on in `val`."""
    root = tmp_path_factory.mktemp("shapes") / "data"
    return write_shapes(root, train=USUAL_IMAGES, val=HELD_OUT_PICTURES, seed=1)


@pytest.fixture(scope="module")
def calibration_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gathered(data, tmp_path_factory.mktemp("calibration"), CALIBRATION_PICTURES)


def gathered(data: Path, folder: Path, count: int) -> Path:
    for sample in find_source("voc", data).load("train", sorted(SHAPE_CLASSES)).samples[:count]:
        (folder / sample.path.name).symlink_to(sample.path)
    return folder


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(build_network(NETWORK, "shapes"), tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def exported(
    float_file: Path, calibration_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Int8Target, Path]:
    folder = tmp_path_factory.mktemp("int8")
    return {
        target: quantized(float_file, folder / target, calibration_folder, int8_target=target) for target in Int8Target
    }


def quantized(float_file: Path, out: Path, images: Path, **options: Any) -> Path:
    """Calibrate with `minmax`, which is quick, unless another method is asked for, and return the int8 file."""
    settings = QuantizeOptions(calibration_data=images, **{"calibration_method": "minmax", **options})
    path = STEPS["int8"].apply(float_file, out, settings).path
    assert path is not None
    return path


def parts_of(model: onnx.ModelProto) -> tuple[dict[str, onnx.NodeProto], dict[str, np.ndarray]]:
    producers = {output: node for node in model.graph.node for output in node.output}
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    return producers, constants


@pytest.mark.parametrize(("target", "dtype"), [(Int8Target.PORTABLE, np.int8), (Int8Target.CPU, np.uint8)])
def test_every_convolution_has_int8_weights_and_8_bit_activations(
    exported: dict[Int8Target, Path], target: Int8Target, dtype: type
) -> None:
    model = onnx.load(exported[target])
    producers, constants = parts_of(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 47
    for node in convolutions:
        activation, weight = (producers[name] for name in node.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        scale, zero_point = constants[activation.input[1]], constants[activation.input[2]]
        assert scale.size == 1 and zero_point.dtype == dtype
        integers, scales, zero_points = (constants[name] for name in weight.input)
        assert integers.dtype == np.int8 and len(scales) == len(integers) and not zero_points.any()
        if target == Int8Target.PORTABLE:
            assert zero_point == 0
            # TensorRT refuses an int32 bias behind a DequantizeLinear.
            assert len(node.input) < 3 or node.input[2] in constants


@pytest.mark.parametrize("target", Int8Target)
def test_nothing_behind_the_predictors_is_quantized(
    exported: dict[Int8Target, Path], float_file: Path, target: Int8Target
) -> None:
    def operators_behind(model: onnx.ModelProto) -> Counter[str]:
        inside = {node.name for node in network_only(model).graph.node}
        return Counter(node.op_type for node in model.graph.node if node.name not in inside)

    assert operators_behind(onnx.load(exported[target])) == operators_behind(onnx.load(float_file))


@pytest.mark.parametrize("target", Int8Target)
def test_onnx_runtime_computes_every_convolution_in_integers(
    exported: dict[Int8Target, Path], target: Int8Target, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(exported[target]), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["QLinearConv"] == 47 and operators["Conv"] == operators["FusedConv"] == 0


@pytest.mark.parametrize("target", Int8Target)
def test_a_scale_covers_what_the_float_network_gives(
    exported: dict[Int8Target, Path], float_file: Path, calibration_folder: Path, target: Int8Target
) -> None:
    """Against the largest value of an activation, found by running the float graph by hand."""
    bare = network_only(onnx.load(float_file))
    second = [node for node in bare.graph.node if node.op_type == "Conv"][1]
    bare.graph.output.append(onnx.helper.make_tensor_value_info(second.input[0], onnx.TensorProto.FLOAT, None))
    run = open_graph(bare, [second.input[0]])
    spec = OnnxRuntimeRunner(float_file).spec
    images = find_calibration_images(calibration_folder).paths
    largest = max(float(run(preprocess(load_image(path), spec)[None])[0].max()) for path in images)

    model = onnx.load(exported[target])
    producers, constants = parts_of(model)
    node = next(node for node in model.graph.node if node.name == second.name)
    steps = 127 if target == Int8Target.PORTABLE else 255
    assert constants[producers[node.input[0]].input[1]] == pytest.approx(largest / steps, rel=1e-4)


def test_the_metadata_say_how(exported: dict[Int8Target, Path], calibration_folder: Path) -> None:
    for target, path in exported.items():
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert metadata["precision"] == "int8" and metadata["int8_target"] == target
        assert (metadata["calibration_method"], metadata["calibration_images"]) == ("minmax", "40")
        assert metadata["calibration_sha256"] == find_calibration_images(calibration_folder).sha256
        assert metadata["float_layers"] == "[]"
        told = Quantization.from_metadata(metadata, "it")
        assert told is not None and told.to_metadata().items() <= metadata.items() and told.images == 40
        spec = DetectorSpec.from_metadata(metadata, "it")
        assert spec.network == NETWORK and spec.class_names == tuple(sorted(SHAPE_CLASSES))


def test_the_file_is_at_most_three_tenths_of_the_float_one(exported: dict[Int8Target, Path], float_file: Path) -> None:
    for path in exported.values():
        assert path.stat().st_size <= 0.3 * float_file.stat().st_size


def held_out_scores(path: Path, data: Path) -> tuple[float, float]:
    """VOC's and COCO's headline of a file on the pictures in `val`."""
    held_out = find_source("voc", data).load("val", sorted(SHAPE_CLASSES))
    runner = OnnxRuntimeRunner(path, threads=1)
    found = run_detector(held_out.samples, runner.run, runner.spec)
    voc, coco = (
        score(held_out, found, runner.spec, metric=metric, protocol=Protocol.STANDARD).headline
        for metric in ("voc", "coco")
    )
    return voc, coco


@pytest.fixture(scope="module")
def float_scores(float_file: Path, data: Path) -> tuple[float, float]:
    return held_out_scores(float_file, data)


@pytest.fixture(scope="module")
def usual_images(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gathered(data, tmp_path_factory.mktemp("usual"), USUAL_IMAGES)


@pytest.fixture(scope="module")
def usual_ranges(float_file: Path, usual_images: Path) -> TensorsData:
    """What the usual calibration measures, which takes long, and for which no target matters."""
    images = find_calibration_images(usual_images).paths
    assert len(images) == USUAL_IMAGES
    bare = network_only(onnx.load(float_file))
    return calibrate(bare, OnnxRuntimeRunner(float_file).spec, images, method=USUAL_METHOD)


@pytest.mark.parametrize("target", Int8Target)
def test_the_scores_are_kept(
    float_scores: tuple[float, float],
    float_file: Path,
    data: Path,
    usual_images: Path,
    usual_ranges: TensorsData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: Int8Target,
) -> None:
    """With the usual calibration, at the limits that int8 was made for."""

    def measured(network: onnx.ModelProto, spec: DetectorSpec, images: Sequence[Path], **options: Any) -> TensorsData:
        assert (images, options["method"]) == (find_calibration_images(usual_images).paths, USUAL_METHOD)
        return usual_ranges

    monkeypatch.setattr(quantize_module, "calibrate", measured)
    int8_file = quantized(float_file, tmp_path, usual_images, int8_target=target, calibration_method=None)
    (voc, coco), (int8_voc, int8_coco) = float_scores, held_out_scores(int8_file, data)
    assert int8_voc > voc - 0.003 and int8_coco > coco - 0.005


def test_a_quantizer_that_quantizes_nothing_is_found_out(
    float_file: Path, calibration_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QDQQuantizer, "quantize_model", lambda self: None)
    with pytest.raises(ModelError, match=r"^47 of 47 layers are not quantized as they should be"):
        quantized(float_file, tmp_path / "out", calibration_folder, calibration_images=1)
    assert not (tmp_path / "out").exists()


def test_a_quantized_post_processing_is_found_out(
    float_file: Path, calibration_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(float_file)
    spec = OnnxRuntimeRunner(float_file).spec
    measured = calibrate(model, spec, find_calibration_images(calibration_folder, 1).paths, method="minmax")
    everything = [node.name for node in model.graph.node if node.op_type in ("Conv", "Relu", "Add")]
    monkeypatch.setattr(quantize_module, "_integer_nodes", lambda model: everything)
    with pytest.raises(ModelError, match=r"^the post-processing was quantized at "):
        quantize_graph(model, measured, Int8Target.PORTABLE)


def test_scales_that_do_not_fit_are_found_out(
    float_file: Path, tmp_path: Path, calibration_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantize_module.quantize_graph

    def with_wrong_scales(*arguments: Any, **options: Any) -> onnx.ModelProto:
        model = real(*arguments, **options)
        producers, _ = parts_of(model)
        names = {producers[node.input[0]].input[1] for node in model.graph.node if node.op_type == "Conv"}
        for constant in model.graph.initializer:
            if constant.name in names:
                constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) * 300, constant.name))
        return model

    monkeypatch.setattr(quantize_module, "quantize_graph", with_wrong_scales)
    with pytest.raises(
        ModelError, match=r"int8 gives other cls_logits .* nothing was written; calibrate on other"
    ) as e:
        quantized(float_file, tmp_path / "out", calibration_folder, calibration_images=2)
    assert e.value.arguments == ("calibration_method",)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_decides_the_ranges(
    float_file: Path, calibration_folder: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    bare = network_only(onnx.load(float_file))
    spec = OnnxRuntimeRunner(float_file).spec
    images = find_calibration_images(calibration_folder, 2).paths
    measured = calibrate(bare, spec, images, method=method)
    least = calibrate(bare, spec, images, method="minmax")
    assert not caplog.records
    highest, seen = ({name: float(np.max(each[name].range_value[1])) for name in least} for each in (measured, least))
    cut = [highest[name] / seen[name] for name in highest if seen[name] > 0]
    assert max(cut) <= 1.02  # a bin of a histogram more
    assert (min(cut) < 0.95) == (method != "minmax")


def test_the_most_sensitive_layers_stay_float(
    float_file: Path, calibration_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(float_file)
    spec = OnnxRuntimeRunner(float_file).spec
    images = find_calibration_images(calibration_folder, 4).paths
    measured = calibrate(network_only(model), spec, images, method="minmax")
    make = functools.partial(quantize_graph, model, measured, Int8Target.PORTABLE)
    everything = find_float_layers(model, spec, images, make, max_drop=100)
    assert everything.float_layers == () and everything.drop == everything.full_drop > 1
    assert set(everything.layer_drops) == set(layer_names(model)) and "class_predictors.0.predictor" in layer_names(
        model
    )
    assert list(everything.layer_drops.values()) == sorted(everything.layer_drops.values(), reverse=True)

    # Each layer was judged alone, which takes long, and is not again.
    monkeypatch.setattr(sensitivity, "drops_alone", lambda *arguments: everything.layer_drops)
    allowed = everything.full_drop - 1
    some = find_float_layers(model, spec, images, make, max_drop=allowed)
    assert some.full_drop == everything.full_drop
    assert some.drop <= allowed
    assert some.float_layers == tuple(some.layer_drops)[: len(some.float_layers)] != ()

    graph = make(float_layers=some.float_layers)
    producers, _ = parts_of(graph)
    kept = {layer_names(model)[layer] for layer in some.float_layers}
    in_float = {node.name for node in graph.graph.node if node.op_type == "Conv" and node.input[1] not in producers}
    assert in_float == kept

    table, chart = write_sensitivity(some, tmp_path / f"{NETWORK}.int8")
    assert table.name == f"{NETWORK}.int8.sensitivity.json" and '"full_drop"' in table.read_text()
    picture = cv2.imread(str(chart))
    assert picture is not None and picture.std() > 10
    assert len([line for line in some.lines() if line.endswith("stays float")]) == len(some.float_layers)


def test_an_unknown_layer_is_named(float_file: Path, calibration_folder: Path) -> None:
    model = onnx.load(float_file)
    measured = calibrate(
        network_only(model), OnnxRuntimeRunner(float_file).spec, find_calibration_images(calibration_folder, 1).paths,
        method="minmax",
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"^there is no layer stages\.9; the first ones are features\.backbone"):
        quantize_graph(model, measured, Int8Target.PORTABLE, float_layers=["stages.9"])


class TestCalibrationImages:
    def test_they_are_the_same_ones_every_time(self, calibration_folder: Path) -> None:
        some = find_calibration_images(calibration_folder, 10)
        assert some == find_calibration_images(calibration_folder, 10)
        assert len(set(some.paths)) == 10 and some.sha256 != find_calibration_images(calibration_folder, 11).sha256

    def test_sub_folders_count_and_files_that_cannot_be_read_are_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "inner").mkdir()
        cv2.imwrite(str(tmp_path / "inner" / "good.png"), np.zeros((8, 8, 3), np.uint8))
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        found = find_calibration_images(tmp_path)
        assert [path.name for path in found.paths] == ["good.png"]
        assert len(caplog.messages) == 1 and "broken.jpg" in caplog.messages[0]

    def test_a_folder_without_any_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"has no image to calibrate on; name a folder"):
            find_calibration_images(tmp_path)
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        with pytest.raises(DatasetError, match=r"\(1 files could not be read, the first: .*broken\.jpg"):
            find_calibration_images(tmp_path)
        with pytest.raises(DatasetError, match=r"nowhere: there is no such folder"):
            find_calibration_images(tmp_path / "nowhere")

    def test_fewer_than_asked_for_are_refused(self, calibration_folder: Path) -> None:
        with pytest.raises(DatasetError, match=r"has 40 images that can be read, 41 were asked for"):
            find_calibration_images(calibration_folder, 41)

    def test_pictures_of_one_color_are_warned_of(
        self, float_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for gray in (60, 160):
            cv2.imwrite(str(tmp_path / f"{gray}.png"), np.full((64, 64, 3), gray, np.uint8))
        bare = network_only(onnx.load(float_file))
        calibrate(bare, OnnxRuntimeRunner(float_file).spec, find_calibration_images(tmp_path).paths, method="minmax")
        (warning,) = caplog.messages
        assert warning.startswith("2 of 2 calibration images are of one color; on 4 drawn pictures ")
        assert "activations would saturate, such as " in warning


def test_an_engine_builds_of_the_portable_graph_and_not_of_the_cpus(
    exported: dict[Int8Target, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"was quantized for the CPU, to uint8 activations that TensorRT refuses"):
        build_engine(exported[Int8Target.CPU], BuildOptions(), flavour="tensorrt-rtx", gpu=None, cache=tmp_path)
    built = build_engine(
        exported[Int8Target.PORTABLE], BuildOptions(), flavour="tensorrt-rtx", gpu=None, cache=tmp_path
    )
    assert built.info.spec.precision == "int8" and built.info.inputs[INPUT_NAME].shape == (-1, 3, 300, 300)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_standard_output_is_the_callers_while_callers_are_told(
    float_file: Path, calibration_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    """ONNX Runtime prints a line for each image; neither that nor what keeps it away is seen from outside."""
    ours, seen = sys.stdout, []

    def on_progress(stage: str, done: int, total: int) -> None:
        seen.append(sys.stdout)
        print(f"{stage} {done} of {total}")

    settings = QuantizeOptions(calibration_data=calibration_folder, calibration_images=3, calibration_method=method)
    STEPS["int8"].apply(float_file, tmp_path, settings, on_progress=on_progress)
    assert len(seen) == 3 and all(each is ours for each in seen)
    assert capsys.readouterr().out == "calibrating 1 of 3\ncalibrating 2 of 3\ncalibrating 3 of 3\n"


def test_the_callers_logging_is_left_as_it_was(
    float_file: Path, calibration_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime warns on the root logger, which gives it a handler where it has none."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    quantized(float_file, tmp_path, calibration_folder, calibration_images=1, int8_target="cpu")
    assert root.handlers == [] and root.filters == [] and root.level == level
