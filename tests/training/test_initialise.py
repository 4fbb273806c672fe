"""Weights to start from: distributions by their formulas, and what comes along from another detector's file."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssd_train.errors import WeightsError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.feature_expander import ExpandedLevel
from ssd_train.networks.ssd import SSD, ConvPredictor
from ssd_train.networks.vgg_atrous import L2Normalize
from ssd_train.networks.zoo import VOC_CLASSES, network_config
from ssd_train.training.initialise import initialise, reuse_class_predictors, start_from
from ssd_train.weights.layer_names import layer_names
from ssd_train.weights.network_file import save_network

pytestmark = pytest.mark.slow  # whole networks, written and read

CUSTOM = "ssd_300_mobilenet0.25_custom"


def network_of(*classes: str, seed: int = 0, name: str = CUSTOM) -> SSD:
    network = build_ssd(network_config(name, classes or None))
    initialise(network, seed)
    return network


def state_of(network: SSD) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def fresh() -> SSD:
    """Built under another seed of PyTorch's own, and with statistics to reset."""
    torch.manual_seed(123)
    network = build_ssd(network_config(CUSTOM, ("cat", "dog", "cow")))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3)  # type: ignore[union-attr]
            module.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    initialise(network, 0)
    return network


def assert_normal(values: Tensor, std: float) -> None:
    """Mean and standard deviation within five of their own standard errors."""
    count = values.numel()
    assert values.mean().item() == pytest.approx(0, abs=5 * std / math.sqrt(count))
    assert values.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))
    if count > 5000:
        # A uniform distribution ends at 1.73 standard deviations.
        assert values.abs().max() > 2.5 * std


def assert_uniform(values: Tensor, bound: float) -> None:
    count = values.numel()
    assert values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(2 * count))
    assert values.abs().max() > bound * (1 - 20 / count)


