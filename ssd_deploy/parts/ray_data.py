"""Parts by Ray Data: detectors as actors on one machine or many.

    parts -> Ray Data's queue -> actors, each with a detector of its own -> files in the shared folder
                              <- what came of each part

Ray hands out no more parts than actors ask for, starts an actor again that dies, and gives its part to another; a part
is written whole or not at all, so none is there twice.
"""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ssd_deploy.backends import GPU
from ssd_deploy.parts.options import Parts
from ssd_train.cpus import available_cpus
from ssd_train.errors import BackendError, SSDDeployError, first_line
from ssd_train.requirements import require

LOCAL = "local"

Item = TypeVar("Item", contravariant=True)
Answer = TypeVar("Answer", covariant=True)


class Worker(Protocol[Item, Answer]):
    """What an actor keeps open: a detector, for instance."""

    def run(self, item: Item) -> Answer: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """How a cluster is shared out.

    Attributes:
        actors: workers at once.
        cpus, gpus: what each of them takes of its machine.
    """

    actors: int
    cpus: int
    gpus: float


# Ray reads it as it starts: no lines of its own beside ours.
_LOG_LEVEL = ("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextlib.contextmanager
def cluster(address: str, cpus: int) -> Iterator[dict[str, float]]:
    """Within the block, be connected with a cluster; yields what it has, `CPU` and `GPU` among others.

    Args:
        address: `local` for one on this machine, which ends with the block; `auto`, HOST:PORT or `ray://HOST:PORT`.
        cpus: of a local one.

    Raises:
        BackendError: Ray is not installed, or no such cluster answers.
    """
    os.environ.setdefault(*_LOG_LEVEL)
    require("ray.data", "ray", "Detecting on several machines")
    import ray

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    own = {"num_cpus": cpus, "include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        with _native_messages_dropped():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray's errors share no narrower base
        raise BackendError(f"no Ray cluster at {address} ({first_line(error)}); start one with `ray start`") from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _native_messages_dropped() -> Iterator[None]:
    """Within the block, drop what C++ code writes to standard error: Ray tells there how it was told to be quiet."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def shared_out(parts: Parts, *, threads: int, device: str | None) -> Iterator[Share]:
    """Within the block, be connected with a cluster; yields how many workers it takes.

    That is one a GPU where `device` is `cuda`, or one for so many CPU threads.

    Raises:
        BackendError: as `cluster`, or there is no GPU.
    """
    with cluster(parts.ray or LOCAL, available_cpus()) as resources:
        on_gpu = (device or "").partition(":")[0] == GPU
        cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
        if on_gpu and gpus < 1:
            raise BackendError(
                "the cluster has no GPU; leave out the device cuda, or name another one", arguments=("ray",)
            )
        actors = parts.actors or max(1, int(gpus if on_gpu else cpus // threads))
        # More than there are would be waited for, for ever.
        yield Share(actors=actors, cpus=int(min(threads, max(1, cpus // actors))), gpus=1.0 if on_gpu else 0.0)


def run_in_actors(
    items: Sequence[Item], make: Callable[[], Worker[Item, Answer]], share: Share
) -> Generator[Answer, None, None]:
    """Yield what workers make of items, in the order in which they are done.

    Args:
        items: at least one; can be pickled, as `make` can.
        make: makes a worker, in each actor once.
        share: see `shared_out`.

    Raises:
        SSDDeployError: as a worker.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    done = rows.map_batches(
        _Actor,
        fn_constructor_args=(make,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(share.actors, len(items))),
        num_cpus=share.cpus,
        num_gpus=share.gpus or None,
    )
    try:
        for row in done.iter_rows():
            yield row["answer"]
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


class _Actor:
    """A worker as Ray Data calls it: with a batch of one item."""

    def __init__(self, make: Callable[[], Worker[Any, Any]]) -> None:
        self.worker = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        return {"answer": [self.worker.run(item) for item in batch["item"]]}


def _cause(error: BaseException) -> SSDDeployError:
    """Return the error of ours behind Ray's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SSDDeployError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return BackendError(f"Ray ended the run ({first_line(error)}); run the same command again, which goes on")
