"""An exported file as ONNX Runtime rewrites it for this CPU: it opens faster, with less memory.

Whenever ONNX Runtime opens a file it fuses layers and reorders weights into the blocks that the CPU's vectors take,
and until then holds them twice. Saved, neither is done again. Such a graph is right only for CPUs with the same vector
instructions, and only for the release of ONNX Runtime that wrote it, so the file names both, and is refused elsewhere
(`cpu_metadata`).
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export.cpu_metadata import CPU_GRAPH_KEY, is_cpu_graph, this_cpu
from export.cpu_session import open_file, open_graph, quiet_options
from ssd_train.errors import ModelError
from ssd_train.files import written_atomically
from ssd_train.spec import INPUT_NAME, OUTPUT_NAMES, RAW_NAMES, DetectorSpec


def optimize_for_cpu(model: Path) -> Path:
    """Write `<stem>.cpu.onnx` beside an exported file, which gives the same detections to the last bit on this CPU.

    Args:
        model: a file of `export_onnx` or `export_int8`.

    Raises:
        ModelError: the file is not one, was rewritten already, or its copy gives other values; nothing is written.
        SSDDeployError: the folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="ssd-deploy-") as folder:
        saved = Path(folder) / "saved.onnx"
        options = quiet_options()
        options.optimized_model_filepath = str(saved)
        original = open_file(model, options)
        metadata = original.get_modelmeta().custom_metadata_map
        spec = DetectorSpec.from_metadata(metadata, str(model))
        if is_cpu_graph(metadata):
            raise ModelError(f"{model}: was rewritten for a CPU already; name the file that it was made of")
        graph = onnx.load(saved)
        # What a parity check looks at: names of inner values with their shapes, which ONNX Runtime leaves out.
        known = {value.name: value for value in onnx.load(model, load_external_data=False).graph.value_info}
        graph.graph.value_info.extend(known[name] for name in RAW_NAMES)
        onnx.helper.set_model_props(
            graph, dict(metadata) | {CPU_GRAPH_KEY: json.dumps(this_cpu(onnxruntime.__version__))}
        )
    _check_equal(original, graph, spec)
    path = model.with_suffix(".cpu.onnx")
    with written_atomically(path) as temporary:
        onnx.save(graph, temporary)
    return path


def _check_equal(original: onnxruntime.InferenceSession, rewritten: onnx.ModelProto, spec: DetectorSpec) -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, *spec.input_size)).astype(np.float32)
    expected = original.run(list(OUTPUT_NAMES), {INPUT_NAME: images})
    for values, rewritten_values in zip(expected, open_graph(rewritten, OUTPUT_NAMES)(images), strict=True):
        if not np.array_equal(values, rewritten_values):
            raise ModelError(f"{spec.network}: ONNX Runtime's rewritten graph gives other values; nothing was written")
