"""What backends and files are held against: a network in PyTorch, or the file that was adopted where there is none."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from export.file_metadata import steps_behind
from export.session import describe_exported
from ssd_deploy.backends import BACKENDS, Backend
from ssd_train.spec import DetectorSpec

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

# What sentences call a reference, by the name of its backend.
_TITLES = {"torch": "PyTorch", "onnxruntime": "the adopted file in ONNX Runtime"}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """What is right.

    Attributes:
        model: a float32 network; or a file with another project's own graph, which `adopt` held against its original.
        spec: of it.
        backend: that runs it.
    """

    model: "SSD | Path"
    spec: DetectorSpec
    backend: Backend


def reference_of(model: "SSD | Path") -> Reference:
    """Return how a network, or a file that `is_adopted`, is run as the reference.

    Raises:
        ModelError: the file cannot be read.
    """
    if isinstance(model, Path):
        row = BACKENDS["onnxruntime"]
        assert row.describe is not None  # it opens files
        return Reference(model=model, spec=row.describe(model), backend=row)
    return Reference(model=model, spec=model.spec, backend=BACKENDS["torch"])


def title_of(name: str) -> str:
    """Return what sentences call a reference; `name` is that of its runner or backend, such as `torch (cpu)`."""
    return _TITLES.get(re.split(r"\W", name)[0], name)


def is_adopted(path: Path) -> bool:
    """Whether a file has another project's graph as `adopt` wrote it, so that no network here is closer to the truth.

    Raises:
        ModelError: the file cannot be read.
    """
    if path.suffix.lower() != ".onnx" or not (exported := describe_exported(path)).spec.adopted_from:
        return False
    # Its number of images may have been fixed by who made it.
    return exported.spec.precision == "fp32" and not {*steps_behind(exported.metadata)} - {"batch"}
