"""The table of precisions: what a detector may compute in, and all that the rest of the program asks of it.

No torch: a row names PyTorch's type, and `networks.precision` makes a network of it. `docs/extending.md` shows how
a row is added.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ssd_train.errors import NetworkError
from ssd_train.table import Table

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a precision may cost against float32 before `parity` says that it fails.

    Attributes:
        metric_drop: metric's name -> points of its headline (0 to 100) that may be lost; winning some is no loss.
        changed: share of the detections at the working threshold that may change, 0 to 1.
    """

    metric_drop: Mapping[str, float]
    changed: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """One row.

    Attributes:
        name: what options, file names and descriptions call it.
        convert: float32 network -> network that computes in it; None where no PyTorch network does.
        onnx_tolerance: largest difference between PyTorch and the exported file, relative to the spread of each raw
            output; None where it is not exported from PyTorch.
        needs_calibration: it is made of an exported float32 file, with images.
        engine_kinds: what TensorRT's inspector may show of a convolution; empty where no engine has this precision.
        limits: see `Limits`; None for float32, which has to be equal but for rounding.
    """

    name: str
    convert: "Callable[[SSD], SSD] | None"
    onnx_tolerance: float | None
    needs_calibration: bool
    engine_kinds: frozenset[str]
    limits: Limits | None

    @property
    def in_network(self) -> bool:
        """Whether a PyTorch network computes in it."""
        return self.convert is not None

    @property
    def in_file(self) -> bool:
        """Whether an exported file may hold it."""
        return self.onnx_tolerance is not None or self.needs_calibration


def _unchanged(network: "SSD") -> "SSD":
    return network


def _rounded_to(dtype_name: str) -> "Callable[[SSD], SSD]":
    def convert(network: "SSD") -> "SSD":
        import torch

        from ssd_train.networks.precision import rounded_to

        return rounded_to(network, getattr(torch, dtype_name))

    return convert


# Half a point of a metric that averages ten thresholds moves less than that of one.
HALF = Limits(metric_drop={"voc": 0.05, "coco": 0.05}, changed=0.02)
BYTE = Limits(metric_drop={"voc": 0.3, "coco": 0.5}, changed=0.1)

PRECISIONS: Table[Precision] = Table(
    "precision",
    (
        Precision(
            name="fp32",
            convert=_unchanged,
            # Both compute in another order; 1e-5 is seen.
            onnx_tolerance=1e-3,
            needs_calibration=False,
            engine_kinds=frozenset({"fp32"}),
            limits=None,
        ),
        # Not asked for by name: float32 where TF32 was allowed.
        Precision(
            name="tf32",
            convert=None,
            onnx_tolerance=None,
            needs_calibration=False,
            engine_kinds=frozenset({"tf32", "fp32"}),
            limits=HALF,
        ),
        Precision(
            name="fp16",
            convert=_rounded_to("float16"),
            # PyTorch rounds after every layer, ONNX Runtime, which computes such a graph in float32 on most CPUs,
            # only where it cannot avoid it; 1e-2 is seen.
            onnx_tolerance=5e-2,
            needs_calibration=False,
            engine_kinds=frozenset({"fp16"}),
            limits=HALF,
        ),
        Precision(
            name="bf16",
            convert=_rounded_to("bfloat16"),
            onnx_tolerance=None,
            needs_calibration=False,
            engine_kinds=frozenset(),
            limits=BYTE,
        ),
        Precision(
            name="int8",
            convert=None,
            onnx_tolerance=None,
            needs_calibration=True,
            # Layers may stay float by choice, and TensorRT takes a convolution back to float where int8 is slower.
            engine_kinds=frozenset({"int8", "fp32", "tf32", "fp16"}),
            limits=BYTE,
        ),
    ),
    NetworkError,
)


def in_precision(network: "SSD", precision: str) -> "SSD":
    """Return a network that computes in `precision`; the one that was passed is not changed.

    Args:
        network: a float32 network in evaluation mode.
        precision: a row of `PRECISIONS` that networks compute in.

    Returns:
        For `fp32` the network itself. Otherwise one that still takes float32 images and returns
        float32 logits and offsets, for inference only; its `spec.precision` says what it computes in.

    Raises:
        NetworkError: no such precision, no network computes in it, or this one is not float32.
    """
    row = PRECISIONS.get(precision)
    if row is None or row.convert is None:
        networks = ", ".join(each.name for each in PRECISIONS.values() if each.in_network)
        raise NetworkError(f"a network's precision {precision!r} does not exist; choose {networks}")
    if network.spec.precision != "fp32":
        raise NetworkError(f"{network.config.name} is {network.spec.precision} already; start from the float32 network")
    converted = row.convert(network)
    if converted is not network:
        converted.spec = dataclasses.replace(network.spec, precision=precision)
    return converted
