"""A served model is MODEL everywhere, asked as Triton's own client asks; a stand-in for the server answers."""

import concurrent.futures
import contextlib
import importlib.util
import json
import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve_server import serving
from numpy.typing import NDArray
from small_onnx import BIASES, BOXES, LABELS, SLOPE, write_small
from tiny_data import Image, blocks, write_image

from ssd_deploy import load_detector
from ssd_deploy.backends import BACKENDS, RunOptions, choose_backend
from ssd_deploy.backends.kserve import KServeRunner, inference_request
from ssd_deploy.bundles import BUNDLES
from ssd_deploy.bundles.folder import write_bundle
from ssd_train.errors import BackendError, ModelError, SSDDeployError, WeightsError
from ssd_train.input_kinds import INPUT_KINDS

needs_tritonclient = pytest.mark.skipif(
    importlib.util.find_spec("tritonclient") is None, reason="tritonclient, Triton's own client, is not installed"
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for name, batch in (("cells", None), ("pairs", 2)):
        write_bundle(BUNDLES["triton"], write_small(folder / f"{name}.onnx", batch=batch), folder / "models")
    return folder / "models"


@pytest.fixture(scope="module")
def address(repository: Path) -> Iterator[str]:
    with serving(repository / "cells") as address:
        yield address


def batch(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).normal(0, 1, (count, 3, 24, 32)).astype(np.float32)


def check_answer(runner: KServeRunner, images: NDArray[np.float32]) -> None:
    """Hold an answer against what the graph computes, by NumPy."""
    found = runner.run(images)
    scores = BIASES + SLOPE * images.mean(axis=(1, 2, 3), dtype=np.float64)[:, None]
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.boxes, np.tile(BOXES, (len(images), 1, 1)))
    np.testing.assert_array_equal(found.labels, np.tile(LABELS, (len(images), 1)))
    assert [array.dtype for array in found] == [np.float32, np.float32, np.int64]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_batch_is_answered_as_the_graph_says(address: str, count: int) -> None:
    runner = KServeRunner(address)
    assert runner.max_batch_size == 8
    check_answer(runner, batch(count))


def test_more_images_than_the_server_takes_are_refused_here(address: str) -> None:
    with pytest.raises(BackendError, match="1 to 8 a call"):
        KServeRunner(address).run(batch(9))


def test_a_model_of_a_fixed_batch_gets_it_filled_up(repository: Path) -> None:
    with serving(repository / "pairs") as address:
        runner = KServeRunner(address)
        assert runner.max_batch_size == 2
        for count in (1, 2):
            check_answer(runner, batch(count))


def test_outputs_may_come_as_numbers(repository: Path) -> None:
    with serving(repository / "cells", in_json=True) as address:
        check_answer(KServeRunner(address), batch(2))


def test_several_threads_ask_at_once(address: str) -> None:
    runner = KServeRunner(address)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda count: check_answer(runner, batch(count)), [1, 2, 3, 4] * 4))
    runner.close()
    runner.close()


def test_a_connection_that_the_server_closed_is_opened_again(repository: Path) -> None:
    with serving(repository / "cells", timeout=0.05) as address:  # of a connection that rests
        runner = KServeRunner(address)
        runner._server._connection().sock.settimeout(5)
        check_answer(runner, batch(1))
        # Until the server's end of it is closed.
        assert runner._server._connection().sock.recv(1) == b""
        check_answer(runner, batch(1))


@needs_tritonclient
def test_a_request_is_the_one_that_tritons_client_makes() -> None:
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    images = batch(2)
    tensor = InferInput("images", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=True)
    outputs = [InferRequestedOutput(name, binary_data=True) for name in ("boxes", "scores", "labels")]
    theirs, length = InferenceServerClient.generate_request_body([tensor], outputs)
    header, body = inference_request(images, INPUT_KINDS["float32"])
    assert json.loads(header) == json.loads(theirs[:length])
    assert body == theirs[length:]


@needs_tritonclient
def test_tritons_client_is_answered_by_the_stand_in(address: str) -> None:
    """Otherwise the stand-in would be no test of ours."""
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    images = batch(3)
    tensor = InferInput("images", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=True)
    host, name = address.removeprefix("http://").split("/v2/models/")
    client = InferenceServerClient(host)
    try:
        assert client.get_model_config(name)["max_batch_size"] == 8
        assert client.get_model_metadata(name)["inputs"][0]["shape"] == [-1, 3, 24, 32]
        asked = [InferRequestedOutput("scores"), InferRequestedOutput("boxes")]
        answer = client.infer(name, [tensor], outputs=asked)
    finally:
        client.close()
    ours = KServeRunner(address).run(images)
    np.testing.assert_array_equal(answer.as_numpy("scores"), ours.scores)
    np.testing.assert_array_equal(answer.as_numpy("boxes"), ours.boxes)


def test_an_address_is_a_model_of_this_backend_and_of_no_other(address: str) -> None:
    assert choose_backend(address).name == "kserve"
    with pytest.raises(BackendError, match="is a served model, which the onnxruntime backend does not run"):
        load_detector(address, backend="onnxruntime")
    with pytest.raises(BackendError, match="asks a server"):
        BACKENDS["kserve"].open(Path("model.onnx"), RunOptions())
    with pytest.raises(WeightsError, match="has its own weights and classes"):
        load_detector(address, weights="random")
    with pytest.raises(BackendError, match="no raw predictions"):
        KServeRunner(address).run_raw(batch(1))


