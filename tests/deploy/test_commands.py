"""One MODEL everywhere, and what every command shares: JSON, quiet, help, a sign of life."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from typer.testing import CliRunner

from ssd_deploy.cli import COMMANDS, app
from ssd_deploy.model_source import find_model
from ssd_train.errors import ModelError, NetworkError, WeightsError
from ssd_train.networks.ssd import SSD
from ssd_train.weights.network_file import save_network

NAME = "ssd_300_mobilenet0.25_voc"
CUSTOM = "ssd_300_mobilenet0.25_custom"
SCRIPT = Path(sys.executable).parent / "ssd-deploy"

Run = Callable[..., tuple[int, str]]
Mistake = Callable[..., str]


@pytest.fixture
def weight_file(network: SSD, tmp_path: Path) -> Path:
    save_network(network, tmp_path / "run" / "best.safetensors")
    return tmp_path / "run" / "best.safetensors"


# --- One way to name a model ----------------------------------------------------------------------------------


def test_a_weight_file_and_a_run_folder_say_which_network_they_are(
    network: SSD, weight_file: Path, tmp_path: Path
) -> None:
    save_network(network, tmp_path / "w.pth")
    for named in (weight_file, weight_file.parent, tmp_path / "w.pth"):
        source = find_model(named)
        assert (source.network, source.file) == (NAME, None)
        loaded = source.load()
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())


def test_a_foreign_weight_file_asks_for_its_network(network: SSD, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="does not say which network") as caught:
        find_model(tmp_path / "w.pth")
    assert caught.value.arguments == ("network",)
    assert find_model(tmp_path / "w.pth", network=NAME).load().config.name == NAME


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=NAME):
        find_model(NAME[:-1] + "k")
    with pytest.raises(ModelError, match="no such model file"):
        find_model(tmp_path / "x.onnx")
    with pytest.raises(WeightsError, match="holds neither best.safetensors nor"):
        find_model(tmp_path)
    with pytest.raises(WeightsError, match="own weights and classes"):
        (tmp_path / "x.onnx").touch()
        find_model(tmp_path / "x.onnx", weights="random")


def test_every_kind_of_model_is_evaluated_alike(
    run_cli: Run, model_path: Path, weight_file: Path, voc_root: Path, tmp_path: Path
) -> None:
    headlines = []
    for model in (["--weights", "random", NAME], [weight_file], [weight_file.parent], [model_path]):
        code, output = run_cli("eval", *model, "--data", voc_root, "--json", tmp_path / "out.json")
        assert code == 0, output
        headlines.append(json.loads((tmp_path / "out.json").read_text())["headline"])
    assert headlines == [pytest.approx(0.75)] * 4


def test_a_second_model_where_one_is_meant_is_an_error(mistake: Mistake, model_path: Path, voc_root: Path) -> None:
    for models in ([model_path, "--model", model_path], ["--model", model_path, "--network", NAME]):
        assert "are two models; name one" in mistake("eval", *models, "--data", voc_root)
    line = mistake("eval", "--model", model_path, "--model", model_path, "--data", voc_root)
    assert "--model is given twice" in line


def test_a_benchmark_measures_every_model_that_is_named(run_cli: Run, model_path: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(model_path, tmp_path / "other.onnx"))
    for models in (["--model", model_path, "--model", other], [model_path, other]):
        code, output = run_cli("benchmark", *models, "--batch-sizes", 1, "--rounds", 1, "--json", tmp_path / "out.json")
        assert code == 0, output
        rows = json.loads((tmp_path / "out.json").read_text())["rows"]
        assert {row["source"] for row in rows} == {model_path.name, other.name}


def test_images_are_positional_too_and_folders_come_with_their_sub_folders(
    run_cli: Run, model_path: Path, voc_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(voc_root / "JPEGImages", tmp_path / "in" / "a" / "b")
    first, *_ = sorted((tmp_path / "in" / "a" / "b").iterdir())
    for arguments, count in (([model_path, tmp_path / "in"], 5), (["--model", model_path, "--images", first], 1),
                             ([model_path, first, tmp_path / "in"], 5)):  # fmt: skip
        code, output = run_cli("detect", *arguments, "--out", tmp_path / "out", "--json", tmp_path / "out.json")
        assert code == 0, output
        assert len(json.loads((tmp_path / "out.json").read_text())["pictures"]) == count


# --- What a file says of itself -------------------------------------------------------------------------------


def test_info_says_what_any_file_is(
    run_cli: Run, network: SSD, model_path: Path, weight_file: Path, tmp_path: Path
) -> None:
    code, output = run_cli("info", model_path, weight_file, weight_file.parent, NAME, "--json", tmp_path / "out.json")
    assert code == 0, output
    exported, weights, run, row = json.loads((tmp_path / "out.json").read_text())["models"]
    metadata = {entry.key: entry.value for entry in onnx.load(model_path).metadata_props}
    assert (exported["kind"], exported["network"], exported["precision"]) == ("onnx", NAME, "fp32")
    assert exported["weights_sha256"] == metadata["weights_sha256"] and exported["input_size"] == [300, 300]
    assert exported["postprocess"]["score_threshold"] == 0.01 and exported["versions"]
    assert exported["size_bytes"] == model_path.stat().st_size
    # By hand from the network: all tensors, anchors among them.
    assert weights["kind"] == "weights" and weights["tensors"] == len(network.state_dict())
    assert weights["parameters"] == sum(value.numel() for value in network.parameters())
    assert weights["class_names"] == exported["class_names"] == row["class_names"] and len(row["class_names"]) == 20
    assert run["run_folder"] == str(weight_file.parent) and row["kind"] == "network" and row["anchors"] == 2268
    assert "score threshold: 0.01" in output and "class names: 20: aeroplane" in output


def test_info_of_what_is_nothing_is_one_sentence(mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    assert str(tmp_path / "x.onnx") in mistake("info", tmp_path / "x.onnx")
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    assert str(tmp_path / "x.safetensors") in mistake("info", tmp_path / "x.safetensors")


# --- Decisions that are taken once ----------------------------------------------------------------------------


def test_a_data_set_is_looked_for_before_a_model_is_opened(
    mistake: Mistake, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssd_deploy.cli.options.open_runner", lambda *_, **__: pytest.fail("was opened first"))
    out = tmp_path / "new" / "folder" / "out.json"
    for options in (["--data", tmp_path / "nosuch"], ["--dataset", "coco", "--data-root", tmp_path]):
        assert str(tmp_path) in mistake("eval", model_path, *options, "--json", out)
        # Nothing is left of a command that failed.
        assert not (tmp_path / "new").exists()


def test_two_results_do_not_share_a_file(mistake: Mistake, model_path: Path, voc_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert "is named for two results" in mistake(
        "eval", model_path, "--data", voc_root, "--json", out, "--detections", out
    )
    assert "is named for two results" in mistake("benchmark", model_path, "--json", out, "--chart", out)
    page = "--report", tmp_path / "page", "--json", tmp_path / "page" / "report.json"
    assert "is named for two results" in mistake("eval", model_path, "--data", voc_root, *page)
    found = "--out", tmp_path / "out", "--json", tmp_path / "out" / "detections.json"
    assert "is named for two results" in mistake("detect", model_path, voc_root / "JPEGImages", *found)


def test_a_threshold_below_the_files_own_is_refused_with_the_cure(
    mistake: Mistake, model_path: Path, voc_root: Path, tmp_path: Path
) -> None:
    model = onnx.load(model_path)
    next(entry for entry in model.metadata_props if entry.key == "score_threshold").value = "0.6"
    onnx.save(model, tmp_path / "strict.onnx")
    given = [tmp_path / "strict.onnx", voc_root / "JPEGImages", "--out", tmp_path / "out"]
    line = mistake("detect", *given, "--threshold", 0.3)
    assert "keeps no score of 0.6 or less" in line and "ssd-deploy export --score-threshold 0.3" in line
    assert not (tmp_path / "out").exists()


def test_options_of_int8_are_not_ignored_without_it(mistake: Mistake, model_path: Path, voc_root: Path) -> None:
    for command in (["eval", "--data", voc_root], ["detect", voc_root], ["benchmark"], ["export"]):
        line = mistake(command[0], "--network", NAME, "--weights", "random", *command[1:], "--max-drop", 0)
        needed = ("needs sensitivity", "'--max-drop': needs --precision int8", "'--max-drop': needs --find-fastest")
        assert any(each in line for each in needed)
        line = mistake(command[0], "--network", NAME, "--weights", "random", *command[1:], "--calibration-images", 5)
        assert "'--calibration-images': needs --precision int8" in line


def test_a_batch_size_of_an_engine_is_not_ignored_without_one(mistake: Mistake) -> None:
    # 8 is the option's own default, and was taken for not given.
    line = mistake("export", NAME, "--weights", "random", "--max-batch", 8)
    assert "'--max-batch': needs an engine" in line


def test_doctor_requires_a_backend(run_cli: Run, mistake: Mistake) -> None:
    assert run_cli("doctor", "--require", "onnxruntime", "--require", "torch (cpu)")[0] == 0
    code, output = run_cli("doctor", "--require", "onnxruntime", "--require", "tensorrt")
    works = "tensorrt: required" not in output and "tensorrt: required" not in output
    assert code == (0 if works else 1)
    assert "'caffe' is none of torch (cpu)" in mistake("doctor", "--require", "caffe")


@pytest.mark.parametrize("columns", [80])
def test_information_fits_the_terminal(
    run_cli: Run, model_path: Path, voc_root: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, output = run_cli("eval", model_path, "--data", voc_root, "--quiet")
    assert code == 0
    # Names of files and weights are never broken.
    assert all(len(line) <= columns for line in output.splitlines() if "weights: " not in line)


# --- What every command has -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_json_and_quiet(command: str) -> None:
    for option in ("-h", "--help"):
        done = CliRunner().invoke(app, [command, option])
        assert done.exit_code == 0
        assert all(word in done.stdout for word in ("Usage: ", "--json", "--quiet", "-h, --help"))


def test_version_and_completion_exist() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.stdout.startswith("ssd-deploy 0.")
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout


def test_results_go_to_standard_output_and_everything_else_elsewhere(model_path: Path, voc_root: Path) -> None:
    detect = ["detect", str(model_path), str(voc_root / "JPEGImages" / "p0.png"), "--out", str(model_path.parent / "o")]
    done = CliRunner().invoke(app, detect)
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        str(model_path.parent / "o" / "p0.png"), str(model_path.parent / "o" / "detections.json"),
    ]  # fmt: skip
    assert "opening" in done.stderr and " 1/1 " in done.stderr
    quiet = CliRunner().invoke(app, [*detect, "--quiet", "--json", "-"])
    assert quiet.stderr == "" and json.loads(quiet.stdout)["schema_version"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", NAME, "--weights", "random", "--out", "{}"],
        ["eval", NAME, "--weights", "random", "--data", "{}"],
        ["models"],
        ["doctor"],
        ["benchmark", NAME, "--weights", "random", "--batch-sizes", "1", "--rounds", "1"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_sign_of_life_comes_long_before_what_takes_long(arguments: list[str], voc_root: Path, tmp_path: Path) -> None:
    given = [str(tmp_path if arguments[0] == "export" else voc_root) if word == "{}" else word for word in arguments]
    start = time.perf_counter()
    process = subprocess.Popen([SCRIPT, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    # A second on a machine that does nothing else; tests run beside each other.
    assert first.strip() and seconds < 3, (first, seconds)
