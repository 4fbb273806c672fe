"""Two processes that train together do what one does with the whole batch, and write each file once."""

import contextlib
import json
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_checks import VALIDATION_COUNTS, scoring_network, step_result, two_images, validated
from training_runs import (
    EPOCH_ENDS,
    FILES,
    assert_same_bits,
    assert_same_outcome,
    is_filled,
    metrics,
    run_cli,
    small_options,
    start,
    tensors,
    wait_until,
)

from ssd_train.errors import BackendError
from ssd_train.training.batches import Stream
from ssd_train.training.checkpoint import read_checkpoint
from ssd_train.training.processes import Processes, joined

pytestmark = pytest.mark.slow  # trainings of several processes

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def bad_image_of_the_second_process() -> int:
    """One that the first process meets neither in its own part nor in the picture of the first 16 images."""
    stream = Stream(num_samples=24, batch_size=4, epochs=1, seed=233)
    return list(stream.keys(0, rank=1, processes=2))[4][0].sample


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def of_two(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `distributed_checks.py` wrote down in each of two processes."""
    out = tmp_path_factory.mktemp("two")
    bad = Path(shutil.copytree(shapes, out / "bad"))
    path = bad / "JPEGImages" / f"shapes0_{bad_image_of_the_second_process():07d}.jpg"
    path.write_bytes(path.read_bytes()[:3000])
    process = start(*TORCHRUN, Path(__file__).with_name("distributed_checks.py"), shapes, bad, out, *free_ports(4))
    try:
        printed, errors = process.communicate(timeout=120)
    finally:
        process.terminate()
    assert process.returncode == 0, printed + errors
    results = [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    written = {
        "metrics": metrics(out / "skipped"),
        "skipped folder": str(out / "skipped"),
        "bad data": str(bad),
        "patient metrics": metrics(out / "patient"),
    }
    return [result | written for result in results]


@pytest.mark.parametrize("kind", ["step", "negatives"])
def test_two_halves_of_a_batch_give_the_gradients_of_the_whole(
    of_two: list[dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    first, second = (results[kind] for results in of_two)
    whole = step_result(ALONE, two_images(), tmp_path, negatives=kind == "negatives")
    assert first["gradients"].keys() == whole["gradients"].keys()
    for name, expected in whole["gradients"].items():
        # Of float32 sums in another order.
        assert (first["gradients"][name] - expected).norm() <= 1e-5 * expected.norm(), name
        assert expected.norm() > 0, name
    assert_same_bits(second["gradients"], first["gradients"])
    assert second["weights"] == first["weights"]
    assert first["losses"][:2] == pytest.approx(whole["losses"][:2], rel=1e-5)
    # Both know the loss of the whole batch, and that the second process was asked to stop.
    assert second["losses"] == first["losses"] and first["losses"][2] is True


def test_validation_in_two_parts_is_validation(of_two: list[dict[str, Any]], shapes: Path) -> None:
    network = scoring_network()
    for index, count in enumerate(VALIDATION_COUNTS):
        found = of_two[0]["validations"][index]
        assert of_two[1]["validations"][index] is None
        expected = validated(network, ALONE, shapes, count)
        assert expected is not None and found["images"] == expected["images"] == count
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-6)
        assert json.dumps(found["report"]) == json.dumps(expected["report"])
        assert sum(len(rows) for rows in expected["detections"]) > 10 * count
        assert_same_bits(found["detections"], expected["detections"])


def test_a_frozen_backbone_stays_in_every_process(of_two: list[dict[str, Any]]) -> None:
    first, second = (results["frozen"] for results in of_two)
    assert first["changed"] and not [name for name in first["changed"] if name.startswith("features.backbone.")]
    assert second == first


def test_all_processes_lose_patience_together(of_two: list[dict[str, Any]], shapes: Path, tmp_path: Path) -> None:
    assert [results["patient"] for results in of_two] == [{"code": 0, "mistakes": []}] * 2
    lines = of_two[0]["patient metrics"]
    validations = [line for line in lines if line["kind"] == "validation"]
    assert len(validations) < 5 and validations[-1]["scores"]["VOC07 mAP"] <= validations[-1]["best"]


def test_one_process_goes_on_with_what_two_began(of_two: list[dict[str, Any]], shapes: Path, tmp_path: Path) -> None:
    """Two took 6 steps of 4 images each, which are all 24; one takes 12 of 2."""
    folder = Path(shutil.copytree(of_two[0]["skipped folder"], tmp_path / "run"))
    code, output = run_cli("train", folder, "--resume", "--epochs", 2)
    assert code == 0, output
    assert "goes on after step 6 (epoch 1)" in output and "18 steps of 2 images in 2 epochs" in output
    assert [line["step"] for line in metrics(folder) if line["kind"] == "epoch"] == [6, 18]


def test_a_mistake_in_the_options_is_printed_once(of_two: list[dict[str, Any]]) -> None:
    first, second = (results["mistake"] for results in of_two)
    assert first["code"] == second["code"] == 2
    (line,) = first["mistakes"]
    assert "do not fill a batch of 2000" in line and second["mistakes"] == []


def test_an_image_that_only_the_second_process_cannot_read_is_named_by_it(of_two: list[dict[str, Any]]) -> None:
    first, second = (results["bad image"] for results in of_two)
    (line,) = second["mistakes"]
    assert second["code"] == 2 and f"{bad_image_of_the_second_process():07d}.jpg: the image is cut off" in line
    (line,) = first["mistakes"]
    assert first["code"] == 2 and line.startswith("Error: another process of this training has ended")


def test_an_image_that_the_second_process_skips_is_counted_by_the_first(of_two: list[dict[str, Any]]) -> None:
    assert [results["skipped"] for results in of_two] == [{"code": 0, "mistakes": []}] * 2
    (line,) = [line for line in of_two[0]["metrics"] if line["kind"] == "epoch"]
    assert line["bad_images"] == 1


def test_two_machines_train_as_two_processes_of_one_do(of_two: list[dict[str, Any]], tmp_path: Path) -> None:
    """Two of torchrun's launchers, which know nothing of each other but a port, as on two machines."""
    meeting = ("--nnodes", 2, "--rdzv-endpoint", f"localhost:{free_ports(1)[0]}")
    options = small_options(of_two[0]["bad data"], tmp_path / "run", limit=None, epochs=1, skip_bad_images=True)
    machines = [
        start("-m", "torch.distributed.run", *meeting, "--node-rank", rank, "-m", "ssd_train", *options)
        for rank in range(2)
    ]
    try:
        answers = [machine.communicate(timeout=120) for machine in machines]
    finally:
        for machine in machines:
            machine.terminate()
    assert [machine.returncode for machine in machines] == [0, 0], answers
    # The first alone speaks.
    assert [printed.count("weights: ") for printed, _ in answers] == [1, 0]
    assert [errors.count("on 2 x cpu") for _, errors in answers] == [1, 0]
    assert_same_outcome(tmp_path / "run", Path(of_two[0]["skipped folder"]))


def test_the_first_process_says_that_others_have_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError, match="2 processes on this machine, but 1 GPUs"), joined("auto"):
        pass


