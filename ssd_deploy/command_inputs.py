"""What the options of a command stand for: networks, model files, runners, data sets.

Imported by every command, so what is heavy is imported inside the functions.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_train.evaluation.errors import BackendError, SSDDeployError, WeightsError

if TYPE_CHECKING:
    from ssd_deploy.backends.base import Runner
    from ssd_train.evaluation.datasets.dataset import Dataset
    from ssd_train.evaluation.spec import PostprocessSettings
    from ssd_train.networks.ssd import SSD


def read_classes(path: Path | None) -> Sequence[str] | None:
    """Read the class list of `--classes`; None without it."""
    if path is None:
        return None
    from ssd_train.evaluation.class_list import read_class_list

    return read_class_list(path)


def open_network(name: str, weights: str | None, classes: Path | None) -> "SSD":
    """Build the network of `--network`, with a progress bar where its weights are downloaded."""
    from ssd_deploy.detector import load_network
    from ssd_deploy.progress import download_progress

    with download_progress(name) as on_progress:
        return load_network(name, weights, read_classes(classes), on_progress=on_progress)


def export_network(network: "SSD", out: Path, settings: "PostprocessSettings") -> Path:
    """Export a network; a missing package is a sentence that names the extra."""
    from ssd_deploy.requirements import require

    require("onnx", "export", "Exporting")
    require("onnxscript", "export", "Exporting")
    from export.onnx_export import export_onnx

    return export_onnx(network, out, settings=settings)


@contextlib.contextmanager
def model_file(network: "SSD", model: Path | None) -> Iterator[Path]:
    """Yield the file of `--model`, or one that is exported for the moment."""
    if model is not None:
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="ssd-deploy-") as folder:
        yield export_network(network, Path(folder), network.spec.postprocess)


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
) -> Iterator["Runner"]:
    """Yield the runner that `--network` or `--model` and their options describe.

    Raises:
        BackendError, WeightsError: neither or both are named, or an option belongs to the other one.
    """
    if (network is None) == (model is None):
        raise BackendError("name either --network (with --weights) or --model FILE.onnx")
    if cuda and provider == "cpu":
        raise BackendError("--cuda and --provider cpu contradict each other; leave one out")
    if model is not None and (weights is not None or classes is not None):
        raise WeightsError("--weights and --classes belong to --network; an exported model has its own")
    if model is not None and backend == "torch":
        raise BackendError(f"{model}: --backend torch runs a --network; a model file runs in onnxruntime")
    if network is not None and backend != "onnxruntime":
        if provider is not None:
            raise BackendError(
                f"--provider {provider} is for ONNX Runtime, but --network runs in PyTorch; "
                "add --backend onnxruntime, or choose with --cuda/--cpu"
            )
        loaded = open_network(network, weights, classes)
        from ssd_deploy.backends.pytorch import TorchRunner

        yield TorchRunner(loaded, device="cuda" if cuda else "cpu", allow_tf32=allow_tf32)
        return
    from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

    provider = provider or ("cuda" if cuda else "cpu")
    if model is not None:
        yield OnnxRuntimeRunner(model, provider=provider, allow_tf32=allow_tf32)
        return
    with model_file(open_network(str(network), weights, classes), None) as path:
        yield OnnxRuntimeRunner(path, provider=provider, allow_tf32=allow_tf32)


def open_dataset(
    kind: str, root: Path | None, split: str | None, class_names: tuple[str, ...], limit: int | None
) -> "Dataset":
    """Read the data set of `--dataset`, by default from `~/.torch/datasets/<kind>`."""
    from ssd_train.evaluation.datasets.load import load_dataset

    folder = root or Path.home() / ".torch" / "datasets" / kind
    return load_dataset(kind, folder, split, class_names).limited(limit)


def open_images(patterns: Sequence[str], class_names: tuple[str, ...], limit: int | None) -> "Dataset":
    """Make a data set without ground truth of what `--images` names."""
    from ssd_deploy.detect_files import find_images
    from ssd_deploy.parity import images_as_dataset

    return images_as_dataset(find_images(patterns)[:limit], class_names)


def check_results(*paths: Path | None) -> None:
    """Raise SSDDeployError unless every result file that was named can be written, each to its own place."""
    from ssd_train.evaluation.files import check_writable

    named = [path for path in paths if path is not None]
    for path in named:
        check_writable(path)
    if len({path.resolve() for path in named}) < len(named):
        raise SSDDeployError(f"{named[0]}: is named for two results; name a file for each")
