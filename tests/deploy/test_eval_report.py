"""`eval --report` and `--evaluator` from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_train.evaluation import loop
from ssd_train.files import sha256_of_file

Run = Callable[..., tuple[int, str]]
Mistake = Callable[..., str]


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that starts fails the test."""
    monkeypatch.setattr(loop, "run_detector", lambda *arguments, **options: pytest.fail("the evaluation began"))


def test_eval_writes_a_report_of_voc_with_cocos_numbers_by_the_reference(
    run_cli: Run, model_path: Path, voc_root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    options = ("--report", folder, "--evaluator", "pycocotools", "--json", tmp_path / "result.json")
    code, output = run_cli("eval", model_path, "--data", voc_root, *options)
    assert code == 0, output
    assert output.splitlines()[-1] == f"report: {folder / 'report.html'}"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["report"] == str(folder / "report.html")
    data = json.loads((folder / "report.json").read_text())
    assert data["evaluation"]["numbers"] == result["numbers"]
    (coco,) = data["other_metrics"]
    assert coco["metric"] == "coco" and "computed by pycocotools" in coco["protocol_text"]
    ran = data["ran"]
    assert ran["SHA-256 of the file"] == sha256_of_file(model_path) and ran["backend"].startswith("onnxruntime")
    assert ran["SHA-256 of the weights"] == result["detector"]["weights_sha256"]
    assert "numpy" in ran["software"] and "machine" in ran and f"--report {folder}" not in ran["data set"]


def test_coco_data_get_vocs_numbers_and_the_reference_gives_the_same(
    run_cli: Run, model_path: Path, coco_root: Path, tmp_path: Path
) -> None:
    results = {}
    for evaluator in ("faster-coco-eval", "pycocotools"):
        out = tmp_path / f"{evaluator}.json"
        code, output = run_cli("eval", model_path, "--data", coco_root, "--evaluator", evaluator, "--json", out)
        assert code == 0, output
        results[evaluator] = json.loads(out.read_text())
    ours, reference = results.values()
    assert reference["numbers"] == pytest.approx(ours["numbers"], abs=1e-9)
    assert "computed by pycocotools" in reference["protocol_text"] and "computed" not in ours["protocol_text"]
    code, output = run_cli("eval", model_path, "--data", coco_root, "--at", "recall=0.5", "--report", tmp_path / "r")
    assert code == 0, output
    data = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [other["metric"] for other in data["other_metrics"]] == ["voc"]
    assert data["working_thresholds"]["origin"].startswith("those of recall=0.5")


def test_an_evaluator_that_would_compute_nothing_is_refused(
    mistake: Mistake, model_path: Path, voc_root: Path, nothing_runs: None
) -> None:
    line = mistake("eval", model_path, "--data", voc_root, "--evaluator", "pycocotools")
    assert "--evaluator" in line and "--metric coco" in line


@pytest.mark.parametrize(
    ("package", "options", "extra"),
    [
        ("jinja2", ("--report", "REPORT"), "report"),
        ("matplotlib", ("--report", "REPORT"), "report"),
        ("pycocotools", ("--metric", "coco", "--evaluator", "pycocotools"), "pycocotools"),
    ],
)
def test_a_missing_package_is_told_before_anything_runs(
    mistake: Mistake,
    model_path: Path,
    voc_root: Path,
    nothing_runs: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    package: str,
    options: tuple[str, ...],
    extra: str,
) -> None:
    import importlib.util

    def find_spec(name: str, *arguments: object) -> object:
        return None if name == package else original(name, *arguments)

    original = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    given = [str(tmp_path / "report") if word == "REPORT" else word for word in options]
    line = mistake("eval", model_path, "--data", voc_root, *given)
    assert package in line and f"ssd-deploy[{extra}]" in line


def test_a_report_that_cannot_be_written_is_told_before_anything_runs(
    mistake: Mistake, model_path: Path, voc_root: Path, nothing_runs: None, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in mistake("eval", model_path, "--data", voc_root, "--report", tmp_path / "file")
