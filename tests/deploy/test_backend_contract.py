"""What every backend promises, checked over all of them. A new backend is one entry in `BACKENDS`."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import Image, blocks

from ssd_deploy import doctor
from ssd_deploy.backends import BACKENDS as ROWS
from ssd_deploy.backends import Finding, RunOptions
from ssd_deploy.backends.base import Runner
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_deploy.detector import Detector
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import BackendError, ImageError
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD
from ssd_train.preprocess import preprocess
from ssd_train.spec import PostprocessSettings


def open_engine(flavour: str, path: Path) -> Runner:
    """An engine of the exported file, for as many images as the batch of these tests has."""
    return ROWS[flavour].open(path, RunOptions(device="cuda", batch_size=5, with_raw=True))


def open_torch(network: SSD, *variants: str) -> Runner:
    return ROWS["torch"].open(copy.deepcopy(network), RunOptions(device="cuda", variants=variants))


# By the names that `ssd-deploy doctor` uses, with variants behind a comma. Without one PyTorch and ONNX Runtime on CUDA
# replay what comes again, where that finds the same. ONNX Runtime's TensorRT provider is left out: it rounds to TF32.
BACKENDS: dict[str, Callable[[SSD, Path], Runner]] = {
    "torch (cpu)": lambda network, _: TorchRunner(copy.deepcopy(network)),
    "torch (cuda)": lambda network, _: TorchRunner(copy.deepcopy(network), device="cuda"),
    **{
        f"torch (cuda, {', '.join(variants)})": lambda network, _, variants=variants: open_torch(network, *variants)
        for variants in (("eager",), ("cuda-graph",), ("channels-last", "cuda-graph"))
    },
    "onnxruntime (cpu)": lambda _, path: OnnxRuntimeRunner(path),
    "onnxruntime (cuda)": lambda _, path: OnnxRuntimeRunner(path, device="cuda"),
    **{
        f"onnxruntime (cuda, {', '.join(variants)})": lambda _, path, variants=variants: OnnxRuntimeRunner(
            path, device="cuda", variants=variants
        )
        for variants in (("plain",), ("nhwc",), ("cuda-graph",), ("cuda-graph", "nhwc"))
    },
    "openvino": lambda _, path: ROWS["openvino"].open(path, RunOptions()),
    "tensorrt": lambda _, path: open_engine("tensorrt", path),
    "tensorrt-rtx": lambda _, path: open_engine("tensorrt-rtx", path),
}

Same = Callable[..., None]


def place_of(backend: str) -> str:
    """Where a backend runs, as `ssd-deploy doctor` calls it: without its variants."""
    return backend.split(",")[0].rstrip(")") + ")" if "," in backend else backend


@pytest.fixture(scope="module")
def works() -> dict[str, Finding]:
    return doctor.examine()


@pytest.fixture(scope="module")
def runners() -> dict[str, Runner]:
    """Those made so far: a session costs more than a test."""
    return {}


@pytest.fixture(params=BACKENDS)
def runner(
    request: pytest.FixtureRequest,
    works: dict[str, Finding],
    runners: dict[str, Runner],
    shared_network: SSD,
    model_path: Path,
) -> Runner:
    place = place_of(request.param)
    if not works[place].works:
        # With the mark pytest folds the skipped tests of a backend into one line.
        request.node.add_marker(pytest.mark.skip)
        pytest.skip(f"{place} does not work here; `ssd-deploy doctor` says why")
    if request.param not in runners:
        runners[request.param] = BACKENDS[request.param](shared_network, model_path)
    return runners[request.param]


@pytest.fixture
def batch(runner: Runner, pictures: list[Image]) -> NDArray[np.float32]:
    return np.stack([preprocess(picture, runner.spec) for picture in pictures])


def row_of(padded: PaddedDetections, row: int) -> Detections:
    """One image's detections in network-input pixels."""
    return Detections.from_padded(padded, row, (300, 300), (300, 300))


