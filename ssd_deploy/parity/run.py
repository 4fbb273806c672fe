"""Every backend that works here, over the same images, against the reference on one device."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from export.engine.file import is_engine
from ssd_deploy.backends import BACKENDS, Backend, BackendChoice, Finding, RunOptions, choose_backend, open_model
from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.compare import BackendRun, check_something_found, compare, run_backend, working_threshold
from ssd_deploy.parity.criteria import Criteria
from ssd_deploy.parity.reference import reference_of, title_of
from ssd_deploy.parity.report import ParityOutcome
from ssd_train.datasets.dataset import Dataset
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.metrics.protocol import Protocol
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import DetectorSpec

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

# (backend, device) that is not compared, and why.
LEFT_OUT = {("onnxruntime", "tensorrt"): "is not compared, since it rounds float32 to TF32 with no switch against it"}

# (title, number of images) -> context of what is told how many are done.
ShowProgress = Callable[[str, int], contextlib.AbstractContextManager[Callable[[int], None]]]


def no_progress(title: str, total: int) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return contextlib.nullcontext(lambda done: None)


class Place(NamedTuple):
    """A backend on one of its devices, in some of its variants, and whether it works here."""

    backend: Backend
    device: str
    variants: tuple[str, ...]
    name: str
    finding: Finding


class Candidate(NamedTuple):
    """A runner that is to be compared, its network or file, and where it was asked to run."""

    runner: Runner
    model: "SSD | Path | str"
    place: Place

    @property
    def has_raw(self) -> bool:
        """Whether it can tell what the network predicts before decoding: a finished engine and a server cannot."""
        return not (isinstance(self.model, str) or (isinstance(self.model, Path) and is_engine(self.model)))


def run(
    network: "SSD | Path",
    models: "Sequence[SSD | Path | str]",
    dataset: Dataset,
    *,
    metric: str | None,
    backends: Sequence[BackendChoice] | None = None,
    protocol: Protocol = Protocol.STANDARD,
    criteria: Criteria = Criteria(),
    batch_size: int = 1,
    workers: int = 2,
    reference_device: str = "cpu",
    allow_tf32: bool = False,
    show_progress: ShowProgress = no_progress,
) -> ParityOutcome:
    """Run the reference, and every backend that works here on every model that it takes; compare each with it.

    A backend that cannot open a model is listed with its reason, and the others go on.

    Args:
        network: the reference: a float32 network in PyTorch, whose thresholds are the model files'; or a file that
            `is_adopted` in ONNX Runtime, which is compared in the other backends too.
        models: what is compared beside it: exported files of any precision, engines, addresses of served models,
            the network in another precision.
        metric: a row of `METRICS`; None where the images have no ground truth.
        backends: those that are compared; None for all.
        criteria: what is allowed.
        reference_device: of the reference, `cpu` or `cuda`.

    Raises:
        BackendError: a model runs in nothing but the reference, or a file was exported from another network.
        DatasetError: there is nothing to compare.
    """
    places, not_run = find_places(backends)
    options = RunOptions(batch_size=batch_size, allow_tf32=allow_tf32, beside_readers=True, with_raw=True)
    right = reference_of(network)
    with contextlib.ExitStack() as stack:
        of_files: list[Candidate] = []
        for file in models:
            if isinstance(file, Path | str):
                of_files += open_in_places(file, places, options, stack, not_run)
        _check_same_detector(right.spec, of_files)
        if not isinstance(network, Path):
            # A file has its thresholds inside; the networks are run with the same.
            settings = of_files[0].runner.spec.postprocess if of_files else right.spec.postprocess
            options = dataclasses.replace(options, settings=settings)
        own_place = (right.backend.name, reference_device.partition(":")[0], ())
        others = [place for place in places if (place.backend.name, place.device, place.variants) != own_place]
        candidates = open_in_places(network, others, options, stack, not_run, is_needed=False)
        for model in models:
            if not isinstance(model, Path | str):
                candidates += open_in_places(model, places, options, stack, not_run)
        candidates += of_files
        if not candidates:
            raise BackendError(f"no backend beside {right.backend.name} works here; see `ssd-deploy doctor`")
        runner = open_model(right.backend, network, dataclasses.replace(options, device=reference_device))
        stack.callback(runner.close)

        def over_all_images(runner: Runner) -> BackendRun:
            with show_progress(f"{runner.name}, {runner.spec.precision}", len(dataset.samples)) as on_progress:
                return run_backend(
                    runner, dataset, metric=metric, protocol=protocol, batch_size=batch_size, workers=workers,
                    on_progress=on_progress,
                )  # fmt: skip

        reference = over_all_images(runner)
        threshold = working_threshold(runner, criteria)
        if any(PRECISIONS.find(candidate.runner.spec.precision).limits for candidate in candidates):
            # Said before the other backends take their time.
            check_something_found(reference, dataset, threshold)
        comparisons, runs = [], []
        for candidate in candidates:
            runs.append(over_all_images(candidate.runner))
            comparisons.append(
                compare(reference, runs[-1], dataset, criteria, batch_size=batch_size, with_raw=candidate.has_raw)
            )
    notes = _notes(runner.spec, title_of(right.backend.name), candidates)
    if threshold > criteria.score_threshold:
        notes.append(f"the detector itself keeps no score below {threshold:g}, so that is the working threshold")
    return ParityOutcome(
        reference=reference,
        comparisons=tuple(comparisons),
        candidates=tuple(runs),
        skipped=tuple(not_run),
        notes=tuple(dict.fromkeys(notes)),
        dataset=dataset,
    )


def find_places(backends: Sequence[BackendChoice] | None = None) -> tuple[list[Place], list[str]]:
    """Return where models are compared, what does not work included, and a sentence for each that does not compare.

    Args:
        backends: those that are compared; None for all.
    """
    places: list[Place] = []
    not_run: list[str] = []
    for choice in backends or [BackendChoice(backend=row) for row in BACKENDS.values()]:
        for place in _places(choice):
            reason = LEFT_OUT.get((place.backend.name, place.device))
            if reason is None:
                places.append(place)
            if reason is not None or not place.finding.works:
                not_run.append(f"{place.name}: {reason if place.finding.works else place.finding.detail}")
    return places, not_run


def _places(choice: BackendChoice) -> list[Place]:
    """Return where a backend is compared: on the device that is named, or on each that it has."""
    row, with_variants = choice.backend, f" with {'+'.join(choice.variants)}" if choice.variants else ""
    named = {device: name for device, name in row.places()}
    devices = list(named) if choice.device is None else [choice.device]
    return [
        Place(row, device, choice.variants, named[kind] + with_variants, row.probe(kind))
        for device, kind in ((device, device.partition(":")[0]) for device in devices)
    ]


def open_in_places(
    model: "SSD | Path | str",
    places: Sequence[Place],
    options: RunOptions,
    stack: contextlib.ExitStack,
    not_run: list[str],
    *,
    is_needed: bool = True,
) -> list[Candidate]:
    """Open a model in every backend that takes it; add to `not_run` where that fails.

    Args:
        is_needed: that nothing opens a file is an error; the reference's own runs as the reference at least.

    Raises:
        BackendError: nothing opens a file. A network has the reference.
    """
    if isinstance(model, Path) and is_engine(model):
        # Whether TF32 is allowed was decided when it was built.
        options = dataclasses.replace(options, allow_tf32=False)
    opened: list[Candidate] = []
    reasons: list[str] = []
    for place in places:
        try:
            choose_backend(model, place.backend.name)
        except BackendError:
            continue  # not its kind of model
        except SSDDeployError as error:
            reasons.append(str(error))
            continue
        if not place.finding.works:
            reasons.append(f"{place.name}: {place.finding.detail}")
            continue
        try:
            asked = dataclasses.replace(options, device=place.device, variants=place.variants)
            runner = open_model(place.backend, model, asked)
        except SSDDeployError as error:
            reasons.append(f"{place.name}: {error}")
            not_run.append(reasons[-1])
            continue
        stack.callback(runner.close)
        opened.append(Candidate(runner, model, place))
    if not opened and is_needed and isinstance(model, Path | str):
        why = "; ".join(dict.fromkeys(reasons)) or "no backend takes such a file"
        raise BackendError(f"{model}: nothing beside the reference runs it here ({why})")
    return opened


def _check_same_detector(spec: DetectorSpec, candidates: Sequence[Candidate]) -> None:
    """Raise BackendError where a file was made of another network, or has other thresholds than the first."""
    for candidate in candidates:
        found, first = candidate.runner.spec, candidates[0]
        if (found.network, found.class_names) != (spec.network, spec.class_names):
            raise BackendError(
                f"{candidate.model}: was exported from {found.network} with {len(found.class_names)} classes, not "
                f"from {spec.network} with {len(spec.class_names)}; name the network that it was made from"
            )
        if found.postprocess != first.runner.spec.postprocess:
            raise BackendError(
                f"{candidate.model}: has other thresholds or counts than {first.model}; compare files that "
                "were exported with the same"
            )


def _notes(ours: DetectorSpec, title: str, candidates: Sequence[Candidate]) -> list[str]:
    """Say where a file names other weights (perhaps the same in another format), and what was not compared."""
    notes = []
    for candidate in candidates:
        name, spec = candidate.runner.name, candidate.runner.spec
        if spec.weights_sha256 != ours.weights_sha256:
            notes.append(
                f"{name} runs weights from {spec.weights} (SHA-256 {spec.weights_sha256[:12]}...), "
                f"{title} runs {ours.weights} ({ours.weights_sha256[:12]}...)"
            )
        if not candidate.has_raw:
            notes.append(
                f"{name}: raw logits and offsets were not compared, since an engine or a server does not give them "
                "out; name its .onnx file instead to have them compared"
            )
    return notes
