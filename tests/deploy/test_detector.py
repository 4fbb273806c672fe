import pickle
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail
from tiny_data import FakeRunner, Image

from ssd_deploy import load_detector
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_deploy.detector import Detector
from ssd_train.errors import BackendError, ImageError, ModelError, NetworkError, WeightsError
from ssd_train.networks.ssd import SSD
from ssd_train.spec import DetectorSpec, PostprocessSettings

NAME = "ssd_300_mobilenet0.25_voc"
SPEC = DetectorSpec(network="tiny", class_names=("cat", "dog"), input_size=(30, 60))


def identity_model(path: Path, metadata: dict[str, str], source: str = "x", copies: Sequence[str] = ("y",)) -> Path:
    """Write an ONNX file whose outputs are its input."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (source, *copies)]
    nodes = [helper.make_node("Identity", [source], [name]) for name in copies]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_auto_runs_a_file_in_onnxruntime_and_a_network_in_pytorch(model_path: Path) -> None:
    from_file = load_detector(model_path)
    from_name = load_detector(NAME, weights="random")
    assert isinstance(from_file.runner, OnnxRuntimeRunner)
    assert isinstance(from_name.runner, TorchRunner)
    assert (from_file.runner.name, from_name.runner.name) == ("onnxruntime (CPU)", "torch (cpu)")
    # The same seed, so the same weights; the file names the versions that made it besides.
    assert from_file.spec.weights_sha256 == from_name.spec.weights_sha256 != ""
    assert set(from_file.spec.versions) == {"torch", "onnx", "onnxruntime"}


def test_a_path_may_be_text(model_path: Path) -> None:
    assert load_detector(str(model_path), "onnxruntime").spec.network == NAME


def test_settings_reach_the_torch_detector(pictures: list[Image]) -> None:
    scores = load_detector(NAME, weights="random").detect(pictures[:1])[0].scores
    between = float(scores[4] + scores[5]) / 2
    for settings, count in (
        (PostprocessSettings(score_threshold=between), 5),
        (PostprocessSettings(score_threshold=between, max_detections=3), 3),
    ):
        detector = load_detector(NAME, weights="random", settings=settings)
        assert detector.spec.postprocess == settings
        np.testing.assert_allclose(detector.detect(pictures[:1])[0].scores, scores[:count], atol=1e-6)


def test_classes_reach_a_custom_network() -> None:
    detector = load_detector("ssd_300_mobilenet0.25_custom", weights="random", classes=["rbc", "wbc"])
    assert detector.spec.class_names == ("rbc", "wbc")


def test_a_device_and_variants_may_follow_the_name_of_a_backend(model_path: Path, pictures: list[Image]) -> None:
    detector = load_detector(model_path, backend="onnxruntime:cpu+plain")
    assert detector.runner.name == "onnxruntime (CPU, plain)"
    assert len(pickle.loads(pickle.dumps(detector)).detect(pictures[:1])[0]) == 100


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backend": "torch"}, BackendError, "torch backend does not run such a file; choose onnxruntime"),
        ({"backend": "tensorflow"}, BackendError, r"'tensorflow' does not exist; choose torch \(.*, onnxruntime"),
        ({"provider": "rocm"}, BackendError, "'rocm' is none of the onnxruntime backend; choose cpu, cuda, tensorrt"),
        ({"device": "cuda", "provider": "cpu"}, BackendError, "contradict each other"),
        ({"backend": "onnxruntime:fast"}, BackendError, "no variant 'fast'; choose cpu, cuda, tensorrt, cuda-graph"),
        ({"backend": "onnxruntime:cuda", "device": "cpu"}, BackendError, "'onnxruntime:cuda' and device 'cpu' contra"),
        ({"backend": "onnxruntime:cpu+nhwc"}, BackendError, "variant nhwc runs on the device cuda, not on 'cpu'"),
        ({"cuda_graph": True}, BackendError, "variant cuda-graph runs on the device cuda, not on 'cpu'"),
        ({"weights": "random"}, WeightsError, "has its own weights"),
        ({"classes": ["a"]}, WeightsError, "has its own weights and classes"),
        ({"settings": PostprocessSettings()}, BackendError, "has its own thresholds"),
        ({"precision": "int8"}, BackendError, "has its own precision"),
        ({"batch_size": 0}, BackendError, "batch size of 0"),
    ],
)
def test_options_that_do_not_fit_a_model_file_are_refused(
    model_path: Path, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load_detector(model_path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backend": "onnxruntime", "precision": "bf16"}, BackendError, "runs no network in bf16; choose torch"),
        ({"provider": "cuda"}, BackendError, "'cuda' is for ONNX Runtime"),
        ({"device": "abacus"}, BackendError, "'abacus' is none of the torch backend; choose cpu, cuda"),
        ({"classes": ["a"]}, NetworkError, "20"),
        ({"weights": "random:x"}, WeightsError, "'x' is not a whole number"),
        ({"weights": "nosuch.params"}, WeightsError, "nosuch.params"),
    ],
)
def test_options_that_do_not_fit_a_network_are_refused(
    options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load_detector(NAME, **({"weights": "random"} | options))  # type: ignore[arg-type]


def test_a_name_that_is_no_network_is_refused_with_a_suggestion() -> None:
    with pytest.raises(NetworkError, match="ssd_300_mobilenet0.25_voc"):
        load_detector("ssd_300_mobilenet0.25_vok", weights="random")


# Asked of torch and not of `doctor`, which looks through the code that is tested here.
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")


@without_gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_work_here_is_an_error(model_path: Path, provider: str) -> None:
    with pytest.raises(BackendError, match="(fell back to CPUExecutionProvider|built without).*the device cpu"):
        load_detector(model_path, provider=provider)


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], list[object]]:
    """Let ONNX Runtime list CUDA and TensorRT, and claim to use them or fall back; everything runs on the CPU.

    Returns a function that returns the list of provider arguments that sessions were opened with.
    """
    session = onnxruntime.InferenceSession

    def pretend(works: bool) -> list[object]:
        asked: list[object] = []

        class Pretending:
            def __init__(self, source: object, options: object, providers: list[object], **more: object) -> None:
                print("*************** EP Error ***************\n\nEP Error: libcudnn.so.9 is missing\n******")
                asked.append(providers)
                names = [entry if isinstance(entry, str) else entry[0] for entry in providers]  # type: ignore[index]
                self.names = names if works else ["CPUExecutionProvider"]
                self.session = session(source, options, providers=["CPUExecutionProvider"])

            def get_providers(self) -> list[str]:
                return self.names

            def __getattr__(self, name: str) -> object:
                return getattr(self.session, name)

        monkeypatch.setattr(onnxruntime, "InferenceSession", Pretending)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
        names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
        return asked

    return pretend


@pytest.mark.parametrize(("provider", "name"), [("cuda", "CUDA"), ("tensorrt", "Tensorrt")])
def test_a_session_that_silently_falls_back_to_the_cpu_is_an_error(
    model_path: Path, pretend_gpu: Callable[[bool], list[object]], provider: str, name: str
) -> None:
    pretend_gpu(False)
    words = (
        rf"{name}ExecutionProvider was asked for, but the session fell back to CPU.*EP Error: libcudnn.*the device cpu"
    )
    with pytest.raises(BackendError, match=words):
        load_detector(model_path, provider=provider)
    assert load_detector(model_path, provider="cpu").runner.name == "onnxruntime (CPU)"


def test_a_provider_that_fails_in_a_later_call_is_not_replaced_by_the_cpu(
    model_path: Path, pretend_gpu: Callable[[bool], list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(True)
    detector = load_detector(model_path, provider="cuda")

    session = detector.runner._session.session  # type: ignore[attr-defined]
    inner = session._sess

    class OutOfMemory:
        def run(self, *arguments: object) -> object:
            raise EPFail("CUDA failure 2: out of memory")

        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

    monkeypatch.setattr(session, "_sess", OutOfMemory())
    with pytest.raises(BackendError, match="out of memory"):
        detector.detect([np.zeros((9, 9, 3), np.uint8)])


@pytest.mark.parametrize(
    ("provider", "allow_tf32", "precision"),
    [("cpu", True, "fp32"), ("cuda", False, "fp32"), ("cuda", True, "tf32"), ("tensorrt", False, "tf32")],
)
def test_tf32_is_off_in_onnxruntime_unless_allowed_and_told_where_it_is_on(
    model_path: Path, pretend_gpu: Callable[[bool], list[object]], provider: str, allow_tf32: bool, precision: str
) -> None:
    asked = pretend_gpu(True)
    detector = load_detector(model_path, provider=provider, allow_tf32=allow_tf32)
    assert detector.spec.precision == precision
    if provider == "cpu":
        assert asked == [["CPUExecutionProvider"]]
    else:
        ((*_, cuda),) = asked
        assert cuda == ("CUDAExecutionProvider", {"use_tf32": "1" if allow_tf32 else "0"})


def test_tf32_is_off_in_torch_unless_allowed() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            detector = load_detector(NAME, weights="random", allow_tf32=allowed)
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
            # A CPU has no TF32.
            assert detector.spec.precision == "fp32"
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@without_gpu
def test_torch_without_a_gpu_is_an_error() -> None:
    with pytest.raises(BackendError, match="no CUDA device"):
        load_detector(NAME, weights="random", device="cuda")


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nosuch.onnx: there is no such model file"):
        load_detector(tmp_path / "nosuch.onnx")


@pytest.mark.parametrize("kind", ["empty", "text", "cut off"])
def test_a_corrupt_model_file_is_named(tmp_path: Path, model_path: Path, kind: str) -> None:
    path = tmp_path / "broken.onnx"
    data = model_path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"<html>not found</html>", "cut off": data[: len(data) // 2]}[kind])
    with pytest.raises(ModelError, match="broken.onnx"):
        load_detector(path)


def test_an_onnx_file_without_our_metadata_is_refused(tmp_path: Path) -> None:
    path = identity_model(tmp_path / "foreign.onnx", {})
    with pytest.raises(ModelError, match=r"foreign.onnx: its metadata has no entry.*export the model again"):
        load_detector(path)


@pytest.mark.parametrize(
    ("source", "copies"), [("x", ("boxes", "scores", "labels")), ("images", ("boxes", "scores")), ("x", ("y",))]
)
def test_an_onnx_file_with_other_inputs_or_outputs_is_refused(
    tmp_path: Path, source: str, copies: tuple[str, ...]
) -> None:
    path = identity_model(tmp_path / "renamed.onnx", SPEC.to_metadata(), source, copies)
    with pytest.raises(ModelError, match=rf"renamed.onnx: has inputs \['{source}'\] and outputs .* instead of images"):
        load_detector(path)


@pytest.mark.parametrize(
    ("key", "value"), [("mean", "[0.5, 0.5]"), ("class_names", "[]"), ("score_threshold", "2"), ("input_size", "300")]
)
def test_an_onnx_file_with_damaged_metadata_is_refused(tmp_path: Path, key: str, value: str) -> None:
    path = identity_model(tmp_path / "damaged.onnx", SPEC.to_metadata() | {key: value})
    with pytest.raises(ModelError, match="damaged.onnx: its metadata cannot be used"):
        load_detector(path)


def test_a_file_without_inner_values_has_no_raw_predictions(tmp_path: Path, model_path: Path) -> None:
    model = onnx.load(model_path)
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "stripped.onnx")
    runner = OnnxRuntimeRunner(tmp_path / "stripped.onnx")
    images = np.zeros((1, 3, 300, 300), np.float32)
    assert runner.run(images).scores.shape == (1, 100)
    with pytest.raises(ModelError, match="stripped.onnx: has no inner value cls_logits, box_offsets"):
        runner.run_raw(images)


def test_images_go_to_the_backend_in_batches_that_it_takes() -> None:
    images = [np.zeros((10, 20, 3), np.uint8)] * 7
    for wanted, limit, sizes in ((8, None, [7]), (3, None, [3, 3, 1]), (8, 2, [2, 2, 2, 1]), (1, 4, [1] * 7)):
        runner = FakeRunner(SPEC, [(0, 0, 30, 30, 0.5, 1)], max_batch_size=limit)
        assert len(Detector(runner, batch_size=wanted).detect(images)) == 7
        assert runner.batch_sizes == sizes


def test_boxes_are_scaled_by_the_sides_of_each_image() -> None:
    # Input 60 wide and 30 high; images 120x30 and 6x300 (width x height).
    runner = FakeRunner(SPEC, [(6, 3, 30, 15, 0.75, 1), (-6, 0, 66, 30, 0.5, 0)])
    wide, high = Detector(runner).detect([np.zeros((30, 120, 3), np.uint8), np.zeros((300, 6, 3), np.uint8)])
    np.testing.assert_allclose(wide.boxes, [[12, 3, 60, 15], [-12, 0, 132, 30]], rtol=1e-6)
    np.testing.assert_allclose(high.boxes, [[0.6, 30, 3, 150], [-0.6, 0, 6.6, 300]], rtol=1e-6)
    for found in (wide, high):
        assert (found.scores.tolist(), found.labels.tolist()) == ([0.75, 0.5], [1, 0])


def test_a_network_in_training_mode_is_evaluated_all_the_same(
    network: SSD, pictures: list[Image], assert_same_detections: Callable[..., None]
) -> None:
    expected = load_detector(NAME, weights="random").detect(pictures[:1])[0]
    found = Detector(TorchRunner(network.train())).detect(pictures[:1])[0]
    assert_same_detections(found, expected, box_px=1e-3, score=1e-5)


def test_loading_in_several_threads_leaves_standard_output_alone(
    model_path: Path, pretend_gpu: Callable[[bool], list[object]]
) -> None:
    pretend_gpu(True)
    before = sys.stdout
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load_detector(model_path, provider="cuda"), range(12)))
    assert sys.stdout is before


def test_a_network_is_exported_for_a_backend_that_runs_files(
    model_path: Path, pictures: list[Image], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As `detect` does; the export, which has tests of its own, is stood in for by a copy of its file."""

    def copied(network: SSD, folder: Path, precision: str, settings: object, int8: object) -> Path:
        assert (network.config.name, precision, settings, int8) == (NAME, "fp32", None, None)
        return Path(shutil.copy(model_path, folder))

    monkeypatch.setattr("ssd_deploy.model_source.export_network", copied)
    with caplog.at_level("INFO"):
        detector = load_detector(NAME, "onnxruntime", weights="random")
    assert "onnxruntime runs files: exporting" in caplog.text
    expected = load_detector(model_path).detect(pictures[:1])[0]
    assert np.array_equal(detector.detect(pictures[:1])[0].boxes, expected.boxes)


