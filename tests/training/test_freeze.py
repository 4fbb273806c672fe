"""Frozen layers: which they are in each backbone, and that nothing changes them."""

import copy
from pathlib import Path

import pytest
import torch
from distributed_checks import two_images
from training_runs import PACKAGED, assert_same_bits, small_config

from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.errors import NetworkError
from ssd_train.networks.build import BACKBONES, build_ssd
from ssd_train.networks.mobilenet import MobileNet
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import NETWORKS, network_config
from ssd_train.training.freeze import STAGES, freeze
from ssd_train.training.initialise import initialise
from ssd_train.training.processes import Processes
from ssd_train.training.step import Trainer

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))
NUM_STAGES = {"vgg16_atrous": 6, "torchvision_vgg16": 6, "vgg16-ssd": 6}
OF_BACKBONE = {row.backbone: row.name for row in NETWORKS.values() if not row.class_names}


def without_values(name: str) -> SSD:
    with torch.device("meta"):
        return build_ssd(network_config(name, ("cat",)))


def test_there_is_a_network_of_each_backbone_to_look_at() -> None:
    assert set(OF_BACKBONE) == set(BACKBONES)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_stages_are_the_whole_backbone_each_layer_once(backbone: str) -> None:
    network = without_values(OF_BACKBONE[backbone])
    owner = network.backbone
    stages = STAGES[type(owner)](owner)
    assert len(stages) == NUM_STAGES.get(backbone, 5)
    found = [id(value) for stage in stages for module in stage for value in module.parameters()]
    added = {id(value) for value in network.features.extras.parameters()}  # type: ignore[union-attr]
    wanted = {id(value) for value in network.features.parameters()} - added  # type: ignore[attr-defined]
    assert len(found) == len(set(found)) and set(found) == wanted


@pytest.mark.parametrize(
    "backbone", ["mobilenet0.25", "resnet18_v1", "vgg16_atrous", "mobilenet_v3_large", "regnet_x_400mf"]
)
def test_a_stage_ends_where_the_next_layer_halves_the_map(backbone: str) -> None:
    network = without_values(OF_BACKBONE[backbone]).to("meta").eval()
    owner = network.backbone
    sizes: list[int] = []
    stages = STAGES[type(owner)](owner)
    for stage in stages:
        last = next(module for module in reversed(stage) if not hasattr(module, "scale"))
        last.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        network(torch.zeros(1, 3, *network.config.input_size, device="meta"))
    strides = [round(network.config.input_size[1] / size) for size in sizes]
    # VGG's last group is dilated in the place of a stride; the pooling of a ResNet is the second stage's.
    assert strides == ([1, 2, 4, 8, 16, 16] if backbone == "vgg16_atrous" else [2, 4, 8, 16, 32])


@pytest.mark.parametrize(("what", "frozen_layers"), [("stages=1", 3), ("stages=2", 7), ("backbone", 27)])
def test_what_is_frozen_stays_to_the_bit_and_all_else_learns(tmp_path: Path, what: str, frozen_layers: int) -> None:
    network = build_ssd(network_config(PACKAGED, SHAPE_CLASSES))
    initialise(network, 1)
    config = small_config(
        Path("unused"), tmp_path, network=PACKAGED, freeze=what, ema=True, ema_decay=0.5, weight_decay=0.1
    )
    trainer = Trainer(network, config, ALONE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(2):
        # Validation leaves the whole network in training mode.
        network.train()
        trainer.start_training()
        trainer.step(step, two_images(), 1e-2, stop=False)
    assert trainer.average is not None
    for state in (network.state_dict(), trainer.average.network.state_dict()):
        for name, value in state.items():
            is_frozen = name.startswith(tuple(f"features.backbone.layers.{layer}." for layer in range(frozen_layers)))
            fixed = name == "anchors" or (".extras." in name and name.endswith("bn.weight"))
            # Of the box predictors some level may have no object.
            if is_frozen or fixed:
                assert torch.equal(value, before[name]), name
            elif name.startswith(("features.backbone.", "class_predictors.")) or ".extras.0." in name:
                assert not torch.equal(value, before[name]), name


def test_a_frozen_training_goes_on_from_its_state(tmp_path: Path) -> None:
    config = small_config(Path("unused"), tmp_path, network=PACKAGED, freeze="stages=3")

    def trainer_of(seed: int) -> Trainer:
        network = build_ssd(network_config(PACKAGED, SHAPE_CLASSES))
        initialise(network, seed)
        trainer = Trainer(network, config, ALONE)
        trainer.start_training()
        return trainer

    first, second = trainer_of(1), trainer_of(2)
    first.step(0, two_images(), 1e-3, stop=False)
    second.load_state(copy.deepcopy(first.state()))
    for trainer in (first, second):
        trainer.step(1, two_images(), 1e-3, stop=False)
    assert_same_bits(dict(second.network.state_dict()), dict(first.network.state_dict()))


def test_more_stages_than_there_are_is_a_sentence() -> None:
    with pytest.raises(NetworkError, match=r"freeze stages=6: the backbone mobilenet0\.25 has 5 stages"):
        freeze(without_values(PACKAGED), "stages=6")
    assert freeze(without_values(PACKAGED), "none") == []


def test_a_backbone_without_stages_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(STAGES, MobileNet)
    with pytest.raises(NetworkError, match=r"the backbone mobilenet0\.25 has no stages in ssd_train\.training\.freeze"):
        freeze(without_values(PACKAGED), "backbone")
