"""What the tests' exports share: a trace of equal networks, and never one of others."""

import copy

import onnx
import pytest
import torch
from traced_once import traced_once

from ssd_train import build_network
from ssd_train.networks.detector import Detector
from ssd_train.precisions import in_precision
from ssd_train.spec import PostprocessSettings

NAME = "ssd_300_mobilenet0.25_voc"


@pytest.fixture(scope="module")
def network():
    return build_network(NAME, weights="random")


@pytest.fixture
def trace(tmp_path):
    """Shares its traces, each of which is a graph with a name of its own."""
    made = []

    def counted(detector, spec):
        made.append(spec)
        return onnx.ModelProto(graph=onnx.GraphProto(name=f"{len(made)}"))

    shared = traced_once(counted, tmp_path)

    def run(network, **settings):
        return shared(Detector(network, PostprocessSettings(**settings)).eval(), network.spec).graph.name

    return run


def test_equal_networks_share_a_trace_that_each_may_change(network, trace, tmp_path):
    assert trace(network) == trace(copy.deepcopy(network)) == trace(build_network(NAME, weights="random")) == "1"
    # Another process finds the file.
    assert traced_once(None, tmp_path)(Detector(network).eval(), network.spec).graph.name == "1"


def with_one_other_value(network, name):
    changed = copy.deepcopy(network)
    with torch.no_grad():
        changed.state_dict()[name].view(-1)[-1] += 1
    return changed


class Twice(torch.nn.Module):
    def __init__(self, features):
        super().__init__()
        self.features = features


def test_networks_that_differ_in_anything_do_not(network, trace):
    within_another = copy.deepcopy(network)
    within_another.features = Twice(within_another.features)
    others = [
        (network, {}),
        (network, {"score_threshold": 0.2}),
        (network, {"max_detections": 7}),
        (in_precision(network, "fp16"), {}),
        (build_network(NAME, weights="random:1"), {}),
        (build_network("ssd_300_mobilenet0.25_custom", weights="random", classes=["a"]), {}),
        (with_one_other_value(network, "anchors"), {}),
        (with_one_other_value(network, "box_predictors.5.predictor.bias"), {}),
        (with_one_other_value(network, "features.backbone.layers.0.1.running_var"), {}),
        (within_another, {}),
    ]
    assert [trace(each, **settings) for each, settings in others] == [str(n + 1) for n in range(len(others))]
