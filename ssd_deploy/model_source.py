"""One way to name a detector, and to open it.

A name is a network's, a run folder, a weight file, an exported file or engine, or the address of a served model. All
commands and `load_detector`
come through `find_model` and `open_runner`.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_deploy.backends import AUTO, BACKENDS, Backend, RunOptions, choose_backend, open_model
from ssd_deploy.backends.row import ONNX_START
from ssd_train.addresses import without_password
from ssd_train.errors import BackendError, ModelError, NetworkError, WeightsError
from ssd_train.paths import user_path
from ssd_train.precisions import PRECISIONS, in_precision
from ssd_train.requirements import require
from ssd_train.spec import PostprocessSettings
from ssd_train.temporary import temporary_folder
from ssd_train.weights.store import Progress, silent

if TYPE_CHECKING:
    from export.quantize_options import QuantizeOptions
    from ssd_deploy.backends.base import Runner
    from ssd_train.networks.ssd import SSD
    from ssd_train.weights.description import BatchNorm

logger = logging.getLogger(__name__)

# What a weight file may be called, whatever it holds.
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".params")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A detector that was named, not loaded yet.

    Attributes:
        name: as it was written, for people.
        file: the exported file or engine; None for a network, and for one in memory.
        address: of a served model; None for what runs here.
        content: what is in an exported ONNX file, where it was given in memory.
        network: the network's name; None for what was exported.
        weights: as `load_network` takes them.
        classes: class list of a `_custom` network; None for the weight file's own.
        batch_norm: see `load_network`.
    """

    name: str
    file: Path | None = None
    address: str | None = dataclasses.field(default=None, repr=False)
    content: bytes | None = dataclasses.field(default=None, repr=False)
    network: str | None = None
    weights: str | Path = "published"
    classes: Sequence[str] | None = None
    batch_norm: "BatchNorm" = "auto"

    def class_names(self) -> Sequence[str] | None:
        """Return the class list that was given, or that the weights bring; None for the network's own.

        Raises:
            WeightsError: the weight file cannot be read.
        """
        from ssd_train.networks.zoo import find_network
        from ssd_train.weights.load import stored_weights

        if self.classes is not None or find_network(str(self.network)).class_names:
            return self.classes
        path = stored_weights(str(self.network), self.weights)
        if path is None:
            return None
        from ssd_train.weights.description import describe_weights

        return describe_weights(path).class_names

    def load(self, on_progress: Progress = silent) -> "SSD":
        """Build the network with its weights; they are fetched where they are missing.

        Raises:
            BackendError: torch is not installed.
            NetworkError, WeightsError: as `load_network`.
        """
        if self.network is None:
            raise BackendError(f"{self.name}: is exported already; name a network, a run folder or a weight file")
        from ssd_train.weights.load import load_network

        logger.info("loading %s", self.name)
        return load_network(
            self.network, self.weights, self.classes, batch_norm=self.batch_norm, on_progress=on_progress
        )


def find_model(
    named: str | Path | bytes,
    *,
    network: str | None = None,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    batch_norm: "BatchNorm" = "auto",
) -> ModelSource:
    """Tell what a name stands for; nothing is loaded.

    Args:
        named: a network, a run folder, a weight file, an exported file, an engine, or the address of a served model;
            bytes are what is in an ONNX file.
        network: which network a weight file is of, where it does not say so itself.
        weights: of a network: a file, `shapes`, `random[:SEED]`; None for the published ones.
        classes: class list of a `_custom` network.
        batch_norm: see `load_network`.

    Raises:
        BackendError: a file that nothing runs, or an argument does not fit what was named.
        NetworkError: no such network.
        ModelError: there is no such file, or the bytes are none of an ONNX file.
        WeightsError: a weight file that does not say what it is of, or a run folder without weights.
    """
    from ssd_train.networks.zoo import find_network, is_network

    given = {"network": network, "weights": weights, "classes": classes}
    extra = tuple(name for name, value in given.items() if value is not None)
    if isinstance(named, bytes):
        if not named.startswith(ONNX_START):
            raise ModelError(
                f"the {len(named)} bytes given are none of an ONNX file; give what is in one, or name another model"
            )
        _check_alone("the model in memory", extra)
        return ModelSource(name="the model in memory", content=named)
    if is_address(named):
        _check_alone(without_password(str(named)), extra)
        return ModelSource(name=without_password(str(named)), address=str(named))
    path = user_path(named, ModelError)
    if is_exported(path):
        if not path.exists():
            raise ModelError(f"{path}: there is no such model file; make one with `ssd-deploy export`")
        _check_alone(str(named), extra)
        return ModelSource(name=str(named), file=path)
    is_there = path.is_dir() or path.is_file()
    if not is_network(str(named)) and (is_there or path.suffix.lower() in WEIGHT_SUFFIXES):
        if weights is not None:
            raise WeightsError(f"{named}: brings its weights; leave the others out", arguments=("weights",))
        from ssd_train.weights.description import network_of
        from ssd_train.weights.store import run_weights

        file = run_weights(path) if path.is_dir() else path
        network = network or network_of(file)
        return ModelSource(name=str(named), network=network, weights=file, classes=classes, batch_norm=batch_norm)
    if network is not None and network != str(named):
        raise NetworkError(f"{named} and {network} are two networks; name one", arguments=("network",))
    return ModelSource(
        name=find_network(str(named)).name,
        network=str(named),
        weights="published" if weights is None else weights,
        classes=classes,
        batch_norm=batch_norm,
    )


