"""Kernels in 8 bits: how far off, how small, the same bits again, and the packaged file that uses them."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssd_train import build_network
from ssd_train.errors import NetworkError, WeightsError
from ssd_train.networks.ssd import SSD
from ssd_train.weights import load
from ssd_train.weights.network_file import save_network
from ssd_train.weights.packed import PACKED, pack, unpack
from ssd_train.weights.weight_file import read_tensors

NETWORK = "ssd_300_mobilenet0.25_custom"
NAMES = ["circle", "triangle", "square", "star", "cross"]
SOURCE = Path("w.safetensors")


def kernel(seed: int, magnitude: float = 1.0) -> Tensor:
    """A kernel whose channels differ in magnitude by up to e**8."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(16, 1, 1, 1, generator=generator).clamp(-4, 4).exp()
    return torch.randn(16, 8, 3, 3, generator=generator) * spread * magnitude


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and value.shape == second[name].shape and torch.equal(value, second[name])
        for name, value in first.items()
    )


@pytest.fixture(scope="module")
def network() -> SSD:
    return build_network(NETWORK, weights="random:4", classes=NAMES)


def test_a_channel_worked_out_by_hand() -> None:
    weight = torch.zeros(3, 512, 1, 1)
    # The scale of 254 is 2; 3 / 2 is halfway, and goes to the even 2.
    weight[0, :5, 0, 0] = torch.tensor([254.0, -254.0, 100.0, 0.9, 3.0])
    weight[1, 0, 0, 0] = -127 / 4
    packed = pack({"w": weight})
    assert packed["w"][0, :5, 0, 0].tolist() == [127, -127, 50, 0, 2]
    assert packed["w"][1, 0, 0, 0] == -127
    assert packed["w.scale"].tolist() == [2.0, 0.25, 2.0**-100]
    assert packed["w"].dtype == torch.int8 and packed["w.scale"].dtype == torch.float32
    assert unpack(packed, SOURCE)["w"][0, :5, 0, 0].tolist() == [254, -254, 100, 0, 4]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), magnitude=st.sampled_from([1e-42, 1e-37, 1e-30, 1e-6, 1.0, 1e6, 1e34]))
def test_a_value_is_off_by_at_most_half_a_step_of_its_channel(seed: int, magnitude: float) -> None:
    weight = kernel(seed, magnitude)
    packed = pack({"w": weight})
    unpacked = unpack(packed, SOURCE)["w"]
    assert unpacked.dtype == torch.float32 and torch.isfinite(unpacked).all()
    # In double precision; the scale itself is rounded by 2**-17 of a step.
    step = packed["w.scale"].double().view(-1, 1, 1, 1)
    assert ((unpacked.double() - weight.double()).abs() <= step * 0.5 * (1 + 1e-6)).all()
    largest = weight.double().abs().amax(dim=(1, 2, 3), keepdim=True)
    assert (step >= largest / 127).all() and (step <= (largest / 127 * (1 + 2**-16)).clamp(min=2.0**-100)).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), magnitude=st.sampled_from([0.0, 1e-40, 1e-30, 1e-6, 1.0, 1e6, 1e34]))
def test_what_was_unpacked_is_packed_to_the_same_bits_again(seed: int, magnitude: float) -> None:
    packed = pack({"w": kernel(seed, magnitude)})
    unpacked = unpack(packed, SOURCE)
    again = pack(unpacked)
    assert same_bits(again, packed)
    assert same_bits(unpack(again, SOURCE), unpacked)


