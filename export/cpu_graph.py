"""An exported file as ONNX Runtime rewrites it for this CPU: it opens faster, with less memory.

Whenever ONNX Runtime opens a file it fuses layers and reorders weights into the blocks that the CPU's vectors take,
and until then holds them twice. Saved, neither is done again. Elsewhere such a graph is refused (`check_runs_here`).
"""

import json
from typing import Any

import onnx
import onnxruntime

from export.file_metadata import CPU_GRAPH_KEY, this_cpu
from export.graph import ExportedGraph
from export.session import open_session, quiet_options
from export.step import OnProgress, Rewritten
from ssd_train.spec import RAW_NAMES
from ssd_train.temporary import temporary_folder


def rewrite(source: ExportedGraph, settings: Any, on_progress: OnProgress | None) -> Rewritten:
    """The step of `export.steps`: a file that gives the same detections to the last bit on this CPU."""
    with temporary_folder() as folder:
        saved = folder / "saved.onnx"
        options = quiet_options()
        options.optimized_model_filepath = str(saved)
        open_session(source.model.SerializeToString(), str(source.path), options)
        model = onnx.load(saved)
    # What a parity check looks at: names of inner values with their shapes, which ONNX Runtime leaves out.
    known = {value.name: value for value in source.model.graph.value_info}
    model.graph.value_info.extend(known[name] for name in RAW_NAMES)
    return Rewritten(model=model, metadata={CPU_GRAPH_KEY: json.dumps(this_cpu(onnxruntime.__version__))})