def test_convolutions_of_the_backbone_are_normal_with_variance_2_by_fan_out(fresh: SSD) -> None:
    layers = fresh.features.backbone.layers  # type: ignore[union-attr]
    # 3 x 3 to 8 channels; depthwise, one output channel a group: 3 x 3; 1 x 1 to 256 channels.
    assert layers[0][0].weight.shape == (8, 3, 3, 3)  # type: ignore[index]
    assert_normal(layers[0][0].weight, math.sqrt(2 / (8 * 9)))  # type: ignore[index]
    depthwise = [module for module in layers.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    assert len(depthwise) == 13
    assert_normal(torch.cat([module.weight.flatten() for module in depthwise]), math.sqrt(2 / 9))
    assert layers[26][0].weight.shape == (256, 256, 1, 1)  # type: ignore[index]
    assert_normal(layers[26][0].weight, math.sqrt(2 / 256))  # type: ignore[index]


def test_biases_and_scales_outside_of_predictors_are_set() -> None:
    """What VGG and resnet34 have, without building them."""
    parts = nn.ModuleDict({"conv": nn.Conv2d(8, 300, 3), "norm": nn.BatchNorm2d(5), "scale": L2Normalize(6)})
    with torch.no_grad():
        for parameter in parts.parameters():
            parameter.fill_(9)
    initialise(parts, 0)  # type: ignore[arg-type]
    assert_normal(parts["conv"].weight, math.sqrt(2 / (300 * 9)))  # type: ignore[arg-type]
    assert not parts["conv"].bias.any()  # type: ignore[operator,union-attr]
    assert parts["norm"].weight.tolist() == [1] * 5  # type: ignore[operator,union-attr]
    assert parts["norm"].bias.tolist() == [0] * 5  # type: ignore[operator,union-attr]
    assert set(parts["scale"].scale.flatten().tolist()) == {20}  # type: ignore[operator,union-attr]


def test_batch_norms_of_the_backbone_start_as_identities_and_all_statistics_anew(fresh: SSD) -> None:
    norms = [module for module in fresh.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 27
    for norm in norms:
        assert not norm.running_mean.any()  # type: ignore[union-attr]
        assert (norm.running_var == 1).all()
        assert norm.num_batches_tracked == 0
        assert (norm.weight == 1).all()
    for norm in fresh.features.backbone.modules():  # type: ignore[union-attr]
        if isinstance(norm, nn.BatchNorm2d):
            assert not norm.bias.any()


def test_added_levels_are_uniform_in_007_but_for_the_fixed_gammas(fresh: SSD) -> None:
    levels = [module for module in fresh.modules() if isinstance(module, ExpandedLevel)]
    assert len(levels) == 4
    for level in levels:
        for tensor in (level.trans_conv.weight, level.trans_bn.bias, level.conv.weight, level.bn.bias):
            assert_uniform(tensor, 0.07)


def test_predictors_are_uniform_by_their_mean_fan(fresh: SSD) -> None:
    heads = [*fresh.class_predictors, *fresh.box_predictors]
    assert len(heads) == 12
    for head in heads:
        assert isinstance(head, ConvPredictor)
        out_channels, in_channels = head.predictor.weight.shape[:2]
        # U(+-sqrt(2 / ((fan in + fan out) / 2))), spec 7.3.
        assert_uniform(head.predictor.weight, math.sqrt(2 / (9 * (in_channels + out_channels) / 2)))
        assert not head.predictor.bias.any()  # type: ignore[union-attr]


def test_a_predictor_s_bound_by_hand(fresh: SSD) -> None:
    """The first level has 128 channels in, 4 anchors of 3 classes and background out: sqrt(2 / (9 * 72))."""
    weight = fresh.class_predictors[0].predictor.weight  # type: ignore[union-attr]
    assert weight.shape == (16, 128, 3, 3)  # type: ignore[union-attr]
    assert weight.abs().max().item() == pytest.approx(0.05556, rel=1e-3)  # type: ignore[operator,union-attr]


def test_anchors_stay(fresh: SSD) -> None:
    assert torch.equal(fresh.anchors, build_ssd(network_config(CUSTOM, ("cat",))).anchors)


def test_weights_are_the_same_for_the_same_seed_and_leave_the_global_generator_alone(fresh: SSD) -> None:
    before = torch.get_rng_state()
    again = build_ssd(network_config(CUSTOM, ("cat", "dog", "cow")))
    torch.set_rng_state(before)
    initialise(again, 0)
    assert torch.equal(torch.get_rng_state(), before)
    expected = fresh.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    initialise(again, 1)
    for name, value in again.state_dict().items():
        if name.endswith("predictor.weight") or name.endswith("conv.weight"):
            assert not torch.equal(value, expected[name]), name


# --- class predictors of other classes ---


def rows_of(tensor: Tensor, classes: int, label: int | None) -> Tensor:
    """The rows of one class, or of background: every (classes + 1)-th (spec 9, class reset)."""
    return tensor[0 if label is None else label + 1 :: classes + 1]


def predictors(network: SSD) -> dict[str, Tensor]:
    return {name: value for name, value in state_of(network).items() if name.startswith("class_predictors.")}


def with_biases(network: SSD) -> SSD:
    """Give the class predictors' biases, which start at 0, a value each."""
    with torch.no_grad():
        for head in network.class_predictors:
            bias = head.predictor.bias  # type: ignore[union-attr]
            bias.copy_(torch.arange(1.0, 1 + bias.numel()))  # type: ignore[operator,union-attr,arg-type]
    return network


OLD, NEW = ("cat", "dog", "cow"), ("bird", "cow", "cat", "cup")


def test_rows_of_reordered_classes_come_along_by_name_with_the_background() -> None:
    source, network = with_biases(network_of(*OLD, seed=1)), network_of(*NEW, seed=2)
    before = predictors(network)
    assert reuse_class_predictors(network, source) == ("cow", "cat")
    theirs, ours = predictors(source), predictors(network)
    assert len(ours) == 12
    for name, value in ours.items():
        for label, origin in ((None, None), (1, 2), (2, 0)):
            assert torch.equal(rows_of(value, 4, label), rows_of(theirs[name], 3, origin)), name
        for label in (0, 3):
            assert torch.equal(rows_of(value, 4, label), rows_of(before[name], 4, label)), name
    assert torch.equal(theirs["class_predictors.0.predictor.weight"], predictors(source)[
        "class_predictors.0.predictor.weight"
    ])  # fmt: skip


def test_biases_of_one_anchor_by_hand() -> None:
    """Two old classes count 1, 2, 3 for background, a, b of the first anchor; the second has 4, 5, 6."""
    source, network = with_biases(network_of("a", "b", seed=1)), network_of("b", "c", "a", seed=2)
    reuse_class_predictors(network, source)
    bias = network.class_predictors[0].predictor.bias  # type: ignore[union-attr]
    assert bias[:8].tolist() == [1, 3, 0, 2, 4, 6, 0, 5]  # type: ignore[index,union-attr]


def test_lists_without_a_common_name_leave_the_background_fresh_too() -> None:
    source, network = with_biases(network_of("cat", seed=1)), network_of("Cat", seed=2)
    before = predictors(network)
    assert reuse_class_predictors(network, source) == ()
    assert all(torch.equal(value, before[name]) for name, value in predictors(network).items())


# --- start_from ---


@pytest.fixture
def donor(tmp_path: Path) -> tuple[SSD, Path]:
    """A detector of three classes and its file; its anchors and statistics are its own."""
    network = with_biases(network_of(*OLD, seed=1))
    network.anchors += 0.25
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    path = tmp_path / "donor.safetensors"
    save_network(network, path)
    return network, path


def test_another_class_list_starts_with_all_but_the_class_predictors(donor: tuple[SSD, Path]) -> None:
    network = network_of(*NEW, seed=2)
    before = predictors(network)
    sentence = start_from(network, donor[1], reuse_classes=False)
    theirs = donor[0].state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if name in before else theirs[name]), name
    assert torch.equal(network.anchors, donor[0].anchors)
    assert sentence == f"started from {donor[1]} (3 classes); class predictors of no class reused, 4 fresh"


def test_classes_of_the_same_name_come_along_if_asked_for(donor: tuple[SSD, Path]) -> None:
    network, expected = network_of(*NEW, seed=2), network_of(*NEW, seed=2)
    sentence = start_from(network, donor[1], reuse_classes=True)
    reuse_class_predictors(expected, donor[0])
    wanted = predictors(expected)
    assert all(torch.equal(value, wanted[name]) for name, value in predictors(network).items())
    assert "class predictors of cow, cat reused, 2 fresh" in sentence


@pytest.mark.parametrize("reuse_classes", [False, True])
def test_the_same_class_list_starts_with_everything(donor: tuple[SSD, Path], reuse_classes: bool) -> None:
    network = network_of(*OLD, seed=2)
    sentence = start_from(network, donor[1], reuse_classes=reuse_classes)
    theirs = donor[0].state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items())
    assert sentence == f"started from {donor[1]}, class predictors included"


