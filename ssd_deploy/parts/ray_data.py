"""Parts by Ray Data: detectors as actors on one machine or many.

    parts -> Ray Data's queue -> actors, each with a detector of its own -> files in the shared folder
                              <- what came of each part

Ray hands out no more parts than actors ask for, starts an actor again that dies, and has its part done once more; a
part is written whole or not at all, so none is there twice.
"""

import collections
import contextlib
import dataclasses
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ssd_deploy.backends import GPU
from ssd_deploy.parts.options import Parts
from ssd_train.cpus import available_cpus
from ssd_train.errors import BackendError, SSDDeployError, first_line
from ssd_train.requirements import require

LOCAL = "local"

# How often a part is begun. Ray would try for ever what ends every worker, a picture that a library crashes on, say.
TRIES = 4

_log = logging.getLogger(__name__)

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
        logging.getLogger(name).setLevel(logging.CRITICAL)
    own = {"num_cpus": cpus, "include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        with _native_messages_dropped(), _end_signal_kept():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray's errors share no narrower base
        raise BackendError(f"no Ray cluster at {address} ({first_line(error)}); start one with `ray start`") from error
    try:
        with _events(lambda event: _log.info("Ray: %s", event)):
            yield ray.cluster_resources()
    finally:
        with _events(lambda event: None):
            ray.shutdown()


@contextlib.contextmanager
def _events(tell: Callable[[str], object]) -> Iterator[None]:
    """Within the block, be told what happens on the cluster, a sentence each.

    Ray would print pages to standard output, whatever `log_to_driver` is.
    """
    from ray._private import worker

    def print_to_stdstream(data: dict[str, Any], *arguments: object, **named: object) -> None:
        for line in data["lines"]:
            tell(line.strip().partition(". ")[0])

    printing, worker.print_to_stdstream = worker.print_to_stdstream, print_to_stdstream
    try:
        yield
    finally:
        worker.print_to_stdstream = printing


@contextlib.contextmanager
def _end_signal_kept() -> Iterator[None]:
    """Have SIGTERM answered after the block as before it: Ray takes it over as it starts."""
    answer = signal.getsignal(signal.SIGTERM)
    yield
    if answer is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, answer)


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
    items: Sequence[Item], make: Callable[[], Worker[Item, Answer]], share: Share, name_of: Callable[[Item], str] = str
) -> Generator[Answer, None, None]:
    """Yield what workers make of items, in the order in which they are done.

    Args:
        items: at least one; can be pickled, as all functions here can.
        make: makes a worker, in each actor once.
        share: see `shared_out`.
        name_of: says which item it is, to people.

    Raises:
        SSDDeployError: as a worker.
        BackendError: an item ended every worker that tried it, or Ray ended.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    # Anywhere, and anew where its machine is lost.
    tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tries).remote()
    numbered = [{"number": number, "item": item} for number, item in enumerate(items)]
    done = ray.data.from_items(numbered, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(make, name_of, tries),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(share.actors, len(items))),
        num_cpus=share.cpus,
        num_gpus=share.gpus or None,
    )
    try:
        for row in done.iter_rows():
            if isinstance(row["answer"], SSDDeployError):
                raise row["answer"]
            yield row["answer"]
    except ray.exceptions.RayError as error:
        raise BackendError(f"Ray ended the run ({first_line(error)}); run the same command again") from error


class _Tries:
    """How often each item was begun, by its number."""

    def __init__(self) -> None:
        self.counts = collections.Counter[int]()

    def begin(self, number: int) -> int:
        self.counts[number] += 1
        return self.counts[number]


class _Actor:
    """A worker as Ray Data calls it: with a batch of one item. Errors of ours are answers: of others Ray makes its own.

    Args:
        make: makes the worker.
        name_of: says which item it is.
        tries: the one `_Tries` of a run, as Ray's handle.
    """

    def __init__(self, make: Callable[[], Worker[Any, Any]], name_of: Callable[[Any], str], tries: Any) -> None:
        self.make = make
        self.name_of = name_of
        self.tries = tries

    @functools.cached_property
    def worker(self) -> Worker[Any, Any]:
        return self.make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (number,), (item,) = batch["number"].tolist(), batch["item"]
        try:
            self._begin(number, item)
            return {"answer": [self.worker.run(item)]}
        except SSDDeployError as error:
            return {"answer": [error]}

    def _begin(self, number: int, item: Any) -> None:
        import ray

        if ray.get(self.tries.begin.remote(number)) > TRIES:
            raise BackendError(
                f"{self.name_of(item)}: {TRIES} workers died over it; look for a picture there that crashes `detect`, "
                "or give workers more memory"
            )
