"""torchvision's classifiers as the start of a backbone, against torchvision's own networks with the same weights."""

import functools
import hashlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from ssd_train.errors import WeightsError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.spec import IMAGENET_STD
from ssd_train.weights import torchvision_classifier as module
from ssd_train.weights.backbone import load_backbone
from ssd_train.weights.network_file import state_for
from ssd_train.weights.torchvision_classifier import CLASSIFIERS, classifier_state, fetch_classifier
from ssd_train.weights.weight_file import read_tensors

# Whole networks run.
pytestmark = pytest.mark.slow

SMALL = "mobilenet_v3_large"
# Backbone -> torchvision's network, and its modules that our taps are the outputs of.
TAPS = {
    "resnet18_v1": ("resnet18", "layer3", "layer4"),
    "resnet34_v1b": ("resnet34", "layer2", "layer4"),
    "resnet50_v1b": ("resnet50", "layer3", "layer4"),
    "mobilenet_v3_large": ("mobilenet_v3_large", "features.12", "features.15"),
    "regnet_x_400mf": ("regnet_x_400mf", "trunk_output.block3", "trunk_output.block4"),
}
VGG = "vgg16_atrous"


def unfilled(backbone: str) -> SSD:
    """A network whose values are whatever the memory held."""
    with torch.device("meta"):
        network = build_ssd(network_config(f"ssd_96_{backbone}_custom", ["cat"]))
    return network.to_empty(device="cpu")


