"""The stand-in's plans: a mark, a line of JSON that says what was built, and an ONNX file."""

import dataclasses
import json

# Three numbers at most come before the first letter, so that no report can cut the name off.
VERSION = "10.16.1 stand-in"
MARK = b"stand-in for a TensorRT plan\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanHeader:
    """What was built.

    Attributes:
        gpu, compute_capability: of the card that it was built on.
        profiles: for each profile, input -> its least, best and largest shape.
        is_detailed: built with detailed profiling verbosity.
    """

    version: str
    gpu: str
    compute_capability: str
    profiles: list[dict[str, list[list[int]]]]
    allow_tf32: bool
    is_detailed: bool
    is_version_compatible: bool
    is_hardware_compatible: bool


def write_plan(header: PlanHeader, onnx: bytes) -> bytes:
    return MARK + json.dumps(dataclasses.asdict(header)).encode() + b"\n" + onnx


def read_plan(plan: bytes) -> tuple[PlanHeader, bytes]:
    """Return what was built, and the ONNX file; raise ValueError where this is no plan of the stand-in."""
    if not plan.startswith(MARK):
        raise ValueError("the plan does not begin with the stand-in's mark: magic tag does not match")
    line, _, onnx = plan[len(MARK) :].partition(b"\n")
    try:
        return PlanHeader(**json.loads(line)), onnx
    except (TypeError, ValueError) as error:
        raise ValueError("the plan's header is broken: serialized engine version cannot be read") from error
