"""DeepStream's bundle: its graph, configuration and labels, and its parser on what ONNX Runtime found."""

import configparser
import dataclasses
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from deepstream_parser import INCLUDES, Case, Layer, Parsed, compile_parser, run_parser
from numpy.typing import NDArray

from export.file_metadata import CPU_GRAPH_KEY, INT8_KEY
from export.graph import load_exported
from export.metadata_entry import write_entry
from ssd_deploy import Detector, load_detector
from ssd_deploy.bundles.deepstream.config import config_text, labels_text, nvinfer_config
from ssd_train import build_network
from ssd_train.datasets.generated import SHAPE_CLASSES, draw_picture
from ssd_train.errors import ModelError
from ssd_train.preprocess import interpolation_for, load_image, preprocess
from ssd_train.spec import DetectorSpec, WorkingThresholds
from ssd_train.thresholds import keeping

Image = NDArray[np.uint8]

# Properties of Gst-nvinfer's guide (tables of [property] and [class-attrs-...]), and `strongly-typed` of 9.1's source.
PROPERTIES = {
    "gpu-id", "gie-unique-id", "process-mode", "network-type", "onnx-file", "model-engine-file", "batch-size",
    "network-mode", "infer-dims", "network-input-order", "model-color-format", "net-scale-factor", "offsets",
    "maintain-aspect-ratio", "symmetric-padding", "scaling-filter", "scaling-compute-hw", "labelfile-path",
    "num-detected-classes", "output-blob-names", "custom-lib-path", "parse-bbox-func-name", "cluster-mode", "interval",
    "strongly-typed", "crop-objects-to-roi-boundary", "int8-calib-file", "workspace-size", "output-tensor-meta",
}  # fmt: skip
CLASS_PROPERTIES = {"pre-cluster-threshold", "post-cluster-threshold", "topk", "nms-iou-threshold", "eps"}