def test_a_model_file_is_known_by_being_one_and_not_by_its_name(model_path: Path, tmp_path: Path) -> None:
    for name in ("MODEL.ONNX", "model"):
        path = tmp_path / name
        path.write_bytes(model_path.read_bytes())
        assert load_detector(path).runner.name == "onnxruntime (CPU)"


def test_a_folder_is_no_model_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        OnnxRuntimeRunner(tmp_path)


def test_the_package_names_what_its_detectors_return(model_path: Path) -> None:
    import ssd_deploy

    (found,) = ssd_deploy.load_detector(model_path).detect([np.zeros((9, 9, 3), np.uint8)])
    assert isinstance(found, ssd_deploy.Detections)


class AnsweringRunner(FakeRunner):
    """A fake whose second row is what a test says: (score, label)."""

    def __init__(self, spec: DetectorSpec, score: float, label: int) -> None:
        super().__init__(spec, [(0, 0, 30, 30, 0.5, 1), (0, 0, 9, 9, score, label)])


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        (float("nan"), 1, "values that are not finite"),
        (float("nan"), -1, "values that are not finite"),
        (float("inf"), 0, "values that are not finite"),
        (0.4, 2, "label 2 .*but there are 2 classes"),
        (0.4, -1, "neither detections nor all -1"),
    ],
)
def test_an_answer_that_is_no_detections_is_an_error_and_not_fewer_detections(
    score: float, label: int, message: str
) -> None:
    detector = Detector(AnsweringRunner(SPEC, score, label), batch_size=2)
    with pytest.raises(BackendError, match=rf"tiny: the backend answered with .*{message}") as caught:
        detector.detect([np.zeros((9, 9, 3), np.uint8)] * 3)
    assert "images[0] to images[1]" in str(caught.value)


def test_an_array_that_is_no_image_is_named_by_its_place() -> None:
    good = np.zeros((9, 9, 3), np.uint8)
    detector = Detector(FakeRunner(SPEC, []))
    for bad in (np.zeros((9, 9, 2), np.uint8), np.zeros((9, 9, 3), np.float32), "a.jpg", None):
        with pytest.raises(ImageError, match=r"images\[2\]: (an image (has|is)|a.jpg: cannot be read)"):
            detector.detect([good, good, bad])  # type: ignore[list-item]
    assert detector.detect([]) == []
