"""What every export step has in common, and the step from ONNX to ONNX: one signature, one check against its source.

    source file -> rewrite -> ONNX's checker -> the same images through both -> file

A step that leads from ONNX to ONNX is a function that rewrites a graph, and a row of `export.steps` that says what may
be lost by it. Reading, checking and writing happen here, so that no step can leave one out. Light: the row of a step
is made without the packages that the step needs.
"""

import dataclasses
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from export.file_metadata import steps_behind
from ssd_train.errors import ModelError
from ssd_train.files import written_atomically
from ssd_train.requirements import require
from ssd_train.spec import RAW, RAW_NAMES

if TYPE_CHECKING:
    import onnx

    from export.graph import ExportedGraph
    from ssd_train.preprocess import Images

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


class ExportStep(Protocol):
    """One row; `name` is what options, reports and errors call it."""

    @property
    def name(self) -> str: ...

    def check(self, settings: Any) -> None:
        """Raise what is wrong with settings, before the source is even made."""

    def apply(
        self, source: Path, out_dir: Path, settings: Any = None, *, on_progress: OnProgress | None = None
    ) -> StepResult:
        """Make a file of `source` in `out_dir`.

        Args:
            settings: as `check` takes them; None where a step has none.

        Raises:
            ModelError: the source is not what the step takes, or the result does not compute what the source does; no
                model is written.
            BackendError: a package is missing, or the settings are at fault.
            SSDDeployError: the folder cannot be written.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What an ONNX -> ONNX step makes of a graph.

    Attributes:
        model: the new graph; None where there is nothing to gain.
        metadata: entries that the file gets beside, or in the place of, its source's.
        images: what to compare it with its source on, as the source takes them; None for noise.
        images_of_made: the same images as the new graph takes them; None for as they are.
        notes: see `StepResult`.
        report: model's path without its suffix -> further files, written beside it.
    """

    model: "onnx.ModelProto | None"
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    images: "Images | None" = None
    images_of_made: "Images | None" = None
    notes: tuple[str, ...] = ()
    report: Callable[[Path], tuple[Path, ...]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxStep:
    """The row of a step from ONNX to ONNX.

    Attributes:
        name: see `ExportStep`.
        module: has its `rewrite(graph, settings, on_progress) -> Rewritten`, which changes no graph in place; imported
            when the step is applied.
        takes: the only precision of a source; None for any.
        gives: precision of the result; None for the source's.
        follows: names of the steps whose results it takes; every other step's are refused.
        compared: names of the values that have to be like the source's; of a source without detections its own outputs.
        error: field of `graph.Difference` that is looked at.
        allowed: the most that it may be; 0 for equal to the last bit.
        advice: what to do where it is more, the end of a sentence, and `arguments`, the settings that it is about.
        is_for_speed: its files take and give the same as their source, only faster on a CPU.
        only_standard_operators: ONNX's checker knows what is in its files.
        check: see `ExportStep`.
        settings: those that it always has; None for those that it is given.
        ending: settings -> what names of its files end with; None for its name.
    """

    name: str
    module: str
    takes: str | None
    gives: str | None
    follows: tuple[str, ...]
    compared: tuple[str, ...]
    error: str
    allowed: float
    advice: str = ""
    arguments: tuple[str, ...] = ()
    is_for_speed: bool = False
    only_standard_operators: bool = True
    check: Callable[[Any], None] = lambda settings: None
    settings: Any = None
    ending: Callable[[Any], str] | None = None

    def __post_init__(self) -> None:
        if not self.compared:
            raise ValueError(f"the export step {self.name} is checked on nothing")

    def path_for(self, source: Path, out_dir: Path, settings: Any = None) -> Path:
        """Return what the step calls the file that it makes of another."""
        ending = self.name if self.ending is None else self.ending(settings)
        return out_dir / f"{source.stem.removesuffix(f'.{self.takes}' if self.gives else '')}.{ending}.onnx"

    def apply(
        self, source: Path, out_dir: Path, settings: Any = None, *, on_progress: OnProgress | None = None
    ) -> StepResult:
        """See `ExportStep.apply`."""
        settings = settings if self.settings is None else self.settings
        self.check(settings)
        require("onnx", "export", f"The export step {self.name}")
        from export.graph import check_sound, load_exported

        graph = load_exported(source)
        self._check_takes(graph)
        check_sound(graph)
        log.info("%s: making %s of it", source.name, self.name)
        rewritten: Rewritten = importlib.import_module(self.module).rewrite(graph, settings, on_progress)
        if rewritten.model is None:
            return StepResult(path=None, notes=rewritten.notes)
        path = self.path_for(source, out_dir, settings)
        checked = self._write(rewritten.model, rewritten, graph, path)
        files = rewritten.report(path.with_suffix("")) if rewritten.report is not None else ()
        return StepResult(path=path, checked=checked, notes=rewritten.notes, files=files)

    def _check_takes(self, graph: "ExportedGraph") -> None:
        if self.takes is not None and graph.spec.precision != self.takes:
            raise ModelError(f"{graph.path}: computes in {graph.spec.precision}, but {self.name} takes {self.takes}")
        for name in steps_behind(graph.metadata):
            if name not in self.follows:
                has, advice = f"is a result of {name} already", "name the file that it was made of"
                if graph.spec.adopted_from and name == "batch":
                    # It was so from the start.
                    has = f"takes a fixed number of images a call ({graph.spec.batch_size})"
                    advice = "export the original with a dynamic batch, and adopt that"
                raise ModelError(f"{graph.path}: {has}, which {self.name} does not take; {advice}")

    def _write(self, model: "onnx.ModelProto", rewritten: Rewritten, source: "ExportedGraph", path: Path) -> str:
        """Check a rewritten graph and write it; returns what was checked."""
        import onnx

        from export.graph import differences, some_images

        precision = {"precision": self.gives} if self.gives else {}
        onnx.helper.set_model_props(model, source.metadata | precision | rewritten.metadata)
        if self.only_standard_operators:
            onnx.checker.check_model(model, full_check=True)
        log.info("%s: checking it against %s", path.name, source.path.name)
        images, noise = rewritten.images, ""
        if images is None:
            images, noise = some_images(source.spec), " of noise"
        compared = RAW_NAMES if source.spec.outputs == RAW else self.compared
        found = differences(model, source.model, compared, images, rewritten.images_of_made)
        errors = {name: getattr(difference, self.error) for name, difference in found.items()}
        for name, error in errors.items():
            if not error <= self.allowed:
                raise ModelError(
                    f"{source.path}: {self.name} gives other {name} ({error:.2g} of their spread, {self.error} "
                    f"difference; at most {self.allowed:g} is allowed); nothing was written{self.advice}",
                    arguments=self.arguments,
                )
        with written_atomically(path) as temporary:
            onnx.save(model, temporary)
        beside = f"beside {source.path.name} on {len(images)} images{noise}"
        if self.allowed == 0:
            return f"{', '.join(errors)} equal to the last bit {beside}"
        listed = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        return f"{self.error} difference as a share of the spread: {listed} ({self.allowed:g} allowed), {beside}"