def test_the_same_classes_in_another_order_are_another_list(donor: tuple[SSD, Path]) -> None:
    network = network_of(*OLD[::-1], seed=2)
    assert "class predictors of no class reused, 3 fresh" in start_from(network, donor[1], reuse_classes=False)


def params_file(arrays: Mapping[str, Tensor]) -> bytes:
    """MXNet's container (spec 5.1 and 5.2) of float32 arrays."""
    data = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        values = array.detach().contiguous().numpy().astype("<f4")
        data += b"\xc9\xfa\x93\xf9" + struct.pack(f"<ii{values.ndim}q", 0, values.ndim, *values.shape)
        data += struct.pack("<iii", 1, 0, 0) + values.tobytes()
    data += struct.pack("<Q", len(arrays))
    return data + b"".join(struct.pack("<Q", len(name)) + name.encode() for name in arrays)


MXNET = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def as_gluoncv_saves_it(network: SSD, scheme: str, prefix: str = "") -> dict[str, Tensor]:
    """Names of the scheme `dotted` or `legacy`; the anchors of a level stand in the corner of a larger map."""
    state = network.state_dict()
    arrays: dict[str, Tensor] = {}
    for layer in layer_names(network.config):
        for name, tensor in state.items():
            suffix = name.removeprefix(layer.ours)
            if not name.startswith(layer.ours) or "." in suffix or suffix == "num_batches_tracked":
                continue
            own: str = getattr(layer, scheme)
            if layer.ours + "running_mean" in state:
                suffix = MXNET[suffix]
                suffix = suffix.replace("running", "moving") if "expand" in own else suffix
            arrays[prefix + own + suffix] = tensor
    offset = 0
    sizes = zip(network.config.feature_sizes, network.config.anchors_per_cell, (128, 64, 32, 16, 16, 16), strict=True)
    for level, ((rows, columns), count, stored_cells) in enumerate(sizes):
        stored = torch.zeros(1, 1, stored_cells, stored_cells, 4 * count)
        stop = offset + rows * columns * count
        stored[0, 0, :rows, :columns] = network.anchors[offset:stop].view(rows, columns, -1)
        offset = stop
        dotted, legacy = f"anchor_generators.{level}.anchors", f"{prefix}ssdanchorgenerator{level}_anchor_{level}"
        arrays[dotted if scheme == "dotted" else legacy] = stored
    return arrays


