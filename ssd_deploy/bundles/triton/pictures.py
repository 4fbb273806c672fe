"""A model repository that takes picture files: the detector, pre-processing in front of it, and both as one model.

    <model>             see `repository`
    <model>.prepare     Triton's Python backend: decode, resize, normalise (`pictures_model.py`)
    <model>.pictures    an ensemble: pictures -> prepare -> images -> <model> -> boxes, scores, labels

Boxes are in pixels of the network's input, and `image_sizes` says what to scale them to.
"""

import shutil
from pathlib import Path
from typing import Any

from ssd_deploy.bundles.names import VERSION, model_name
from ssd_deploy.bundles.tensors import Contents, Tensor, read_contents
from ssd_deploy.bundles.triton.repository import most_images, parameters, tensors, write_repository
from ssd_deploy.bundles.triton.text_format import EnumName, to_text
from ssd_train.errors import ModelError
from ssd_train.spec import INPUT_NAME

# (height, width) of each picture.
SIZES = Tensor(name="image_sizes", datatype="INT32", shape=(-1, 2))
# A file's bytes, which the protocol calls BYTES and Triton's configuration so.
PICTURES = Tensor(name="pictures", datatype="STRING", shape=(-1, 1))


def write_picture_repository(model: Path, folder: Path) -> list[Path]:
    """Write three models into an empty folder; see `Bundle.write`.

    Raises:
        ModelError: as `write_repository`; also for a file of a fixed batch, which nothing can be put together for, and
            for one whose input is not what `preprocess` makes.
    """
    contents = read_contents(model)
    most = most_images(model, contents)
    if most == 0:
        raise ModelError(f"{model}: takes batches of one size alone, and pictures come one by one; export it again")
    (images,) = contents.inputs
    if (images.name, images.datatype) != (INPUT_NAME, "FP32"):
        raise ModelError(f"{model}: takes {images.name} instead of {INPUT_NAME} in float32; name another file")
    files = write_repository(model, folder)
    name = model_name(model)
    for config in (_prepare(contents, name, most), _ensemble(contents, name, most)):
        version = folder / config["name"] / VERSION
        version.mkdir(parents=True)
        settings = version.parent / "config.pbtxt"
        settings.write_text(to_text(config), encoding="utf-8")
        files.append(settings)
    code = folder / _prepare_name(name) / VERSION / "model.py"
    shutil.copyfile(Path(__file__).with_name("pictures_model.py"), code)
    # An ensemble has no file, and its version folder has to be there all the same, where copies lose empty folders.
    keep = version / ".keep"
    keep.touch()
    return [*files, code, keep]


def _prepare_name(name: str) -> str:
    return f"{name}.prepare"


def _prepare(contents: Contents, name: str, most: int) -> dict[str, Any]:
    return {
        "name": _prepare_name(name),
        "backend": "python",
        "max_batch_size": most,
        "input": tensors([PICTURES], is_batched=True),
        "output": tensors([*contents.inputs, SIZES], is_batched=True),
        # One that decodes while another one does: Python's threads share one core.
        "instance_group": [{"kind": EnumName("KIND_CPU"), "count": 2}],
        "parameters": parameters(contents),
    }


def _ensemble(contents: Contents, name: str, most: int) -> dict[str, Any]:
    def step(model: str, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
        return {
            "model_name": model,
            "model_version": -1,
            "input_map": [{"key": each, "value": each} for each in inputs],
            "output_map": [{"key": each, "value": each} for each in outputs],
        }

    outputs = [each.name for each in contents.outputs]
    return {
        "name": f"{name}.pictures",
        "platform": "ensemble",
        "max_batch_size": most,
        "input": tensors([PICTURES], is_batched=True),
        "output": tensors([*contents.outputs, SIZES], is_batched=True),
        "ensemble_scheduling": {
            "step": [
                step(_prepare_name(name), [PICTURES.name], [INPUT_NAME, SIZES.name]),
                step(name, [INPUT_NAME], outputs),
            ]
        },
        "parameters": parameters(contents),
    }