def test_every_backend_of_doctor_is_in_the_list(works: dict[str, Finding]) -> None:
    # A server is asked in `test_kserve_runner.py`, and gives out no raw predictions.
    assert set(works) - {"onnxruntime (tensorrt)", "kserve"} == {place_of(backend) for backend in BACKENDS}


def test_values_are_those_of_the_torch_modules(
    runner: Runner, batch: NDArray[np.float32], network: SSD, assert_same_detections: Same
) -> None:
    with torch.inference_mode():
        outputs = Postprocess(PostprocessSettings())(*network(torch.from_numpy(batch)), network.anchors)
    expected = PaddedDetections(*(value.numpy() for value in outputs))
    found = runner.run(batch)
    for row in range(len(batch)):
        # Float32 sums in another order: 5e-5 px and 1e-6 are seen on a CPU.
        assert_same_detections(row_of(found, row), row_of(expected, row), box_px=1e-2, score=1e-5)


def test_raw_predictions_are_those_of_the_torch_network(
    runner: Runner, batch: NDArray[np.float32], network: SSD
) -> None:
    with torch.inference_mode():
        expected = [value.numpy() for value in network(torch.from_numpy(batch))]
    found = runner.run_raw(batch)
    assert found.cls_logits.shape == (5, 2268, 21)
    assert found.box_offsets.shape == (5, 2268, 4)
    for value, reference in zip(found, expected, strict=True):
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-3 * reference.std())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_arrays_have_the_promised_shapes_and_dtypes(runner: Runner, batch: NDArray[np.float32], count: int) -> None:
    found = runner.run(batch[:count])
    assert [array.shape for array in found] == [(count, 100, 4), (count, 100), (count, 100)]
    assert [array.dtype for array in found] == [np.float32, np.float32, np.int64]
    assert runner.max_batch_size is None or count <= runner.max_batch_size


def test_each_slot_of_a_batch_equals_the_same_image_alone(
    runner: Runner, batch: NDArray[np.float32], assert_same_detections: Same
) -> None:
    together = runner.run(batch)
    for row in range(len(batch)):
        alone = runner.run(batch[row : row + 1])
        assert_same_detections(row_of(together, row), row_of(alone, 0), box_px=1e-4, score=1e-5)


def test_equal_images_of_a_batch_get_equal_answers(
    runner: Runner, batch: NDArray[np.float32], assert_same_detections: Same
) -> None:
    found = runner.run(np.stack([batch[0], batch[3], batch[0], batch[0]]))
    assert len(row_of(found, 0)) == 100
    for row in (2, 3):
        assert_same_detections(row_of(found, row), row_of(found, 0), box_px=1e-4, score=1e-5)


def test_padding_is_minus_one_everywhere_and_only_at_the_end(runner: Runner, batch: NDArray[np.float32]) -> None:
    found = runner.run(batch)
    counts = (found.labels >= 0).sum(axis=1)
    assert counts[0] == 100 and counts[1] == 0 and 0 < counts[2] < 100, "no picture has padding after detections"
    for row, count in enumerate(counts):
        assert (found.labels[row, :count] >= 0).all() and (found.labels[row, :count] < 20).all()
        assert (found.scores[row, :count] > 0.01).all() and (found.scores[row, :count] <= 1).all()
        assert (found.boxes[row, :count, 2:] > found.boxes[row, :count, :2]).all()
        for array in found:
            assert (array[row, count:] == -1).all()


def test_scores_descend(runner: Runner, batch: NDArray[np.float32]) -> None:
    scores = runner.run(batch).scores
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (np.diff(scores[0]) < 0).any()


