"""ImageNet classifiers and trained detectors as the start of a backbone, against names of GluonCV's own files."""

import functools
import hashlib
import http.server
import threading
import zipfile

import pytest
import torch

from ssd_train.errors import WeightsError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.zoo import NETWORKS, network_config
from ssd_train.weights import backbone as module
from ssd_train.weights.backbone import PUBLISHED_SHA1, classifier_names, fetch_backbone, load_backbone
from ssd_train.weights.network_file import save_network

pytestmark = pytest.mark.slow  # whole backbones, written and read

SMALL = "ssd_300_mobilenet0.25_voc"
VGG = "ssd_300_vgg16_atrous_voc"
RESNET_V2 = "ssd_512_resnet101_v2_voc"
BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def on_meta(backbone):
    config = next(config for config in NETWORKS.values() if config.backbone == backbone)
    with torch.device("meta"):
        return build_ssd(config)


def seeded(name, seed=0, classes=None):
    """A network whose tensors are all different, batch norm statistics too."""
    network = build_ssd(network_config(name, classes))
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1, generator=generator)
    return network


def is_backbone(name):
    return name.startswith("features.") and ".extras." not in name and not name.endswith("num_batches_tracked")


def copy_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def mobilenet_params(network, scheme):
    """A mobilenet's tensors under the names of GluonCV's files, its 1000 classes with them."""
    state = network.state_dict()
    arrays = {"output.weight" if scheme == "dotted" else "dense0_weight": torch.zeros(1000, 256)}
    arrays |= {"output.bias" if scheme == "dotted" else "dense0_bias": torch.zeros(1000)}
    for layer in range(27):
        conv, norm = (3 * layer, 3 * layer + 1) if scheme == "dotted" else (layer, layer)
        ours = f"features.backbone.layers.{layer}"
        arrays[f"features.{conv}.weight" if scheme == "dotted" else f"conv{conv}_weight"] = state[f"{ours}.0.weight"]
        for key, theirs in BATCH_NORM.items():
            name = f"features.{norm}.{theirs}" if scheme == "dotted" else f"batchnorm{norm}_{theirs}"
            arrays[name] = state[f"{ours}.1.{key}"]
    return arrays


@pytest.fixture(scope="module")
def trained():
    return seeded(SMALL, seed=5)


@pytest.fixture
def write(tmp_path, float_params):
    """Write arrays as a `.params` file; return its path."""

    def to_file(arrays):
        path = tmp_path / "w.params"
        path.write_bytes(float_params(arrays))
        return path

    return to_file


# Names


@pytest.mark.parametrize(
    ("backbone", "arrays"),
    [
        # Of the whole file, less two of the classifier's last layer.
        ("resnet50_v1", 299 - 2),
        ("resnet18_v1", 102 - 2),
        ("resnet50_v1s", 277 - 2),
        ("resnet34_v1b", 182 - 2),
        ("mobilenet1.0", 137 - 2),
        ("mobilenet0.25", 137 - 2),
        # Less a batch norm at the end and 32 arrays of stage 4, too.
        ("resnet101_v2", 514 - 2 - 4 - 32),
        # 15 convolutions and two scales.
        ("vgg16_atrous", 32),
    ],
)
@pytest.mark.parametrize("dotted", [True, False])
def test_as_many_arrays_are_named_as_gluoncvs_files_have(backbone, arrays, dotted):
    network = on_meta(backbone)
    names = classifier_names(network, dotted=dotted)
    assert len(names) == len(set(names.values())) == arrays
    assert set(names) == {name for name in network.state_dict() if is_backbone(name)}


