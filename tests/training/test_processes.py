"""One process alone: sums and gathered values are its own; what joining refuses."""

import pytest
import torch
import torch.distributed as dist

from ssd_train.errors import BackendError
from ssd_train.training.processes import Processes, joined


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_alone_has_sums_and_values_of_its_own() -> None:
    with joined("cpu") as processes:
        assert processes == Processes(rank=0, count=1, device=torch.device("cpu"))
        assert processes.is_first
        values = torch.tensor([1.0, -2.0])
        assert processes.sum(values) is values
        assert values.tolist() == [1, -2]
        value = object()
        assert processes.gather(value) == [value]
        processes.broadcast([values])
        assert values.tolist() == [1, -2]
        assert not dist.is_initialized()


def test_automatic_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with joined("auto") as processes:
        assert processes.device == torch.device("cpu")


def test_the_cpu_can_be_asked_for_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with joined("cpu") as processes:
        assert processes.device == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with (
        pytest.raises(BackendError, match=r"device cuda: torch .* finds no CUDA device; use cpu"),
        joined("cuda"),
    ):
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "2"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError, match="3 processes on this machine, but 2 GPUs"), joined("auto"):
        pass


def test_only_rank_zero_is_first() -> None:
    assert not Processes(rank=1, count=2, device=torch.device("cpu")).is_first


def test_an_error_inside_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError), joined("cpu"):
        raise KeyError("inside")
