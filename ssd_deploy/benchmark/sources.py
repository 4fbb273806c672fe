"""What is measured: networks and model files, each opened in the backends that a user names."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from export.engine.file import is_engine
from export.quantize_options import QuantizeOptions
from ssd_deploy.backends import AUTO, Backend, BackendChoice, Finding, RunOptions, choose_backend, open_model
from ssd_deploy.backends.base import Runner
from ssd_deploy.benchmark.measure import Contender
from ssd_deploy.model_source import export_network, exported_for
from ssd_train.environment import memory_in_use
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.precisions import PRECISIONS, in_precision

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

# What a network is exported to.
EXPORTED = Path("exported.onnx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a detector comes from, in each precision that is asked for.

    Attributes:
        name: what rows call it where there are others.
        precisions: asked for, at least one; a model file stands for itself under any name.
        model_for: precision -> its model file; called once a precision.
        network_for: precision -> network, likewise; None where there is only a model file.
    """

    name: str
    precisions: tuple[str, ...]
    model_for: Callable[[str], Path]
    network_for: "Callable[[str], SSD] | None" = None

    @classmethod
    def from_file(cls, model: Path) -> "Source":
        """A model file, which has its precision inside."""
        return cls(name=model.name, precisions=("as built",), model_for=lambda _: model)

    def fits(self, choice: BackendChoice) -> bool:
        """Whether a backend runs such a source at all, by what it is.

        Raises:
            ModelError: an engine's description is missing or broken.
        """
        if self.network_for is not None:
            return choice.backend.runs_networks or choice.backend.takes(EXPORTED)
        try:
            choose_backend(self.model_for(self.precisions[0]), choice.backend.name)
        except BackendError:
            return False
        return True


def exported_source(
    name: str, network: "SSD", precisions: Sequence[str], folder: Path, int8: QuantizeOptions | None = None
) -> Source:
    """Return a network as a source, which is exported to a folder, each precision once, where a backend runs files."""
    return Source(
        name=name,
        precisions=tuple(precisions),
        model_for=lambda each: export_network(network, folder / each, each, None, int8),
        network_for=lambda each: in_precision(network, each),
    )


def usual_choices(sources: Sequence[Source]) -> tuple[BackendChoice, ...]:
    """Return what is measured where no backend is named, each once: what runs a file, or a network and its export."""
    rows: list[Backend] = []
    for source in sources:
        if source.network_for is None:
            rows.append(choose_backend(source.model_for(source.precisions[0])))
        else:
            rows += [choose_backend(source.network_for(source.precisions[0])), choose_backend(EXPORTED)]
    return tuple(BackendChoice(backend=row) for row in {row.name: row for row in rows}.values())


@contextlib.contextmanager
def open_backends(
    sources: Sequence[Source],
    choices: Sequence[BackendChoice],
    batch_sizes: Sequence[int],
    *,
    device: str = "cpu",
    threads: int = 0,
    allow_tf32: bool = False,
) -> Iterator[tuple[tuple[Contender, ...], tuple[str, ...]]]:
    """Yield every source in every precision and backend, open, and a sentence for each that does not work here.

    A backend that is tuned for a batch size is opened once for each, unless it is a finished engine.
    Arguments and errors are those of `run.run`; also ModelError: an engine's description is missing or broken.
    """
    _check_each_fits_something(sources, choices)
    findings = {}
    for choice in choices:
        kind = device_of(choice, device).partition(":")[0]
        # Also loads the backend's libraries, whose code is no growth of memory.
        findings[str(choice)] = choice.backend.probe(choice.backend.devices[0] if kind == AUTO else kind)
    contenders: list[Contender] = []
    not_run: list[str] = []
    with contextlib.ExitStack() as closing:
        for source in sources:
            # Each precision is exported once.
            source = dataclasses.replace(
                source,
                model_for=functools.cache(source.model_for),
                network_for=functools.cache(source.network_for) if source.network_for else None,
            )
            for precision in source.precisions:
                for choice in filter(source.fits, choices):
                    label = ", ".join((str(choice), precision, *([source.name] if len(sources) > 1 else [])))
                    of_network = source.network_for is not None
                    made, variants = exported_for(choice.backend, precision) if of_network else (precision, ())
                    try:
                        model = _model(source, made, choice.backend, findings[str(choice)])
                    except SSDDeployError as error:
                        not_run.append(f"{label}: {error}")
                        continue
                    is_finished = isinstance(model, Path) and is_engine(model)
                    options = RunOptions(
                        device=device_of(choice, device),
                        variants=tuple(dict.fromkeys((*choice.variants, *variants))),
                        # Whether TF32 is allowed was decided when an engine was built.
                        allow_tf32=allow_tf32 and not is_finished,
                        threads=threads,
                    )
                    one_by_one = choice.backend.is_tuned_for_batch and not is_finished
                    for size in sorted(batch_sizes) if one_by_one else [None]:
                        options = dataclasses.replace(options, batch_size=size or max(batch_sizes))
                        try:
                            contender = open_contender(choice, model, options, source.name, size)
                        except SSDDeployError as error:
                            not_run.append(f"{label}{'' if size is None else f', batch {size}'}: {error}")
                            continue
                        closing.callback(contender.runner.close)
                        contenders.append(contender)
        if not contenders:
            raise BackendError(f"none of these backends works here: {'; '.join(not_run)}")
        yield _named_where_needed(contenders), tuple(not_run)


