"""A detector opened from a path or from bytes, used by several threads, pickled, and closed."""

import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import FakeRunner, blocks

from ssd_deploy import Detections, load_detector
from ssd_deploy.backends import BACKENDS
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.detector import Detector
from ssd_train.errors import BackendError, ModelError, SpecError, WeightsError
from ssd_train.spec import DetectorSpec, PostprocessSettings

NAME = "ssd_300_mobilenet0.25_voc"
SPEC = DetectorSpec(network="tiny", class_names=("cat", "dog"), input_size=(30, 60))
PICTURE = blocks(90, 120, 15, 3)


def same(one: Detections, other: Detections) -> bool:
    assert len(other) > 0
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))


class ClosingRunner(FakeRunner):
    closed = 0

    def close(self) -> None:
        self.closed += 1


# --- Closing ---


def test_a_detector_closes_behind_its_block_and_says_so_afterwards() -> None:
    runner = ClosingRunner(SPEC, [])
    with Detector(runner) as detector:
        detector.detect(PICTURE)
        assert runner.closed == 0
    assert runner.closed == 1
    detector.close()
    assert runner.closed == 1
    for use in (
        lambda: detector.detect(PICTURE),
        lambda: detector.detect(iter([PICTURE])),
        lambda: pickle.dumps(detector),
        detector.__enter__,
    ):
        with pytest.raises(BackendError, match="the detector tiny was closed; load it again"):
            use()
    # What it is can still be asked.
    assert detector.spec.class_names == ("cat", "dog")


def test_an_error_inside_the_block_closes_too_and_is_its_own() -> None:
    runner = ClosingRunner(SPEC, [])
    with pytest.raises(RuntimeError, match="mine"), Detector(runner):
        raise RuntimeError("mine")
    assert runner.closed == 1


def test_a_generator_that_goes_on_after_the_end_says_so() -> None:
    with Detector(ClosingRunner(SPEC, [(0, 0, 9, 9, 0.5, 1)]), batch_size=1) as detector:
        found = detector.detect(PICTURE for _ in range(9))
        assert len(next(found)) == 1
    with pytest.raises(BackendError, match="was closed"):
        list(found)


def test_every_backend_can_be_closed_twice(model_path: Path) -> None:
    for detector in (load_detector(model_path), load_detector(NAME, weights="random")):
        detector.detect(PICTURE)
        detector.close()
        detector.close()
        with pytest.raises(BackendError, match="was closed"):
            detector.detect(PICTURE)


def test_thresholds_that_cannot_be_leave_nothing_open(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    monkeypatch.setattr(OnnxRuntimeRunner, "close", lambda runner: closed.append(runner))
    with pytest.raises(SpecError, match="score_threshold"):
        load_detector(model_path, score_threshold=7)
    assert len(closed) == 1


# --- Threads ---


def test_several_threads_detect_at_once_as_one_does_alone(model_path: Path) -> None:
    pictures = [blocks(90, 120, 15, seed) for seed in range(6)]
    detector = load_detector(model_path, threads=1)
    expected = [detector.detect(picture) for picture in pictures]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(detector.detect, pictures))
    assert all(map(same, found, expected))


def test_the_number_of_threads_reaches_the_backend(model_path: Path) -> None:
    runner: Any = load_detector(model_path, threads=3).runner
    assert runner._options.intra_op_num_threads == 3
    with pytest.raises(BackendError, match="threads -1"):
        load_detector(model_path, threads=-1)


# --- Bytes ---