def test_a_detector_of_a_server_finds_in_pictures_what_the_file_finds(repository: Path, address: str) -> None:
    picture: Image = blocks(48, 64, 16, 0)
    file = load_detector(repository / "cells" / "1" / "model.onnx")
    served = pickle.loads(pickle.dumps(load_detector(address)))
    found, expected = served.detect(picture), file.detect(picture)
    assert len(found) == 4
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_detect_eval_and_info_take_an_address(
    run_cli: Callable[..., tuple[int, str]], mistake: Callable[..., str], address: str, tmp_path: Path
) -> None:
    from tiny_data import Annotated, write_voc

    write_voc(tmp_path / "voc", [blocks(48, 64, 16, 0)], [Annotated(0, "dust", (2, 4, 40, 44))])
    code, output = run_cli("detect", address, tmp_path / "voc" / "JPEGImages", "--out", tmp_path / "out", "--quiet")
    assert code == 0 and "p0.png  3 detections of at least 0.5" in output
    code, output = run_cli("eval", address, "--data", tmp_path / "voc", "--split", "test", "--quiet")
    assert code == 0
    assert f"kserve (onnxruntime_onnx at {address.split('/')[2]})" in output
    code, output = run_cli("info", address)
    assert code == 0 and "class names: cell, bacterium, dust" in output
    assert "is served" in mistake(
        "eval", address, "--data", tmp_path / "voc", "--split", "test", "--save-thresholds", "--quiet"
    )
    for command in ("export", "quantize", "build"):
        mistake(command, address, *(("--data", tmp_path / "voc") if command == "quantize" else ()))


def test_parity_holds_a_served_model_against_pytorch(
    run_cli: Callable[..., tuple[int, str]], model_path: Path, pictures: list[Image], tmp_path: Path
) -> None:
    for number, picture in enumerate(pictures[:2]):
        write_image(tmp_path / "pictures" / f"{number}.png", picture)
    write_bundle(BUNDLES["triton"], model_path, tmp_path / "models")
    with serving(tmp_path / "models" / model_path.stem) as address:
        code, output = run_cli(
            "parity", "ssd_300_mobilenet0.25_voc", address, "--weights", "random", "--images", tmp_path / "pictures",
            "--quiet",
        )  # fmt: skip
    assert code == 0, output
    assert "kserve (onnxruntime_onnx" in output
    assert "raw logits and offsets were not compared" in output


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("http://127.0.0.1:1/v2/models/cells", "cannot be reached"),
        ("http://127.0.0.1:99999/v2/models/cells", "is no address"),
        ("http://127.0.0.1/cells.jpg", "is no address of a served model"),
        (
            "http://user:secret@127.0.0.1/v2/models/cells",
            "http://user:\\*\\*\\*@127.0.0.1/v2/models/cells: is no address",
        ),
        ("http://[::1/v2/models/cells", "is no address"),
    ],
)
def test_what_is_no_server_is_a_sentence(named: str, said: str) -> None:
    with pytest.raises(BackendError, match=said) as raised:
        KServeRunner(named)
    assert "secret" not in str(raised.value)


def test_an_unknown_model_is_what_the_server_says_of_it(address: str) -> None:
    with pytest.raises(BackendError, match="the server refuses .*unknown model: 'other' is not found"):
        KServeRunner(address.replace("cells", "other"))


def with_header(outputs: list[dict[str, Any]], body: bytes = b"") -> bytes:
    return json.dumps({"outputs": outputs}).encode() + body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b'{"outputs": 1}',
        with_header([]),
        with_header([{"name": "scores", "datatype": "BYTES", "shape": [1, 5], "data": ["a"]}]),
        with_header([{"name": "scores", "datatype": "FP32", "shape": [1, 5], "data": [1, 2]}]),
        with_header([{"name": "scores", "datatype": "FP32", "shape": [1, 5], "data": ["x"] * 5}]),
        with_header([{"name": "scores", "datatype": "FP32", "shape": [-1, 5], "data": [[1, 2], [3]]}]),
        with_header([{"name": "scores", "datatype": "FP32", "shape": [1, 5], "parameters": {"binary_data_size": 20}}]),
        with_header([{"name": "scores", "datatype": "FP32", "shape": [1, 5], "parameters": {"binary_data_size": -4}}]),
    ],
)
def test_a_broken_answer_is_a_sentence(repository: Path, answer: bytes) -> None:
    with serving(repository / "cells", answer=answer) as address, pytest.raises(SSDDeployError, match="127.0.0.1"):
        KServeRunner(address).run(batch(1))


def test_a_server_that_says_nothing_of_the_model_is_told_what_to_serve(repository: Path) -> None:
    with (
        serving(repository / "cells", has_config=False) as address,
        pytest.raises(ModelError, match="ssd-deploy bundle"),
    ):
        KServeRunner(address)


def test_a_server_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_deploy.backends.kserve.TIMEOUT_S", 0.1)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v2/models/cells"
        with pytest.raises(BackendError, match=r"cannot be reached \(timed out\)"):
            KServeRunner(address)
