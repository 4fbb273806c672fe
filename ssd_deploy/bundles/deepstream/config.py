"""Gst-nvinfer's configuration of a detector, and its file of labels.

Keys, defaults and what nvinfer makes of them: `gstnvinfer_property_parser.cpp` and `nvdsinfer_context_impl.cpp` of
DeepStream 9.1, and the table of properties in its guide.
"""

from ssd_train.errors import ModelError
from ssd_train.json_input import quoted
from ssd_train.spec import OUTPUT_NAMES, DetectorSpec
from ssd_train.thresholds import Keeping

PARSE_FUNCTION = "NvDsInferParseSsdDeploy"
LIBRARY_NAME = "libnvdsparsebbox_ssd_deploy.so"
LABELS_FILE = "labels.txt"

# Separates labels of one line.
LABEL_SEPARATOR = ";"

Sections = dict[str, dict[str, str]]


def nvinfer_config(spec: DetectorSpec, kept: Keeping, onnx_name: str) -> Sections:
    """Return the groups of the configuration, each with its keys and values.

    Args:
        spec: the detector.
        kept: the lowest score of each class, and how many are given out.
        onnx_name: file name of `graph.pixel_graph`, beside the configuration.
    """
    height, width = spec.input_size
    batch_size = 1
    properties = {
        "gpu-id": "0",
        "gie-unique-id": "1",
        # The whole frame, as a detector.
        "process-mode": "1",
        "network-type": "0",
        "onnx-file": onnx_name,
        # What nvinfer calls the engine that it builds; with another batch size another name.
        "model-engine-file": f"{onnx_name}_b{batch_size}_gpu0_fp32.engine",
        "batch-size": str(batch_size),
        # No flag for the builder: the graph says in what it computes.
        "network-mode": "0",
        "infer-dims": f"3;{height};{width}",
        "network-input-order": "0",
        "model-color-format": "0",
        # Pixels as they are; the graph normalises them.
        "net-scale-factor": "1",
        # As in training, the frame is stretched. The default filter is the nearest pixel.
        "maintain-aspect-ratio": "0",
        "scaling-filter": "1",
        "labelfile-path": LABELS_FILE,
        "num-detected-classes": str(len(spec.class_names)),
        "output-blob-names": LABEL_SEPARATOR.join(OUTPUT_NAMES),
        "custom-lib-path": LIBRARY_NAME,
        "parse-bbox-func-name": PARSE_FUNCTION,
        # None: NMS is in the graph.
        "cluster-mode": "4",
    }
    if spec.precision != "fp32":
        # Else TensorRT may round what the graph keeps in float32, decode and NMS among it.
        properties["strongly-typed"] = "1"
    thresholds = kept.score_thresholds.tolist()
    lowest = min(thresholds)
    sections = {
        "property": properties,
        "class-attrs-all": {"pre-cluster-threshold": repr(lowest), "topk": str(kept.max_detections)},
    }
    for label, threshold in enumerate(thresholds):
        if threshold != lowest:
            sections[f"class-attrs-{label}"] = {"pre-cluster-threshold": repr(threshold)}
    return sections


def config_text(sections: Sections) -> str:
    """Return groups in the form of a GLib key file."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items()) for name, keys in sections.items()
    )


def labels_text(spec: DetectorSpec, name: str) -> str:
    """Return a line a class, in label order; raise ModelError about the file `name` where a name would be cut."""
    for class_name in spec.class_names:
        if LABEL_SEPARATOR in class_name:
            raise ModelError(
                f"{name}: its class {quoted(class_name)} has a {LABEL_SEPARATOR!r}, which ends a label in DeepStream's "
                "file; rename the class in the list of classes, and train or export again"
            )
    return "".join(f"{class_name}\n" for class_name in spec.class_names)
