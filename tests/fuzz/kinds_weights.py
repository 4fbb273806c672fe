"""Weight files of every format, checkpoints of trainings, thresholds, and archives that were downloaded."""

import dataclasses
import functools
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import formats
import mutations
import numpy as np
import safetensors.torch
import torch
from cases import Kind, Seed
from telling import tell

from ssd_deploy.describe import describe, describe_text
from ssd_deploy.model_source import find_model
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.spec import WorkingThresholds
from ssd_train.training.checkpoint import (
    CHECKPOINT_NAME,
    Position,
    find_checkpoint,
    kept_settings,
    load_checkpoint,
    save_checkpoint,
)
from ssd_train.training.config import TrainingConfig
from ssd_train.training.processes import Processes
from ssd_train.training.step import Trainer
from ssd_train.weights.description import describe_weights
from ssd_train.weights.download import fetch_published
from ssd_train.weights.network_file import save_network
from ssd_train.weights.random_weights import untrained_network
from ssd_train.weights.store import PublishedFile
from ssd_train.weights.thresholds_file import read_thresholds, thresholds_path, write_thresholds
from ssd_train.weights.weight_file import read_tensors

NETWORK = "ssd_300_mobilenet0.25_custom"
CLASSES = ("cat", "dog")


@functools.cache
def network() -> SSD:
    return untrained_network(network_config(NETWORK, CLASSES), 0)


def tensors() -> dict[str, torch.Tensor]:
    """A few tensors of several types, under names as files have them."""
    return {
        "conv.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2),
        "conv.bias": torch.zeros(2),
        "bn.num_batches_tracked": torch.tensor(3),
        "anchors": torch.ones(4, 4, dtype=torch.float64),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }


def params() -> bytes:
    """An MXNet file, written from the format's own description: see `params_file`."""
    records, names = b"", b""
    for name, tensor in tensors().items():
        values = np.atleast_1d(tensor.float().numpy())
        shape = struct.pack(f"<i{values.ndim}q", values.ndim, *values.shape)
        records += struct.pack("<Ii", 0xF993FAC9, 0) + shape + struct.pack("<iii", 1, 0, 0) + values.tobytes()
        names += struct.pack("<Q", len(name)) + name.encode()
    count = struct.pack("<Q", len(tensors()))
    return struct.pack("<QQ", 0x112, 0) + count + records + count + names


def saved(value: object, **options: object) -> bytes:
    data = io.BytesIO()
    torch.save(value, data, **options)
    return data.getvalue()


def alone(data: bytes, name: str) -> Seed:
    return Seed(files={name: data}, target=name)


def small_files(folder: Path) -> tuple[list[Seed], list[Seed]]:
    """Files with a few tensors, and in ours what they say of themselves; PyTorch's come second."""
    texts = {"network": NETWORK, "class_names": json.dumps(CLASSES), "source": "a.params", "source_sha256": "0" * 64}
    packed = {"conv.weight": torch.ones(2, 3, 2, 2, dtype=torch.int8), "conv.weight.scale": torch.ones(2)}
    ours = {"state_dict": tensors(), **texts, "class_names": list(CLASSES)}
    small = tensors()
    in_parallel = {"model": {f"module.{name}": tensor for name, tensor in small.items()}, "epoch": 3}
    settings = {"network": NETWORK, "classes": list(CLASSES)}
    return [
        alone(params(), "a.params"),
        alone(safetensors.torch.save(tensors()), "plain.safetensors"),
        alone(safetensors.torch.save(tensors(), texts), "ours.safetensors"),
        alone(safetensors.torch.save(packed, texts | {"packed": "int8 per output channel"}), "packed.safetensors"),
    ], [
        alone(saved(tensors()), "plain.pth"),
        alone(saved(ours), "ours.pth"),
        alone(saved(in_parallel), "model.pt"),
        alone(saved(ours, _use_new_zipfile_serialization=False), "legacy.pth"),
        alone(saved({"settings": settings, "network": small, "position": {"step": 3}}), "a.ckpt"),
    ]


def read_weights(folder: Path, path: Path, out: Path) -> None:
    """Describe a file as `info` does, and read its tensors."""
    read_tensors(path)
    if describe_weights(path).network is not None:
        show(path, out)


def show(path: Path, out: Path) -> None:
    """Print what `info` prints, and write what its `--json` has."""
    known = describe(str(path))
    tell(describe_text(known), {"models": [known]}, out)


