"""What a training may start from, and what it says where that is not to be had."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import CLASSES, PACKAGED, small_config

from ssd_train.errors import WeightsError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.training import start
from ssd_train.training.initialise import initialise
from ssd_train.training.processes import Processes
from ssd_train.training.start import PUBLISHERS, Publisher, Start, load_start, publisher_of
from ssd_train.weights.load import SHAPES_WEIGHTS
from ssd_train.weights.network_file import save_network
from ssd_train.weights.weight_file import read_tensors

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def network_of(*classes: str, name: str = PACKAGED, seed: int = 0) -> SSD:
    network = build_ssd(network_config(name, classes or CLASSES))
    initialise(network, seed)
    return network


def started(network: SSD, /, **changes: Any) -> Start:
    return load_start(network, small_config(Path("data"), Path("run"), **{"network": PACKAGED} | changes), ALONE)


def test_the_detector_that_ships_with_the_package_is_a_start() -> None:
    network = network_of()
    result = started(network, init="shapes")
    assert result.has_backbone and "class predictors included" in result.note
    packaged = read_tensors(SHAPES_WEIGHTS).tensors
    assert all(torch.equal(value, packaged[name]) for name, value in network.state_dict().items())


def test_of_the_packaged_detector_other_classes_take_all_but_class_predictors() -> None:
    network = network_of("cat", "star")
    before = network.class_predictors[0].predictor.weight.clone()  # type: ignore[operator,union-attr]
    assert "(5 classes); class predictors of no class reused, 2 fresh" in started(network, init="shapes").note
    packaged = read_tensors(SHAPES_WEIGHTS).tensors
    name = "box_predictors.0.predictor.weight"
    assert torch.equal(network.state_dict()[name], packaged[name])
    assert torch.equal(network.class_predictors[0].predictor.weight, before)  # type: ignore[arg-type,union-attr]


def test_a_run_folder_is_its_best_weights_else_its_last(tmp_path: Path) -> None:
    for name, seed in (("last", 1), ("best", 2)):
        save_network(network_of(seed=seed), tmp_path / f"{name}.safetensors")
        network = network_of()
        started(network, init=str(tmp_path))
        expected = network_of(seed=seed).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty: holds neither best\.safetensors nor last\.safetensors"):
        started(network_of(), init=str(tmp_path / "empty"))


def test_a_detector_of_another_input_size_gives_all_but_anchors_and_class_predictors() -> None:
    network = network_of("cat", name="ssd_512_mobilenet0.25_custom")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = started(network, init="shapes", network="ssd_512_mobilenet0.25_custom")
    assert f"started from {SHAPES_WEIGHTS} (5 classes); class predictors of no class reused" in result.note
    packaged = read_tensors(SHAPES_WEIGHTS).tensors
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        is_taken = name != "anchors" and not name.startswith("class_predictors.")
        assert torch.equal(value, packaged[name] if is_taken else before[name]), name


def test_a_detector_on_another_backbone_is_refused_by_both_names() -> None:
    network = network_of("cat", name="ssd_300_resnet34_v1b_custom")
    with pytest.raises(
        WeightsError, match=r"its backbone is mobilenet0\.25, and not resnet34_v1b; name weights"
    ) as caught:
        started(network, init="shapes", network="ssd_300_resnet34_v1b_custom")
    assert PACKAGED in str(caught.value) and caught.value.arguments == ("init", "network")


def publishing(
    monkeypatch: pytest.MonkeyPatch, fetch: Callable[[str, Path], Path], **backbones: tuple[str, ...]
) -> None:
    """Have the projects that are named publish these backbones, and nobody else any."""
    fake = [Publisher(name=name, backbones=those, fetch=fetch) for name, those in backbones.items()]
    monkeypatch.setattr(start, "PUBLISHERS", tuple(fake))


def not_there(backbone: str, root: Path) -> Path:
    raise WeightsError(f"http://example/{backbone}.zip: could not be downloaded (no network); save it in {root}")


def test_auto_goes_on_without_published_weights_and_says_what_that_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    publishing(monkeypatch, not_there, GluonCV=("mobilenet0.25",))
    network = network_of()
    result = started(network, pretrained_backbone="auto")
    assert not result.has_backbone and result.warning is not None
    assert "mobilenet0.25" in result.warning and "lower score" in result.warning and ". " not in result.warning
    expected = network_of().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_required_and_a_project_stop_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    publishing(monkeypatch, not_there, torchvision=("mobilenet0.25",))
    for wanted in ("required", "torchvision"):
        with pytest.raises(WeightsError, match=r"no network.*or train without them: pretrained_backbone auto or none"):
            started(network_of(), pretrained_backbone=wanted)
    publishing(monkeypatch, not_there)
    with pytest.raises(WeightsError, match=r"required: nobody published any for mobilenet0\.25; or name a file"):
        started(network_of(), pretrained_backbone="required")
    publishing(monkeypatch, not_there, GluonCV=("mobilenet0.25",))
    with pytest.raises(WeightsError, match=r"torchvision: no classifier of torchvision's computes what the back"):
        started(network_of(), pretrained_backbone="torchvision")
    publishing(monkeypatch, not_there)
    assert started(network_of(), pretrained_backbone="auto").warning is None


def test_what_is_fetched_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copy(SHAPES_WEIGHTS, tmp_path / "fetched.params"))
    publishing(monkeypatch, lambda backbone, root: path, GluonCV=("mobilenet0.25",))
    for wanted in ("auto", "required"):
        network = network_of()
        result = started(network, pretrained_backbone=wanted)
        note = "started from the ImageNet backbone fetched.params, a detector"
        assert result == Start(note=note, has_backbone=True)
        name = "features.backbone.layers.26.0.weight"
        assert torch.equal(network.state_dict()[name], read_tensors(SHAPES_WEIGHTS).tensors[name])


def test_of_two_projects_gluoncv_s_weights_are_taken_unless_torchvision_s_are_wanted() -> None:
    assert [project.name for project in PUBLISHERS] == ["GluonCV", "torchvision"]
    for backbone, wanted, project in (
        ("vgg16_atrous", "auto", "GluonCV"),
        ("vgg16_atrous", "torchvision", "torchvision"),
        ("resnet50_v1b", "auto", "torchvision"),
        ("regnet_x_400mf", "required", "torchvision"),
        ("mobilenet1.0", "required", "GluonCV"),
    ):
        found = publisher_of(backbone, wanted)
        assert found is not None and found.name == project, backbone
    assert publisher_of("mobilenet1.0", "torchvision") is None
