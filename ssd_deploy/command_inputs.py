"""What the options of a command stand for: networks, model files, runners, data sets.

Imported by every command, so what is heavy is imported inside the functions.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from export.engine.file import is_engine
from export.int8_metadata import Int8Target
from ssd_train.errors import BackendError, SSDDeployError, WeightsError

if TYPE_CHECKING:
    from export.engine.file import BuildOptions
    from ssd_deploy.backends.base import Runner
    from ssd_deploy.benchmark.run import Source
    from ssd_train.datasets.dataset import Dataset
    from ssd_train.networks.ssd import SSD
    from ssd_train.spec import PostprocessSettings


def read_classes(path: Path | None) -> Sequence[str] | None:
    """Read the class list of `--classes`; None without it."""
    if path is None:
        return None
    from ssd_train.class_list import read_class_list

    return read_class_list(path)


def open_network(name: str, weights: str | None, classes: Path | None) -> "SSD":
    """Build the network of `--network`, with a progress bar where its weights are downloaded."""
    from ssd_deploy.detector import load_network
    from ssd_deploy.progress import download_progress

    with download_progress(name) as on_progress:
        return load_network(name, weights, read_classes(classes), on_progress=on_progress)


def export_network(network: "SSD", out: Path, settings: "PostprocessSettings", precision: str = "fp32") -> Path:
    """Export a float32 network in a precision; a missing package is a sentence that names the extra."""
    from ssd_train.requirements import require

    require("onnx", "export", "Exporting")
    require("onnxscript", "export", "Exporting")
    from export.onnx import export_onnx
    from ssd_train.networks.precision import in_precision

    return export_onnx(in_precision(network, precision), out, settings=settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8Options:
    """The options of a precision of int8; None and False are what was not given."""

    calibration_data: Path | None = None
    calibration_images: int | None = None
    calibration_method: str | None = None
    int8_target: Int8Target | None = None
    sensitivity: bool = False
    max_drop: float | None = None

    def check(self, precisions: Sequence[str], formats: Sequence[str]) -> None:
        """Raise BackendError where they contradict each other or the rest of the command."""
        given = [name for name, value in dataclasses.asdict(self).items() if value not in (None, False)]
        if "int8" not in precisions:
            if given:
                raise BackendError(f"--{given[0].replace('_', '-')} needs --precision int8")
            return
        if self.calibration_data is None:
            raise BackendError(
                "--precision int8 needs --calibration-data FOLDER with images like those to be detected in; there is "
                "no int8 without them"
            )
        if self.max_drop is not None and not self.sensitivity:
            raise BackendError("--max-drop needs --sensitivity, which measures what each layer costs")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise BackendError(f"--max-drop {self.max_drop:g} is not in 0 to 100 points of agreement AP")
        if self.int8_target == Int8Target.CPU and "tensorrt" in formats:
            raise BackendError("--int8-target cpu is for ONNX Runtime; TensorRT takes the portable graph")


def export_quantized(
    network: "SSD", folder: Path, reports: Path, settings: "PostprocessSettings", options: Int8Options
) -> tuple[list[str], Path]:
    """Export a float32 network to int8, with progress bars.

    Args:
        folder: for the model.
        reports: folder for the table and the chart of its layers, where they were asked for.

    Returns:
        Lines that say what was found, and the model's path.
    """
    from ssd_deploy.progress import turn_progress
    from ssd_train.requirements import require

    require("onnx", "export", "Exporting")
    if options.sensitivity:
        require("matplotlib", "plots", "--sensitivity")
    from export.calibration import USUAL_METHOD, find_calibration_images
    from export.int8_export import Int8Settings, export_int8
    from export.sensitivity import write_sensitivity

    assert options.calibration_data is not None  # see `Int8Options.check`
    images = find_calibration_images(options.calibration_data, options.calibration_images)
    int8 = Int8Settings(
        images=images,
        method=options.calibration_method or USUAL_METHOD,
        target=options.int8_target or Int8Target.PORTABLE,
        # All may be lost, so that no layer has to stay float.
        max_drop=None if not options.sensitivity else 100.0 if options.max_drop is None else options.max_drop,
    )
    with (
        tempfile.TemporaryDirectory(prefix="ssd-deploy-") as float_folder,
        turn_progress("calibrating") as on_progress,
        turn_progress("judging layers") as on_layer,
    ):
        float_file = export_network(network, Path(float_folder), settings)
        exported = export_int8(float_file, folder, int8, on_progress=on_progress, on_layer=on_layer)
    lines = [f"warning: {text}" for text in (*exported.warnings, *images.unreadable)]
    errors = ", ".join(f"{name} {100 * error:.1f} %" for name, error in exported.raw_errors.items())
    lines.append(f"calibrated on {len(images.paths)} images ({int8.method}); error of the raw predictions: {errors}")
    if exported.sensitivity is not None:
        lines += exported.sensitivity.lines()
        lines += [str(path) for path in write_sensitivity(exported.sensitivity, reports / exported.path.stem)]
    return lines, exported.path


@contextlib.contextmanager
def exported_for_now(network: "SSD", precision: str = "fp32", int8: "Int8Options | None" = None) -> Iterator[Path]:
    """Yield the file of a network that is exported for the moment; int8 needs its options."""
    with tempfile.TemporaryDirectory(prefix="ssd-deploy-") as name:
        folder = Path(name)
        if precision == "int8" and int8 is not None:
            yield export_quantized(network, folder, folder, network.spec.postprocess, int8)[1]
        else:
            yield export_network(network, folder, network.spec.postprocess, precision)


def export_engine(onnx: Path, options: "BuildOptions", flavour: str, out: Path) -> str:
    """Build an engine into a folder; returns a line that says what was built or where it came from."""
    from export.engine.build import copy_engine
    from ssd_deploy.engines import engine_for

    built = engine_for(onnx, options, flavour=flavour)
    info = built.info
    how = "from the cache, no build" if built.from_cache else f"built in {info.build_seconds:.1f} s"
    if info.gpu is not None:
        card = info.gpu
    elif options.target_sm:
        card = "compute capability " + ", ".join(map(str, options.target_sm))
    else:
        card = "Ampere and later"
    return (
        f"{copy_engine(built, out)}  ({how}; {info.flavour} {info.tensorrt_version}, {info.spec.precision}, {card}, "
        f"batch {options.min_batch} to {options.max_batch})"
    )


def parse_list(text: str, choices: Sequence[str], option: str) -> list[str]:
    """Split an option such as `--format onnx,tensorrt`, each value once.

    Raises:
        BackendError: a value that is none of `choices`, or none at all.
    """
    values = list(dict.fromkeys(value.strip() for value in text.split(",") if value.strip()))
    wrong = [value for value in values if value not in choices]
    if wrong or not values:
        raise BackendError(f"{option} {text}: choose from {', '.join(choices)}, several with commas between")
    return values


def parse_numbers(text: str | None, option: str) -> tuple[int, ...]:
    """Split an option such as `--target-sm 75,89`; empty without it.

    Raises:
        BackendError: not whole numbers above 0.
    """
    if text is None:
        return ()
    values = [value.strip() for value in text.split(",") if value.strip()]
    if not values or not all(value.isascii() and value.isdigit() and int(value) > 0 for value in values):
        raise BackendError(f"{option} {text}: takes whole numbers above 0, several with commas between")
    return tuple(int(value) for value in values)


@contextlib.contextmanager
def open_runner(
    *,
    network: str | None,
    weights: str | None,
    classes: Path | None,
    model: Path | None,
    backend: str,
    provider: str | None,
    cuda: bool,
    allow_tf32: bool,
    precision: str | None,
    cuda_graph: bool,
    batch_size: int,
) -> Iterator["Runner"]:
    """Yield the runner that `--network` or `--model` and their options describe, and close it.

    Args:
        batch_size: the largest batch that is to come; an engine that is built here takes it.

    Raises:
        BackendError, WeightsError: neither or both are named, or an option belongs to the other one.
    """
    _check_named(network, weights, classes, model, precision)
    backend = _choose_backend(network, model, backend, provider)
    if cuda and provider == "cpu":
        raise BackendError("--cuda and --provider cpu contradict each other; leave one out")
    if cuda_graph and backend == "onnxruntime":
        raise BackendError("--cuda-graph is for the torch and tensorrt backends; leave it out with onnxruntime")
    if precision == "bf16" and backend != "torch":
        raise BackendError("--precision bf16 is for the torch backend; exported models are fp32 or fp16")
    with contextlib.ExitStack() as stack:
        loaded = open_network(network, weights, classes) if network is not None else None
        if loaded is not None and backend == "torch":
            from ssd_deploy.backends.pytorch import TorchRunner
            from ssd_train.networks.precision import in_precision

            device = "cuda" if cuda else "cpu"
            loaded = in_precision(loaded, precision or "fp32")
            runner: Runner = TorchRunner(loaded, device=device, allow_tf32=allow_tf32, cuda_graph=cuda_graph)
        else:
            path = model or stack.enter_context(exported_for_now(cast("SSD", loaded), precision or "fp32"))
            if backend == "onnxruntime":
                from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

                provider = provider or ("cuda" if cuda else "cpu")
                runner = OnnxRuntimeRunner(path, provider=provider, allow_tf32=allow_tf32)
            else:
                from ssd_deploy.backends import BACKENDS, RunOptions

                variants = ("cuda-graph",) if cuda_graph else ()
                options = RunOptions(device="cuda", variants=variants, batch_size=batch_size, allow_tf32=allow_tf32)
                runner = BACKENDS[backend].open(path, options)
        stack.callback(runner.close)
        yield runner


def _choose_backend(network: str | None, model: Path | None, backend: str, provider: str | None) -> str:
    """Return the backend's name; `auto` follows from what is to run."""
    if model is not None and is_engine(model):
        from export.engine.file import read_info

        flavour = read_info(model).flavour
        if backend not in ("auto", flavour):
            raise BackendError(f"{model}: is an engine of {flavour}, which --backend {backend} does not run")
        if provider is not None:
            raise BackendError(f"{model}: --provider {provider} is for ONNX Runtime; an engine runs in {flavour}")
        return flavour
    if model is not None and backend == "torch":
        raise BackendError(f"{model}: --backend torch runs a --network; a model file runs in onnxruntime or tensorrt")
    if provider is not None and backend not in ("onnxruntime", "auto"):
        raise BackendError(f"--provider {provider} is for ONNX Runtime; leave it out with --backend {backend}")
    if provider is not None and network is not None and backend == "auto":
        raise BackendError(
            f"--provider {provider} is for ONNX Runtime, but --network runs in PyTorch; "
            "add --backend onnxruntime, or choose with --cuda/--cpu"
        )
    if backend != "auto":
        return backend
    return "torch" if network is not None else "onnxruntime"


