"""The commands that make a form's file and run it, as a user types them."""

import dataclasses
import shlex
from pathlib import Path

from export.file_metadata import Int8Target
from export.quantize_options import QuantizeOptions
from ssd_deploy.benchmark.fastest.candidates import Candidate
from ssd_deploy.benchmark.fastest.forms import FLOAT, Form, Made
from ssd_deploy.benchmark.fastest.trials import Running

PROGRAM = "ssd-deploy"

# What `export` calls the steps that rewrite a file.
STEP_OPTIONS = {"winograd": "--winograd", "cpu": "--optimize-for-cpu"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """A detector as it was named.

    Attributes:
        words: of the command line: MODEL and the options that belong to it.
        file: the exported file; None for a network.
        arguments: of `load_detector`, the model first, as Python writes them.
    """

    words: tuple[str, ...]
    file: Path | None
    arguments: tuple[str, ...]


def making(named: Named, made: Made, form: Form, out: Path) -> list[str]:
    """Return the commands that write a form's file to a folder; none for what is there already.

    Args:
        made: made the form, and knows how to calibrate.
    """
    steps = [STEP_OPTIONS[step] for step in form.steps]
    to = ["--out", str(out)]
    calibrating = _calibrating(made.int8, form.target) if form.target is not None else []
    if form.is_network or (named.file is not None and form == FLOAT):
        return []
    if named.file is None:
        return [_command("export", *named.words, "--precision", form.precision, *calibrating, *steps, *to)]
    if form.target is None:
        return [_command("export", *named.words, *steps, *to)]
    commands = [_command("quantize", *named.words, *calibrating, *to)]
    if steps:
        quantized = out / made.path(dataclasses.replace(form, steps=())).name
        commands.append(_command("export", str(quantized), *steps, *to))
    return commands


def using(named: Named, file: Path | None, candidate: Candidate, running: Running) -> str:
    """Return the command that detects in a folder `photos`.

    Args:
        file: the form's file; None where the network itself runs.
        running: how it was measured.
    """
    backend, precision = _asked(candidate)
    model = named.words if file is None else (str(file),)
    asked = {
        "--backend": backend,
        "--precision": precision,
        "--threads": candidate.threads or None,
        "--batch-size": running.batch_size,
    }
    options = [word for name, value in asked.items() if value is not None for word in (name, str(value))]
    return _command("detect", *model, "photos", *options, *(["--allow-tf32"] if running.allow_tf32 else []))


def in_python(named: Named, file: Path | None, candidate: Candidate, running: Running) -> str:
    """Return the same as a line of Python, for `from ssd_deploy import load_detector`."""
    backend, precision = _asked(candidate)
    asked = {
        "backend": backend,
        "precision": precision,
        "threads": candidate.threads or None,
        "batch_size": running.batch_size,
        "allow_tf32": running.allow_tf32 or None,
    }
    model = named.arguments if file is None else (repr(str(file)),)
    arguments = [*model, *(f"{name}={value!r}" for name, value in asked.items() if value is not None)]
    return f"load_detector({', '.join(arguments)})"


def _asked(candidate: Candidate) -> tuple[str, str | None]:
    """Return the backend and the precision that are asked for: a file's own goes without saying."""
    choice = candidate.choice
    computed = [variant for variant in choice.variants if variant in choice.backend.precisions]
    others = tuple(variant for variant in choice.variants if variant not in computed)
    precision = candidate.form.precision if candidate.form.is_network else next(iter(computed), None)
    return str(dataclasses.replace(choice, variants=others)), precision


def _calibrating(int8: QuantizeOptions, target: Int8Target) -> list[str]:
    asked = {
        "--calibration-data": int8.calibration_data,
        "--calibration-images": int8.calibration_images,
        "--calibration-method": int8.calibration_method,
        "--int8-target": target.value,
    }
    return [word for name, value in asked.items() if value is not None for word in (name, str(value))]


def _command(*words: str) -> str:
    return shlex.join((PROGRAM, *words))
