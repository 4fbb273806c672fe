"""The processes that train together: one alone, or those that torchrun started."""

import contextlib
import ctypes
import dataclasses
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ssd_train.errors import BackendError

Item = TypeVar("Item")

# From Linux's prctl.h.
PR_SET_PDEATHSIG = 1

# What the other end's closing looks like to gloo.
LEFT_ALONE = ("Connection closed by peer", "Connection reset by peer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among all.

    Attributes:
        rank: from 0; 0 alone writes and prints.
        count: of all processes.
        device: what this one computes on.
        local_count: of those on this machine, which share its cores.
    """

    rank: int
    count: int
    device: torch.device
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's part of what all share: every so many-th item."""
        return items[self.rank :: self.count]

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place; every process gets the sum."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value by rank, in every process."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite every process's tensors with the first one's."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def _end_with_parent() -> None:
    """Have the system send SIGTERM when torchrun ends, which a kill keeps from sending it itself (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Args:
        device: `auto`, `cpu`, `cuda` or, for one process, `cuda:N`; else each process of a machine takes a GPU of its
            own.

    Raises:
        BackendError: there is no such GPU, or fewer than processes; or another process ended while this one waited.
    """
    count, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count()
    kind, _, number = device.partition(":")
    if kind == "cuda" and not gpus:
        raise BackendError(
            f"device {device}: torch {torch.__version__} finds no CUDA device; use cpu", arguments=("device",)
        )
    if number and (count > 1 or int(number) >= gpus):
        raise BackendError(
            f"device {device}: this machine has {gpus} GPUs, and of several processes each takes its own; use cuda",
            arguments=("device",),
        )
    on_gpu = device != "cpu" and gpus > 0
    # In all of them and not only in those without a GPU, since the first is the one that speaks.
    local_count = max(local_rank + 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if on_gpu and local_count > gpus:
        raise BackendError(f"{local_count} processes on this machine, but {gpus} GPUs; start one for each GPU")
    chosen = torch.device("cuda", int(number or local_rank)) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
    if count > 1:
        _end_with_parent()
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=chosen if on_gpu else None)
    try:
        yield Processes(rank=int(os.environ.get("RANK", "0")), count=count, device=chosen, local_count=local_count)
    except RuntimeError as error:
        # gloo has no exception of its own.
        if count > 1 and any(sign in str(error) for sign in LEFT_ALONE):
            raise BackendError(
                "another process of this training has ended, so this one cannot go on; what that one said is the reason"
            ) from error
        raise
    # Not after an error: the others may be waiting in an operation of the group, which torchrun then ends.
    if count > 1:
        dist.destroy_process_group()