def test_torchrun_stops_saves_goes_on_and_writes_every_file_once(shapes: Path, tmp_path: Path) -> None:
    """The batch of each of the two is 2 of 10 images, so the epochs have as many steps as elsewhere."""
    command, long = (
        (*TORCHRUN, "-m", "ssd_train", *small_options(shapes, tmp_path, limit=10, resume="auto", epochs=epochs))
        for epochs in (3, 40)
    )
    process = start(*long)
    wait_until(lambda: is_filled(tmp_path / "metrics.jsonl"), process)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=120)
    # Torchrun has an exit code of its own.
    assert process.returncode != 0
    stopped_after = read_checkpoint(tmp_path / "last.ckpt")["position"]["step"]
    assert (
        errors.count(f"stopped after step {stopped_after}, saved; `ssd-deploy train {tmp_path} --resume` goes on") == 1
    )
    assert stopped_after < EPOCH_ENDS[2], "the machine was too slow for this test"

    process = start(*command)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert printed == f"weights: {tmp_path / 'best.safetensors'} (best validation), {tmp_path / 'last.safetensors'}\n"
    lines = [line for line in errors.splitlines() if not line.startswith(("W", "*"))]
    assert lines[0].startswith("preparing ") and "on 2 x cpu" in lines[1] and "steps of 4 images" in lines[1]
    assert sum(line.startswith("epoch 3/3: VOC07 mAP") for line in lines) == 1
    assert {path.name for path in tmp_path.iterdir()} == FILES
    # One event file of each of the two runs.
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert [line["step"] for line in metrics(tmp_path) if line["kind"] == "step"] == list(range(1, 8))
    assert [line["epoch"] for line in metrics(tmp_path) if line["kind"] == "validation"] == [1, 2]
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint["position"]["step"] == 7
    assert_same_bits(tensors(tmp_path / "last.safetensors"), dict(checkpoint["network"]))
