"""Small weight files that ask for much memory: refused in one sentence, in a process that has none to spare."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ssd_train.errors import WeightsError
from ssd_train.weights import torch_file
from ssd_train.weights.params_file import MAGIC
from ssd_train.weights.weight_file import read_tensors

BILLION = 10**9


class Made:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def torch_bytes(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def squeezed(data: bytes) -> bytes:
    """A zip archive again, compressed."""
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as small:
        for name in archive.namelist():
            small.writestr(name, archive.read(name))
    return new.getvalue()


def nested(depth: int) -> tuple[Any, ...]:
    value: tuple[Any, ...] = ("a",)
    for _ in range(depth):
        value = (value, value)
    return value


def endless_key() -> bytes:
    """A dict whose key is a tuple of 2^60 values, each tuple in it twice; nobody could hash it to write it."""
    steps = b"".join(b"h" + bytes([index]) + b"\x86q" + bytes([index + 1]) for index in range(60))
    return b"\x80\x02}K\x01K\x02\x86q\x00" + steps + b"K\x01s."


def in_archive(pickled: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", "3\n")
    return written.getvalue()


def bad_files() -> dict[str, bytes]:
    ones = torch_bytes({"a": torch.ones(4)}, legacy=True)
    declared = ones.replace(b"K\x04", b"J" + struct.pack("<i", BILLION))
    header = b'{"__metadata__":{},' + b",".join(
        b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % index for index in range(30_000)
    ) + b"}"  # fmt: skip
    return {
        "compressed": squeezed(torch_bytes({"a": torch.zeros(20_000_000)})),
        "repeated": torch_bytes({"a": torch.zeros(1).expand(1000, 1000, 1000)}),
        "repeated legacy": torch_bytes({"a": torch.zeros(1).expand(1000, 1000, 1000)}, legacy=True),
        "shared": torch_bytes({f"a{index}": values for values in [torch.zeros(1_000_000)] for index in range(1000)}),
        "overlapping": torch_bytes({"a": torch.zeros(100_000).as_strided((50_000, 50_000), (1, 1))}),
        "meta": torch_bytes({"a": torch.empty(BILLION, device="meta")}),
        "bytes": torch_bytes({"state_dict": {"a": torch.ones(1)}, "b": Made(bytearray, 4 * BILLION)}),
        "bytes legacy": torch_bytes({"b": Made(bytearray, 4 * BILLION)}, legacy=True),
        "bare": pickle.dumps(Made(bytearray, 4 * BILLION), protocol=2),
        "constructed": torch_bytes({"a": Made(torch.FloatTensor, BILLION)}),
        "storage": torch_bytes({"a": Made(torch.FloatStorage, BILLION)}),
        "encoded": torch_bytes({"a": Made(__import__("_codecs").encode, "a" * 99, "utf-32")}),
        "declared": declared,
        "keys": torch_bytes({nested(15): torch.ones(1)}),
        "endless keys": endless_key(),
        "endless keys in an archive": in_archive(endless_key()),
        "complex": torch_bytes({"a": torch.ones(1, dtype=torch.complex64)}),
        "long name": torch_bytes({"a" * 100_000: torch.ones(1)}),
        "many": struct.pack("<Q", len(header)) + header,
        "long header": struct.pack("<Q", 50_000_000) + b"{" + b" " * 1000,
        "deep header": struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995,
        "odd shape": safetensors_file(b'{"a":{"dtype":"F32","shape":["b"],"data_offsets":[0,0]}}'),
        "odd text": safetensors_file(b'{"__metadata__":{"class_names":3}}'),
    }


def safetensors_file(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


@pytest.mark.slow
def test_each_is_refused_in_a_process_with_300_mb_to_spare(tmp_path: Path) -> None:
    for name, data in bad_files().items():
        assert len(data) < 5_000_000
        (tmp_path / name).write_bytes(data)
    for name, start in {"sparse": MAGIC, "sparse torch": b"PK\x03\x04"}.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(2**33)
    program = """
import resource, sys, time
from pathlib import Path
import torch
from ssd_train.errors import WeightsError
from ssd_train.weights.description import describe_weights
from ssd_train.weights.weight_file import read_tensors
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    began = time.monotonic()
    for read in (read_tensors, describe_weights):
        try:
            read(path)
        except WeightsError as error:
            assert "\\n" not in str(error), error
            assert len(str(error)) < len(str(path)) + 600, error
            if read is read_tensors:
                print(path.name)
    assert time.monotonic() - began < 10, path
print("whole")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]
    *told, end = run.stdout.splitlines()
    assert end == "whole"
    assert set(told) == {path.name for path in tmp_path.iterdir()}


def test_a_pickle_of_too_many_steps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "MOST_STEPS", 1000)
    path = tmp_path / "a.pth"
    for legacy in (False, True):
        path.write_bytes(torch_bytes({"a": torch.ones(1), "b": [1] * 2000}, legacy=legacy))
        with pytest.raises(WeightsError, match=r"pickle of more than 1,000 steps"):
            read_tensors(path)


def test_a_checkpoint_that_was_packed_again_is_read(tmp_path: Path) -> None:
    """Values of weights hardly shrink, so that no honest one is refused; views of one storage are fine as well."""
    values = torch.randn(1000, 100)
    path = tmp_path / "a.pth"
    path.write_bytes(squeezed(torch_bytes({"a": values, "b": values[:, :50], "c": values.t()})))
    tensors = read_tensors(path).tensors
    assert torch.equal(tensors["a"], values)
    assert torch.equal(tensors["c"], values.t())
