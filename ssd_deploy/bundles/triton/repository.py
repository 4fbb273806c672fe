"""A model repository for Triton: a folder a model, with its configuration and one version of the file.

    <model>/config.pbtxt    tensors, batches and instances, as the file has them; what it says of itself
    <model>/labels.txt      the classes, a line each, for people
    <model>/1/model.onnx    or model.plan

The configuration is `ModelConfig` of model_config.proto (triton-inference-server/common).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.engine.file import is_engine, read_info
from export.engine.flavours import TENSORRT
from export.file_metadata import CPU_GRAPH_KEY, INT8_KEY, WINOGRAD_KEY, Int8Target
from ssd_deploy.backends.row import SERVED_ENTRY_PREFIX
from ssd_deploy.bundles.names import VERSION, model_name
from ssd_deploy.bundles.tensors import Contents, Tensor, read_contents
from ssd_deploy.bundles.triton.text_format import EnumName, to_text
from ssd_train.errors import ModelError

# Images that Triton puts together at most, of a file that takes any number. A number to change in `config.pbtxt`.
MOST_IMAGES = 8


def write_repository(model: Path, folder: Path) -> list[Path]:
    """Write one model into an empty folder; see `Bundle.write`. Its name is the file's.

    Raises:
        ModelError: no file of ours, one that Triton cannot serve, or a name that no address can have.
    """
    name = model_name(model)
    contents = read_contents(model)
    config = model_config(model, contents, name)
    place = folder / name
    file = place / VERSION / ("model.plan" if is_engine(model) else "model.onnx")
    file.parent.mkdir(parents=True)
    (place / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
    labels = "".join(f"{each}\n" for each in contents.spec.class_names)
    (place / "labels.txt").write_text(labels, encoding="utf-8")
    shutil.copyfile(model, file)
    return [place / "config.pbtxt", place / "labels.txt", file]


def model_config(model: Path, contents: Contents, name: str) -> dict[str, Any]:
    """Return the configuration of a file, as `to_text` takes it."""
    most = most_images(model, contents)
    return {
        "name": name,
        "platform": "tensorrt_plan" if is_engine(model) else "onnxruntime_onnx",
        "max_batch_size": most,
        "input": tensors(contents.inputs, is_batched=most > 0),
        "output": tensors(contents.outputs, is_batched=most > 0),
        "instance_group": [{"kind": EnumName(_kind(model, contents)), "count": 1}],
        # Its defaults: as many images as wait, and none waits for others.
        **({"dynamic_batching": {}} if most > 0 else {}),
        "parameters": parameters(contents),
    }


def parameters(contents: Contents) -> list[dict[str, Any]]:
    """Return what a file says of itself as parameters, which a client reads back."""
    return [
        {"key": SERVED_ENTRY_PREFIX + key, "value": {"string_value": value}} for key, value in contents.metadata.items()
    ]


def tensors(each: Sequence[Tensor], *, is_batched: bool) -> list[dict[str, Any]]:
    """Return inputs or outputs; where Triton batches, it leaves the first dimension out."""
    return [
        {"name": tensor.name, "data_type": EnumName(f"TYPE_{tensor.datatype}"), "dims": tensor.shape[is_batched:]}
        for tensor in each
    ]


def most_images(model: Path, contents: Contents) -> int:
    """Return `max_batch_size`; 0 is a model whose first dimension is fixed, and which Triton does not batch."""
    if not contents.takes_any_batch:
        return 0
    if not is_engine(model):
        return MOST_IMAGES
    options = read_info(model).options
    if options.min_batch > 1:
        raise ModelError(
            f"{model}: takes {options.min_batch} images or more, and Triton sends what comes, a single one too; build "
            "it again with `--min-batch 1`"
        )
    return options.max_batch


def _kind(model: Path, contents: Contents) -> str:
    """Return where instances run, and refuse what runs in no server."""
    if is_engine(model):
        flavour = read_info(model).flavour
        if flavour != TENSORRT:
            raise ModelError(f"{model}: is an engine of {flavour}, which Triton does not run; build one of {TENSORRT}")
        return "KIND_GPU"
    if CPU_GRAPH_KEY in contents.metadata:
        raise ModelError(
            f"{model}: was rewritten for one CPU and one release of ONNX Runtime; name the file that it was made of"
        )
    for_cpu = WINOGRAD_KEY in contents.metadata or contents.metadata.get(INT8_KEY) == Int8Target.CPU
    return "KIND_CPU" if for_cpu else "KIND_AUTO"
