"""ONNX Runtime's variants for a GPU: the same code, with a session on the CPU and values in the CPU's memory."""

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from tiny_data import Image

from export.session import open_session
from ssd_deploy.backends import BACKENDS, RunOptions, onnxruntime_options, open_model
from ssd_deploy.backends.onnxruntime import MOST_SESSIONS, OnnxRuntimeRunner
from ssd_deploy.backends.onnxruntime_bound import BoundSession, page_locked
from ssd_deploy.backends.onnxruntime_options import check_variants, may_use_tensor_cores, provider_list, variants_to_try
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError
from ssd_train.preprocess import preprocess

CPU = ("cpu", 0)


@pytest.fixture(scope="module")
def plain(model_path: Path) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(model_path)


@pytest.fixture
def batch(plain: OnnxRuntimeRunner, pictures: list[Image]) -> NDArray[np.float32]:
    return np.stack([preprocess(picture, plain.spec) for picture in pictures])


@pytest.fixture
def recording(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., OnnxRuntimeRunner]:
    """Opens a runner that records on the CPU as it would on CUDA; no variant changes anything there."""

    def open_it(
        path: Path = model_path, ways: Sequence[tuple[str, ...]] = (("first",), ("second",))
    ) -> OnnxRuntimeRunner:
        monkeypatch.setattr(onnxruntime_options, "variants_to_try", lambda *_: ways)
        return OnnxRuntimeRunner(path)

    return open_it


def assert_same(found: PaddedDetections, expected: PaddedDetections) -> None:
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, other)


