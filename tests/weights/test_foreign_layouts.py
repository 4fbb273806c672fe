"""Detectors of other projects that are not read are named in one sentence; their names of tensors are literals here."""

import pytest
import torch
import torchvision
from pytorch_ssd_files import mb2_ssd_lite

from ssd_train import build_network
from ssd_train.errors import WeightsError
from ssd_train.weights.description import describe_weights, network_of

ADOPT = "use `ssd-deploy adopt`"

# Some of the names of each; their layers are in mmdet/models/dense_heads/ssd_head.py, ssd/modeling of lufficc/SSD,
# ssd.py of ssd.pytorch, PyTorch/Detection/SSD/ssd/model.py of DeepLearningExamples and models/detr.py of DETR.
LITERAL = {
    "MMDetection's SSD": (
        "backbone.features.0.weight",
        "neck.l2_norm.weight",
        "neck.extra_layers.0.0.conv.weight",
        "bbox_head.cls_convs.0.0.weight",
        "bbox_head.reg_convs.0.0.weight",
    ),
    "an MMDetection detector": (
        "backbone.conv1.weight",
        "neck.lateral_convs.0.conv.weight",
        "bbox_head.retina_cls.weight",
    ),
    "the SSD of lufficc/SSD": (
        "backbone.vgg.0.weight",
        "backbone.l2_norm.weight",
        "box_head.predictor.cls_headers.0.weight",
        "box_head.predictor.reg_headers.0.weight",
    ),
    "the SSD of amdegroot/ssd.pytorch": (
        "vgg.0.weight",
        "L2Norm.weight",
        "extras.0.weight",
        "loc.0.weight",
        "conf.0.weight",
    ),
    "the SSD of NVIDIA's DeepLearningExamples": (
        "feature_extractor.feature_extractor.0.weight",
        "additional_blocks.0.0.weight",
        "loc.0.weight",
        "conf.0.weight",
    ),
    "DETR": (
        "transformer.encoder.layers.0.self_attn.in_proj_weight",
        "transformer.decoder.norm.weight",
        "class_embed.weight",
        "bbox_embed.layers.0.weight",
        "query_embed.weight",
    ),
    "a YOLO network": ("model.0.conv.weight", "model.0.bn.weight", "model.22.dfl.conv.weight"),
}

# Built by torchvision, without values.
BUILT = {
    "torchvision's Faster R-CNN, Mask R-CNN or Keypoint R-CNN": "fasterrcnn_mobilenet_v3_large_fpn",
    "torchvision's RetinaNet or FCOS": "fcos_resnet50_fpn",
}


def refusal(path):
    with pytest.raises(WeightsError) as raised:
        describe_weights(path)
    message = str(raised.value)
    with pytest.raises(WeightsError) as raised:
        build_network("ssd_300_vgg16_atrous_voc", weights=path)
    assert str(raised.value) == message
    return message


@pytest.mark.parametrize("name", LITERAL)
def test_a_detector_of_another_project_is_named_and_the_way_out_too(tmp_path, name):
    torch.save({"state_dict": {tensor: torch.zeros(1) for tensor in LITERAL[name]}}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert message.startswith(f"{tmp_path}/w.pth: holds weights of {name}; ")
    assert "not supported" in message and ADOPT in message


@pytest.mark.parametrize("name", BUILT)
def test_torchvisions_other_detectors_are_named(tmp_path, name):
    with torch.device("meta"):
        model = torchvision.models.get_model(BUILT[name], weights=None, weights_backbone=None, num_classes=3)
    names = model.state_dict()
    torch.save({tensor: torch.zeros(1) for tensor in names}, tmp_path / "w.pth")
    assert f"holds weights of {name}; no SSD and not supported" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("classifier", ["resnet18", "mobilenet_v2", "vgg16", "vit_b_16"])
def test_a_classifier_is_told_from_a_detector(tmp_path, classifier):
    with torch.device("meta"):
        names = torchvision.models.get_model(classifier, weights=None).state_dict()
    torch.save({tensor: torch.zeros(1) for tensor in names}, tmp_path / "w.pth")
    assert "holds weights of a classifier; it finds no boxes" in refusal(tmp_path / "w.pth")


def test_pytorch_ssds_other_networks_are_told_from_those_that_are_read(tmp_path):
    # mb1-ssd-lite: its levels and predictors are sequences with a depthwise convolution first.
    lite = (
        "base_net.0.0.weight",
        "extras.0.2.0.weight",
        "classification_headers.0.0.weight",
        "regression_headers.0.0.weight",
    )
    torch.save({tensor: torch.zeros(1) for tensor in lite}, tmp_path / "mb1-ssd-lite.pth")
    # mb2-ssd-lite of width 0.5 has half of the channels.
    half = {name: tensor for name, tensor in mb2_ssd_lite(3).items() if name != "base_net.14.conv.0.weight"}
    torch.save(half | {"base_net.14.conv.0.weight": torch.zeros(288, 48, 1, 1)}, tmp_path / "narrow.pth")
    for name in ("mb1-ssd-lite.pth", "narrow.pth"):
        message = refusal(tmp_path / name)
        assert "another network of pytorch-ssd than mb1-ssd, mb2-ssd-lite of width 1 and vgg16-ssd" in message
        assert ADOPT in message


def test_a_state_dict_that_is_no_detectors_at_all_says_no_network(tmp_path):
    torch.save({"a.weight": torch.zeros(2), "b.bias": torch.zeros(2)}, tmp_path / "w.pth")
    assert describe_weights(tmp_path / "w.pth").network is None
    with pytest.raises(WeightsError, match="does not say which network it is for"):
        network_of(tmp_path / "w.pth")
