"""A detector and images in, a report out: search, keep the file that is needed, say how to use it."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.file_metadata import Int8Target, steps_behind
from export.quantize_options import QuantizeOptions
from ssd_deploy.backends import AUTO, BackendChoice, choose_backend
from ssd_deploy.backends.base import Runner
from ssd_deploy.benchmark.fastest.candidates import Candidate
from ssd_deploy.benchmark.fastest.commands import Named, in_python, making, using
from ssd_deploy.benchmark.fastest.forms import Form, Made, file_forms, network_forms
from ssd_deploy.benchmark.fastest.losses import Losses
from ssd_deploy.benchmark.fastest.report import FastestReport, Way
from ssd_deploy.benchmark.fastest.search import Found, best_device, search
from ssd_deploy.benchmark.fastest.trials import Running
from ssd_deploy.benchmark.measure import BenchmarkSettings
from ssd_train.environment import describe_environment
from ssd_train.errors import ModelError
from ssd_train.files import written_atomically
from ssd_train.precisions import PRECISIONS
from ssd_train.temporary import temporary_folder

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

# Where the commands write to that make a file.
OUT = Path("models")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibrating:
    """How to calibrate.

    Attributes:
        int8: the settings; without images there is no int8.
        why_not: a sentence where there is none.
        of_split: the images are links to those of a training split, which no command can name; the sentence says which.
    """

    int8: QuantizeOptions
    why_not: str = ""
    of_split: str = ""


def run(
    named: Named,
    network: "SSD | None",
    compare_with: Callable[[Runner], Losses],
    images: Sequence[Path],
    settings: BenchmarkSettings,
    calibrating: Calibrating,
    *,
    data: str,
    precisions: Sequence[str] | None = None,
    choices: Sequence[BackendChoice] | None = None,
    device: str = "cpu",
    threads: int = 0,
    allow_tf32: bool = False,
    out: Path | None = None,
    on_turn: Callable[[int, int], object] = lambda done, total: None,
) -> FastestReport:
    """Find the fastest way to run a detector here.

    Args:
        named: the detector; without a network its file is float32, see `check_float`.
        network: float32; None for a file.
        compare_with: see `search.search`.
        images: files to measure with.
        settings: how long each candidate is measured; one batch size.
        data: what losses are counted on, as text.
        precisions: to try, float32 always being one; None for all that can be made.
        choices, device, threads, allow_tf32, on_turn: see `search.search`.
        out: folder that the file which is needed is kept in; None keeps none.

    Raises:
        As `search.search`; SSDDeployError: the folder cannot be written.
    """
    device = best_device() if device == AUTO else device
    known = [name for name, row in PRECISIONS.items() if row.in_network or row.in_file]
    asked = [name for name in known if precisions is None or name in precisions or name == "fp32"]
    if calibrating.int8.calibration_data is None:
        asked = [name for name in asked if not PRECISIONS[name].needs_calibration]
    forms = network_forms(asked) if network is not None else []
    # Half of a network is rounded in PyTorch, before it is exported.
    of_file = [name for name in asked if network is not None or name == "fp32" or PRECISIONS[name].needs_calibration]
    on_cpu = device == "cpu"
    forms = [*file_forms(of_file, _targets(calibrating.int8, on_cpu), for_cpu=on_cpu), *forms]
    with temporary_folder() as folder:
        made = Made(named.file, network, calibrating.int8, folder)
        found = search(
            made, forms, settings, compare_with, images,
            choices=choices, device=device, threads=threads, allow_tf32=allow_tf32, on_turn=on_turn,
        )  # fmt: skip
        running = Running(device=device, allow_tf32=allow_tf32, batch_size=settings.batch_sizes[0])
        return FastestReport(
            found=found,
            way=_way(named, made, found, running, calibrating.of_split, out),
            data=data,
            notes=(calibrating.why_not,) if calibrating.why_not else (),
            environment=describe_environment(),
        )


def check_float(file: Path) -> None:
    """Raise ModelError unless a file is the exported float32 one that all others are made of."""
    from export.session import describe_exported

    if file.suffix.lower() != ".onnx":
        raise ModelError(f"{file}: is an engine, of which nothing else is made; name the .onnx file or the network")
    exported = describe_exported(file)
    behind = steps_behind(exported.metadata)
    if exported.spec.precision != "fp32" or behind:
        what = ", ".join((exported.spec.precision, *(step for step in behind if step != exported.spec.precision)))
        raise ModelError(f"{file}: is {what}; name the float32 file or the network that it was made of")


def _targets(int8: QuantizeOptions, on_cpu: bool) -> tuple[Int8Target, ...]:
    if int8.int8_target is not None:
        return (int8.target,)
    return tuple(Int8Target) if on_cpu else (Int8Target.PORTABLE,)


def _way(named: Named, made: Made, found: Found, running: Running, of_split: str, out: Path | None) -> Way:
    candidate = _reference(made) if found.best is None else found.best.candidate
    form, kept, note = candidate.form, None, ""
    commands = tuple(making(named, made, form, out or OUT))
    file = None if form.is_network else (out or OUT) / made.path(form).name if commands else named.file
    if commands and out is not None:
        assert file is not None
        with written_atomically(file) as temporary:
            shutil.copyfile(made.path(form), temporary)
        kept = str(file)
    if commands and form.target is not None and of_split:
        commands, note = (), f"{of_split}; " + ("" if kept else "this command with `--out models` keeps the file")
    return Way(
        # What lies there needs no command.
        making=() if kept else commands,
        note=note.removesuffix("; "),
        kept=kept,
        using=using(named, file, candidate, running),
        in_python=in_python(named, file, candidate, running),
    )


def _reference(made: Made) -> Candidate:
    """Return the network as it is, which only something held against it can lose anything to."""
    assert made.network is not None
    form = Form(precision="fp32", is_network=True)
    return Candidate(form=form, choice=BackendChoice(backend=choose_backend(made.network)))
