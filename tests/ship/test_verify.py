"""A shipped folder against its certificate: each kind of tampering is told, and what is whole is run again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shipment import INT8, NETWORK, Shipment, spoil
from typer.testing import CliRunner

from ssd_deploy.backends import parse_backends
from ssd_deploy.cli import app
from ssd_deploy.ship.verify import Verification
from ssd_deploy.ship.verify import verify as verify_folder
from ssd_train.errors import ModelError
from ssd_train.files import sha256_of_file

Change = Callable[[Path, dict[str, Any]], None]
FLOAT = f"onnx/{NETWORK}.fp32.onnx"


@pytest.fixture
def folder(whole: Shipment, tmp_path: Path) -> Path:
    return shutil.copytree(whole.folder, tmp_path / "arrived")


def verify(folder: Path) -> Verification:
    return verify_folder(folder, parse_backends("onnxruntime:cpu"))


def change(folder: Path, alter: Change) -> None:
    """Change a certificate's values, and write them back."""
    path = folder / "certificate.json"
    values = json.loads(path.read_text())
    alter(folder, values)
    path.write_text(json.dumps(values))


def file_of(values: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(file for file in values["files"] if file["path"] == name)
    return found


def test_a_folder_that_arrived_whole_passes_and_was_run_again(folder: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(folder), "--backend", "onnxruntime:cpu", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "\nPASS: 7 files are whole, 4 runs here agree" in result.output
    assert f"SHA-256 {sha256_of_file(folder / 'certificate.json')}" in result.output


def test_a_folder_may_lack_what_ship_kept_to_go_on(folder: Path) -> None:
    shutil.rmtree(folder / ".ship")
    assert verify(folder).passed


def test_each_kind_of_change_is_told(folder: Path) -> None:
    with (folder / INT8).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    (folder / "certificate.html").unlink()
    (folder / "cpu" / "more.onnx").write_bytes(b"more")
    (folder / "link").symlink_to("/etc/passwd")
    found = verify(folder)
    assert found.faults == (
        f"{INT8}: was changed, its SHA-256 is not the certificate's",
        "certificate.html: is missing",
        "cpu/more.onnx: is not in the certificate",
        "link: is not in the certificate",
    )
    # The others are run all the same.
    assert {run.file for run in found.runs} == {
        FLOAT, f"cpu/{NETWORK}.fp32.cpu.onnx", f"cpu/{NETWORK}.int8.cpu.onnx",
    }  # fmt: skip
    result = CliRunner().invoke(app, ["verify", str(folder), "--backend", "onnxruntime:cpu", "--quiet"])
    assert result.exit_code == 1
    assert "FAIL: 4 faults" in result.output


def test_another_model_with_a_mended_hash_is_caught_by_its_answers(folder: Path) -> None:
    spoil(folder / INT8)

    def mend(folder: Path, values: dict[str, Any]) -> None:
        file_of(values, INT8)["sha256"] = sha256_of_file(folder / INT8)

    change(folder, mend)
    found = verify(folder)
    assert not found.passed
    assert [fault.partition(":")[0] for fault in found.faults] == [INT8]


def test_other_answers_are_caught_by_every_file(folder: Path) -> None:
    def move(folder: Path, values: dict[str, Any]) -> None:
        for sample in values["samples"]:
            sample["boxes"] = [[value + 40 for value in box] for box in sample["boxes"]]

    change(folder, move)
    found = verify(folder)
    assert [run.passed for run in found.runs] == [False] * 4


def test_a_certificate_that_failed_is_no_pass(folder: Path) -> None:
    change(folder, lambda folder, values: values.update(verdict="FAIL", verdict_text="1 of 4 failed"))
    assert verify(folder).faults == ("certificate.json: its own verdict is FAIL: 1 of 4 failed",)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "cpu/../../outside.onnx", "", "cpu//x", "a\\b"])
def test_nothing_outside_the_folder_is_looked_at(folder: Path, name: str) -> None:
    (folder.parent / "outside.onnx").write_bytes(b"not ours")

    def lead_out(folder: Path, values: dict[str, Any]) -> None:
        file_of(values, FLOAT)["path"] = name

    change(folder, lead_out)
    faults = verify(folder).faults
    assert any("leads out of the folder, and is not looked at" in fault for fault in faults)
    assert f"{FLOAT}: is not in the certificate" in faults


def test_a_link_out_of_the_folder_is_not_followed(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    (folder / FLOAT).rename(outside)
    (folder / FLOAT).symlink_to(outside)
    assert verify(folder).faults == (f"{FLOAT}: leads out of the folder, and is not looked at",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "is not of version 1"),
        ('{"schema_version": 2}', "is not of version 1"),
        ('{"schema_version": 1}', "missing required field verdict"),
        ('{"schema_version": 1, "schema_version": 1}', "twice in one object"),
        ('{"schema_version": 1e999}', "not finite"),
        ("[" * 100000, "is not JSON"),
    ],
)
def test_a_certificate_that_is_none_is_a_sentence(folder: Path, content: str, reason: str) -> None:
    (folder / "certificate.json").write_text(content)
    with pytest.raises(ModelError, match=reason):
        verify(folder)


def test_a_value_of_another_type_is_a_sentence(folder: Path) -> None:
    change(folder, lambda folder, values: values["samples"][0].update(boxes="many"))
    with pytest.raises(ModelError, match="expected array, got str"):
        verify(folder)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda values: values["samples"][0].update(labels=[0]), "numbers of"),
        (lambda values: values["samples"][0].update(image_size=[3]), "image_size"),
        (lambda values: values["samples"][0]["labels"].__setitem__(0, 99), "label"),
        (lambda values: values["samples"][0]["boxes"].__setitem__(0, [1.0]), "boxes"),
        (lambda values: values["detector"].update(input_size=[]), "input size"),
    ],
)
def test_values_that_contradict_each_other_are_a_sentence(
    folder: Path, alter: Callable[[dict[str, Any]], None], reason: str
) -> None:
    change(folder, lambda folder, values: alter(values))
    with pytest.raises(ModelError, match=reason):
        verify(folder)


def test_a_folder_without_a_certificate_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no certificate\.json; name a folder that `ssd-deploy ship` wrote"):
        verify(tmp_path)