@pytest.mark.parametrize(
    ("scheme", "prefix"), [("dotted", ""), ("legacy", ""), ("legacy", "ssd0_"), ("legacy", "arg:")]
)
def test_gluoncv_files_of_20_classes_are_taken_for_pascal_voc(tmp_path: Path, scheme: str, prefix: str) -> None:
    source = with_biases(network_of(name="ssd_300_mobilenet0.25_voc", seed=1))
    source.anchors += 0.25
    path = tmp_path / "voc.params"
    path.write_bytes(params_file(as_gluoncv_saves_it(source, scheme, prefix)))
    network = network_of("cup", "sofa", "aeroplane", seed=2)
    sentence = start_from(network, path, reuse_classes=True)
    assert "(20 classes); class predictors of sofa, aeroplane reused, 1 fresh" in sentence
    ours, theirs = network.state_dict(), source.state_dict()
    for name, value in ours.items():
        if not name.startswith("class_predictors."):
            assert torch.equal(value, theirs[name]), name
    name = "class_predictors.1.predictor.weight"
    for label, class_name in ((1, "sofa"), (2, "aeroplane")):
        origin = VOC_CLASSES.index(class_name)
        assert torch.equal(rows_of(ours[name], 3, label), rows_of(theirs[name], 20, origin))


def test_a_file_without_names_but_as_many_classes_is_taken_for_the_same_list(tmp_path: Path) -> None:
    source = network_of(*OLD, seed=1)
    path = tmp_path / "own.pth"
    torch.save(source.state_dict(), path)
    network = network_of("x", "y", "z", seed=2)
    assert start_from(network, path, reuse_classes=False) == f"started from {path}, class predictors included"
    assert torch.equal(network.state_dict()["class_predictors.0.predictor.weight"], predictors(source)[
        "class_predictors.0.predictor.weight"
    ])  # fmt: skip


