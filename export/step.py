"""What every export step has in common: one signature, one check against what it was made of, one row.

    source file -> rewrite -> ONNX's checker -> the same images through both -> file

A step that leads from ONNX to ONNX is a function that rewrites a graph, and a row of `export.steps` that says what may
be lost by it. Reading, checking and writing happen here, so that no step can leave one out. Light: the row of a step
is made without the packages that the step needs.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from export.file_metadata import steps_behind
from ssd_train.errors import ModelError
from ssd_train.files import written_atomically
from ssd_train.requirements import require

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from export.graph import ExportedGraph

log = logging.getLogger(__name__)

# Told a stage of the work, how much of it is done, and of how much.
OnProgress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What became of a step.

    Attributes:
        path: the new file; None where there was nothing to gain, as a note says then.
        checked: what was compared with what it was made of, and the difference that was found.
        notes: what else there is to know, a sentence each.
        files: further files that were written, such as a chart.
    """

    path: Path | None
    checked: str = ""
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


class Apply(Protocol):
    """Carry out a step."""

    def __call__(
        self, source: Path, out_dir: Path, settings: Any = None, *, on_progress: OnProgress | None = None
    ) -> StepResult:
        """Make a file of `source` in `out_dir`.

        Args:
            settings: an instance of the row's `settings`; None where the row has none.

        Raises:
            ModelError: the source is not what the step takes, or the result does not compute what the source does; no
                model is written.
            BackendError: a package is missing, or the settings are at fault.
            SSDDeployError: the folder cannot be written.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportStep:
    """One row.

    Attributes:
        name: what options, reports and errors call it.
        suffix: what its files' names end with.
        takes: the only precision of a source; None for any.
        gives: precision of the result; None for the source's.
        help: one sentence for people.
        settings: the dataclass of its settings; None where it has none.
        check: raises what is wrong with settings before the source is even made.
        apply: see `Apply`.
    """

    name: str
    suffix: str
    takes: str | None
    gives: str | None
    help: str
    settings: type[Any] | None
    check: Callable[[Any], None]
    apply: Apply

    def __post_init__(self) -> None:
        if not self.name or not self.suffix.startswith("."):
            raise ValueError(f"the export step {self.name!r} has no name, or no suffix")

    def path_for(self, source: Path, out_dir: Path) -> Path:
        """Return what the step calls the file that it makes of another."""
        return out_dir / (source.stem.removesuffix(f".{self.takes}" if self.gives else "") + self.suffix)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likeness:
    """How like its source a result has to be.

    Attributes:
        outputs: names of the values that are compared.
        error: field of `graph.Difference` that is looked at.
        allowed: the most that it may be; 0 for equal to the last bit.
        advice: what to do where it is more, the end of a sentence.
        arguments: settings that the advice is about.
    """

    outputs: tuple[str, ...]
    error: str
    allowed: float
    advice: str = ""
    arguments: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What an ONNX -> ONNX step makes of a graph.

    Attributes:
        model: the new graph; None where there is nothing to gain.
        metadata: entries that the file gets beside, or in the place of, its source's.
        images: what to compare it with its source on, (N, 3, S, S); None for noise.
        notes: see `StepResult`.
        report: model's path without its suffix -> further files, written beside it.
    """

    model: "onnx.ModelProto | None"
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    images: "NDArray[np.float32] | None" = None
    notes: tuple[str, ...] = ()
    report: Callable[[Path], tuple[Path, ...]] | None = None


Rewrite = Callable[["ExportedGraph", Any, OnProgress | None], Rewritten]


def onnx_step(
    *,
    name: str,
    suffix: str,
    takes: str | None,
    gives: str | None,
    help: str,
    follows: tuple[str, ...],
    likeness: Likeness,
    rewrite: Rewrite,
    settings: type[Any] | None = None,
    check: Callable[[Any], None] = lambda settings: None,
    only_standard_operators: bool = True,
) -> ExportStep:
    """Make the row of a step from ONNX to ONNX.

    Args:
        name, suffix, takes, gives, help, settings, check: see `ExportStep`.
        follows: names of the steps whose results it takes; every other step's are refused.
        likeness: what its result is held to.
        rewrite: what it does. The source's graph is not changed in place.
        only_standard_operators: ONNX's checker knows what is in its files.
    """
    if not likeness.outputs:
        raise ValueError(f"the export step {name} is checked on nothing")

    def apply(
        source: Path, out_dir: Path, settings: Any = None, *, on_progress: OnProgress | None = None
    ) -> StepResult:
        check(settings)
        require("onnx", "export", f"The export step {name}")
        from export.graph import load_exported

        graph = load_exported(source)
        _check_takes(row, graph, follows)
        log.info("%s: making %s of it", source.name, name)
        rewritten = rewrite(graph, settings, on_progress)
        if rewritten.model is None:
            return StepResult(path=None, notes=rewritten.notes)
        path = row.path_for(source, out_dir)
        checked = _finish(row, graph, rewritten, likeness, only_standard_operators, path)
        files = rewritten.report(path.with_suffix("")) if rewritten.report is not None else ()
        return StepResult(path=path, checked=checked, notes=rewritten.notes, files=files)

    row = ExportStep(
        name=name, suffix=suffix, takes=takes, gives=gives, help=help, settings=settings, check=check, apply=apply
    )
    return row


def _check_takes(step: ExportStep, graph: "ExportedGraph", follows: tuple[str, ...]) -> None:
    if step.takes is not None and graph.spec.precision != step.takes:
        raise ModelError(f"{graph.path}: computes in {graph.spec.precision}, but {step.name} takes {step.takes}")
    for name in steps_behind(graph.metadata):
        if name not in follows:
            raise ModelError(
                f"{graph.path}: is a result of {name} already, which {step.name} does not take; name the file that it "
                "was made of"
            )


def _finish(
    step: ExportStep,
    source: "ExportedGraph",
    rewritten: Rewritten,
    likeness: Likeness,
    only_standard_operators: bool,
    path: Path,
) -> str:
    """Check a rewritten graph and write it; returns what was checked."""
    import numpy as np
    import onnx

    from export.graph import differences

    model = rewritten.model
    assert model is not None
    precision = {"precision": step.gives} if step.gives else {}
    onnx.helper.set_model_props(model, source.metadata | precision | rewritten.metadata)
    if only_standard_operators:
        onnx.checker.check_model(model, full_check=True)
    log.info("%s: checking it against %s", path.name, source.path.name)
    images = rewritten.images
    if images is None:
        images = np.random.default_rng(0).normal(size=(2, 3, *source.spec.input_size)).astype(np.float32)
    found = differences(model, source.model, likeness.outputs, images)
    errors = {name: getattr(difference, likeness.error) for name, difference in found.items()}
    for name, error in errors.items():
        if not error <= likeness.allowed:
            raise ModelError(
                f"{source.path}: {step.name} gives other {name} ({error:.2g} of their spread, {likeness.error} "
                f"difference; at most {likeness.allowed:g} is allowed); nothing was written{likeness.advice}",
                arguments=likeness.arguments,
            )
    with written_atomically(path) as temporary:
        onnx.save(model, temporary)
    beside = f"beside {source.path.name} on {len(images)} images{'' if rewritten.images is not None else ' of noise'}"
    if likeness.allowed == 0:
        return f"{', '.join(errors)} equal to the last bit {beside}"
    listed = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
    return f"{likeness.error} difference as a share of the spread: {listed} ({likeness.allowed:g} allowed), {beside}"
