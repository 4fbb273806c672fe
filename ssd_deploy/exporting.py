"""Network or file -> files: what `export`, `quantize` and `build` string together."""

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.engine.file import BuildOptions
from export.engine.step import EngineSettings
from export.quantize_options import QuantizeOptions
from export.step import StepResult
from export.steps import STEPS
from ssd_deploy.engines import needed_gpu
from ssd_deploy.model_source import export_network
from ssd_deploy.progress import stage_progress
from ssd_train.files import written_atomically
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import PostprocessSettings
from ssd_train.temporary import temporary_folder

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

logger = logging.getLogger(__name__)

# Names of export steps with their settings.
Changes = Sequence[tuple[str, Any]]


def export_files(
    network: "SSD",
    out_dir: Path,
    *,
    precisions: Sequence[str],
    settings: PostprocessSettings,
    int8: QuantizeOptions,
    changes: Changes,
    keeps_onnx: bool,
    winograd: bool,
    optimize: bool,
    engines: Mapping[str, EngineSettings],
) -> list[StepResult]:
    """Write what is asked for of a network.

    Args:
        keeps_onnx: the ONNX files are wanted, and not only engines made of them.
        changes: see `change`; what they are made of is not kept.
        winograd, optimize: see `rewrite`.
        engines: flavour -> how to build; see `engine_settings`.

    Raises:
        BackendError, ModelError, SSDDeployError: as `export_network` and `run_step`; what was written before stays.
    """
    with temporary_folder() as unseen:
        folder = out_dir if keeps_onnx else unseen
        made = export_precisions(network, precisions, settings, int8, unseen if changes else folder)
        results = made if keeps_onnx and not changes else [keep_reports(each, out_dir) for each in made]
        files = []
        for file in [each.path for each in made if each.path is not None]:
            # Its rounding is part of an fp16 or int8 graph.
            is_float = ".fp32." in file.name
            rewritten = rewrite(file, folder, changes=changes, winograd=winograd and is_float, optimize=optimize)
            files.append(changed_file(file, rewritten, changes))
            results += rewritten if keeps_onnx else []
        return [*results, *build_engines(files, out_dir, engines)]


def rewrite_file(
    file: Path,
    out_dir: Path,
    *,
    changes: Changes,
    keeps_onnx: bool,
    winograd: bool,
    optimize: bool,
    engines: Mapping[str, EngineSettings],
) -> list[StepResult]:
    """Write what is asked for of an exported file; see `export_files`."""
    with temporary_folder() as unseen:
        folder = out_dir if keeps_onnx else unseen
        results = rewrite(file, folder, changes=changes, winograd=winograd, optimize=optimize)
        built = build_engines([changed_file(file, results, changes)], out_dir, engines)
        return [*(results if keeps_onnx else []), *built]


def change(file: Path, folder: Path, changes: Changes) -> list[StepResult]:
    """Apply steps to an exported file one after another; returns the last one's result, or none without steps.

    Args:
        changes: names of steps with their settings.
    """
    results: list[StepResult] = []
    with temporary_folder() as unseen:
        for index, (name, settings) in enumerate(changes):
            results = [run_step(name, file, folder if index == len(changes) - 1 else unseen, settings)]
            file = results[0].path or file
    return results


def changed_file(file: Path, rewritten: Sequence[StepResult], changes: Changes) -> Path:
    """Return which of the results of `rewrite` an engine is built of: the file itself, as it was changed."""
    return (rewritten[0].path if changes else None) or file


def build_engines(files: Sequence[Path], out_dir: Path, engines: Mapping[str, EngineSettings]) -> list[StepResult]:
    """Build an engine of every file in every flavour."""
    return [run_step(flavour, file, out_dir, settings) for flavour, settings in engines.items() for file in files]


def export_precisions(
    network: "SSD", precisions: Sequence[str], settings: PostprocessSettings, int8: QuantizeOptions, folder: Path
) -> list[StepResult]:
    """Export a network in every precision to a folder; what is calibrated is made of a float32 file."""
    results = []
    for name in precisions:
        if PRECISIONS[name].needs_calibration:
            with temporary_folder() as unseen:
                results.append(run_step(name, export_network(network, unseen, "fp32", settings), folder, int8))
        else:
            path = export_network(network, folder, name, settings)
            results.append(StepResult(path=path, checked="raw predictions and detections beside PyTorch's"))
    return results


def run_step(name: str, source: Path, out_dir: Path, settings: Any = None) -> StepResult:
    """Carry out one export step with a bar, and log its notes; raises what `export.step.Apply` does."""
    with stage_progress(source.name) as on_progress:
        result = STEPS[name].apply(source, out_dir, settings, on_progress=on_progress)
    for note in result.notes:
        logger.info("note: %s", note)
    return result


def rewrite(file: Path, out_dir: Path, *, changes: Changes, winograd: bool, optimize: bool) -> list[StepResult]:
    """Make of a file what is asked for: itself as it is changed, and files for CPUs that are changed alike.

    The CPU's own graph is made of Winograd's, where there is one.
    """
    results = change(file, out_dir, changes)
    last = changed_file(file, results, changes)
    if winograd:
        with temporary_folder() as unseen:
            made = run_step("winograd", file, unseen if changes else out_dir)
            results += [made] if made.path is None or not changes else change(made.path, out_dir, changes)
        last = results[-1].path or last
    if optimize:
        results.append(run_step("cpu", last, out_dir))
    return results


def engine_settings(options: BuildOptions, flavour: str) -> EngineSettings:
    """Return a step's settings; raise what speaks against a build: before a network is exported for it, not after.

    Raises:
        BackendError: the flavour is not installed, has no GPU to build on, or an option does not belong to it.
    """
    settings = EngineSettings(options=options, gpu=needed_gpu(flavour))
    STEPS[flavour].check(settings)
    return settings


def keep_reports(result: StepResult, out_dir: Path) -> StepResult:
    """Copy the reports of a step, such as what int8 costs, out of a folder that will go with its model.

    Raises:
        SSDDeployError: the folder cannot be written.
    """
    for path in result.files:
        with written_atomically(out_dir / path.name) as temporary:
            shutil.copyfile(path, temporary)
    return dataclasses.replace(result, path=None, files=tuple(out_dir / path.name for path in result.files))