@contextlib.contextmanager
def open_source(
    network: str | None,
    weights: str | None,
    classes: Path | None,
    model: Path | None,
    precisions: Sequence[str] | None,
) -> Iterator[tuple["Source", str]]:
    """Yield what a benchmark measures, and the backends that are measured where none are named.

    Raises:
        BackendError, WeightsError: neither or both are named, or an option belongs to the other one.
    """
    from ssd_deploy.benchmark.run import Source

    _check_named(network, weights, classes, model, precisions)
    if model is not None:
        yield Source.from_file(model), _choose_backend(None, model, "auto", None)
        return
    loaded = open_network(str(network), weights, classes)
    from ssd_train.networks.precision import in_precision

    with contextlib.ExitStack() as stack:
        source = Source(
            precisions=tuple(precisions or ("fp32",)),
            model_for=lambda precision: stack.enter_context(exported_for_now(loaded, precision)),
            network_for=lambda precision: in_precision(loaded, precision),
        )
        yield source, "torch,onnxruntime"


def _check_named(
    network: str | None, weights: str | None, classes: Path | None, model: Path | None, precision: object
) -> None:
    if (network is None) == (model is None):
        raise BackendError("name either --network (with --weights) or --model FILE (.onnx or .engine)")
    if model is not None and (weights is not None or classes is not None):
        raise WeightsError("--weights and --classes belong to --network; an exported model has its own")
    if model is not None and precision is not None:
        raise BackendError(f"{model}: --precision belongs to --network; an exported model has its own")


def open_dataset(
    kind: str, root: Path | None, split: str | None, class_names: tuple[str, ...], limit: int | None
) -> "Dataset":
    """Read the data set of `--dataset`, by default from `~/.torch/datasets/<kind>`."""
    from ssd_train.datasets.layouts import default_root, load_dataset

    return load_dataset(kind, root or default_root(kind), split, class_names).limited(limit)


def open_images(patterns: Sequence[str], class_names: tuple[str, ...], limit: int | None) -> "Dataset":
    """Make a data set without ground truth of what `--images` names."""
    from ssd_deploy.detect_files import find_images
    from ssd_deploy.parity import images_as_dataset

    return images_as_dataset(find_images(patterns)[:limit], class_names)


def check_results(*paths: Path | None) -> None:
    """Raise SSDDeployError unless every result file that was named can be written, each to its own place."""
    from ssd_train.files import check_writable

    named = [path for path in paths if path is not None]
    for path in named:
        check_writable(path)
    if len({path.resolve() for path in named}) < len(named):
        raise SSDDeployError(f"{named[0]}: is named for two results; name a file for each")