def _check_each_fits_something(sources: Sequence[Source], choices: Sequence[BackendChoice]) -> None:
    """A model file runs only where such a file can: asking for more is a mistake, and not a missing package."""
    for choice in choices:
        if any(source.fits(choice) for source in sources):
            continue
        if choice.backend.runs_networks and not choice.backend.suffixes:
            raise BackendError(
                f"{sources[0].name}: backend {choice} runs a network; leave it out for a model file",
                arguments=("backends",),
            )
        # Says why.
        choose_backend(sources[0].model_for(sources[0].precisions[0]), choice.backend.name)


def device_of(choice: BackendChoice, device: str) -> str:
    """Return where a choice runs: where it says, else where all are to run if it can, else at its usual place."""
    if choice.device is not None:
        return choice.device
    is_one = device == AUTO or device.partition(":")[0] in choice.backend.devices
    return device if is_one else choice.backend.devices[0]


def _model(source: Source, precision: str, backend: Backend, finding: Finding) -> "SSD | Path":
    """Load or export what a backend runs.

    Raises:
        BackendError: it does not work here, which is said before a network is exported for it.
    """
    if source.network_for is None:
        return source.model_for(precision)
    known = PRECISIONS.find(precision)
    if backend.runs_networks and (known.in_network or not backend.takes(EXPORTED)):
        return source.network_for(precision)
    if not finding.works:
        raise BackendError(finding.detail)
    return source.model_for(precision)


def open_contender(
    choice: BackendChoice, model: "SSD | Path", options: RunOptions, source: str = "", batch_size: int | None = None
) -> Contender:
    """Open a model in a backend, and note what that took.

    Args:
        options: the device and the variants are those of `choice`.
        source, batch_size: see `Contender`.

    Raises:
        As `open_model`.
    """
    process = psutil.Process()
    threads_before, memory_before = process.num_threads(), memory_in_use()
    runner = open_model(choice.backend, model, options)
    return Contender(
        backend=str(choice),
        runner=runner,
        opening=memory_in_use() - memory_before,
        threads=_cpu_threads(choice.backend, runner, options, process.num_threads() - threads_before),
        source=source,
        batch_size=batch_size,
    )


def _cpu_threads(backend: Backend, runner: Runner, options: RunOptions, started: int) -> int | None:
    """Return how many CPU threads a backend computes with, as far as that is known."""
    if "cpu" not in backend.devices:
        return None
    own: int | None = getattr(runner, "cpu_threads", None)
    if own is not None or options.threads:
        return own or options.threads
    # Where a backend does not tell what it chose: the calling thread and those that it started.
    return started + 1 if options.device == "cpu" else None


def _named_where_needed(contenders: Sequence[Contender]) -> tuple[Contender, ...]:
    """Keep the names of sources only where rows could not be told apart without them."""
    with_names = {(each.backend, each.runner.spec.precision, each.source) for each in contenders}
    without = {(backend, precision) for backend, precision, _ in with_names}
    networks = {each.runner.spec.network for each in contenders}
    if len(networks) > 1 or len(with_names) > len(without):
        return tuple(contenders)
    return tuple(dataclasses.replace(each, source="") for each in contenders)