def test_a_bound_session_finds_what_the_session_finds(
    model_path: Path, plain: OnnxRuntimeRunner, batch: NDArray[np.float32]
) -> None:
    session = open_session(model_path, "it")
    bound = [BoundSession(session, batch[:count].shape, CPU, "it") for count in (1, 2)]
    first = bound[0].run(batch[:1])
    kept = [array.copy() for array in first]
    read_only = batch[3:5].copy()
    read_only.flags.writeable = False
    view = np.ascontiguousarray(read_only.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for images in (read_only, view):
        assert_same(bound[1].run(images), plain.run(np.ascontiguousarray(images)))
    assert_same(bound[0].run(batch[2:3]), plain.run(batch[2:3]))
    assert_same(first, PaddedDetections(*kept))  # in memory of its own
    times_ms = bound[1].times_ms(batch[:2], 3)
    assert len(times_ms) == 3 and min(times_ms) > 0.1
    for each in (*bound, *bound):
        each.close()


def test_images_go_through_page_locked_memory_where_there_is_some(
    model_path: Path, plain: OnnxRuntimeRunner, batch: NDArray[np.float32]
) -> None:
    given: list[NDArray[np.float32]] = []
    freed: list[int] = []

    def fake_page_locked(
        shape: tuple[int, ...], dtype: np.dtype[Any], number: int
    ) -> tuple[NDArray[np.float32], Callable[[], None]]:
        """A fake: ordinary memory."""
        given.append(np.full(shape, np.nan, dtype))
        return given[0], lambda: freed.append(number)

    bound = BoundSession(open_session(model_path, "it"), batch.shape, CPU, "it", staging=fake_page_locked)
    assert_same(bound.run(batch), plain.run(batch))
    np.testing.assert_array_equal(given[0], batch)
    bound.close()
    bound.close()
    assert freed == [0]


def test_without_a_gpu_there_is_no_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert page_locked((1, 3, 4, 4), np.dtype(np.float32), 0) is None


def test_what_onnxruntime_refuses_is_one_sentence(model_path: Path, batch: NDArray[np.float32]) -> None:
    with pytest.raises(BackendError, match=r"it: ONNX Runtime failed to run it \(.+\)$"):
        BoundSession(open_session(model_path, "it"), (1, 3, 299, 300), CPU, "it").run(batch[:1, :, :299])


def test_sizes_that_come_again_get_sessions_of_their_own_and_nothing_else_changes(
    recording: Callable[..., OnnxRuntimeRunner], plain: OnnxRuntimeRunner, batch: NDArray[np.float32]
) -> None:
    runner = recording()
    assert runner._recordings is not None
    for _ in range(3):
        for count in (2, 1):
            assert_same(runner.run(batch[:count]), plain.run(batch[:count]))
    assert runner._recordings.recorded() == (2, 1)
    assert_same(runner.run(batch[1:3]), plain.run(batch[1:3]))
    assert_same(runner.run(batch), plain.run(batch))  # a size that came once
    for ours, theirs in zip(runner.run_raw(batch[:2]), plain.run_raw(batch[:2]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert runner.name == "onnxruntime (CPU)"
    runner.close()
    runner.close()


def test_one_thread_runs_every_session_whoever_calls(
    recording: Callable[..., OnnxRuntimeRunner], batch: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    run = onnxruntime.InferenceSession.run_with_iobinding

    def noting(session: onnxruntime.InferenceSession, *arguments: object) -> None:
        seen.add(threading.current_thread().name)
        run(session, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", noting)
    runner = recording()
    for _ in range(4):
        caller = threading.Thread(target=runner.run, args=(batch[:1],))
        caller.start()
        caller.join()
    assert len(seen) == 1 and seen.pop().startswith("onnxruntime")
    runner.close()


def test_a_file_that_was_replaced_meanwhile_is_not_recorded(
    recording: Callable[..., OnnxRuntimeRunner],
    model_path: Path,
    plain: OnnxRuntimeRunner,
    batch: NDArray[np.float32],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copied = Path(shutil.copyfile(model_path, tmp_path / "model.onnx"))
    runner = recording(copied)
    shutil.copyfile(model_path, tmp_path / "later.onnx")
    (tmp_path / "later.onnx").replace(copied)
    for _ in range(5):
        assert_same(runner.run(batch[:1]), plain.run(batch[:1]))
    assert runner._recordings is not None and runner._recordings.recorded() == ()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "runs without first from now on" in caplog.text and "model.onnx: was replaced" in caplog.text
    runner.close()


def test_a_variant_that_does_not_open_leaves_the_session_as_it_was(
    recording: Callable[..., OnnxRuntimeRunner],
    plain: OnnxRuntimeRunner,
    batch: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = recording(ways=(("cuda-graph",),))

    def refuse(*_: object) -> None:
        raise BackendError("it: CUDAExecutionProvider cannot run it (some nodes are on the CPU)")

    monkeypatch.setattr("ssd_deploy.backends.onnxruntime.open_session", refuse)
    for _ in range(4):
        assert_same(runner.run(batch[:1]), plain.run(batch[:1]))
    assert [record.getMessage() for record in caplog.records] == [
        "onnxruntime (CPU): runs without cuda-graph from now on (it: CUDAExecutionProvider cannot run it "
        "(some nodes are on the CPU))"
    ]
    runner.close()


def test_a_variant_that_was_asked_for_captures_at_once_and_keeps_a_few_sizes(
    model_path: Path, plain: OnnxRuntimeRunner, batch: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def noting(*arguments: object) -> object:
        opened.append(open_session(*arguments))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr("ssd_deploy.backends.onnxruntime.open_session", noting)
    monkeypatch.setattr(onnxruntime_options, "check_variants", lambda *_: None)
    runner = OnnxRuntimeRunner(model_path, variants=("cuda-graph",))
    assert runner.name == "onnxruntime (CPU, cuda-graph)" and runner._recordings is not None
    for count in (3, 1, 3):
        assert_same(runner.run(batch[:count]), plain.run(batch[:count]))
    assert runner._recordings.recorded() == (3, 1)
    assert len(opened) == 2, "the session that was looked at is the first size's"
    assert MOST_SESSIONS == 4
    runner.close()


def test_each_variant_is_an_option_of_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    ((name, options),) = provider_list("cuda:1", tensor_cores=True, variants=("cuda-graph", "nhwc"))
    assert name == "CUDAExecutionProvider"
    assert options == {"use_tf32": "1", "device_id": "1", "enable_cuda_graph": "1", "prefer_nhwc": "1"}
    assert provider_list("cuda", tensor_cores=False, variants=("plain",)) == [(name, {"use_tf32": "0"})]


def test_half_precision_may_use_tensor_cores_without_tf32() -> None:
    allowed = {name: may_use_tensor_cores(name, allow_tf32=False) for name in ("fp32", "fp16", "int8")}
    assert allowed == {"fp32": False, "fp16": True, "int8": False}
    assert may_use_tensor_cores("fp32", allow_tf32=True)


def test_variants_are_tried_on_cuda_alone_and_where_none_was_named() -> None:
    graph, both, layout = ("cuda-graph",), ("cuda-graph", "nhwc"), ("nhwc",)
    assert variants_to_try("cuda", (), "fp32") == (graph,)
    assert variants_to_try("cuda", (), "fp16") == (both, graph, layout)
    for provider, variants in (("cpu", ()), ("tensorrt", ()), ("cuda", ("plain",)), ("cuda", ("nhwc",))):
        assert variants_to_try(provider, variants, "fp16") == ()


@pytest.mark.parametrize(
    ("device", "variants", "words"),
    [
        ("cpu", ("cuda-graph",), "variant cuda-graph runs on the device cuda, not on 'cpu'; add --cuda"),
        ("tensorrt", ("nhwc",), "variant nhwc runs on the device cuda, not on 'tensorrt'"),
        ("cuda", ("nhwc", "plain"), "variants plain and nhwc contradict each other"),
    ],
)
def test_variants_that_do_not_fit_are_refused(device: str, variants: tuple[str, ...], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        check_variants(device, variants)


def test_a_variant_is_refused_before_the_file_is_read(model_path: Path) -> None:
    with pytest.raises(BackendError, match="cuda-graph runs on the device cuda"):
        open_model(BACKENDS["onnxruntime"], model_path, RunOptions(variants=("cuda-graph",)))
    assert (
        open_model(BACKENDS["onnxruntime"], model_path, RunOptions(variants=("plain",))).name
        == "onnxruntime (CPU, plain)"
    )
    with pytest.raises(ModelError, match="there is no such model file"):
        open_model(BACKENDS["onnxruntime"], Path("missing.onnx"), RunOptions(variants=("plain",)))
