"""Every input that a reader could once not stand, as small as it got: now it is read, or refused in one sentence."""

import dataclasses
import functools
import io
import json
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kinds
import onnx
import pytest
import torch
from cases import Kind, Seed
from judge import judge
from onnx import helper

ALL = {kind.name: kind for kind in kinds.KINDS}
Change = Callable[[bytes], bytes]


# --- Ways to change a valid file ---


def instead(new: bytes) -> Change:
    return lambda data: new


def swapped(old: bytes, new: bytes) -> Change:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    return change


def with_value(*path: Any, value: Any) -> Callable[[Any], Any]:
    """Return a change of a tree: another value in a place, or none there where it is `...`."""

    def change(tree: Any) -> Any:
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        if value is ...:
            del parent[path[-1]]
        else:
            parent[path[-1]] = value
        return tree

    return change


def in_json(*path: Any, value: Any) -> Change:
    return lambda data: json.dumps(with_value(*path, value=value)(json.loads(data))).encode()


def in_torch(*path: Any, value: Any) -> Change:
    def change(data: bytes) -> bytes:
        saved = io.BytesIO()
        torch.save(with_value(*path, value=value)(torch.load(io.BytesIO(data), weights_only=True)), saved)
        return saved.getvalue()

    return change


def in_header(*path: Any, value: Any) -> Change:
    """Change the header of a safetensors file."""

    def change(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.dumps(with_value(*path, value=value)(json.loads(data[8 : 8 + length]))).encode()
        return struct.pack("<Q", len(header)) + header + data[8 + length :]

    return change


def in_metadata(**entries: str) -> Change:
    """Change text entries of an ONNX file."""

    def change(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        known = {entry.key: entry.value for entry in model.metadata_props}
        del model.metadata_props[:]
        helper.set_model_props(model, known | entries)
        return model.SerializeToString()

    return change


def with_long_name(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    model.graph.node[0].input[0] = "x" * 70_000
    return model.SerializeToString()


DEEP = "[" * 100_000 + "]" * 100_000
LONG = "9" * 5000
NUMBER = "9" * 400


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """An input: a change of one of a kind's seeds."""

    name: str
    kind: str
    change: Change
    seed: int = 0


def kept(kind: str, name: str, change: Change, seed: int = 0) -> Kept:
    return Kept(name=name, kind=kind, change=change, seed=seed)


# The first one of the network.
LAYER = "features.backbone.layers.0.0.weight"
# Place of the parameters' numbers in a checkpoint.
PARAMETERS = ("optimizer", "param_groups", 0, "params")
# Of processor time: nothing that is kept takes a tenth of it.
LONGEST_S = 10.0
KEPT = (
    # Class lists.
    kept("class-list", "forty thousand names", instead(b"\n".join(b"name %d" % number for number in range(40_000)))),
    # Annotations.
    kept("coco", "a lone surrogate in a category", in_json("categories", 0, "name", value="a\ud800")),
    kept("coco", "a lone surrogate in a file name", in_json("images", 0, "file_name", value="\ud800.png")),
    kept("coco", "a zero byte in a file name", in_json("images", 0, "file_name", value="a\0.png")),
    kept("voc-lists", "a line of 5000 digits", instead(LONG.encode())),
    kept("yolo-lists", "a zero byte in a name", instead(b"images/a.png\na\0b\n")),
    kept("yolo-lists", "one name a thousand times", instead(b"cat\n" * 1000), seed=1),
    kept("yolo-lists", "a terminal's commands", instead(b"\x1b[31mred\x1b[0m\n")),
    kept("yolo-yaml", "a value that is none of its tag", swapped(b"17", b"!!timestamp x"), seed=1),
    # Pictures and videos.
    kept("videos", "cut off amid what describes it", lambda data: data[:2560], seed=4),
    # Weights.
    kept("weights", "a type of 70,000 letters", in_header("conv.bias", "dtype", value="x" * 70_000), seed=1),
    kept("weights", "a class list nested deep", in_header("__metadata__", "class_names", value=DEEP), seed=2),
    kept("network-files", "a shape of text", in_header(LAYER, "shape", value=["8", 3, 3, 3]), seed=1),
    kept("network-files", "an offset of text", in_header(LAYER, "data_offsets", 1, value="9"), seed=1),
    kept("network-files", "a header nested deep", lambda data: (
        struct.pack("<Q", len(DEEP) + 6) + b'{"a": ' + DEEP.encode()
    )),
    kept("thresholds", "nested deep", instead(DEEP.encode())),
    # Trainings.
    kept("checkpoints", "no position", in_torch("position", value=...)),
    kept("checkpoints", "no settings", in_torch("settings", value=...)),
    kept("checkpoints", "no random state", in_torch("random_state", value=...)),
    kept("checkpoints", "a first version without steps", in_torch("position", "step", value=...), seed=1),
    kept("checkpoints", "a first version with a step of text", in_torch("position", "step", value="3"), seed=1),
    kept("checkpoints", "a tensor for a number", in_torch("position", "step", value=torch.zeros(3))),
    kept("checkpoints", "an optimizer of other parameters", in_torch(*PARAMETERS, value=[0])),
    kept("checkpoints", "lists for an optimizer's numbers", in_torch(*PARAMETERS, 0, value=[])),
    kept("checkpoints", "a list for weights", in_torch("average", "anchors", value=[1.0])),
    kept("checkpoints", "weights that lack one", in_torch("network", "anchors", value=...)),
    kept("run-config", "a lone surrogate for a number", in_json("epochs", value="\ud800")),
    kept("run-config", "a zero byte in a path", in_json("data_root", value="a\0b")),
    kept("run-config", "a zero byte in the weights to start from", in_json("init", value="a\0b"), seed=1),
    kept("run-config", "text from right to left", in_json("anchor_steps", value="\u202eeven")),
    kept("run-metrics", "a line without a kind", swapped(b'"kind": "epoch", ', b"")),
    kept("run-metrics", "a step of text", swapped(b'"step": 2', b'"step": "2"')),
    kept("run-metrics", "nested deep", lambda data: data + DEEP.encode()),
    kept("run-loggers", "bytes that are no text", instead(b'{"mlflow": "\xff"}')),
    kept("run-loggers", "no JSON", instead(b"{")),
    # Exported files.
    kept("onnx-metadata", "bytes that are no text", swapped(b'["cat", "dog"]', b'["c\xfft", "dog"]')),
    kept("onnx-metadata", "a lone surrogate in a class", in_metadata(class_names='["a\\ud800", "dog"]')),
    kept("onnx-metadata", "a class of 70,000 letters", in_metadata(class_names=json.dumps(["x" * 70_000, "dog"]))),
    kept("onnx-metadata", "a size of 400 digits", in_metadata(input_size=f"[{NUMBER}, 8]")),
    kept("onnx-metadata", "a size that no picture has", in_metadata(input_size="[2147483647, 8]")),
    kept("onnx-metadata", "versions nested deep", in_metadata(versions=DEEP)),
    kept("onnx-metadata", "a list for a CPU", in_metadata(cpu_graph_for="[]"), seed=2),
    kept("onnx-metadata", "text for a CPU", in_metadata(cpu_graph_for="x"), seed=2),
    kept("onnx-graph", "a value of 70,000 letters", with_long_name),
    kept("engine-json", "nested deep", instead(DEEP.encode())),
    kept("engine-json", "a number of 400 digits", in_json("size_bytes", value=int(NUMBER))),
    kept("engine-json", "a list", instead(b"[]")),
    kept("engine-json", "a lone surrogate", in_json("spec", "class_names", 0, value="\ud800")),
)  # fmt: skip


@functools.cache
def seeds_of(kind: Kind, folder: Path) -> Sequence[Seed]:
    return kind.seeds(folder)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seeds")


@pytest.mark.parametrize("each", KEPT, ids=lambda each: f"{each.kind}: {each.name}")
def test_an_input_that_once_failed(each: Kept, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, folder, out = ALL[each.kind], tmp_path / "data", tmp_path / "out"
    seed = seeds_of(kind, scratch)[each.seed]
    for name, content in {**seed.files, seed.target: each.change(seed.files[seed.target])}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    out.mkdir()
    monkeypatch.chdir(out)
    monkeypatch.setenv("SSD_DEPLOY_ROOT", str(out))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:1/")
    error: BaseException | None = None
    began = time.process_time()
    try:
        kind.read(folder, folder / seed.target, out)
    except Exception as caught:
        error = caught
    took_s = time.process_time() - began
    outcome = judge(error)
    assert outcome.result != "failed", f"{outcome.what} {outcome.where}\n{outcome.trace}"
    assert took_s < LONGEST_S


def test_names_are_given_once() -> None:
    names = [(each.kind, each.name) for each in KEPT]
    assert len(set(names)) == len(names)