@pytest.mark.parametrize(
    ("backbone", "ours", "dotted", "legacy"),
    [
        ("vgg16_atrous", "init_scale", "init_scale", "init_scale"),
        ("vgg16_atrous", "norm4.scale", "norm4.scale", "normalize0_normalize_scale"),
        ("vgg16_atrous", "stages.2.4.bias", "stages.2.4.bias", "conv6_bias"),
        ("vgg16_atrous", "stages.5.2.weight", "stages.5.2.weight", "dilated_conv1_weight"),
        ("resnet50_v1", "stem.1.running_var", "features.1.running_var", "batchnorm0_running_var"),
        ("resnet50_v1", "stages.0.0.conv3.bias", "features.4.0.body.6.bias", "stage1_conv2_bias"),
        ("resnet50_v1", "stages.0.0.shortcut.0.weight", "features.4.0.downsample.0.weight", "stage1_conv3_weight"),
        ("resnet50_v1", "stages.3.2.bn2.bias", "features.7.2.body.4.beta", "stage4_batchnorm8_beta"),
        ("resnet18_v1", "stages.0.1.bn2.weight", "features.4.1.body.4.gamma", "stage1_batchnorm3_gamma"),
        ("resnet18_v1", "stages.3.0.shortcut.1.bias", "features.7.0.downsample.1.beta", "stage4_batchnorm2_beta"),
        ("resnet50_v1s", "stem.6.weight", "conv1.6.weight", "conv2_weight"),
        ("resnet50_v1s", "stem.4.weight", "conv1.4.gamma", "batchnorm1_gamma"),
        ("resnet50_v1s", "stem.7.bias", "bn1.beta", "batchnorm2_beta"),
        ("resnet50_v1s", "stages.3.2.conv3.weight", "layer4.2.conv3.weight", "layers4_conv8_weight"),
        ("resnet50_v1s", "stages.0.0.shortcut.0.weight", "layer1.0.downsample.0.weight", "down1_conv0_weight"),
        ("resnet34_v1b", "stem.0.weight", "conv1.weight", "conv0_weight"),
        ("resnet34_v1b", "stem.1.weight", "bn1.gamma", "batchnorm0_gamma"),
        ("resnet34_v1b", "stages.3.2.bn2.weight", "layer4.2.bn2.gamma", "layers4_batchnorm5_gamma"),
        ("resnet101_v2", "input_bn.bias", "features.0.beta", "batchnorm0_beta"),
        ("resnet101_v2", "stem.0.weight", "features.1.weight", "conv0_weight"),
        ("resnet101_v2", "stem.1.bias", "features.2.beta", "batchnorm1_beta"),
        ("resnet101_v2", "stages.0.0.shortcut.weight", "features.5.0.downsample.weight", "stage1_conv3_weight"),
        ("resnet101_v2", "stages.2.22.conv3.weight", "features.7.22.conv3.weight", "stage3_conv69_weight"),
        ("resnet101_v2", "stage4.bn3.weight", "features.8.0.bn3.gamma", "stage4_batchnorm2_gamma"),
        ("mobilenet1.0", "layers.26.0.weight", "features.78.weight", "conv26_weight"),
        ("mobilenet0.25", "layers.26.1.bias", "features.79.beta", "batchnorm26_beta"),
    ],
)  # fmt: skip
def test_names_are_those_of_gluoncvs_classifiers(backbone, ours, dotted, legacy):
    network = on_meta(backbone)
    ours = f"features.{ours}" if backbone == "vgg16_atrous" else f"features.backbone.{ours}"
    assert classifier_names(network, dotted=True)[ours] == dotted
    assert classifier_names(network, dotted=False)[ours] == legacy


# Classifiers


@pytest.mark.parametrize(
    ("scheme", "prefix"),
    [
        ("dotted", ""),
        ("legacy", ""),
        ("legacy", "mobilenet0_"),
        ("legacy", "mobilenet7_"),
        ("legacy", "arg:mobilenet0_"),
    ],
)
def test_a_classifier_fills_the_backbone_and_nothing_else(trained, write, scheme, prefix):
    network = seeded(SMALL)
    before, weight = copy_of(network), network.features.backbone.layers[0][0].weight
    arrays = mobilenet_params(trained, scheme)
    load_backbone(network, write({prefix + name: array for name, array in arrays.items()}))
    for name, tensor in network.state_dict().items():
        expected = trained.state_dict() if is_backbone(name) else before
        assert torch.equal(tensor, expected[name]), name
    # In place: an optimiser made before still holds the parameters.
    assert network.features.backbone.layers[0][0].weight is weight and weight.requires_grad


@pytest.mark.parametrize("dotted", [True, False])
def test_what_resnet_v2_has_behind_our_taps_and_its_first_gamma_are_ignored(write, dotted):
    network = build_ssd(NETWORKS[RESNET_V2])
    arrays = {name: network.state_dict()[ours] for ours, name in classifier_names(network, dotted=dotted).items()}
    arrays["features.0.gamma" if dotted else "batchnorm0_gamma"] = torch.full((3,), 9.0)
    arrays["features.0.beta" if dotted else "batchnorm0_beta"] = torch.full((3,), 0.5)
    behind = (
        ["features.8.0.conv3.weight", "features.8.0.downsample.weight", "features.8.2.bn1.gamma", "features.9.beta"]
        if dotted
        else ["stage4_conv2_weight", "stage4_conv3_weight", "stage4_batchnorm6_gamma", "batchnorm2_beta"]
    )
    arrays |= dict.fromkeys(behind, torch.zeros(1))
    load_backbone(network, write(arrays))
    assert (network.features.backbone.input_bn.weight == 1).all()
    assert (network.features.backbone.input_bn.bias == 0.5).all()