def test_only_kernels_of_enough_values_are_packed() -> None:
    tensors = {
        "small": torch.ones(16, 7, 3, 3),
        "anchors": torch.rand(2268, 4),
        "bias": torch.ones(2000),
        "count": torch.tensor(3),
        "double": torch.ones(16, 8, 3, 3, dtype=torch.float64),
    }
    assert same_bits(pack(tensors), tensors)
    assert list(pack({"just": torch.ones(1024, 1, 1, 1)})) == ["just", "just.scale"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_kernel_with_values_that_are_not_finite_is_refused(value: float) -> None:
    weight = kernel(0)
    weight[3, 2, 1, 0] = value
    with pytest.raises(WeightsError, match="^head.weight: holds values that are not finite"):
        pack({"head.weight": weight})


def test_packing_changes_nothing_in_place() -> None:
    weight = kernel(0)
    before = weight.clone()
    packed = pack({"w": weight, "b": weight[0]})
    unpack(packed, SOURCE)
    assert torch.equal(weight, before) and list(packed) == ["w", "w.scale", "b"]


def test_a_packed_file_is_a_quarter_in_size_and_read_as_float32(tmp_path: Path, network: SSD) -> None:
    plain, small, again = (tmp_path / name for name in ("plain", "small", "again"))
    save_network(network, plain)
    save_network(network, small, packed=True)
    assert small.stat().st_size < min(3_000_000, 0.28 * plain.stat().st_size)
    file = read_tensors(small)
    assert (
        file.metadata["packed"] == PACKED
        and file.metadata["class_names"] == read_tensors(plain).metadata["class_names"]
    )
    state = network.state_dict()
    assert {name: (value.dtype, value.shape) for name, value in file.tensors.items()} == {
        name: (value.dtype, value.shape) for name, value in state.items()
    }
    assert torch.equal(file.tensors["anchors"], state["anchors"])
    changed = [name for name, value in state.items() if not torch.equal(file.tensors[name], value)]
    assert len(changed) > 30 and all(state[name].ndim == 4 for name in changed)
    # Written from what was read, packed or not, the values stay.
    loaded = build_network(NETWORK, weights=small)
    assert loaded.spec.class_names == tuple(NAMES) and same_bits(loaded.state_dict(), file.tensors)
    for packed in (True, False):
        save_network(loaded, again, packed=packed)
        assert same_bits(read_tensors(again).tensors, file.tensors)
        assert ("packed" in read_tensors(again).metadata) is packed


@pytest.mark.parametrize(
    ("scale", "found"),
    [
        (None, "none"),
        (torch.ones(15), r"torch.float32 of shape \(15,\)"),
        (torch.ones(()), r"torch.float32 of shape \(\)"),
        (torch.ones(16, dtype=torch.int32), r"torch.int32 of shape \(16,\)"),
    ],
)
def test_a_packed_file_without_its_scales_is_damaged(tmp_path: Path, scale: Tensor | None, found: str) -> None:
    packed = pack({"head.weight": kernel(0)})
    del packed["head.weight.scale"]
    if scale is not None:
        packed["head.weight.scale"] = scale
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save(packed, {"packed": PACKED}))
    with pytest.raises(WeightsError, match=rf"w.safetensors: is damaged, since head.weight is .* 16 .* is {found};"):
        read_tensors(path)


def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path, network: SSD) -> None:
    packed = pack(network.state_dict())
    name = next(name for name in packed if name.endswith(".scale"))
    packed[name] = torch.full_like(packed[name], float("nan"))
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save(packed, {"packed": PACKED}))
    with pytest.raises(WeightsError, match="not finite"):
        build_network(NETWORK, weights=path, classes=NAMES)


def test_a_kind_of_packing_that_is_not_known_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.ones(3)}, {"packed": "int4"}))
    with pytest.raises(WeightsError, match="w.safetensors: is packed as 'int4', but only 'int8 per output channel'"):
        read_tensors(path)


def test_integers_in_a_file_that_is_not_packed_stay_integers(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = pack({"w": kernel(0)})
    path.write_bytes(safetensors.torch.save(tensors))
    assert same_bits(read_tensors(path).tensors, tensors)


@pytest.fixture
def shapes_file(tmp_path: Path, network: SSD, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shapes.safetensors"
    save_network(network, path, packed=True)
    monkeypatch.setattr(load, "SHAPES_WEIGHTS", path)
    return path


@pytest.mark.parametrize("weights", ["shapes", Path("shapes")])
def test_shapes_names_the_packaged_weights_with_their_classes(shapes_file: Path, weights: str | Path) -> None:
    loaded = build_network(NETWORK.upper(), weights=weights)
    assert loaded.spec.class_names == tuple(NAMES)
    assert loaded.spec.weights == "shapes.safetensors, from random, seed 4"
    assert loaded.spec.weights_sha256 == read_tensors(shapes_file).sha256
    assert same_bits(loaded.state_dict(), read_tensors(shapes_file).tensors)
    with pytest.raises(WeightsError, match="saved for the classes circle, triangle"):
        build_network(NETWORK, weights=weights, classes=["owl"])


def test_shapes_are_weights_of_one_network_only(shapes_file: Path) -> None:
    with pytest.raises(
        WeightsError, match=f"^weights shapes: are weights of {NETWORK}, not of ssd_300_mobilenet0.25_voc"
    ):
        build_network("ssd_300_mobilenet0.25_voc", weights="shapes")
    with pytest.raises(NetworkError, match="there is no network 'ssd_300'"):
        build_network("ssd_300", weights="shapes")


def test_the_packaged_weights_lie_beside_the_code_that_reads_them() -> None:
    assert Path(load.__file__).with_name("shapes.safetensors") == load.SHAPES_WEIGHTS


def test_a_file_called_otherwise_is_read_as_a_file(tmp_path: Path, network: SSD) -> None:
    path = tmp_path / "shapes"
    save_network(network, path)
    assert build_network(NETWORK, weights=path).spec.weights == "shapes, from random, seed 4"
