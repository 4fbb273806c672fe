"""A model for OpenVINO Model Server: a folder with one version in OpenVINO's own format, and how to serve it.

    <model>/1/model.xml, model.bin    the network in float32, decode and NMS, and what the file says of itself
    <model>.json                      a configuration of the server, of this model alone

The server would take the ONNX file as well. This form says in its `model_info` what the detector is, which the server
gives out and an ONNX file's entries are not, and has the order of equal scores that ONNX defines. The configuration
asks for float32: without that OpenVINO rounds to bfloat16 on CPUs that have units for it.
"""

import json
from pathlib import Path
from typing import Any

import openvino

from export.engine.file import is_engine
from export.exported import read_exported
from export.file_metadata import CPU_GRAPH_KEY
from ssd_deploy.backends.openvino_ties import keep_order_of_ties
from ssd_deploy.bundles.names import VERSION, model_name
from ssd_train.errors import ModelError, first_line

# Where the server looks for what a model's maker says (OpenVINO's Model API).
MODEL_INFO = "model_info"


def write_served_model(model: Path, folder: Path) -> list[Path]:
    """Write one model into an empty folder; see `Bundle.write`. Its name is the file's.

    Raises:
        ModelError: no ONNX file of ours, one that OpenVINO cannot read, or a name that no address can have.
    """
    if is_engine(model):
        raise ModelError(
            f"{model}: is an engine, which OpenVINO does not run; name the .onnx file that it was built of"
        )
    name = model_name(model)
    exported = read_exported(model, str(model))
    if CPU_GRAPH_KEY in exported.metadata:
        raise ModelError(f"{model}: was rewritten for ONNX Runtime on one CPU; name the file that it was made of")
    try:
        network: Any = openvino.Core().read_model(model.read_bytes())
        keep_order_of_ties(network)
    except Exception as error:  # OpenVINO's exceptions share no narrower base
        raise ModelError(f"{model}: OpenVINO cannot read it ({first_line(error)}); export the model again") from error
    for key, value in exported.metadata.items():
        network.set_rt_info(value, [MODEL_INFO, key])
    file = folder / name / VERSION / "model.xml"
    file.parent.mkdir(parents=True)
    # By default weights would be rounded to half precision.
    openvino.save_model(network, file, compress_to_fp16=False)
    settings = folder / f"{name}.json"
    settings.write_text(json.dumps(server_config(name), indent=2) + "\n", encoding="utf-8")
    return [settings, file, file.with_suffix(".bin")]


def server_config(name: str) -> dict[str, Any]:
    """Return a configuration that serves the model; its folder is looked for beside the configuration."""
    model = {
        "name": name,
        "base_path": name,
        "target_device": "CPU",
        "plugin_config": {"INFERENCE_PRECISION_HINT": "f32"},
    }
    return {"model_config_list": [{"config": model}]}