def whole_files(folder: Path) -> Sequence[Seed]:
    """A network's own files, with thresholds beside them."""
    seeds = []
    for name, packed in (("packed.safetensors", True), ("a.safetensors", False), ("a.pth", False)):
        save_network(network(), folder / name, packed=packed)
        write_thresholds(folder / name, WorkingThresholds(overall=0.4, per_class={"cat": 0.3}, found_by="F1"))
        files = {path.name: path.read_bytes() for path in (folder / name, thresholds_path(folder / name))}
        seeds.append(Seed(files=files, target=name))
    return seeds


def read_network_file(folder: Path, path: Path, out: Path) -> None:
    find_model(path).load()


def thresholds(folder: Path) -> Sequence[Seed]:
    seed = whole_files(folder)[0]
    return [dataclasses.replace(seed, target="packed.thresholds.json")]


def read_thresholds_file(folder: Path, path: Path, out: Path) -> None:
    found = read_thresholds(folder / "packed.safetensors", CLASSES)
    if found is not None:
        tell("", dataclasses.asdict(found), out)
        assert all(0 <= value <= 1 for value in (found.overall, *found.per_class.values()))


# --- Checkpoints ---


def config(folder: Path) -> TrainingConfig:
    return TrainingConfig(
        network=NETWORK, dataset="voc", out=folder, resume=str(folder / CHECKPOINT_NAME), device="cpu", ema=True
    )


@functools.cache
def trainer() -> Trainer:
    own = build_ssd(network_config(NETWORK, CLASSES))
    own.load_state_dict(network().state_dict())
    return Trainer(own, config(Path()), Processes(rank=0, count=1, device=torch.device("cpu")))


def checkpoints(folder: Path) -> Sequence[Seed]:
    """A checkpoint, and its first version, which counted steps otherwise."""
    settings = kept_settings(config(folder), CLASSES, 5)
    path = folder / CHECKPOINT_NAME
    save_checkpoint(path, trainer(), Position(step=3, images=6, epochs=1, best=0.5, bad_images=["x"]), settings)
    second = path.read_bytes()
    state = torch.load(path, weights_only=True)
    old = {"step": 3, "validated_epochs": 1, "best": 0.5, "sums": [1.0, 2.0, 3.0], "bad_images": []}
    first = saved({**state, "version": 1, "position": old, "settings": {**settings, "images a step": 2}})
    return [alone(data, CHECKPOINT_NAME) for data in (second, first)]


def read_resumed(folder: Path, path: Path, out: Path) -> None:
    """Go on from a checkpoint, up to the first step."""
    settings = config(folder)
    state = find_checkpoint(settings)
    assert state is not None
    position = load_checkpoint(state, trainer(), kept_settings(settings, CLASSES, 5))
    json.dumps(dataclasses.asdict(position), allow_nan=True)


def change_checkpoint(data: bytes, random: Random) -> bytes:
    """Change what is beside the weights, which are most of a file's bytes and of its values."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    heavy = {"network", "average"} if random.random() < 0.9 else set()
    light = {name: value for name, value in state.items() if name not in heavy}
    light["optimizer"] = {**light["optimizer"], "state": {}} if random.random() < 0.7 else light["optimizer"]
    changed = torch.load(io.BytesIO(formats.change_torch(saved(light), random)), weights_only=True)
    return saved({**state, **changed} if isinstance(changed, dict) else changed)


# --- Downloads ---

PARAMS = params()
PUBLISHED = PublishedFile("net", hashlib.sha1(PARAMS).hexdigest())


def archives(folder: Path) -> Sequence[Seed]:
    """Published weights that were put there by hand, in each compression that Python has."""
    seeds = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", compression) as archive:
            archive.writestr(f"{PUBLISHED.stem}.params", PARAMS)
        seeds.append(alone(data.getvalue(), f"{PUBLISHED.stem}.zip"))
    return seeds


def read_archive(folder: Path, path: Path, out: Path) -> None:
    fetched = fetch_published(PUBLISHED, folder)
    assert fetched.read_bytes() == PARAMS


KINDS = (
    Kind(
        name="weights",
        seeds=lambda folder: small_files(folder)[0],
        read=read_weights,
        change=formats.change_safetensors,
        weight=3,
    ),
    Kind(
        name="weights-torch",
        seeds=lambda folder: small_files(folder)[1],
        read=read_weights,
        change=formats.change_torch,
        weight=3,
    ),
    Kind(
        name="network-files", seeds=whole_files, read=read_network_file, change=formats.change_safetensors, weight=0.5
    ),
    Kind(name="thresholds", seeds=thresholds, read=read_thresholds_file, change=mutations.change_json),
    Kind(name="checkpoints", seeds=checkpoints, read=read_resumed, change=change_checkpoint, weight=1),
    Kind(name="downloads", seeds=archives, read=read_archive, rewrites=True),
)
