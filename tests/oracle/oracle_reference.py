"""The folder that `gluoncv_reference.py` wrote, as the tests read it."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class ReferenceCase:
    """One network with its weights, as GluonCV saved and ran it.

    Attributes:
        name: which case; several may share a network.
        entry: its entry of the manifest.
        folder: where its files are.
    """

    name: str
    entry: dict[str, Any]
    folder: Path

    @property
    def network(self) -> str:
        return str(self.entry["network"])

    @property
    def classes(self) -> tuple[str, ...] | None:
        """What `build_network` wants: a class list for custom networks, else None."""
        return tuple(self.entry["class_names"]) if self.network.endswith("_custom") else None

    @property
    def dotted(self) -> Path:
        return self.folder / f"{self.name}.params"

    @property
    def legacy(self) -> Path:
        return self.folder / f"{self.name}.legacy.params"

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        with np.load(self.folder / f"{self.name}.npz") as file:
            return dict(file)


def read_manifest() -> tuple[Path, dict[str, Any]] | str:
    """Return the reference folder and its manifest, or why there is none."""
    named = os.environ.get("SSD_ORACLE_DIR")
    if not named:
        return "SSD_ORACLE_DIR is not set; `make test-oracle` writes GluonCV's outputs and sets it"
    manifest = Path(named) / "manifest.json"
    if not manifest.is_file():
        return f"{manifest} does not exist; write the reference with tests/oracle/gluoncv_reference.py"
    return manifest.parent, json.loads(manifest.read_text())
