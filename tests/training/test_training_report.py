"""The page that a training writes at its end."""

import json
from pathlib import Path

import pytest
from test_loop_interrupted import signalled_in_step
from training_runs import Run, metrics, mistake, run_cli, small_options

from ssd_train.training import loop
from ssd_train.training.report import REPORT_NAME


@pytest.mark.slow
def test_a_finished_training_reports_on_its_best_weights(unbroken: Run, copied: Path, shapes: Path) -> None:
    """Asked for afterwards, of a training that is already at its end, which is quick."""
    code, output = run_cli("train", copied, "--resume", "--report", "--json", copied / "result.json")
    assert code == 0, output
    page = copied / REPORT_NAME / "report.html"
    assert output.splitlines()[-1] == f"report: {page}" and page.is_file()
    assert json.loads((copied / "result.json").read_text())["report"] == str(page)
    data = json.loads((copied / REPORT_NAME / "report.json").read_text())
    assert data["evaluation"]["headline"] == pytest.approx(metrics(unbroken.folder)[-1]["best"], abs=1e-6)
    assert data["evaluation"]["images"] == 6 and data["evaluation"]["metric"] == "voc"
    assert data["ran"]["backend"] == "torch (cpu)" and len(data["ran"]["SHA-256 of the weights"]) == 64


@pytest.mark.slow
def test_a_training_that_is_stopped_writes_none_until_it_ends(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = small_options(shapes, run, epochs=2, limit=4, report=True, logger="none")
    with signalled_in_step(0):
        code, output = run_cli("train", *options)
    assert code > 128 and not (run / REPORT_NAME).exists()
    code, output = run_cli("train", run, "--resume")
    assert code == 0, output
    assert (run / REPORT_NAME / "report.html").is_file()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_told_before_the_training(
    package: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str, *arguments: object) -> object:
        return None if name == package else original(name, *arguments)

    import importlib.util

    original = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    monkeypatch.setattr(loop, "prepare", lambda *arguments, **options: pytest.fail("the training began"))
    line = mistake("train", *small_options(shapes, tmp_path / "run", report=True))
    assert f"A report needs {package}" in line and "ssd-deploy[report]" in line
    assert not (tmp_path / "run").exists()
