"""A broken entry of the cache never stands in the way of a build: it counts as absent and is replaced."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from export.engine.cache import EngineRequest, engine_path, find_engine, load_timing_cache, write_engine
from export.engine.file import BuildOptions, EngineInfo, TensorInfo, info_path
from ssd_train.spec import DetectorSpec

SPEC = DetectorSpec(network="tiny", class_names=("dot",), input_size=(16, 16))
REQUEST = EngineRequest(
    onnx=Path("a.onnx"), onnx_sha256="b" * 64, spec=SPEC, options=BuildOptions(), flavour="tensorrt", version="10.1",
    gpu=None, outputs=("boxes",),
)  # fmt: skip
PLAN = b"a plan"
INFO = EngineInfo(
    flavour="tensorrt",
    tensorrt_version="10.1",
    spec=SPEC,
    options=BuildOptions(),
    inputs={"images": TensorInfo(dtype="FLOAT", shape=(-1, 3, 16, 16))},
    outputs={},
    gpu=None,
    compute_capability=None,
    onnx_sha256="b" * 64,
    plan_sha256=hashlib.sha256(PLAN).hexdigest(),
    size_bytes=len(PLAN),
    build_seconds=1.0,
    layer_precisions=None,
    warnings=(),
)


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _changed(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


BREAK: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda plan: info_path(plan).write_bytes(b"{"),
    "deep JSON": lambda plan: info_path(plan).write_bytes(b"[" * 100_000),
    "a list": lambda plan: info_path(plan).write_bytes(b"[]"),
    "no UTF-8": lambda plan: info_path(plan).write_bytes(b"\xff\xfe\x00"),
    "a text for a number": lambda plan: _changed(info_path(plan), size_bytes="6"),
    "a number of 400 digits": lambda plan: _changed(info_path(plan), size_bytes=10**400),
    "a spec that is none": lambda plan: _changed(info_path(plan), spec={"network": 5}),
    "a name that is no text": lambda plan: _changed(
        info_path(plan), spec=json.loads(json.dumps(dataclasses.asdict(SPEC))) | {"class_names": ["a\ud800"]}
    ),
    "another flavour": lambda plan: _changed(info_path(plan), flavour="nonsense"),
    "another detector": lambda plan: _changed(
        info_path(plan), spec=json.loads(json.dumps(dataclasses.asdict(SPEC))) | {"class_names": ["other"]}
    ),
    "no JSON at all": lambda plan: info_path(plan).unlink(),
    "another plan": lambda plan: plan.write_bytes(b"b plan"),
    "no plan": lambda plan: plan.unlink(),
    "a plan that is a folder": lambda plan: _replaced(plan, Path.mkdir),
    "a JSON that is a folder": lambda plan: _replaced(info_path(plan), Path.mkdir),
    "a link to nothing": lambda plan: _replaced(plan, lambda path: path.symlink_to("nothing")),
    "a link to another file": lambda plan: (plan.rename(plan.with_name("x")), plan.symlink_to("x")),
    "a JSON in a circle": lambda plan: _replaced(info_path(plan), lambda path: path.symlink_to(path.name)),
    "a pipe": lambda plan: _replaced(plan, os.mkfifo),
}


@pytest.mark.parametrize("damage", BREAK.values(), ids=BREAK)
def test_a_broken_entry_counts_as_absent_and_is_replaced(damage: Callable[[Path], object], tmp_path: Path) -> None:
    write_engine(tmp_path, REQUEST.name, PLAN, INFO)
    found = find_engine(tmp_path, REQUEST)
    assert found is not None and found.info == INFO
    damage(engine_path(tmp_path, REQUEST.name))
    # Whatever without options has become of it is another's or nobody's.
    assert find_engine(tmp_path, REQUEST) is None
    written = write_engine(tmp_path, REQUEST.name, PLAN, INFO)
    assert written.read_bytes() == PLAN
    if written.is_relative_to(tmp_path):
        again = find_engine(tmp_path, REQUEST)
        assert again is not None and again.info == INFO and not written.is_symlink()


class _Config:
    """What of TensorRT's configuration a timing cache goes through."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def create_timing_cache(self, data: bytes) -> bytes | None:
        self.given.append(data)
        return None if data == b"nonsense" else data

    def set_timing_cache(self, cache: bytes, ignore: bool) -> bool:
        return True


def test_a_timing_cache_that_is_none_counts_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.cache"
    for make in (
        lambda: None,
        path.mkdir,
        lambda: (path.rmdir(), os.mkfifo(path)),
        lambda: (path.unlink(), path.write_bytes(b"nonsense")),
    ):
        make()
        config = _Config()
        load_timing_cache(config, path)  # type: ignore[arg-type]
        assert config.given[-1] == b""