def test_an_answer_stays_valid_after_further_calls(runner: Runner, batch: NDArray[np.float32]) -> None:
    answers = runner.run(batch[:2]), runner.run_raw(batch[:2])
    kept = [array.copy() for answer in answers for array in answer]
    runner.run(batch[3:5])
    runner.run_raw(batch[3:5])
    for array, before in zip((array for answer in answers for array in answer), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_the_same_call_gives_the_same_values_again(runner: Runner, batch: NDArray[np.float32]) -> None:
    first = runner.run(batch[:3])
    runner.run(batch[3:])
    for array, again in zip(first, runner.run(batch[:3]), strict=True):
        np.testing.assert_allclose(again, array, rtol=0, atol=1e-5)


def test_inputs_are_not_modified_and_may_be_read_only_or_a_view(
    runner: Runner, batch: NDArray[np.float32], assert_same_detections: Same
) -> None:
    expected = runner.run(batch)
    before = batch.copy()
    batch.flags.writeable = False
    view = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not view.flags.c_contiguous
    for images in (batch, view):
        found = runner.run(images)
        for row in range(len(batch)):
            # Strides choose another convolution, hence another order of sums.
            assert_same_detections(row_of(found, row), row_of(expected, row), box_px=1e-2, score=1e-5)
        runner.run_raw(images)
    np.testing.assert_array_equal(batch, before)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((0, 3, 300, 300), np.float32),
        ((3, 300, 300), np.float32),
        ((1, 300, 300, 3), np.float32),
        ((1, 3, 300, 299), np.float32),
        ((1, 1, 300, 300), np.float32),
        ((1, 3, 300, 300), np.float64),
        ((1, 3, 300, 300), np.float16),
        ((1, 3, 300, 300), np.uint8),
    ],
)
def test_another_shape_or_dtype_or_no_image_at_all_is_refused(
    runner: Runner, shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    images = np.zeros(shape, dtype)
    for call in (runner.run, runner.run_raw):
        with pytest.raises(BackendError, match=r"batch of 0|float32 images of shape \(N, 3, 300, 300\)"):
            call(images)


def test_name_says_where_it_runs_and_spec_what_it_is(runner: Runner, works: dict[str, Finding]) -> None:
    backend, device = runner.name.rstrip(")").split(",")[0].split(" (")
    # A backend with one device is called by its name alone.
    assert works.keys() & {backend, f"{backend} ({device.lower().removesuffix(':0')})"}
    assert runner.spec.network == "ssd_300_mobilenet0.25_voc"
    assert runner.spec.input_size == (300, 300)
    assert runner.spec.class_names[:2] == ("aeroplane", "bicycle")
    assert (runner.spec.weights, runner.spec.precision) == ("random, seed 0", "fp32")
    assert runner.spec.postprocess == PostprocessSettings()


def test_no_images_give_no_detections(runner: Runner) -> None:
    assert Detector(runner).detect([]) == []


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_images_of_any_size_and_number_are_detected_in_their_own_pixels(
    runner: Runner, pictures: list[Image], batch: NDArray[np.float32], batch_size: int, assert_same_detections: Same
) -> None:
    padded = runner.run(batch)
    found = Detector(runner, batch_size=batch_size).detect(pictures)
    assert [len(detections) for detections in found] == [int((labels >= 0).sum()) for labels in padded.labels]
    for row, (detections, picture) in enumerate(zip(found, pictures, strict=True)):
        height, width = picture.shape[:2]
        in_input = row_of(padded, row)
        scaled = (in_input.boxes * np.array([width, height, width, height]) / 300).astype(np.float32)
        expected = Detections(scaled, in_input.scores, in_input.labels)
        assert_same_detections(detections, expected, box_px=1e-3, score=1e-5)
        assert (detections.boxes.dtype, detections.labels.dtype) == (np.float32, np.int64)


def test_detecting_does_not_modify_the_images(runner: Runner) -> None:
    image = blocks(60, 80, 10, 0)
    before = image.copy()
    image.flags.writeable = False
    Detector(runner).detect([image, image])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((30, 40, 3), np.float32),
        np.zeros((30, 40, 3), np.int64),
        np.zeros((30, 40, 2), np.uint8),
        np.zeros((3, 30, 40), np.uint8),
        np.zeros((0, 40, 3), np.uint8),
        None,
    ],
)
def test_whatever_is_no_image_is_refused(runner: Runner, image: object) -> None:
    with pytest.raises(ImageError, match="RGB uint8"):
        Detector(runner).detect([np.zeros((30, 40, 3), np.uint8), image])  # type: ignore[list-item]
