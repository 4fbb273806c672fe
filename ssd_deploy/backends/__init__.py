"""The table of backends: what runs a detector, and all that the rest of the program asks of it.

A backend is a module beside this file and one row here (`docs/extending.md`). Choices of the command line, `doctor`,
the loops of `parity` and `benchmark`, `load_detector` and the errors' lists of what exists are made of the rows.
Light: what a row calls is imported when it is called.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.engine.file import ENGINE_SUFFIXES, is_engine, read_info
from export.engine.flavours import FLAVOURS
from ssd_deploy.backends.row import Backend, Finding, RunOptions
from ssd_train.addresses import without_password
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.table import Table

if TYPE_CHECKING:
    from ssd_deploy.backends.base import Runner
    from ssd_train.networks.ssd import SSD
    from ssd_train.spec import DetectorSpec

logger = logging.getLogger(__name__)

AUTO = "auto"
GPU = "cuda"


# --- What the rows call ---


def _probe_torch(device: str) -> Finding:
    from ssd_deploy.backends.probes import probe_torch

    return probe_torch(device)


def _open_torch(model: "SSD | Path | bytes | str", options: RunOptions) -> "Runner":
    from ssd_train.requirements import require

    require("torch", "export", "The torch backend")
    from ssd_deploy.backends.pytorch import open_runner

    return open_runner(model, options)


def _probe_onnxruntime(device: str) -> Finding:
    from ssd_deploy.backends.probes import probe_onnxruntime

    return probe_onnxruntime(device)


def _open_onnxruntime(model: "SSD | Path | bytes | str", options: RunOptions) -> "Runner":
    from ssd_deploy.backends.onnxruntime import open_runner

    return open_runner(model, options)


def _probe_openvino(device: str) -> Finding:
    from ssd_deploy.backends.probes import probe_openvino

    return probe_openvino(device)


def _open_openvino(model: "SSD | Path | bytes | str", options: RunOptions) -> "Runner":
    from ssd_train.requirements import require

    require("openvino", "openvino", "The openvino backend")
    from ssd_deploy.backends.openvino import open_runner

    return open_runner(model, options)


def _probe_kserve(device: str) -> Finding:
    return Finding(works=True, detail="asks a server by the KServe protocol, such as Triton; needs its address")


def _open_kserve(model: "SSD | Path | bytes | str", options: RunOptions) -> "Runner":
    from ssd_deploy.backends.kserve import open_runner

    return open_runner(model, options)


def _describe_served(address: str) -> "DetectorSpec":
    from ssd_deploy.backends.kserve import describe_served

    return describe_served(address)


def describe_onnx(path: Path) -> "DetectorSpec":
    """Return what an ONNX file says of itself; a `Backend.describe` for rows that open such files."""
    from export.session import describe_exported

    return describe_exported(path).spec


def _tensorrt(flavour: str) -> Backend:
    def probe(device: str) -> Finding:
        from ssd_deploy.backends.probes import probe_tensorrt

        return probe_tensorrt(flavour)

    def open_engine(model: "SSD | Path | bytes | str", options: RunOptions) -> "Runner":
        from ssd_deploy.backends.tensorrt import open_runner

        return open_runner(flavour, model, options)

    return Backend(
        name=flavour,
        runs_networks=False,
        suffixes=(".onnx", *ENGINE_SUFFIXES),
        devices=("cuda",),
        variants=("cuda-graph",),
        is_tuned_for_batch=True,
        made_for=lambda path: is_engine(path) and read_info(path).flavour == flavour,
        probe=probe,
        open=open_engine,
        describe=lambda path: read_info(path).spec if is_engine(path) else describe_onnx(path),
    )


BACKENDS: Table[Backend] = Table(
    "backend",
    (
        Backend(
            name="torch",
            runs_networks=True,
            suffixes=(),
            devices=("cpu", "cuda"),
            variants=("compile", "channels-last", "cuda-graph", "eager"),
            off_switches=("eager",),
            is_tuned_for_batch=False,
            made_for=lambda path: False,
            probe=_probe_torch,
            open=_open_torch,
            describe=None,
        ),
        Backend(
            name="onnxruntime",
            runs_networks=False,
            suffixes=(".onnx",),
            # Its execution providers.
            devices=("cpu", "cuda", "tensorrt"),
            variants=("cuda-graph", "nhwc", "plain"),
            off_switches=("plain",),
            is_tuned_for_batch=False,
            made_for=lambda path: True,
            probe=_probe_onnxruntime,
            open=_open_onnxruntime,
            describe=describe_onnx,
            opens_bytes=True,
        ),
        Backend(
            name="openvino",
            runs_networks=False,
            suffixes=(".onnx",),
            # Its plugins for GPUs and NPUs were never tried.
            devices=("cpu",),
            variants=("bf16", "fp16"),
            is_tuned_for_batch=False,
            made_for=lambda path: False,
            probe=_probe_openvino,
            open=_open_openvino,
            describe=describe_onnx,
            opens_bytes=True,
        ),
        *(_tensorrt(flavour) for flavour in FLAVOURS),
        Backend(
            name="kserve",
            runs_networks=False,
            suffixes=(),
            schemes=("http", "https"),
            # Where it runs there is the server's choice.
            devices=("server",),
            variants=(),
            is_tuned_for_batch=False,
            made_for=lambda path: False,
            probe=_probe_kserve,
            open=_open_kserve,
            describe=_describe_served,
        ),
    ),
    BackendError,
)


def open_model(row: Backend, model: "SSD | Path | bytes | str", options: RunOptions) -> "Runner":
    """Open a model in a backend, after a look at what the options ask of it.

    Raises:
        BackendError: the backend has no such device or variant, or does not work here.
        ModelError: the file cannot be loaded.
    """
    device = row.devices[0] if options.device is None else options.device
    if device == AUTO:
        if GPU in row.devices and row.probe(GPU).works:
            # A file may be for CPUs alone; what is wrong with it otherwise is told by the usual device.
            try:
                return open_model(row, model, dataclasses.replace(options, device=GPU))
            except SSDDeployError as error:
                logger.info("%s: runs on the %s instead of a GPU (%s)", row.name, row.devices[0], error)
        device = row.devices[0]
    kind, _, number = device.partition(":")
    if kind not in row.devices or (":" in device and not number.isdecimal()):
        raise BackendError(
            f"device {device!r} is none of the {row.name} backend; choose {', '.join(row.devices)}",
            arguments=("device",),
        )
    missing = [variant for variant in options.variants if variant not in row.variants]
    if missing:
        having = ", ".join(other.name for other in BACKENDS.values() if missing[0] in other.variants)
        raise BackendError(
            f"the {row.name} backend has no variant {missing[0]}; leave it out, or choose {having or 'another'}",
            arguments=(missing[0].replace("-", "_"),),
        )
    _check_one_precision(row, options.variants)
    return row.open(model, dataclasses.replace(options, device=device))


def _check_one_precision(row: Backend, variants: Sequence[str]) -> None:
    asked = [variant for variant in variants if variant in row.precisions]
    if len(asked) > 1:
        raise BackendError(
            f"the {row.name} backend computes in one precision, not in {' and '.join(asked)}; name one",
            arguments=("backend", "precision"),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendChoice:
    """A backend as a user names it: `NAME`, or `NAME:PART+PART` with a device and variants as parts.

    Attributes:
        backend: the row.
        device: one of its devices, perhaps with a number; None where it was left open.
        variants: some of its variants, in the row's order.
    """

    backend: Backend
    device: str | None = None
    variants: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [*([self.device] if self.device else []), *self.variants]
        return self.backend.name + (f":{'+'.join(parts)}" if parts else "")


def parse_backend(text: str) -> BackendChoice:
    """Read `torch`, `torch:compile+channels-last`, `onnxruntime:cuda` and so on.

    Raises:
        BackendError: no such backend, device or variant; the sentence lists what exists.
    """
    name, colon, rest = text.strip().partition(":")
    if name not in BACKENDS:
        raise BackendError(f"backend {text!r} does not exist; choose {describe_backends()}")
    row = BACKENDS[name]
    parts = rest.split("+") if colon else []
    for part in parts:
        if part not in row.variants and part.split(":")[0] not in row.devices:
            choices = ", ".join((*row.devices, *row.variants))
            raise BackendError(f"backend {text!r}: {name} has no variant {part!r}; choose {choices}")
    devices = [part for part in parts if part not in row.variants]
    if len(set(parts)) < len(parts) or len(devices) > 1:
        raise BackendError(f"backend {text!r}: these variants do not go together; name each once, and one device")
    _check_one_precision(row, parts)
    return BackendChoice(
        backend=row,
        device=devices[0] if devices else None,
        variants=tuple(variant for variant in row.variants if variant in parts),
    )


def parse_backends(text: str) -> tuple[BackendChoice, ...]:
    """Read a list with commas.

    Raises:
        BackendError: as `parse_backend`, or a backend is named twice.
    """
    choices = tuple(parse_backend(item) for item in text.split(","))
    twice = next((choice for choice in choices if choices.count(choice) > 1), None)
    if twice is not None:
        raise BackendError(f"backend {str(twice)!r} is named twice; name each once")
    return choices


def describe_backends() -> str:
    """List every backend with what may stand behind its colon."""
    return ", ".join(
        f"{row.name} (after a colon: {', '.join((*row.devices, *row.variants))})" for row in BACKENDS.values()
    )


def choose_backend(model: "SSD | Path | str", name: str = AUTO) -> Backend:
    """Return the row that is to run a model.

    Args:
        model: a network, a file, or the address of a served model.
        name: of a backend; `auto` for the first that the model was made for.

    Raises:
        BackendError: no such backend, or it does not run such a model.
        ModelError: an engine's description is missing or broken.
    """
    if name != AUTO:
        row = BACKENDS.find(name)
        _check_made_for(row, model)
        return row
    for row in BACKENDS.values():
        if row.takes(model) and (not isinstance(model, Path) or row.made_for(model)):
            return row
    known = sorted({suffix for row in BACKENDS.values() for suffix in row.suffixes})
    raise BackendError(f"{model}: no backend runs such a file; name one that ends with {', '.join(known)}")


def _check_made_for(row: Backend, model: Any) -> None:
    if isinstance(model, str):
        if not row.takes(model):
            asking = ", ".join(other.name for other in BACKENDS.values() if other.takes(model))
            raise BackendError(
                f"{without_password(model)}: is a served model, which the {row.name} backend does not run; choose "
                f"{asking}",
                arguments=("backend",),
            )
        return
    if not isinstance(model, Path):
        if not row.runs_networks:
            raise BackendError(f"the {row.name} backend runs a file; export the network first")
        return
    if is_engine(model):
        flavour = read_info(model).flavour
        if row.name != flavour:
            raise BackendError(f"{model}: is an engine of {flavour}, which the {row.name} backend does not run")
    elif not row.takes(model):
        runners = ", ".join(other.name for other in BACKENDS.values() if other.takes(model))
        raise BackendError(
            f"{model}: the {row.name} backend does not run such a file; choose {runners or 'another file'}"
        )