@pytest.mark.parametrize("dotted", [True, False])
def test_vgg_takes_its_scales_where_a_file_has_them_and_its_extras_never(write, dotted):
    network = build_ssd(NETWORKS[VGG])
    names = classifier_names(network, dotted=dotted)
    scales = ("features.norm4.scale", "features.init_scale")
    arrays = {name: network.state_dict()[ours] for ours, name in names.items() if ours not in scales}
    arrays["stages.5.2.bias" if dotted else "dilated_conv1_bias"] = torch.full((1024,), 0.25)
    arrays["extras.0.0.bias" if dotted else "extra0_conv0_bias"] = torch.full((256,), 7.0)
    load_backbone(network, write(arrays))
    assert (network.features.stages[5][2].bias == 0.25).all()
    assert (network.features.norm4.scale == 20).all()
    torch.testing.assert_close(network.features.init_scale.flatten(), torch.tensor([58.395, 57.12, 57.375]))
    assert not (network.features.extras[0][0].bias == 7).any()
    arrays[names[scales[0]]] = torch.full((1, 512, 1, 1), 11.0)
    arrays[names[scales[1]]] = torch.full((1, 3, 1, 1), 50.0)
    load_backbone(network, write(arrays))
    assert (network.features.norm4.scale == 11).all() and (network.features.init_scale == 50).all()


# Detectors


@pytest.mark.parametrize("kind", ["safetensors", "pth", "half pth"])
def test_a_detector_of_other_classes_gives_its_backbone(tmp_path, kind):
    donor = seeded("ssd_300_mobilenet0.25_custom", seed=7, classes=["owl", "eagle"])
    # Batches counted are no weights, and an older checkpoint may lack them.
    donor.features.backbone.layers[0][1].num_batches_tracked.fill_(9)
    path = tmp_path / "owls"
    if kind == "safetensors":
        save_network(donor, path)
    else:
        torch.save((donor.half() if kind.startswith("half") else donor).state_dict(), path)
    network = seeded(SMALL)
    before = copy_of(network)
    load_backbone(network, path)
    for name, tensor in network.state_dict().items():
        expected = donor.state_dict() if is_backbone(name) else before
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name


def test_a_detector_of_another_input_size_gives_its_backbone(tmp_path):
    path = tmp_path / "large.safetensors"
    donor = build_ssd(network_config("ssd_512_vgg16_atrous_custom", ["owl"]))
    save_network(donor, path)
    network = build_ssd(NETWORKS[VGG])
    load_backbone(network, path)
    assert torch.equal(network.features.stages[5][2].weight, donor.features.stages[5][2].weight)


# Refusals


