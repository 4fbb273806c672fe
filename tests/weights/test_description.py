"""What a weight file says about itself, against the network that was saved and the bytes on disk."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from foreign_files import params_of, pytorch_cv_tensors

from ssd_train import build_network
from ssd_train.errors import WeightsError
from ssd_train.networks.complexity import measure
from ssd_train.weights.description import describe_weights, network_of
from ssd_train.weights.network_file import save_network
from ssd_train.weights.weight_file import read_tensors

NETWORK = "ssd_300_mobilenet0.25_custom"
NAMES = ("owl", "eagle")


@pytest.fixture(scope="module")
def network():
    return build_network(NETWORK, weights="random:4", classes=NAMES)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.bin"])
def test_our_own_file_says_all(network, tmp_path, name, packed):
    path = tmp_path / name
    save_network(network, path, packed=packed)
    assert dataclasses.asdict(describe_weights(path)) == {
        "path": path,
        "format": "torch" if name in ("w.pth", "w.pt") else "safetensors",
        "network": NETWORK,
        "class_names": NAMES,
        "provenance": "random, seed 4",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "tensors": len(network.state_dict()),
        "parameters": measure(network.config).parameters,
        "packed": packed,
    }
    assert network_of(path) == NETWORK


def test_parameters_are_those_that_models_lists_for_vgg_and_its_scale_too(tmp_path):
    vgg = build_network("ssd_300_vgg16_atrous_voc")
    save_network(vgg, tmp_path / "w.safetensors")
    assert describe_weights(tmp_path / "w.safetensors").parameters == measure(vgg.config).parameters


def test_a_foreign_file_is_counted_and_says_no_network(network, tmp_path, float_params):
    arrays = params_of(network, "dotted")
    (tmp_path / "w.params").write_bytes(float_params(arrays))
    torch.save(pytorch_cv_tensors(network), tmp_path / "ported.pth")
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    for name, kind in (("w.params", "params"), ("ported.pth", "torch"), ("bare.pth", "torch")):
        found = describe_weights(tmp_path / name)
        assert (found.format, found.network, found.class_names, found.provenance) == (kind, None, None, None)
        assert found.parameters == measure(network.config).parameters
        with pytest.raises(WeightsError, match=f"{name}: does not say which network.*name the network too") as raised:
            network_of(tmp_path / name)
        assert raised.value.arguments == ("network",)
    assert describe_weights(tmp_path / "w.params").tensors == len(arrays)


def test_a_safetensors_file_is_described_without_torch(network, tmp_path):
    path = tmp_path / "w.safetensors"
    save_network(network, path)
    code = (
        "import sys; from pathlib import Path; from ssd_train.weights.description import describe_weights, network_of\n"
        "print(describe_weights(Path(sys.argv[1])).network, network_of(Path(sys.argv[1])), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout.split() == [NETWORK, NETWORK, "False"], done.stderr


def test_a_damaged_file_is_refused_at_every_length(network, tmp_path):
    path, cut = tmp_path / "w.safetensors", tmp_path / "cut"
    save_network(network, path)
    data = path.read_bytes()
    for size in (0, 5, 9, 100, 5000, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(WeightsError, match="cut: "):
            describe_weights(cut)
    cut.write_bytes(data + b"!")
    with pytest.raises(WeightsError, match="cut off or damaged .length"):
        describe_weights(cut)
    for header in (b"{}", b'{"a": 3}', b'{"a": {"shape": 3}}', b'{"__metadata__": [], "b": 1}', b"{" * 9):
        cut.write_bytes(len(header).to_bytes(8, "little") + header)
        for read in (describe_weights, network_of):
            if header != b"{}" or read is network_of:
                with pytest.raises(WeightsError, match="cut: "):
                    read(cut)


def test_a_pth_of_ours_is_plain_tensors_and_text_and_loads_like_safetensors(network, tmp_path):
    path = tmp_path / "w.pth"
    save_network(network, path)
    content = torch.load(path, weights_only=True)
    assert content.pop("state_dict").keys() == network.state_dict().keys()
    assert content == {
        "network": NETWORK,
        "class_names": list(NAMES),
        "source": "random, seed 4",
        "source_sha256": network.spec.weights_sha256,
    }
    loaded = build_network(NETWORK, weights=path)
    assert loaded.spec.class_names == NAMES and loaded.spec.weights == "w.pth, from random, seed 4"
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in network.state_dict().items())
    save_network(network, tmp_path / "w.safetensors")
    assert read_tensors(path).metadata == read_tensors(tmp_path / "w.safetensors").metadata
    with pytest.raises(WeightsError, match=f"w.pth: holds weights of {NETWORK}, not of ssd_300_mobilenet0.25_voc"):
        build_network("ssd_300_mobilenet0.25_voc", weights=path)
    with pytest.raises(WeightsError, match="was saved for the classes owl, eagle") as raised:
        build_network(NETWORK, weights=path, classes=["cat", "dog"])
    assert raised.value.arguments == ("classes",)


@pytest.mark.parametrize(
    "beside", [{"network": 3}, {"network": "resnet"}, {"network": "x", "class_names": [1]}, {"class_names": ["a"]}]
)
def test_what_a_foreign_checkpoint_says_in_our_words_is_not_believed(network, tmp_path, beside):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": network.state_dict(), **beside}, path)
    assert read_tensors(path).metadata == {}
    assert describe_weights(path).network is None


def test_a_training_checkpoint_gives_the_average_where_there_is_one(network, tmp_path):
    path = tmp_path / "last.ckpt"
    other = build_network(NETWORK, weights="random:5", classes=NAMES)
    state = {
        "network": network.state_dict(),
        "optimizer": {"state": {}},
        "average": None,
        "position": {"step": 7},
        "settings": {"network": NETWORK.upper(), "classes": list(NAMES)},
        "version": 1,
    }
    for average, kept in ((None, network), (other.state_dict(), other)):
        torch.save({**state, "average": average}, path)
        loaded = build_network(network_of(path), weights=path)
        assert loaded.spec.class_names == NAMES and loaded.spec.weights == "last.ckpt, from a training, step 7"
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in kept.state_dict().items())
