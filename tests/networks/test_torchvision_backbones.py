"""torchvision's modules as backbones; that they compute what torchvision does: `test_torchvision_classifier`."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

import ssd_train.networks.torchvision_backbones as module
from ssd_train.networks.torchvision_backbones import (
    MOBILENET_V3_LARGE,
    REGNET_X_400MF,
    TorchvisionBackbone,
    TorchvisionNetwork,
)

ROWS = {"mobilenet_v3_large": MOBILENET_V3_LARGE, "regnet_x_400mf": REGNET_X_400MF}


@pytest.mark.parametrize("name", ROWS)
def test_every_parameter_leads_to_a_tap_and_nothing_is_left_out_by_chance(name: str) -> None:
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(ROWS[name]).train()
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(each.shape) for each in maps] == [
        (2, backbone.channels[0], 4, 6),
        (2, backbone.channels[1], 2, 3),
    ]
    sum(each.square().mean() for each in maps).backward()  # type: ignore[union-attr]
    assert [key for key, value in backbone.named_parameters() if value.grad is None] == []
    # A resumed training has to draw what the first one would have drawn: they draw nothing.
    assert not [each for each in backbone.modules() if isinstance(each, (nn.Dropout, StochasticDepth))]
    # MobileNetV3's own is a tenth of it: statistics of a short training would be those of its first steps.
    assert {each.momentum for each in backbone.modules() if isinstance(each, nn.BatchNorm2d)} == {0.1}


def test_a_stage_that_does_not_exist_is_an_error() -> None:
    row = TorchvisionNetwork(build=MOBILENET_V3_LARGE.build, stages=(("features.99",),), channels=(1, 1))
    with pytest.raises(AttributeError, match="99"):
        TorchvisionBackbone(row)(torch.zeros(1, 3, 32, 32))


def test_torchvision_is_imported_when_such_a_network_is_built() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "torchvision" not in " ".join(ast.unparse(node) for node in at_the_top)
