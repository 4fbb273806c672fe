"""What OpenVINO's runner promises beside the contract of all backends: its precisions, and what it does not take."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from tiny_data import blocks

from export.file_metadata import CPU_GRAPH_KEY
from ssd_deploy import load_detector
from ssd_deploy.backends import BACKENDS, RunOptions, open_model, parse_backend
from ssd_deploy.benchmark.sources import Source, open_backends
from ssd_deploy.detector import Detector
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError
from ssd_train.preprocess import load_image, preprocess
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES

openvino = pytest.importorskip("openvino")
UNITS = set(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
ROW = BACKENDS["openvino"]
# Whether the hint is kept at all: AVX-512 is enough for bf16, in emulation.
BF16 = "BF16" in UNITS or "avx512bw" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
with_bf16 = pytest.mark.skipif(not BF16, reason="this CPU computes nothing in bf16")


@pytest.fixture(scope="module")
def runner(model_path: Path) -> Any:
    return open_model(ROW, model_path, RunOptions())


@pytest.fixture(scope="module")
def in_bf16(model_path: Path) -> Any:
    return open_model(ROW, model_path, RunOptions(variants=("bf16",)))


@pytest.fixture(scope="module")
def images(runner: Any) -> NDArray[np.float32]:
    made = (blocks(240, 320, 60, seed, contrast) for seed, contrast in enumerate((1.0, 0.5, 0.1)))
    return np.stack([preprocess(image, runner.spec) for image in made])


@pytest.fixture(scope="module")
def post_processing(model_path: Path) -> onnxruntime.InferenceSession:
    """Decode and NMS of the file alone, in ONNX Runtime."""
    tail = onnx.utils.Extractor(onnx.load(model_path)).extract_model(list(RAW_NAMES), list(OUTPUT_NAMES))
    return onnxruntime.InferenceSession(tail.SerializeToString(), providers=["CPUExecutionProvider"])


def with_metadata(model: Path, **entries: str) -> bytes:
    graph = onnx.load(model)
    metadata = {entry.key: entry.value for entry in graph.metadata_props} | entries
    onnx.helper.set_model_props(graph, metadata)
    return graph.SerializeToString()


def test_real_images_get_the_same_as_in_onnx_runtime(
    model_path: Path, runner: Any, real_data: Path, assert_same_detections: Callable[..., None]
) -> None:
    pictures = [load_image(path) for path in sorted((real_data / "coco_tiny" / "val2017").glob("*.jpg"))[:8]]
    reference = open_model(BACKENDS["onnxruntime"], model_path, RunOptions())
    for ours, theirs in zip(Detector(runner).detect(pictures), Detector(reference).detect(pictures), strict=True):
        assert len(ours) == 100
        assert_same_detections(ours, theirs, box_px=1e-2, score=4e-6)


@pytest.mark.parametrize(("values", "shares"), [((0, -1000), (0.5, 0.5)), ((0, 200), (0.99, 0.01)), ((0,), (1,))])
def test_nms_keeps_the_very_same_candidates_among_ties_too(
    runner: Any, post_processing: onnxruntime.InferenceSession, values: tuple[int, ...], shares: tuple[float, ...]
) -> None:
    """Straight into decode and NMS: scores are 1/k for whole numbers k, exactly so, whatever the order of sums."""
    rng = np.random.default_rng(0)
    logits = rng.choice(np.array(values, np.float32), (3, 2268, 21), p=shares)
    offsets = (rng.integers(-1, 2, (3, 2268, 4)) / 2).astype(np.float32)
    expected = post_processing.run(OUTPUT_NAMES, {"cls_logits": logits, "box_offsets": offsets})
    request = runner._postprocess.create_infer_request()
    found = request.infer({"cls_logits": logits, "box_offsets": offsets})
    boxes, scores, labels = (found[name] for name in OUTPUT_NAMES)
    assert len(np.unique(scores)) < scores.size / 4, "there are no ties"
    np.testing.assert_array_equal(labels, expected[2])
    np.testing.assert_allclose(scores, expected[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(boxes, expected[0], rtol=0, atol=1e-3)


@with_bf16
def test_bf16_is_the_networks_alone_and_decode_and_nms_stay_in_float32(
    in_bf16: Any, runner: Any, images: NDArray[np.float32], post_processing: onnxruntime.InferenceSession
) -> None:
    raw, exact = in_bf16.run_raw(images), runner.run_raw(images)
    for rounded, value in zip(raw, exact, strict=True):
        error = np.sqrt(np.mean((rounded - value) ** 2)) / value.std()
        # Eight bits of mantissa: 0.4 % a rounding.
        assert 1e-3 < error < 5e-2
    boxes, scores, labels = post_processing.run(OUTPUT_NAMES, dict(zip(RAW_NAMES, raw, strict=True)))
    found = in_bf16.run(images)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-6)
    # In bf16 a coordinate of 200 would be whole pixels off.
    np.testing.assert_allclose(found.boxes, boxes, rtol=0, atol=1e-2)


@with_bf16
def test_what_it_computes_in_is_said_and_a_cpu_without_units_too(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), load_detector(model_path, precision="bf16") as detector:
        assert detector.spec.precision == "bf16"
        if "BF16" in UNITS:
            assert detector.runner.name == "openvino (CPU, bf16)" and not caplog.records
        else:
            assert detector.runner.name == "openvino (CPU, bf16, emulated)"
            assert "no bf16 units" in caplog.text and "slower than fp32" in caplog.text


@pytest.mark.skipif("FP16" in UNITS, reason="this CPU computes in fp16")
def test_a_precision_that_openvino_would_silently_replace_is_refused(model_path: Path) -> None:
    with pytest.raises(BackendError, match=r"this CPU computes nothing in fp16 \(OpenVINO took f32\); use fp32"):
        load_detector(model_path, backend="openvino", precision="fp16")


def test_precisions_exclude_each_other(model_path: Path) -> None:
    words = "the openvino backend computes in one precision, not in bf16 and fp16; name one"
    with pytest.raises(BackendError, match=words):
        parse_backend("openvino:bf16+fp16")
    with pytest.raises(BackendError, match=words):
        open_model(ROW, model_path, RunOptions(variants=("bf16", "fp16")))


@pytest.mark.parametrize(
    ("own", "backend", "precision", "words"),
    [
        (
            "fp32",
            "onnxruntime",
            "bf16",
            "fp32, and the onnxruntime backend does not compute it in bf16; choose openvin",
        ),
        ("fp32", "openvino", "int8", "fp32, and no backend can compute it in int8; export its network in int8"),
        ("fp32", "auto", "tf32", "fp32, and no backend can compute it in tf32; leave tf32 out"),
        ("fp16", "openvino", "bf16", "has its own precision, fp16, and only a float32 file is computed in another"),
        ("int8", "auto", "bf16", "has its own precision, int8, and only a float32 file is computed in another"),
        ("int8", "auto", "fp32", "has its own precision, int8"),
    ],
)
def test_a_precision_that_does_not_fit_a_file_is_one_sentence(
    model_path: Path, own: str, backend: str, precision: str, words: str
) -> None:
    content = with_metadata(model_path, precision=own)
    with pytest.raises(BackendError, match=words) as caught:
        load_detector(content, backend=backend, precision=precision)
    assert caught.value.arguments == ("precision",)


def test_a_variant_does_not_fit_a_file_of_another_precision(model_path: Path) -> None:
    content = with_metadata(model_path, precision="fp16")
    with pytest.raises(BackendError, match="is fp16 already.*leave bf16 out, or name the float32 file"):
        open_model(ROW, content, RunOptions(variants=("bf16",)))


@pytest.mark.parametrize("own", ["fp32", "fp16", "int8"])
def test_a_file_may_be_asked_for_its_own_precision(model_path: Path, own: str) -> None:
    with load_detector(with_metadata(model_path, precision=own), precision=own) as detector:
        assert detector.runner.name == "onnxruntime (CPU)" and detector.spec.precision == own


@with_bf16
def test_a_network_is_exported_in_float32_and_computed_in_bf16() -> None:
    detector = load_detector("ssd_300_mobilenet0.25_voc", "openvino", weights="random", precision="bf16")
    assert detector.runner.name.startswith("openvino (CPU, bf16") and detector.spec.precision == "bf16"


@with_bf16
def test_benchmark_measures_a_file_in_every_precision_of_its_backends(model_path: Path) -> None:
    choices = [parse_backend(text) for text in ("openvino", "openvino:bf16")]
    with open_backends([Source.from_file(model_path)], choices, (1,)) as (contenders, not_run):
        assert not_run == ()
        assert [(each.backend, each.runner.spec.precision) for each in contenders] == [
            ("openvino", "fp32"),
            ("openvino:bf16", "bf16"),
        ]


def test_threads_are_as_many_as_asked_for(model_path: Path) -> None:
    runner: Any = open_model(ROW, model_path, RunOptions(threads=1))
    assert runner.cpu_threads == 1
    assert runner._network.get_property("NUM_STREAMS") == 1


def test_several_threads_get_each_its_own_answer(runner: Any, images: NDArray[np.float32]) -> None:
    expected = [runner.run(images[: count + 1]) for count in range(3)]
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(4):
            count = (number + turn) % 3
            found: PaddedDetections = runner.run(images[: count + 1])
            if not all(np.array_equal(*pair) for pair in zip(found, expected[count], strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_may_be_called_what_is_no_text(model_path: Path, tmp_path: Path, images: NDArray[np.float32]) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    path.symlink_to(model_path)
    assert open_model(ROW, path, RunOptions()).run(images[:1]).scores.shape == (1, 100)


def test_a_file_rewritten_for_onnx_runtime_is_refused(model_path: Path) -> None:
    content = with_metadata(model_path, **{CPU_GRAPH_KEY: "{}"})
    with pytest.raises(ModelError, match="was rewritten for ONNX Runtime on one CPU; name the file that it was made"):
        open_model(ROW, content, RunOptions())


def external(graph: onnx.ModelProto) -> None:
    weights = graph.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="w.bin")


def unknown(graph: onnx.ModelProto) -> None:
    graph.graph.node[5].op_type = "Nonsense"


def no_raw(graph: onnx.ModelProto) -> None:
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == "cls_logits" else name for name in names]


def short(graph: onnx.ModelProto) -> None:
    weights = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    weights.raw_data = weights.raw_data[:100]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (external, "keeps '.+' in another file, and a model is one file here"),
        (unknown, "is not a usable ONNX file .No conversion rule found for operations: Nonsense"),
        (no_raw, "has no inner value cls_logits; export it again"),
        (short, "is not a usable ONNX file .The size of the initializer"),
    ],
)
def test_a_damaged_file_is_one_sentence(model_path: Path, tmp_path: Path, damage: Any, words: str) -> None:
    graph = onnx.load(model_path)
    damage(graph)
    path = tmp_path / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match=words) as caught:
        open_model(ROW, path, RunOptions())
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("name", "words"), [("", "is a folder"), ("none.onnx", "there is no such model file")])
def test_what_is_no_file_is_one_sentence(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        open_model(ROW, tmp_path / name, RunOptions())