def classifier(name: str) -> nn.Module:
    """torchvision's network with values of its own in every tensor, statistics included."""
    network = get_model(name, weights=None).eval()
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        if value.dim() > 1:
            value.uniform_(-1, 1, generator=generator).mul_((3 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=generator)
    return network


def outputs_of(network: nn.Module, names: tuple[str, ...], images: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    for name in names:
        network.get_submodule(name).register_forward_hook(lambda layer, inputs, output: found.append(output.clone()))
    with torch.no_grad():
        network(images)
    return found


def images() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", TAPS)
def test_taps_are_torchvisions_own_features(backbone: str, tmp_path: Path) -> None:
    name, *taps = TAPS[backbone]
    theirs, ours = classifier(name), unfilled(backbone)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    load_backbone(ours, tmp_path / "weights.pth")
    if backbone == "resnet34_v1b":
        # As in GluonCV's SSD, whose third stage keeps the resolution.
        first = theirs.layer3[0]
        first.conv1.stride = first.downsample[0].stride = (1, 1)
    with torch.no_grad():
        found = ours.features.backbone(images())
    expected = outputs_of(theirs, tuple(taps), images())
    assert len(found) == 2 and all(value.std() > 1e-3 for value in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.std()))


def test_of_the_deepest_resnet_every_name_and_shape_is_torchvisions() -> None:
    with torch.device("meta"):
        theirs = get_model("resnet101", weights=None).state_dict()
        ours = build_ssd(network_config("ssd_96_resnet101_v1b_custom", ["cat"])).features.backbone.state_dict()
    named = {CLASSIFIERS["resnet101_v1b"].name(name): value.shape for name, value in ours.items()}
    assert named == {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}


@pytest.fixture(scope="module")
def vgg() -> tuple[nn.Module, dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Its convolutions, its state dict, and the factors that fc6 and fc7 are the products of."""
    with torch.device("meta"):
        whole = get_model("vgg16", weights=None)
    generator = torch.Generator().manual_seed(2)
    features = whole.features.to_empty(device="cpu").eval()
    for value in features.state_dict().values():
        value.uniform_(-1, 1, generator=generator).mul_((6 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.1)
    rows, columns = torch.randn(4096, generator=generator), torch.randn(25088, generator=generator) / 100
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    state |= {
        "classifier.0.weight": rows[:, None] * columns,
        "classifier.0.bias": rows * 2,
        "classifier.3.weight": rows[:, None] * rows / 1000,
        "classifier.3.bias": rows * 3,
        "classifier.6.weight": torch.zeros(1, 4096),
        "classifier.6.bias": torch.zeros(1),
    }
    return features, state, (rows, columns)


def test_vggs_linear_layers_are_thinned_out_to_convolutions(
    vgg: tuple[nn.Module, dict[str, Tensor], tuple[Tensor, Tensor]],
) -> None:
    features, tensors, (rows, columns) = vgg
    ours = unfilled(VGG)
    with torch.no_grad():
        ours.features.norm4.scale.fill_(1)
    state, phrase = classifier_state(tensors, ours, Path("vgg16.pth"))
    ours.load_state_dict(state, strict=False)
    assert phrase.startswith("torchvision's VGG16 for normalised pixels")
    assert torch.equal(ours.features.init_scale, torch.ones(1, 3, 1, 1))
    # By hand: channel 4 i of fc6 sees channel j of conv5_3 at rows and columns 0, 3 and 6 of 7.
    kernel = ours.features.stages[5][0].weight
    for i, j, y, x in ((0, 0, 0, 0), (1, 2, 1, 2), (1023, 511, 2, 2)):
        assert kernel[i, j, y, x] == rows[4 * i] * columns[49 * j + 7 * 3 * y + 3 * x]
    assert torch.equal(ours.features.stages[5][0].bias, rows[::4] * 2)
    assert ours.features.stages[5][2].weight[5, 7, 0, 0] == rows[20] * rows[28] / 1000
    # Up to conv4_3 nothing but names differs: its vectors, at length 1.
    del ours.features.extras[:]
    with torch.no_grad():
        found = ours.features(images())[0]
        expected = features[:23](images())
    torch.testing.assert_close(found, expected / (expected.square().sum(1, keepdim=True) + 1e-5).sqrt())


@pytest.mark.parametrize("kind", ["not finite", "missing"])
def test_a_vgg_without_linear_layers_is_for_pixels_of_0_to_255(
    vgg: tuple[nn.Module, dict[str, Tensor], tuple[Tensor, Tensor]], kind: str
) -> None:
    _, tensors, _ = vgg
    tensors = {name: value for name, value in tensors.items() if name.startswith("features.")}
    if kind == "not finite":
        tensors |= {
            f"classifier.{i}.{value}": torch.tensor([torch.nan]) for i in (0, 3) for value in ("weight", "bias")
        }
    ours = unfilled(VGG)
    state, phrase = classifier_state(tensors, ours, Path("vgg16.pth"))
    assert "taken for IMAGENET1K_FEATURES" in phrase and "fc6 and fc7 are fresh" in phrase
    torch.testing.assert_close(state["features.init_scale"].flatten(), 255 * torch.tensor(IMAGENET_STD))
    assert not any(name.startswith("features.stages.5.") for name in state)
    assert sum(name.startswith("features.stages.") for name in state) == 26


# Refusals


def test_a_file_that_does_not_fit_is_a_sentence_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    ours = unfilled("resnet18_v1")
    for value in ours.state_dict().values():
        value.zero_()

    def refusal(tensors: dict[str, Tensor], network: SSD = ours) -> str:
        torch.save(tensors, path)
        with pytest.raises(WeightsError) as caught:
            load_backbone(network, path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message
        return message

    good = classifier("resnet18").state_dict()
    assert "layer4.2.conv1.weight; name the state dict of torchvision's ResNet18" in refusal(
        good | {"layer4.2.conv1.weight": torch.zeros(512, 512, 3, 3)}
    )
    assert "lacks bn1.weight" in refusal({name: value for name, value in good.items() if name != "bn1.weight"})
    assert "instead of (64, 3, 7, 7)" in refusal(good | {"conv1.weight": torch.zeros(64, 3, 3, 3)})
    assert "not finite in features.backbone.stem.1.bias" in refusal(good | {"bn1.bias": torch.full((64,), torch.inf)})
    assert not any(value.any() for value in ours.state_dict().values())
    # Its blocks are another ResNet's.
    message = refusal(good, unfilled("resnet50_v1"))
    assert "no classifier of torchvision's computes what the backbone resnet50_v1 does" in message
    assert "resnet50_v1b" in message


def test_files_of_gluoncv_s_are_refused_where_it_has_no_such_backbone(
    tmp_path: Path, float_params: Callable[[dict[str, Tensor]], bytes]
) -> None:
    path = tmp_path / "weights.params"
    path.write_bytes(float_params({"features.0.weight": torch.zeros(16, 3, 3, 3)}))
    network = unfilled(SMALL)
    with pytest.raises(WeightsError, match=r"it is of GluonCV, which has none; name torchvision's MobileNet_V3_Large"):
        load_backbone(network, path)
    with pytest.raises(WeightsError, match=r"comes from another project, which has no ssd_96_mobilenet_v3_large_cust"):
        state_for(network, read_tensors(path))


# Published files


def test_addresses_and_hashes_are_those_of_torchvisions_enums() -> None:
    for backbone in CLASSIFIERS:
        url, parameters = module.published_address(backbone)
        assert re.fullmatch(r"https://download\.pytorch\.org/models/\w+-[0-9a-f]{8,}\.pth", url)
        assert 2_000_000 < parameters < 139_000_000
    assert module.published_address("resnet18_v1")[0].endswith("/resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match=r"the backbone mobilenet1\.0 does; choose a network on one of vgg16_atrous"):
        fetch_classifier("mobilenet1.0", Path("unused"))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], Path]]:
    """A server that has a classifier; what it was asked for, as it is asked, and its file."""
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(classifier("mobilenet_v3_large").state_dict(), folder / "new.pth")
    digits = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    file = (folder / "new.pth").rename(folder / f"small-{digits}.pth")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            asked.append(self.path)

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{httpd.server_address[1]}/{file.name}"
    monkeypatch.setattr(module, "published_address", lambda backbone: (url, 5_483_032))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield asked, file
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_classifier_is_fetched_once_and_one_of_another_hash_is_removed(
    published: tuple[list[str], Path], tmp_path: Path
) -> None:
    asked, file = published
    root = tmp_path / "root"
    path = fetch_classifier(SMALL, root)
    assert path == root / file.name and path.read_bytes() == file.read_bytes()
    assert fetch_classifier(SMALL, root) == path
    assert asked == [f"/{file.name}"]
    assert load_backbone(unfilled(SMALL), path) == "torchvision's MobileNet_V3_Large"
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=rf"does not begin with {file.stem.split('-')[1]} as its name says, so it"):
        fetch_classifier(SMALL, root)
    assert not path.exists()
