"""--threads: every command that computes has it, and it reaches the libraries while the command runs."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssd_deploy.backends import BACKENDS, RunOptions, open_model
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_train import cpus
from ssd_train.detections import PaddedDetections
from ssd_train.networks.ssd import SSD

COMPUTING = ("check", "train", "export", "quantize", "build", "eval", "parity", "benchmark", "detect")
WITH_READERS = ("check", "train", "eval", "parity", "detect")
SPINNING = "session.intra_op.allow_spinning"


@pytest.mark.parametrize("command", COMPUTING)
def test_every_command_that_computes_has_threads(command: str, run_cli: Callable[..., tuple[int, str]]) -> None:
    _, text = run_cli(command, "--help")
    told = " ".join(text.split())
    assert "--threads" in told and "CPU threads of an operator" in told
    # Where there are readers too, both options say what they are.
    readers = told.partition("--workers")[2][:150]
    assert (command in WITH_READERS) == bool(readers)
    assert not readers or "beside those of --threads" in readers or "Processes of one thread each" in readers


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_reach_every_library_while_a_command_runs_and_are_given_back(
    threads: int,
    model_path: Path,
    voc_root: Path,
    run_cli: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, ...]] = []
    run = OnnxRuntimeRunner.run

    def noting(runner: OnnxRuntimeRunner, images: NDArray[np.float32]) -> PaddedDetections:
        options = runner._session.get_session_options()
        # Beside threads that read images, those of the session rest while they wait.
        assert options.get_session_config_entry(SPINNING) == "0"
        seen.append((options.intra_op_num_threads, cv2.getNumThreads(), torch.get_num_threads()))
        return run(runner, images)

    monkeypatch.setattr(OnnxRuntimeRunner, "run", noting)
    before = cv2.getNumThreads(), torch.get_num_threads()
    code, text = run_cli("eval", model_path, "--data", voc_root, "--split", "test", "--threads", threads, "-q")
    assert code == 0, text
    assert set(seen) == {(threads,) * 3}
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before


def test_a_negative_number_of_threads_is_a_mistake(model_path: Path, run_cli: Callable[..., tuple[int, str]]) -> None:
    code, text = run_cli("eval", model_path, "--data", "voc", "--threads", -1)
    assert code == 2 and "-1 is not 0 or more" in text and "'--threads'" in text


def test_run_options_set_the_threads_of_a_backend(model_path: Path, network: SSD) -> None:
    before = torch.get_num_threads()
    try:
        of_network = open_model(BACKENDS["torch"], network, RunOptions(threads=2))
        assert isinstance(of_network, TorchRunner) and of_network.cpu_threads == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    of_file = open_model(BACKENDS["onnxruntime"], model_path, RunOptions(threads=3))
    assert isinstance(of_file, OnnxRuntimeRunner)
    options = of_file._session.get_session_options()
    assert options.intra_op_num_threads == 3
    with pytest.raises(RuntimeError, match="not"):
        # Left as ONNX Runtime has it where nothing else needs the cores.
        options.get_session_config_entry(SPINNING)


def test_backends_keep_to_a_container_s_cpus_by_themselves(
    model_path: Path, network: SSD, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for available, of_torch, of_session in ((16, 2, 0), (3, 2, 3), (1, 1, 1)):
            monkeypatch.setattr(cpus, "available_cpus", lambda available=available: available)
            open_model(BACKENDS["torch"], network, RunOptions())
            runner = OnnxRuntimeRunner(model_path)
            threads = runner._session.get_session_options().intra_op_num_threads
            assert (torch.get_num_threads(), threads) == (of_torch, of_session), available
    finally:
        torch.set_num_threads(before)