def test_bytes_of_a_file_are_the_file(model_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    detector = load_detector(model_path.read_bytes())
    assert detector.runner.name == "onnxruntime (CPU)"
    assert same(detector.detect(PICTURE), load_detector(model_path).detect(PICTURE))
    images = np.random.default_rng(0).normal(size=(1, 3, 300, 300)).astype(np.float32)
    for one, other in zip(
        detector.runner.run_raw(images), load_detector(model_path).runner.run_raw(images), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_backend_that_needs_a_file_gets_one_that_is_gone_again(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given: list[Path] = []

    def open_runner(model: Any, options: object) -> Any:
        assert model.read_bytes() == model_path.read_bytes()
        given.append(model)
        return FakeRunner(SPEC, [])

    row = BACKENDS["tensorrt-rtx"]
    monkeypatch.setattr(BACKENDS, "_rows", dict(BACKENDS) | {row.name: _replaced(row, open_runner)})
    assert load_detector(model_path.read_bytes(), "tensorrt-rtx").spec == SPEC
    assert len(given) == 1 and list(tmp_path.iterdir()) == []


def _replaced(row: Any, open_runner: Any) -> Any:
    return dataclasses.replace(row, open=open_runner)


@pytest.mark.parametrize(
    ("content", "options", "error", "words"),
    [
        (b"", {}, ModelError, "the 0 bytes given are none of an ONNX file"),
        (b"PK\x03\x04", {}, ModelError, "the 4 bytes given are none of an ONNX file"),
        (b"\x08nothing", {}, ModelError, "the ONNX file in memory: is not a usable ONNX file"),
        (None, {"backend": "torch"}, BackendError, "the torch backend runs no ONNX file; choose onnxruntime"),
        (None, {"weights": "random"}, WeightsError, "the model in memory: .*has its own weights"),
        (None, {"precision": "int8"}, BackendError, "the model in memory: has its own precision, fp32, and no"),
        (None, {"settings": PostprocessSettings()}, BackendError, "has its own thresholds"),
        (None, {"provider": "rocm"}, BackendError, "'rocm' is none of the onnxruntime backend"),
    ],
)
def test_bytes_that_are_no_model_or_do_not_fit_are_refused(
    model_path: Path, content: bytes | None, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load_detector(model_path.read_bytes() if content is None else content, **options)


def test_what_is_no_name_and_no_bytes_is_refused() -> None:
    with pytest.raises(BackendError, match="a model is a NoneType; name one, or give the bytes of an ONNX file"):
        load_detector(None)  # type: ignore[arg-type]


# --- Pickling ---


def test_a_detector_is_pickled_by_its_path_and_options(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(model_path.parent)
    detector = load_detector(
        model_path.name, threads=1, batch_size=3, score_threshold=0.02, class_thresholds={"cat": 0.5}, max_detections=7
    )
    pickled = pickle.dumps(detector)
    assert len(pickled) < 2000
    monkeypatch.chdir(tmp_path)
    again: Any = pickle.loads(pickled)
    assert (again.batch_size, again.runner._options.intra_op_num_threads) == (3, 1)
    assert same(again.detect(PICTURE), detector.detect(PICTURE)) and len(again.detect(PICTURE)) == 7
    # And once more, from what was unpickled.
    assert same(pickle.loads(pickle.dumps(again)).detect(PICTURE), detector.detect(PICTURE))


def test_a_network_is_pickled_by_its_name() -> None:
    detector = load_detector(NAME, weights="random:3")
    again = pickle.loads(pickle.dumps(detector))
    assert again.spec == detector.spec and same(again.detect(PICTURE), detector.detect(PICTURE))


def test_weights_are_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssd_train.weights.load import SHAPES_NETWORK, SHAPES_WEIGHTS

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "my.safetensors").write_bytes(SHAPES_WEIGHTS.read_bytes())
    monkeypatch.chdir(tmp_path / "here")
    by_weights, by_file = load_detector(SHAPES_NETWORK, weights="my.safetensors"), load_detector("my.safetensors")
    pickled = [pickle.dumps(each) for each in (by_weights, by_file)]
    monkeypatch.chdir(tmp_path)
    assert [pickle.loads(each).spec for each in pickled] == [by_weights.spec, by_file.spec]


def test_bytes_are_pickled_as_they_are(model_path: Path) -> None:
    detector = load_detector(model_path.read_bytes())
    assert same(pickle.loads(pickle.dumps(detector)).detect(PICTURE), detector.detect(PICTURE))


def test_a_detector_of_a_runner_cannot_be_pickled() -> None:
    with pytest.raises(BackendError, match="make it with load_detector"):
        pickle.dumps(Detector(FakeRunner(SPEC, [])))


SPAWNING = """
import multiprocessing, sys
import numpy as np
from ssd_deploy import load_detector

def scores(detector, image):
    return detector.detect(image).scores

if __name__ == "__main__":
    detector, image = load_detector(sys.argv[1]), np.load(sys.argv[2])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(scores, (detector, image))
    assert len(found) and np.array_equal(found, detector.detect(image).scores)
    print("the same")
"""


def test_a_detector_goes_to_another_process(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SPAWNING)
    np.save(tmp_path / "image.npy", PICTURE)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "script.py", str(model_path), "image.npy"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stdout.strip(), done.returncode) == ("the same", 0), done.stderr
