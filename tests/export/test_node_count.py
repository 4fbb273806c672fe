"""How many operators are behind the heads: each costs a GPU the same few microseconds, however little it computes."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from export.graph import network_nodes
from export.onnx import export_onnx
from export.opset import TRACED_OPSET
from ssd_train import build_network
from ssd_train.networks.anchors import generate_anchors
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.zoo import network_config
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES, PostprocessSettings

MOST_NODES = 120


def nodes_behind_the_heads(model: onnx.ModelProto, folder: Path) -> int:
    """Count what ONNX Runtime's extended optimisation leaves of them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(folder / "optimized.onnx")
    return len(optimized.graph.node) - len(network_nodes(optimized))


def exported_alone(anchors: torch.Tensor, num_classes: int) -> onnx.ModelProto:
    """Post-processing of a network with so many anchors and classes, with the heads' values for inputs."""

    class WithAnchors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.postprocess = Postprocess(PostprocessSettings())
            self.register_buffer("anchors", anchors)

        def forward(self, cls_logits: torch.Tensor, box_offsets: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.postprocess(cls_logits, box_offsets, self.anchors)

    batch = torch.export.Dim("N", min=1)
    program = torch.onnx.export(
        WithAnchors().eval(),
        (torch.zeros(2, len(anchors), num_classes + 1), torch.zeros(2, len(anchors), 4)),
        dynamo=True,
        verbose=False,
        opset_version=TRACED_OPSET,
        input_names=list(RAW_NAMES),
        output_names=list(OUTPUT_NAMES),
        dynamic_shapes=({0: batch}, {0: batch}),
    )
    assert program is not None
    return program.model_proto


# One of each kind; behind the heads networks differ in the numbers of their anchors and classes alone.
@pytest.mark.parametrize(
    ("name", "num_classes"),
    [
        ("ssd_300_vgg16_atrous_voc", 20),
        ("ssd_512_resnet50_v1_coco", 80),
        ("ssd_512_resnet18_v1_custom", 1),
        ("ssd_300_mobilenet0.25_custom", 3),
    ],
)
def test_there_are_few_operators_behind_the_heads(name: str, num_classes: int, tmp_path: Path) -> None:
    config = network_config(name, [str(label) for label in range(num_classes)] if name.endswith("custom") else None)
    assert len(config.class_names) == num_classes
    model = exported_alone(torch.from_numpy(generate_anchors(config)), num_classes)
    assert 64 < nodes_behind_the_heads(model, tmp_path) <= MOST_NODES


def test_there_are_no_more_of_them_in_a_whole_file(tmp_path: Path) -> None:
    network = build_network("ssd_300_mobilenet0.25_voc", weights="random")
    model = onnx.load(export_onnx(network, tmp_path))
    assert 64 < nodes_behind_the_heads(model, tmp_path) <= MOST_NODES