SPEC = DetectorSpec(network="ssd_640x384_resnet50_v1_custom", class_names=("a", "b", "c d"), input_size=(384, 640))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.onnx import export_onnx

    return export_onnx(build_network("ssd_300_mobilenet0.25_custom", "shapes"), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ssd_deploy.bundles import BUNDLES
    from ssd_deploy.bundles.folder import write_bundle

    folder = tmp_path_factory.mktemp("deepstream") / "bundle"
    files = write_bundle(BUNDLES["deepstream"], model, folder)
    assert sorted(files) == sorted(folder.iterdir())
    return folder


@pytest.fixture(scope="module")
def program(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_parser(bundle, tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def detector(model: Path) -> Detector:
    # All that the graph gives.
    return load_detector(model)


def read_config(text: str) -> configparser.ConfigParser:
    """Read it as GLib does: sections, keys as they are written, no interpolation."""
    config = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None, strict=True)
    config.optionxform = str  # type: ignore[assignment,method-assign]
    config.read_string(text)
    return config


def test_every_key_is_documented_and_says_what_the_model_is(bundle: Path, model: Path) -> None:
    config = read_config((bundle / "config_infer.txt").read_text())
    assert config.sections() == ["property", "class-attrs-all"]
    properties = dict(config["property"])
    assert set(properties) <= PROPERTIES
    assert set(config["class-attrs-all"]) <= CLASS_PROPERTIES
    graph = onnx.load(bundle / properties["onnx-file"]).graph
    (pixels,) = graph.input
    sides = [side.dim_value for side in pixels.type.tensor_type.shape.dim]
    assert properties["infer-dims"] == ";".join(map(str, sides[1:])) == "3;300;300"
    assert (properties["net-scale-factor"], properties["model-color-format"]) == ("1", "0")
    assert "offsets" not in properties
    assert properties["network-input-order"] == "0"
    assert properties["maintain-aspect-ratio"] == "0"
    labels = (bundle / properties["labelfile-path"]).read_text().splitlines()
    assert labels == sorted(SHAPE_CLASSES)
    assert properties["num-detected-classes"] == str(len(labels))
    assert properties["output-blob-names"].split(";") == [output.name for output in graph.output]
    assert properties["cluster-mode"] == "4"
    assert (properties["network-mode"], "strongly-typed" in properties) == ("0", False)
    rows = {output.name: output.type.tensor_type.shape.dim[1].dim_value for output in graph.output}
    assert set(rows.values()) == {int(config["class-attrs-all"]["topk"])}
    assert (
        f'extern "C" bool {properties["parse-bbox-func-name"]}('
        in (bundle / "nvdsparsebbox_ssd_deploy.cpp").read_text()
    )
    assert f"{properties['custom-lib-path']}: nvdsparsebbox_ssd_deploy.cpp" in (bundle / "Makefile").read_text()
    assert f"--saveEngine={properties['model-engine-file']}" in (bundle / "README.txt").read_text()


def test_a_class_of_another_threshold_has_a_group() -> None:
    thresholds = WorkingThresholds(overall=0.5, per_class={"a": 0.25, "c d": 0.3})
    kept = keeping(dataclasses.replace(SPEC, working_thresholds=thresholds, precision="int8"))
    config = read_config(config_text(nvinfer_config(dataclasses.replace(SPEC, precision="int8"), kept, "net.onnx")))
    assert config.sections() == ["property", "class-attrs-all", "class-attrs-1", "class-attrs-2"]
    found = [config[f"class-attrs-{name}"]["pre-cluster-threshold"] for name in ("all", 1, 2)]
    assert found == ["0.25", "0.5", "0.3"]
    assert config["property"]["infer-dims"] == "3;384;640"
    # What is quantized is said in the graph alone.
    assert (config["property"]["network-mode"], config["property"]["strongly-typed"]) == ("0", "1")


def test_a_name_that_the_file_of_labels_would_cut_is_refused() -> None:
    assert labels_text(SPEC, "net.onnx") == "a\nb\nc d\n"
    with pytest.raises(ModelError, match=r"^net.onnx: its class 'a;b' has a ';'"):
        labels_text(dataclasses.replace(SPEC, class_names=("a;b", "c")), "net.onnx")


def test_other_weights_have_another_engine(bundle: Path) -> None:
    """Or nvinfer would take the engine that an earlier model left in the folder."""
    (path,) = bundle.glob("*.onnx")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert path.name == f"ssd_300_mobilenet0.25_custom.fp32-{digest}.onnx"
    engine = read_config((bundle / "config_infer.txt").read_text())["property"]["model-engine-file"]
    assert engine == f"{path.name}_b1_gpu0_fp32.engine"


def test_what_tensorrt_cannot_run_is_refused(model: Path, mistake: Callable[..., str], tmp_path: Path) -> None:
    for name, key, value in (("cpu", CPU_GRAPH_KEY, "{}"), ("int8", INT8_KEY, "cpu")):
        path = Path(shutil.copy(model, tmp_path / f"{name}.onnx"))
        write_entry(path, key, value)
        assert f"{path}: " in mistake("bundle", "deepstream", path, "--out", tmp_path / "out")
    engine = tmp_path / "net.engine"
    engine.write_bytes(b"plan")
    assert "name the .onnx file" in mistake("bundle", "deepstream", engine, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensorrts_own_parser_gives_what_the_bundles_parser_reads(bundle: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX, which needs no GPU to parse, is not installed")
    (path,) = bundle.glob("*.onnx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(path.read_bytes())
    (pixels,) = (network.get_input(index) for index in range(network.num_inputs))
    assert (pixels.name, pixels.dtype, tuple(pixels.shape)) == ("pixels", trt.DataType.FLOAT, (-1, 3, 300, 300))
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    assert {output.name: (output.dtype, tuple(output.shape)[1:]) for output in outputs} == {
        "boxes": (trt.DataType.FLOAT, (100, 4)),
        "scores": (trt.DataType.FLOAT, (100,)),
        "labels": (trt.DataType.INT32, (100,)),
    }


def test_no_runner_takes_the_bundles_graph_and_normalises_twice(bundle: Path) -> None:
    (path,) = bundle.glob("*.onnx")
    with pytest.raises(ModelError, match="metadata"):
        load_detector(path)


def test_a_graph_that_computes_something_else_is_not_written(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssd_deploy.bundles.deepstream import graph

    monkeypatch.setattr(graph, "preprocess", lambda image, spec: preprocess(image[:, ::-1], spec))
    with pytest.raises(ModelError, match="gives other .*nothing was written"):
        graph.pixel_graph(load_exported(model))


@pytest.mark.parametrize(("key", "value", "step"), [("input_kind", "uint8", "uint8"), ("batch_size", "4", "batch")])
def test_results_of_steps_that_nvinfer_cannot_feed_are_refused(model: Path, key: str, value: str, step: str) -> None:
    from ssd_deploy.bundles.deepstream.graph import pixel_graph

    source = load_exported(model)
    with pytest.raises(ModelError, match=f"is a result of {step}, of which no bundle"):
        pixel_graph(dataclasses.replace(source, metadata=source.metadata | {key: value}))


def real_images(real_data: Path) -> list[Image]:
    cells = sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[:4]
    photos = sorted((real_data / "coco_tiny" / "val2017").glob("*.jpg"))[:2]
    return [load_image(path) for path in (*cells, *photos)]


def outputs_of(bundle: Path, images: list[Image]) -> list[dict[str, NDArray]]:
    """What the bundle's graph gives for pictures that were resized as in training, an entry a picture."""
    (path,) = bundle.glob("*.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ((name, (height, width)),) = [(value.name, value.shape[2:]) for value in session.get_inputs()]
    resized = [
        cv2.resize(image, (width, height), interpolation=interpolation_for(image.shape[:2], (height, width)))
        for image in images
    ]
    pixels = np.stack([image.transpose(2, 0, 1) for image in resized]).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    batch = dict(zip(names, session.run(names, {name: pixels}), strict=True))
    return [{name: values[index] for name, values in batch.items()} for index in range(len(images))]


def test_the_parser_finds_what_the_detector_finds(
    program: Path, bundle: Path, detector: Detector, real_data: Path
) -> None:
    images = [*(draw_picture(3, index)[0] for index in range(6)), *real_images(real_data)]
    size = detector.spec.input_size
    outputs = [[Layer(name, values) for name, values in found.items()] for found in outputs_of(bundle, images)]
    assert {layer.values.dtype.name for layers in outputs for layer in layers} == {"float32", "int32"}
    everything = detector.detect(images)
    counts = {}
    for threshold in (0.01, 0.3):
        cases = [Case(layers=layers, input_size=size, thresholds=[threshold] * 5) for layers in outputs]
        # As TensorRT 10 gives what no Cast makes narrower.
        int64 = [
            dataclasses.replace(
                case, layers=[dataclasses.replace(layer, values=as_int64(layer)) for layer in case.layers]
            )
            for case in cases
        ]
        parsed, said = run_parser(program, [*cases, *int64])
        assert said == []
        counts[threshold] = 0
        for image, found, *both in zip(images, everything, parsed[: len(images)], parsed[len(images) :], strict=True):
            expected = found.select(found.scores >= np.float32(threshold)).clipped(image.shape[:2])
            x1, y1, x2, y2 = expected.boxes.T
            expected = expected.select((x2 > x1) & (y2 > y1))
            counts[threshold] += len(expected)
            for one in both:
                assert one.worked
                np.testing.assert_array_equal(one.labels, expected.labels)
                np.testing.assert_allclose(one.scores, expected.scores, atol=1e-5)
                # The parser keeps a share of a pixel from the frame's lower edge.
                np.testing.assert_allclose(in_image(one, image, size), expected.boxes, atol=0.01)
    assert counts[0.01] > 100
    assert counts[0.3] > 15


def as_int64(layer: Layer) -> NDArray:
    return layer.values.astype(np.int64) if layer.name == "labels" else layer.values


def in_image(parsed: Parsed, image: Image, input_size: tuple[int, int]) -> NDArray[np.float64]:
    """Scale boxes to the picture; xyxy."""
    scale = np.array(image.shape[1::-1]) / input_size[::-1]
    corner, sides = parsed.boxes_ltwh[:, :2].astype(np.float64), parsed.boxes_ltwh[:, 2:].astype(np.float64)
    return np.concatenate([corner * scale, (corner + sides) * scale], axis=1)


BOXES = np.array([[1, 2, 5, 9], [3, 3, 20, 12], [0, 0, 0, 0]], np.float32)
SCORES = np.array([0.9, 0.4, -1], np.float32)
LABELS = np.array([1, 0, -1], np.int32)


def case(
    boxes: NDArray = BOXES,
    scores: NDArray = SCORES,
    labels: NDArray = LABELS,
    thresholds: tuple[float, ...] = (0.4, 0.4),
) -> Case:
    layers = [Layer("boxes", boxes), Layer("scores", scores), Layer("labels", labels)]
    return Case(layers=layers, input_size=(10, 16), thresholds=thresholds)


def with_layer(index: int, layer: Layer) -> Case:
    layers = list(case().layers)
    layers[index] = layer
    return dataclasses.replace(case(), layers=layers)


def test_thresholds_are_a_class_s_own_and_include_the_score(program: Path) -> None:
    thresholds = [(0.4, 0.4), (0.41, 0.4), (0.4, 0.91), (1.0, 1.0)]
    parsed, said = run_parser(program, [case(thresholds=each) for each in thresholds])
    assert [one.labels.tolist() for one in parsed] == [[1, 0], [1], [0], []]
    assert all(one.worked for one in parsed)
    assert said == []


def test_boxes_end_at_the_frame_and_empty_ones_are_left_out(program: Path) -> None:
    boxes = np.array([[-4, -5, 99, 99], [4, 4, 4, 8], [5, 5, 3, 8], [20, 2, 30, 5], [1, -9, 3, -2]], np.float32)
    scores, labels = np.full(5, 0.5, np.float32), np.zeros(5, np.int32)
    (parsed,), said = run_parser(program, [case(boxes, scores, labels)])
    np.testing.assert_allclose(parsed.boxes_ltwh, [[0, 0, 16, 10]], atol=1e-4)
    assert said == []


def test_no_row_behind_the_first_padding_is_read(program: Path) -> None:
    labels = np.array([1, -1, 0], np.int32)
    parsed, _ = run_parser(program, [case(labels=labels), case(labels=np.full(3, -1, np.int32))])
    assert [one.labels.tolist() for one in parsed] == [[1], []]
    assert all(one.worked for one in parsed)


def test_a_box_at_the_lower_edge_survives_nvinfers_roundings(program: Path) -> None:
    """nvinfer scales a box and drops it where top + height is beyond the frame: `attach_metadata_detector` of 9.1."""
    random = np.random.default_rng(0)
    rows = 400
    top = random.uniform(0, 300, rows)
    boxes = np.stack([np.full(rows, 1), top, np.full(rows, 9), np.full(rows, 400)], axis=1).astype(np.float32)
    layers = [
        Layer("boxes", boxes),
        Layer("scores", np.full(rows, 0.5, np.float32)),
        Layer("labels", np.zeros(rows, np.int32)),
    ]
    (parsed,), _ = run_parser(program, [Case(layers=layers, input_size=(300, 300), thresholds=[0.1])])
    assert len(parsed.labels) == rows
    for frame_height in range(240, 2400, 7):
        # Doubles in between, floats in the structure, and rows in pairs.
        ratio = np.float64(300) / (frame_height // 2 * 2)
        scaled = (parsed.boxes_ltwh.astype(np.float64) / ratio).astype(np.float32)
        assert (scaled[:, 1] + scaled[:, 3] <= np.float32(frame_height)).all()


HOSTILE = {
    "no layers": dataclasses.replace(case(), layers=[]),
    "a layer is missing": dataclasses.replace(case(), layers=case().layers[:2]),
    "another name": with_layer(0, Layer("box", BOXES)),
    "no name": with_layer(1, Layer(None, SCORES)),
    "no buffer": with_layer(0, Layer("boxes", None, (3, 4), 0)),
    "boxes of half": with_layer(0, Layer("boxes", BOXES.astype(np.float16))),
    "scores of int32": with_layer(1, Layer("scores", SCORES.astype(np.int32))),
    "labels of float": with_layer(2, Layer("labels", LABELS.astype(np.float32))),
    "labels of int8": with_layer(2, Layer("labels", LABELS.astype(np.int8))),
    "a type that does not exist": with_layer(2, Layer("labels", LABELS, dtype=7)),
    "fewer scores": with_layer(1, Layer("scores", SCORES[:2])),
    "fewer boxes": with_layer(0, Layer("boxes", BOXES[:2])),
    "boxes of five numbers": with_layer(0, Layer("boxes", np.zeros((3, 5), np.float32))),
    "one dimension too many": with_layer(1, Layer("scores", SCORES[:, None])),
    "no dimensions": with_layer(2, Layer("labels", LABELS[:1], ())),
    "a label beyond the classes": case(labels=np.array([2, 0, -1], np.int32)),
    "a label beyond 32 bits": case(labels=np.array([2**40, 0, -1], np.int64)),
    "a score that is no number": case(scores=np.array([0.9, np.nan, -1], np.float32)),
    "a box that is no number": case(boxes=np.array([[1, 2, np.nan, 9]] * 3, np.float32)),
    "an infinite box": case(boxes=np.array([[1, 2, 3, np.inf]] * 3, np.float32)),
    "fewer thresholds than classes": dataclasses.replace(case(), classes=3),
}


def test_hostile_outputs_are_refused_with_a_line_each_and_give_nothing(program: Path) -> None:
    parsed, said = run_parser(program, list(HOSTILE.values()))
    assert {name: (one.worked, len(one.labels)) for name, one in zip(HOSTILE, parsed, strict=True)} == dict.fromkeys(
        HOSTILE, (False, 0)
    )
    assert len(said) == len(HOSTILE)
    assert all(line.startswith("NvDsInferParseSsdDeploy: ") for line in said)


def test_the_parser_compiles_with_headers_that_lack_int64(bundle: Path, program: Path) -> None:
    command = ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-DEARLIER_RELEASE"]
    subprocess.run([*command, f"-I{INCLUDES}", bundle / "nvdsparsebbox_ssd_deploy.cpp"], check=True)
