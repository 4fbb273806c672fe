"""What a row of the table of backends is. Light, and imported by the table and by the backends themselves."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_deploy.sources.address import scheme_of
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import PostprocessSettings

if TYPE_CHECKING:
    from ssd_deploy.backends.base import Runner
    from ssd_train.networks.ssd import SSD
    from ssd_train.spec import DetectorSpec

# How an ONNX file begins: with the format's first entry, the version of its intermediate representation.
ONNX_START = b"\x08"

# In front of what a detector says of itself, among the entries that a server gives out of a model.
SERVED_ENTRY_PREFIX = "ssd_deploy."

# What errors call a model without a file.
IN_MEMORY = "the ONNX file in memory"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Whether a backend works here on a device, and what is known about it or missing."""

    works: bool
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a detector is to run.

    Attributes:
        device: one of the row's, perhaps with a number, such as `cuda:1`; None for its usual one; `auto` for a GPU
            where the row has one that works.
        variants: some of the row's.
        batch_size: the largest batch that is to come; an engine that is built here is tuned for it.
        allow_tf32: let a GPU round float32 products to 10 bits of mantissa.
        threads: CPU threads of one operator, for PyTorch in the whole process; 0 leaves the backend its default,
            unless this process may use fewer CPUs than that, see `cpus.cpu_threads`.
        beside_readers: other threads load images meanwhile, so that those of the backend are to leave them the cores
            while they wait.
        with_raw: `run_raw` is to come, which takes some backends a second copy of the model.
        settings: thresholds of a network; None for those of its description. A file has its own.
    """

    device: str | None = None
    variants: tuple[str, ...] = ()
    batch_size: int = 8
    allow_tf32: bool = False
    threads: int = 0
    beside_readers: bool = False
    with_raw: bool = False
    settings: PostprocessSettings | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """One row.

    Attributes:
        name: what options and reports call it.
        runs_networks: takes a PyTorch network; otherwise a file.
        suffixes: of the files that it opens, lower case.
        schemes: of the addresses of served models that it asks, lower case.
        devices: where it may run, the usual one first.
        variants: ways to run it that `benchmark` tells apart and that combine; `("cuda-graph",)`, for instance. One
            that is a row of `PRECISIONS` computes a float32 file in it; of those one at a time.
        off_switches: of the variants those that only turn off what is done by default; nothing is faster by them.
        is_tuned_for_batch: what it opens is made for one batch size, so that each has to be opened by itself to be
            measured.
        made_for: file with one of `suffixes` -> whether it was made for this very backend, which `auto` then takes.
        probe: device -> whether it works here. Raises nothing, whatever is broken.
        open: (network, file, address, or see `opens_bytes`; options) -> runner, on the device that the options name.
            Raises BackendError or ModelError where it cannot.
        describe: file with one of `suffixes`, or address -> what it says of itself, without running it; None where it
            opens neither. Raises ModelError; BackendError where a server cannot be asked.
        opens_bytes: `open` takes what is in an ONNX file, too; otherwise it is given a file of it.
    """

    name: str
    runs_networks: bool
    suffixes: tuple[str, ...]
    devices: tuple[str, ...]
    variants: tuple[str, ...]
    is_tuned_for_batch: bool
    made_for: Callable[[Path], bool]
    probe: Callable[[str], Finding]
    open: "Callable[[SSD | Path | bytes | str, RunOptions], Runner]"
    describe: "Callable[[Any], DetectorSpec] | None"
    schemes: tuple[str, ...] = ()
    opens_bytes: bool = False
    off_switches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.devices or not (self.runs_networks or self.suffixes or self.schemes):
            raise ValueError(f"the backend {self.name} runs nowhere, or nothing")
        if bool(self.suffixes or self.schemes) != (self.describe is not None):
            raise ValueError(
                f"the backend {self.name} opens files that it cannot describe, or describes what it has not"
            )

    @property
    def precisions(self) -> tuple[str, ...]:
        """The variants that compute a float32 file in another precision."""
        return tuple(variant for variant in self.variants if variant in PRECISIONS)

    def places(self) -> list[tuple[str, str]]:
        """Return each device with what a report calls the backend on it: `torch (cuda)`, `tensorrt`."""
        one = len(self.devices) == 1
        return [(device, self.name if one else f"{self.name} ({device})") for device in self.devices]

    def takes(self, model: "SSD | Path | str") -> bool:
        """Whether it runs such a model: a network, a file by its suffix, or an address by its scheme."""
        if isinstance(model, str):
            return scheme_of(model) in self.schemes
        if isinstance(model, Path):
            return suffix_of(model) in self.suffixes
        return self.runs_networks


def suffix_of(path: Path) -> str:
    """Return what a file's name ends with, in lower case; `.onnx` for an ONNX file whose name has no ending."""
    if path.suffix == "" and path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            return ".onnx" if file.read(1) == ONNX_START else ""
        return ""
    return path.suffix.lower()