def _check_alone(name: str, extra: tuple[str, ...]) -> None:
    if extra:
        raise WeightsError(
            f"{name}: an exported model has its own weights and classes; leave yours out", arguments=extra
        )


def is_address(named: object) -> bool:
    """Whether a name is the address of a served model."""
    return isinstance(named, str) and any(row.takes(named) for row in BACKENDS.values())


def is_exported(path: Path) -> bool:
    """Whether a name stands for a file that some backend opens, rather than for a network."""
    return any(row.takes(path) for row in BACKENDS.values())


def open_runner(
    source: ModelSource,
    options: RunOptions,
    *,
    backend: str = AUTO,
    precision: str | None = None,
    int8: "QuantizeOptions | None" = None,
    on_progress: Progress = silent,
) -> "Runner":
    """Open what was named in a backend. A network is exported for a backend that runs files.

    Args:
        backend: a row of `BACKENDS`; `auto` for the usual one of such a model.
        precision: a row of `PRECISIONS`; None for float32, or a file's own. A float32 file is computed in another one
            by a backend that has it among its variants, which `auto` then takes.
        int8: how to calibrate, for a precision that needs it.
        on_progress: told the bytes of a download.

    Raises:
        BackendError, ModelError, NetworkError, WeightsError: it cannot be opened so, or not here.
    """
    if source.network is None:
        if options.settings is not None:
            raise BackendError(f"{source.name}: an exported model has its own thresholds", arguments=("settings",))
        if precision is not None:
            backend, options = _computing_in(source, precision, backend, options)
    if source.content is not None:
        return _open_content(source.content, backend, options)
    model = source.file or source.address
    if model is not None:
        row = choose_backend(model, backend)
        logger.info("opening %s in %s", source.name, row.name)
        return open_model(row, model, options)
    precision = PRECISIONS.find(precision or "fp32").name
    row = backend_of_network(backend, precision)
    network = source.load(on_progress)
    if row.runs_networks:
        return open_model(row, in_precision(network, precision), options)
    logger.info("%s runs files: exporting %s for it", row.name, source.name)
    precision, variants = exported_for(row, precision)
    options = dataclasses.replace(options, variants=tuple(dict.fromkeys((*options.variants, *variants))))
    with temporary_folder() as folder:
        path = export_network(network, folder, precision, options.settings, int8)
        return open_model(row, path, dataclasses.replace(options, settings=None))


def exported_for(row: Backend, precision: str) -> tuple[str, tuple[str, ...]]:
    """Return what a network is exported in for a backend that runs files, and the variants that compute the rest.

    A precision that a file holds is exported; another one is computed from the float32 file where the backend can.
    """
    if not PRECISIONS.find(precision).in_file and precision in row.precisions:
        return "fp32", (precision,)
    return precision, ()


