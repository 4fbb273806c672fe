"""What was run: data, detector, machine, packages, with hashes."""

import shlex
import sys
from pathlib import Path

from ssd_train.datasets.dataset import Dataset
from ssd_train.environment import describe_environment
from ssd_train.files import sha256_of_file
from ssd_train.spec import DetectorSpec


def describe_run(
    dataset: Dataset, spec: DetectorSpec, *, backend: str, model_file: Path | None = None
) -> dict[str, str]:
    """Return names and values for people; what is not known is left out.

    Args:
        dataset: what was evaluated.
        spec: the detector.
        backend: what it ran in, and on which device.
        model_file: the exported file that ran, hashed here; None for a network.
    """
    environment = describe_environment()
    height, width = spec.input_size
    facts = {
        "command": shlex.join([_program(Path(sys.argv[0])), *sys.argv[1:]]),
        "data set": f"{dataset.name}, {len(dataset.samples)} images",
        "network": f"{spec.network}, input {width}x{height}, {len(spec.class_names)} classes",
        "weights": spec.weights,
        "SHA-256 of the weights": spec.weights_sha256,
        "file": "" if model_file is None else str(model_file),
        "SHA-256 of the file": "" if model_file is None else sha256_of_file(model_file),
        "exported with": ", ".join(f"{name} {version}" for name, version in spec.versions.items()),
        "backend": backend,
        "precision": spec.precision,
    }
    facts |= dict(line.split(": ", 1) for line in environment.lines())
    return {name: value for name, value in facts.items() if value}


def _program(path: Path) -> str:
    """Return what a program is called; a package that is run by its name has a file of no name of its own."""
    return path.parent.name if path.name == "__main__.py" else path.name