def test_a_number_of_classes_that_says_nothing_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save(network_of(*OLD).state_dict(), path)
    network = network_of(*NEW, seed=2)
    before = state_of(network)
    with pytest.raises(WeightsError, match=rf"predicts 3 classes and does not say which; .*--network {CUSTOM}"):
        start_from(network, path, reuse_classes=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    from ssd_train.weights.weight_file import write_safetensors

    path = tmp_path / "vgg.safetensors"
    metadata: dict[str, Any] = {"network": "ssd_300_vgg16_atrous_voc"}
    write_safetensors(path, {"a": torch.ones(1)}, metadata)
    message = rf"vgg\.safetensors: holds weights of ssd_300_vgg16_atrous_voc, which {CUSTOM} cannot start from"
    with pytest.raises(WeightsError, match=message):
        start_from(network_of("cat"), path, reuse_classes=False)


def test_a_file_that_is_no_detector_points_to_the_option_for_backbones(tmp_path: Path) -> None:
    path = tmp_path / "classifier.pth"
    state = network_of("cat").state_dict()
    torch.save({name: value for name, value in state.items() if name.startswith("features.")}, path)
    with pytest.raises(
        WeightsError, match=r"has no class predictors, so it is no detector; a backbone goes into pretrained_backbone"
    ):
        start_from(network_of("cat"), path, reuse_classes=False)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing\.safetensors"):
        start_from(network_of("cat"), tmp_path / "missing.safetensors", reuse_classes=False)


# --- start_from, other input sizes ---

RECTANGLE = "ssd_160x96_mobilenet0.25_custom"


def test_weights_of_another_input_size_start_all_but_the_anchors(donor: tuple[SSD, Path]) -> None:
    network = network_of(*OLD, name=RECTANGLE, seed=2)
    anchors = network.anchors.clone()
    assert start_from(network, donor[1], reuse_classes=False) == f"started from {donor[1]}, class predictors included"
    theirs = donor[0].state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items() if name != "anchors")
    assert torch.equal(network.anchors, anchors) and len(anchors) != len(donor[0].anchors)


def test_a_network_of_the_table_starts_from_a_rectangle(tmp_path: Path) -> None:
    source, network = with_biases(network_of(*OLD, name=RECTANGLE, seed=1)), network_of(*NEW, seed=2)
    save_network(source, tmp_path / "wide.safetensors")
    anchors, theirs = network.anchors.clone(), source.state_dict()
    assert "cow, cat reused, 2 fresh" in start_from(network, tmp_path / "wide.safetensors", reuse_classes=True)
    assert all(torch.equal(value, theirs[name]) for name, value in state_of(network).items() if "box_pred" in name)
    assert torch.equal(network.anchors, anchors)


def test_gluoncvs_files_start_other_input_sizes(tmp_path: Path) -> None:
    source = with_biases(network_of(name="ssd_300_mobilenet0.25_voc", seed=1))
    path = tmp_path / "voc.params"
    path.write_bytes(params_file(as_gluoncv_saves_it(source, "dotted")))
    network = network_of("cat", "whale", name=RECTANGLE, seed=2)
    anchors, theirs = network.anchors.clone(), source.state_dict()
    assert "class predictors of cat reused, 1 fresh" in start_from(network, path, reuse_classes=True)
    assert all(torch.equal(value, theirs[name]) for name, value in state_of(network).items() if "box_pred" in name)
    assert torch.equal(network.anchors, anchors)


def test_vgg_at_300_has_a_level_less_and_gives_its_backbone_alone(tmp_path: Path) -> None:
    path = tmp_path / "vgg.safetensors"
    source = network_of(*OLD, name="ssd_300_vgg16_atrous_custom", seed=1)
    save_network(source, path)
    network = network_of(*OLD, name="ssd_96_vgg16_atrous_custom", seed=2)
    before, theirs = state_of(network), source.state_dict()
    assert "started from the backbone of" in start_from(network, path, reuse_classes=False)
    for name, value in network.state_dict().items():
        is_backbone = name.startswith("features.") and ".extras." not in name
        assert torch.equal(value, (theirs if is_backbone else before)[name]), name