def _computing_in(source: ModelSource, precision: str, backend: str, options: RunOptions) -> tuple[str, RunOptions]:
    """Return the backend and the options that compute an exported model in a precision.

    Raises:
        BackendError: it is none of a float32 file's, or not this backend's.
    """
    own = _own_precision(source)
    if PRECISIONS.find(precision).name == own:
        return backend, options
    if own != "fp32":
        raise BackendError(
            f"{source.name}: has its own precision, {own}, and only a float32 file is computed in another; leave "
            f"{precision} out",
            arguments=("precision",),
        )
    named = [row for row in BACKENDS.values() if precision in row.precisions and ".onnx" in row.suffixes]
    able = [row for row in named if backend in (AUTO, row.name)]
    if not able:
        who = (
            "no backend can" if backend == AUTO or not named else f"the {BACKENDS.find(backend).name} backend does not"
        )
        choices = [f"choose {' or '.join(row.name for row in named)}"] if named else []
        choices += [f"export its network in {precision}"] if PRECISIONS[precision].in_file else []
        raise BackendError(
            f"{source.name}: has its own precision, fp32, and {who} compute it in {precision}; "
            f"{', or '.join(choices) or f'leave {precision} out'}",
            arguments=("precision",),
        )
    variants = tuple(dict.fromkeys((*options.variants, precision)))
    return able[0].name, dataclasses.replace(options, variants=variants)


def _own_precision(source: ModelSource) -> str:
    if source.content is not None:
        from export.exported import read_exported

        return read_exported(source.content, source.name).spec.precision
    model = source.file or source.address
    assert model is not None
    describe = choose_backend(model).describe
    assert describe is not None  # it opens such models
    return describe(model).precision


def _open_content(content: bytes, backend: str, options: RunOptions) -> "Runner":
    """Open what is in an ONNX file; a backend that needs a file gets one that is gone again when it is open."""
    able = [row for row in BACKENDS.values() if ".onnx" in row.suffixes]
    row = next((row for row in able if row.opens_bytes), able[0]) if backend == AUTO else BACKENDS.find(backend)
    if row not in able:
        names = ", ".join(each.name for each in able)
        raise BackendError(f"the {row.name} backend runs no ONNX file; choose {names}", arguments=("backend",))
    logger.info("opening a model in memory in %s", row.name)
    if row.opens_bytes:
        return open_model(row, content, options)
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(content)
        return open_model(row, path, options)


def backend_of_network(backend: str, precision: str) -> Backend:
    """Return the row that is to run a network in a precision; `auto` is the first that can.

    Raises:
        BackendError: no such backend, or it does not compute in that precision.
    """
    row_of_precision = PRECISIONS.find(precision)
    able = [
        row
        for row in BACKENDS.values()
        if (
            row_of_precision.in_network
            if row.runs_networks
            else ".onnx" in row.suffixes and (row_of_precision.in_file or precision in row.precisions)
        )
    ]
    row = able[0] if backend == AUTO else BACKENDS.find(backend)
    if row not in able:
        raise BackendError(
            f"the {row.name} backend runs no network in {precision}; choose {', '.join(each.name for each in able)}",
            arguments=("backend", "precision"),
        )
    return row


def export_network(
    network: "SSD",
    folder: Path,
    precision: str,
    settings: PostprocessSettings | None = None,
    int8: "QuantizeOptions | None" = None,
) -> Path:
    """Export a float32 network in a precision.

    Args:
        settings: thresholds; None for the network's own.
        int8: how to calibrate, for a precision that needs it.

    Raises:
        BackendError: a package is missing, or calibration images.
        ModelError: as `export_onnx`.
    """
    row = PRECISIONS.find(precision)
    require("onnx", "export", "Exporting")
    require("onnxscript", "export", "Exporting")
    from export.onnx import export_onnx

    settings = settings or network.spec.postprocess
    if not row.needs_calibration:
        return export_onnx(in_precision(network, precision), folder, settings=settings)
    from export.steps import STEPS

    STEPS[precision].check(int8)
    with temporary_folder() as float_folder:
        float_file = export_onnx(network, float_folder, settings=settings)
        path = STEPS[precision].apply(float_file, folder, int8).path
    assert path is not None
    return path


def converted(network: "SSD", precision: str, folder: Path, int8: "QuantizeOptions | None" = None) -> "SSD | Path":
    """Return a float32 network in a precision: exported, or a network again where no file holds it.

    Raises:
        As `export_network`.
    """
    if PRECISIONS[precision].in_file:
        return export_network(network, folder / precision, precision, None, int8)
    return in_precision(network, precision)
