"""`ssd-deploy check`: what it prints and writes, and how it ends."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_train.datasets.generated_files import write_shapes

Run = Callable[..., tuple[int, str]]
Mistake = Callable[..., str]

NETWORK = "ssd_300_mobilenet0.25_custom"


@pytest.fixture(scope="module")
def shared_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=12, val=6, seed=1)


@pytest.fixture
def shapes(shared_shapes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_shapes, tmp_path / "shapes"))


def test_a_folder_without_fault_passes(run_cli: Run, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    code, output = run_cli("check", shapes, "--out", out, "--json", tmp_path / "out.json")
    assert code == 0, output
    assert "voc, 5 classes, 18 images" in output and "No faults were found." in output
    assert "next: check again with --network" in output
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["schema_version"] == 1 and data["passed"] and data["findings"] == []
    assert data["pictures"] == [str(path) for path in (out / "samples.jpg", out / "classes.png", out / "boxes.png")]
    assert all(Path(path).is_file() for path in data["pictures"])


def test_pictures_lie_in_a_folder_of_the_data_sets_name(
    run_cli: Run, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli("check", "shapes")[0] == 0
    assert (tmp_path / "runs" / "check" / "shapes" / "samples.jpg").is_file()


def test_quick_opens_no_image_and_writes_nothing(run_cli: Run, shapes: Path, tmp_path: Path) -> None:
    for path in (shapes / "JPEGImages").iterdir():
        path.write_bytes(b"")
    code, output = run_cli("check", shapes, "--quick", "--out", tmp_path / "out")
    assert code == 0, output
    assert not (tmp_path / "out").exists() and "pictures:" not in output


def test_what_stops_comes_first_and_much_of_a_kind_is_counted(
    run_cli: Run, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    images = sorted((shapes / "JPEGImages").iterdir())
    for path in images[:7]:
        path.write_bytes(path.read_bytes()[:-50])
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        of_this_name = shapes / folder / images[8].stem, shapes / folder / images[-1].stem
        shutil.copy(*(path.with_suffix(suffix) for path in of_this_name))
    code, output = run_cli("check", shapes, "--network", NETWORK, "--out", tmp_path / "out", "-q")
    assert code == 1, output
    stops, losses = output.index("Stops the training"), output.index("Is lost:")
    assert stops < losses < output.index("called")
    assert output.count("cut off before its end") == 5 and "and 2 more, see --json" in output
    assert f"val {images[-1].name} is train {images[8].name}" in output.replace("\n    ", " ")
    assert output.rstrip().endswith("next: mend what stops the training, then check again")
    long = [line for line in output.splitlines() if len(line) > 80]
    assert all("/" in line for line in long), long


def test_strict_ends_badly_for_a_note(run_cli: Run, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("circle\ncross\nsquare\nstar\ntriangle\nhexagon\n")
    command = ["check", shapes, "--classes", tmp_path / "names.txt", "--quick"]
    code, output = run_cli(*command)
    assert code == 0 and "no objects of these classes: hexagon" in output
    assert run_cli(*command, "--strict", "--json", tmp_path / "out.json")[0] == 1
    assert not json.loads((tmp_path / "out.json").read_text())["passed"]


@pytest.mark.parametrize("empty_classes", [0, 50])
def test_of_many_classes_those_with_few_objects_are_shown(
    run_cli: Run, real_data: Path, tmp_path: Path, empty_classes: int
) -> None:
    names = ["WBC", "RBC", "Platelets", *(f"none{number}" for number in range(empty_classes))]
    (tmp_path / "names.txt").write_text("\n".join(names))
    _, output = run_cli("check", real_data / "bccd", "--classes", tmp_path / "names.txt", "--quick")
    table = output[output.index("\nclass  ") :].splitlines()
    assert [line.split()[0] for line in table[3:6]] == ["WBC", "RBC", "Platelets"]
    assert ("--json has all" in output) == (empty_classes > 0)
    assert not [line for line in table if line.startswith("none")]


def test_a_network_shows_what_its_anchors_fit(run_cli: Run, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, output = run_cli("check", real_data / "bccd", "--network", NETWORK, "--quick")
    assert code == 1  # two boxes without area
    # The table is wider than the terminal, so the sizes beyond the table of networks come in a part of their own.
    row, further = [line for line in output.splitlines() if line.startswith("Platelets")]
    assert row.split()[-4:] == ["53", "%", "93", "%"]
    assert further.split() == ["Platelets", "98", "%", "99", "%"]
    assert "ssd_512_mobilenet0.25_custom does better" in " ".join(output.split())
    assert all(len(line) <= 80 for line in output.splitlines())


def test_what_cannot_run_at_all_is_a_mistake(mistake: Mistake, shapes: Path, tmp_path: Path) -> None:
    assert "no such folder" in mistake("check", tmp_path / "nosuch")
    named = ["voc", "--data-root", tmp_path / "nosuch", "--network", "ssd_300_mobilenet0.25_voc"]
    assert "no such folder" in mistake("check", *named)
    assert "there is no network 'ssd_7'" in mistake("check", shapes, "--network", "ssd_7")
    assert "fixed classes" in mistake("check", shapes, "--network", "ssd_300_mobilenet0.25_voc", "--classes",
                                      _names(tmp_path))  # fmt: skip
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in mistake("check", shapes, "--out", tmp_path / "file")


def _names(folder: Path) -> Path:
    path = folder / "names.txt"
    path.write_text("circle\n")
    return path