def refusal(network, path):
    """Load a file that must be refused; check that the network stayed, and return the message."""
    before = copy_of(network)
    with pytest.raises(WeightsError) as raised:
        load_backbone(network, path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.pop("features.15.weight"),
            "it lacks features.15.weight; name GluonCV's ImageNet classifier mobil",
        ),
        (lambda a: [a.pop(f"features.{3 * i}.weight") for i in range(6)], "features.6.weight and 3 more; name"),
        (lambda a: a.update({"features.81.weight": torch.zeros(1)}), "it has the unexpected features.81.weight; name"),
        (
            lambda a: a.update({"features.0.weight": torch.zeros(32, 3, 3, 3)}),
            "features.0.weight (32, 3, 3, 3) instead of (8, 3, 3, 3); name GluonCV's ImageNet classifier mobilenet0.25",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_first_tensors(trained, write, change, message):
    arrays = mobilenet_params(trained, "dotted")
    change(arrays)
    text = refusal(seeded(SMALL), write(arrays))
    assert "does not fit the backbone mobilenet0.25: " in text
    assert message in text
    assert "`ssd-deploy convert`" in text


def test_values_that_are_not_finite_are_refused(trained, write):
    arrays = mobilenet_params(trained, "dotted")
    arrays["features.1.beta"] = torch.full((8,), float("nan"))
    assert "not finite in features.backbone.layers.0.1.bias" in refusal(seeded(SMALL), write(arrays))


def test_a_deeper_classifier_of_the_family_is_refused(write):
    """All of resnet18's names and shapes are in a network with more blocks of its kind."""
    network = seeded("ssd_512_resnet18_v1_voc")
    arrays = {name: network.state_dict()[ours] for ours, name in classifier_names(network, dotted=True).items()}
    arrays["features.6.2.body.0.weight"] = torch.zeros(256, 256, 3, 3)
    assert "has the unexpected features.6.2.body.0.weight" in refusal(network, write(arrays))


def test_files_of_other_networks_are_refused(tmp_path, write):
    network = seeded(SMALL)
    classifier = {"features.0.weight": torch.zeros(64, 3, 7, 7), "features.4.0.body.0.weight": torch.zeros(1)}
    assert "has the unexpected features.4.0.body.0.weight" in refusal(network, write(classifier))
    detector = {
        "features.mobilenet0_conv0_weight": torch.zeros(8, 3, 3, 3),
        "features.expand_conv0_weight": torch.ones(1),
    }
    assert "lacks features.0.weight" in refusal(network, write(detector))
    path = tmp_path / "other.pth"
    torch.save(build_ssd(NETWORKS["ssd_512_resnet18_v1_voc"]).state_dict(), path)
    assert "lacks features.backbone.layers.0.0.weight" in refusal(network, path)
    torch.save({"layer.weight": torch.ones(3)}, path)
    assert "lacks features.backbone.layers.0.0.weight" in refusal(network, path)
    path.write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    assert "is no weight file" in refusal(network, path)
    assert "no such weight file" in refusal(network, tmp_path / "missing.params")


# Published files


@pytest.fixture
def published(tmp_path, monkeypatch, trained, float_params):
    """A server that has a mobilenet0.25; returns what was asked for, as it is asked."""
    params = float_params(mobilenet_params(trained, "dotted"))
    sha1 = hashlib.sha1(params).hexdigest()
    stem = f"mobilenet0.25-{sha1[:8]}"
    folder = tmp_path / "server" / "gluon" / "models"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{stem}.zip", "w") as archive:
        archive.writestr(f"{stem}.params", params)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=tmp_path / "server")
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MXNET_GLUON_REPO", f"http://127.0.0.1:{httpd.server_address[1]}")
    monkeypatch.setitem(module.PUBLISHED_SHA1, "mobilenet0.25", sha1)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_published_classifier_is_fetched_once_and_loads(published, trained, tmp_path):
    root = tmp_path / "root"
    told = []
    path = fetch_backbone("mobilenet0.25", root, lambda done, total: told.append((done, total)))
    stem = f"mobilenet0.25-{module.PUBLISHED_SHA1['mobilenet0.25'][:8]}"
    assert path == root / f"{stem}.params"
    assert told[-1][0] == told[-1][1] > 0
    assert fetch_backbone("mobilenet0.25", root) == path
    assert published == [f"/gluon/models/{stem}.zip"]
    network = seeded(SMALL)
    load_backbone(network, path)
    assert torch.equal(network.features.backbone.layers[9][0].weight, trained.features.backbone.layers[9][0].weight)


def test_a_file_that_is_not_what_was_published_is_removed(published, tmp_path, monkeypatch):
    wrong = module.PUBLISHED_SHA1["mobilenet0.25"][:8] + "0" * 32
    monkeypatch.setitem(module.PUBLISHED_SHA1, "mobilenet0.25", wrong)
    with pytest.raises(WeightsError, match=f"but {wrong} was published, so it was removed"):
        fetch_backbone("mobilenet0.25", tmp_path / "root")
    assert not list((tmp_path / "root").glob("*.params"))


def test_every_backbone_has_a_published_classifier_and_others_are_refused(tmp_path):
    assert PUBLISHED_SHA1.keys() == {row.backbone for row in NETWORKS.values() if row.project == "gluoncv"}
    assert len(set(module.PUBLISHED_SHA1.values())) == len(PUBLISHED_SHA1)
    assert all(len(sha1) == 40 and int(sha1, 16) for sha1 in module.PUBLISHED_SHA1.values())
    assert "resnet152_v2" not in PUBLISHED_SHA1
    with pytest.raises(WeightsError, match="no published weights for the backbone 'resnet152_v2'; choose one of vgg16"):
        fetch_backbone("resnet152_v2", tmp_path / "root")
    assert not (tmp_path / "root").exists()
