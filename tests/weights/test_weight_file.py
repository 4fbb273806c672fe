"""Weight files of every kind, told apart by content, and refused in one sentence."""

import errno
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train.errors import SSDDeployError, WeightsError
from ssd_train.weights.weight_file import read_tensors, write_safetensors, write_torch

WEIGHT = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])


def torch_bytes(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zip_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def refusal(tmp_path: Path, data: bytes, name: str = "weights.bin") -> str:
    """Write a file that must be refused; return the message."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(WeightsError) as raised:
        read_tensors(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message


@pytest.mark.parametrize("name", ["w.params", "w.safetensors", "w.pth", "w.jpg", "w"])
@pytest.mark.parametrize("kind", ["params", "safetensors", "torch", "legacy torch"])
def test_a_file_is_known_by_its_content_whatever_its_name(tmp_path, golden, kind, name):
    path = tmp_path / name
    path.write_bytes(
        {
            "params": golden,
            "safetensors": safetensors.torch.save({"ab": WEIGHT}),
            "torch": torch_bytes({"ab": WEIGHT}),
            "legacy torch": torch_bytes({"ab": WEIGHT}, legacy=True),
        }[kind]
    )
    file = read_tensors(path)
    assert file.format == kind.removeprefix("legacy ")
    assert file.path == path
    assert list(file.tensors) == ["ab"]
    assert file.tensors["ab"].dtype == torch.float32
    assert torch.equal(file.tensors["ab"], WEIGHT)


def test_the_hash_is_of_the_bytes_on_disk(tmp_path, golden):
    path = tmp_path / "w.params"
    path.write_bytes(golden)
    # From `sha256sum` of the golden dump.
    assert read_tensors(path).sha256 == "ec9ad0b89aadd6686f60361bc2ebcc2a5b764cf74be8694657e3d8ac450deb85"


def test_safetensors_metadata_is_read_and_the_others_have_none(tmp_path, golden):
    path = tmp_path / "w"
    path.write_bytes(safetensors.torch.save({"ab": WEIGHT}, {"network": "ssd", "größe": "1"}))
    assert read_tensors(path).metadata == {"network": "ssd", "größe": "1"}
    for data in (safetensors.torch.save({"ab": WEIGHT}), golden, torch_bytes({"ab": WEIGHT})):
        path.write_bytes(data)
        assert read_tensors(path).metadata == {}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_nested_state_dict_is_found_beside_other_things(tmp_path, key, legacy):
    path = tmp_path / "w.pth"
    nested = {"epoch": 3, "optimizer": {"lr": 0.1}, key: OrderedDict(ab=torch.nn.Parameter(WEIGHT))}
    path.write_bytes(torch_bytes(nested, legacy=legacy))
    tensors = read_tensors(path).tensors
    assert list(tensors) == ["ab"]
    assert not tensors["ab"].requires_grad
    assert torch.equal(tensors["ab"], WEIGHT)


def test_the_prefix_of_data_parallel_is_stripped_only_where_all_have_it(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(torch_bytes({"module.a": WEIGHT, "module.module.b": WEIGHT}))
    assert list(read_tensors(path).tensors) == ["a", "module.b"]
    path.write_bytes(torch_bytes({"module.a": WEIGHT, "b": WEIGHT}))
    assert list(read_tensors(path).tensors) == ["module.a", "b"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": WEIGHT, "epoch": 3}, "entry 'epoch' is of type int"),
        ({"state_dict": {"a": WEIGHT, "b": {"c": WEIGHT}}}, "entry 'b' is of type dict"),
        ({3: WEIGHT}, "entry 3 is of type tensor"),
        ({"a": WEIGHT.to_sparse()}, "entry 'a' is of type tensor (torch.sparse_coo)"),
        ([WEIGHT], "holds a list, but a state dict"),
        (WEIGHT, "holds a Tensor, but a state dict"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, value, message):
    assert message in refusal(tmp_path, torch_bytes(value))


class CreatesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class RunsACommand:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("evil", [CreatesAFile, RunsACommand])
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, monkeypatch, evil, how):
    # An environment that asks PyTorch for unsafe loading changes nothing.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    victim = tmp_path / "created"
    value = {"state_dict": {"a": WEIGHT}, "extra": evil(victim)}
    if how.startswith("pickle"):
        data = pickle.dumps(evil(victim), protocol=int(how[-1]))
    else:
        data = torch_bytes(value, legacy=how == "legacy")
    message = refusal(tmp_path, data)
    assert "is refused" in message
    assert "run code" in message
    if how != "pickle 5":
        assert ("open" if evil is CreatesAFile else "system") in message
    assert not victim.exists()


@pytest.mark.parametrize("evil", [CreatesAFile, RunsACommand])
def test_the_pickles_of_that_test_do_run_code_elsewhere(tmp_path, evil):
    victim = tmp_path / "created"
    result = pickle.loads(pickle.dumps(evil(victim)))
    if evil is CreatesAFile:
        result.close()
    assert victim.exists()


def test_the_cause_of_a_refusal_is_kept(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(torch_bytes(CreatesAFile(tmp_path / "created")))
    with pytest.raises(WeightsError) as raised:
        read_tensors(path)
    assert isinstance(raised.value.__cause__, pickle.UnpicklingError)


def test_a_foreign_file_is_refused_with_the_kinds_that_were_expected(tmp_path):
    for data in (
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"just a line of text",
        b"12345678{ braces in a text",
        b"x",
        b"\x89PNG\r\n",
        bytes(100),
    ):
        message = refusal(tmp_path, data, "w.safetensors")
        for kind in ("safetensors", "PyTorch", ".params"):
            assert kind in message


def test_a_missing_file_an_empty_one_and_a_folder_are_told_apart(tmp_path):
    assert "is an empty file" in refusal(tmp_path, b"")
    with pytest.raises(WeightsError, match="no such weight file"):
        read_tensors(tmp_path / "missing.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "archive of nothing"),
        ({"arr_0.npy": b"1"}, "zip archive of arr_0.npy"),
        ({"ssd_512_resnet50_v1_voc-9c8b225a.params": b"1"}, "unzip it"),
        ({"w/data.pkl": b"1", "w/constants.pkl": b"1"}, "TorchScript"),
        ({"w/data.pkl": b"1"}, "cut off or damaged"),
    ],
)
def test_a_zip_archive_of_other_things_is_refused(tmp_path, members, message):
    assert message in refusal(tmp_path, zip_bytes(members), "w.pth")


def test_a_truncated_file_is_refused_at_every_length(tmp_path, golden):
    for data in (
        golden,
        safetensors.torch.save({"ab": WEIGHT}),
        torch_bytes({"ab": WEIGHT}),
        torch_bytes({"ab": WEIGHT}, legacy=True),
    ):
        for size in {*range(0, len(data), 1 + len(data) // 60), len(data) - 1}:
            refusal(tmp_path, data[:size])


def test_a_safetensors_header_that_lies_is_refused(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}'
    assert "cut off or damaged" in refusal(tmp_path, struct.pack("<Q", len(header)) + header + bytes(8))


@pytest.mark.parametrize("kind", ["params", "safetensors", "torch", "legacy torch"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_leads_to_a_result_or_a_refusal(tmp_path_factory, golden, kind, data):
    whole = {
        "params": golden,
        "safetensors": safetensors.torch.save({"ab": WEIGHT}),
        "torch": torch_bytes({"ab": WEIGHT}),
        "legacy torch": torch_bytes({"ab": WEIGHT}, legacy=True),
    }[kind]
    path = tmp_path_factory.getbasetemp() / "damaged"
    position = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:position] + bytes([data.draw(st.integers(0, 255))]) + whole[position + 1 :])
    try:
        read_tensors(path)
    except WeightsError as error:
        assert str(error).startswith(f"{path}: ")


def test_a_safetensors_dtype_that_pytorch_lacks_is_refused(tmp_path):
    header = b'{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    assert "F6_E2M3" in refusal(tmp_path, struct.pack("<Q", len(header)) + header + bytes(3))


def test_written_tensors_are_read_back_with_their_metadata(tmp_path):
    path = tmp_path / "new" / "w.safetensors"
    shared = torch.arange(6.0)
    tensors = {
        "strided": shared.view(2, 3).t(),
        "shared": shared,
        "scalar": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.float16),
        "tracked": torch.nn.Parameter(torch.ones(2)),
    }
    write_safetensors(path, tensors, {"network": "ssd"})
    file = read_tensors(path)
    assert file.format == "safetensors"
    assert file.metadata == {"network": "ssd"}
    assert set(file.tensors) == set(tensors)
    np.testing.assert_array_equal(file.tensors["strided"], [[0, 3], [1, 4], [2, 5]])
    for name, tensor in tensors.items():
        assert torch.equal(file.tensors[name], tensor)
        assert file.tensors[name].dtype == tensor.dtype
    assert [child.name for child in path.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_equal_weights_give_equal_bytes_whatever_the_file_is_called(tmp_path, suffix):
    tensors = {"b": WEIGHT, "a": torch.arange(3), "scalar": torch.tensor(True)}
    # The library's own order of so many entries is hardly ever the same twice.
    texts = {f"text {number}": "ü" for number in range(20)}
    write = write_safetensors if suffix == ".safetensors" else write_torch
    paths = [tmp_path / name / f"{name}{suffix}" for name in ("one", "two")]
    for path in paths:
        write(path, {name: tensor.clone() for name, tensor in tensors.items()}, texts)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert read_tensors(paths[0]).tensors.keys() == tensors.keys()
    if suffix == ".safetensors":
        with safetensors.safe_open(paths[0], "pt") as file:
            assert file.metadata() == texts
            assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"a": WEIGHT}, {})

    write_bytes = Path.write_bytes

    def fail(self, data):
        write_bytes(self, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(SSDDeployError, match=r"w\.safetensors: cannot be written \(No space left on device\)"):
            write_safetensors(path, {"b": WEIGHT}, {})
    assert list(read_tensors(path).tensors) == ["a"]
    assert list(tmp_path.iterdir()) == [path]
