"""A folder for Gst-nvinfer: the graph, its configuration, labels, and the parser of its outputs with a Makefile."""

import hashlib
import re
from importlib import resources
from pathlib import Path

from export.engine.build import read_spec
from export.engine.file import is_engine
from export.graph import check_sound, load_exported
from ssd_deploy.bundles.deepstream.config import LABELS_FILE, config_text, labels_text, nvinfer_config
from ssd_deploy.bundles.deepstream.graph import pixel_graph
from ssd_deploy.detect_options import Thresholds
from ssd_train.errors import ModelError

CONFIG_FILE = "config_infer.txt"
README_FILE = "README.txt"
PARSER_FILES = ("nvdsparsebbox_ssd_deploy.cpp", "Makefile")

# What needs no quotes in a shell, a Makefile or a key file.
_ODD_LETTERS = re.compile("[^A-Za-z0-9._-]")


def write_deepstream(model: Path, folder: Path) -> list[Path]:
    """Write the bundle into an empty folder; returns its files.

    Raises:
        ModelError: the model is no exported ONNX file, is for a CPU, or has a class that no file of labels can hold.
    """
    if is_engine(model):
        raise ModelError(
            f"{model}: takes normalised images, which DeepStream cannot make; name the .onnx file that it was made of"
        )
    # Refuses what TensorRT does.
    spec = read_spec(model)
    labels = labels_text(spec, str(model))
    source = load_exported(model)
    check_sound(source)
    data = pixel_graph(source).SerializeToString()
    # nvinfer takes the engine beside a model by the model's name, whatever is in it: another model has another name.
    name = f"{_ODD_LETTERS.sub('_', spec.network)}.{spec.precision}-{hashlib.sha256(data).hexdigest()[:8]}.onnx"
    kept = Thresholds().keeping(spec)
    config = config_text(nvinfer_config(spec, kept, name))
    texts = {
        CONFIG_FILE: f"# Scores: {kept.origin}.\n{config}" if kept.origin.isprintable() else config,
        LABELS_FILE: labels,
        README_FILE: _text(README_FILE).format(name=name, height=spec.input_size[0], width=spec.input_size[1]),
        **{each: _text(each) for each in PARSER_FILES},
    }
    (folder / name).write_bytes(data)
    for file_name, text in texts.items():
        (folder / file_name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / file_name for file_name in (CONFIG_FILE, name, *list(texts)[1:])]


def _text(name: str) -> str:
    return resources.files("ssd_deploy.bundles.deepstream").joinpath("files", name).read_text(encoding="utf-8")
