"""The table of TensorRT's flavours: what tells them apart, and all that the rest of the program asks of them.

TensorRT (10.x and 11.x) runs on every NVIDIA GPU and builds on the GPU that it builds for. TensorRT for RTX runs on
consumer and workstation cards and builds for them on any machine, GPU or none. No TensorRT is imported here.
"""

import dataclasses

from ssd_train.errors import BackendError
from ssd_train.table import Table

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt-rtx"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavour:
    """One row.

    Attributes:
        name: its package's and its extra's name too.
        module: what is imported.
        builds_without_gpu: for GPUs that need not be there; otherwise on the one that it builds for.
        own_options: those of `BuildOptions` that belong to it alone.
        instead: why it has none of the others' own options, and what it has in their place.
        tells_layers: a new plan can be asked in which precision its layers compute.
        keeps_timings: measurements of a build help the next one.
        when_not_loaded: what to do where it does not load a plan.
    """

    name: str
    module: str
    builds_without_gpu: bool
    own_options: tuple[str, ...]
    instead: str
    tells_layers: bool
    keeps_timings: bool
    when_not_loaded: str


FLAVOURS: Table[Flavour] = Table(
    "TensorRT flavour",
    (
        Flavour(
            name=TENSORRT,
            module="tensorrt",
            builds_without_gpu=False,
            own_options=("version_compatible", "hardware_compatible", "strict"),
            instead="builds for the GPU that it runs on, or with hardware_compatible for all from Ampere on",
            tells_layers=True,
            keeps_timings=True,
            when_not_loaded="see `ssd-deploy doctor`",
        ),
        Flavour(
            name=TENSORRT_RTX,
            module="tensorrt_rtx",
            builds_without_gpu=True,
            own_options=("target_sm",),
            # It compiles its kernels when it loads an engine, so that layers say nothing before.
            instead="builds for the cards of target_sm and for its own release, and tells nothing of its layers",
            tells_layers=False,
            # It takes a timing cache and does nothing with it.
            keeps_timings=False,
            when_not_loaded="use a GPU that TensorRT for RTX supports",
        ),
    ),
    BackendError,
)
