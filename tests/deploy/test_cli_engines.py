"""Engines, precisions and measurements on the command line. Engines are TensorRT for RTX's, built with no GPU."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from export.engine.bindings import load_bindings
from export.engine.file import read_info
from ssd_deploy import doctor
from ssd_train.errors import BackendError
from ssd_train.files import sha256_of_file

NAME = "ssd_300_mobilenet0.25_voc"
Run = Callable[..., tuple[int, str]]
Mistake = Callable[..., str]

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx, which builds without a GPU, is missing"
)


@needs_rtx
def test_export_gives_onnx_and_engine_with_its_description_and_builds_once(run_cli: Run, tmp_path: Path) -> None:
    command = ["export", "--network", NAME, "--weights", "random", "--precision", "fp16", "--format", "onnx,tensorrt"]
    command += ["--flavour", "tensorrt-rtx", "--target-sm", "75,89", "--max-batch", "4", "--out", tmp_path]
    code, output = run_cli(*command)
    assert code == 0, output
    onnx, engine = tmp_path / f"{NAME}.fp16.onnx", tmp_path / f"{NAME}.fp16.tensorrt-rtx.engine"
    lines = output.splitlines()
    assert str(onnx) in lines and str(engine) in lines
    (line,) = [line for line in lines if line.startswith(f"{engine.name}: ")]
    assert "built in" in line and "compute capability 75, 89" in line and "batch 1 to 4" in line
    info = read_info(engine)
    assert (info.flavour, info.spec.precision, info.options.target_sm) == ("tensorrt-rtx", "fp16", (75, 89))
    assert (info.onnx_sha256, info.plan_sha256) == (sha256_of_file(onnx), sha256_of_file(engine))
    # From the file this time, and into another folder: the same engine, without a build.
    code, output = run_cli(
        "export", "--model", onnx, "--target-sm", "75,89", "--max-batch", "4", "--flavour", "tensorrt-rtx",
        "--out", tmp_path / "again",
    )  # fmt: skip
    assert code == 0 and "from the cache, no build" in output
    assert sha256_of_file(tmp_path / "again" / engine.name) == info.plan_sha256
    assert not (tmp_path / "again" / onnx.name).exists()


@needs_rtx
def test_a_target_that_does_not_exist_is_named_before_the_network_is_exported(
    mistake: Mistake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ssd_deploy.exporting.export_network", lambda *_: pytest.fail("was exported first"))
    line = mistake(
        "export", "--network", NAME, "--weights", "random", "--format", "tensorrt", "--flavour", "tensorrt-rtx",
        "--target-sm", "90", "--out", tmp_path,
    )  # fmt: skip
    assert "no target 90" in line and "75, 80, 86, 89, 120" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--network", NAME, "--format", "onnxx"], "'--format': 'onnxx' is not one of onnx, tensorrt"),
        (["--network", NAME, "--model", __file__ + ".onnx"], "no such model file"),
        ([], "name a model: a network"),
        (
            ["--network", NAME, "--format", "tensorrt", "--min-batch", "3", "--max-batch", "2"],
            "max 2 are not in rising",
        ),
        (
            ["--network", NAME, "--format", "tensorrt", "--optimization-level", "6"],
            "'--optimization-level': 6 is not 0 to 5",
        ),
        (["--network", NAME, "--format", "tensorrt", "--workspace-mib", "0"], "'--workspace-mib': 0 is not 1 to"),
        (["--network", NAME, "--format", "tensorrt", "--target-sm", "Ada"], "'--target-sm': 'Ada' is not a list"),
        (["--network", NAME, "--format", "tensorrt", "--target-sm", ","], "'--target-sm': ',' is not a list"),
        (["--model", "@", "--format", "onnx"], "exported already"),
        (["--model", "@", "--precision", "fp16"], "'--precision': needs a network; @ has its own"),
    ],
)
def test_export_options_that_make_no_sense_are_named(
    mistake: Mistake, model_path: Path, options: list[str], words: str
) -> None:
    given = [str(model_path) if option == "@" else option for option in options]
    assert words.replace("@", str(model_path)) in mistake("export", *given)


@needs_rtx
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--version-compatible"], "version_compatible: not for tensorrt-rtx"),
        (["--hardware-compatible"], "hardware_compatible: not for tensorrt-rtx"),
        (["--model", "missing.onnx"], "no such model file"),
    ],
)
def test_options_of_the_other_flavour_and_missing_files_are_named(
    mistake: Mistake, model_path: Path, options: list[str], words: str
) -> None:
    model = [] if "--model" in options else ["--model", model_path]
    assert words in mistake("export", *model, *options, "--flavour", "tensorrt-rtx")


def test_a_flavour_that_is_not_installed_names_its_extra(mistake: Mistake, model_path: Path) -> None:
    try:
        load_bindings("tensorrt")
    except BackendError:
        line = mistake("export", "--model", model_path, "--flavour", "tensorrt")
        assert "tensorrt is not installed: pip install 'ssd-deploy[tensorrt]'" in line
    else:
        pytest.skip("tensorrt is installed")


@needs_rtx
def test_an_engine_without_a_gpu_is_one_sentence(
    run_cli: Run, mistake: Mistake, model_path: Path, voc_root: Path, tmp_path: Path
) -> None:
    finding = doctor.examine()["tensorrt-rtx"]
    if finding.works:
        pytest.skip("there is a GPU that runs it")
    assert "builds engines, runs none here" in finding.detail or "loads none here" in finding.detail
    assert run_cli("export", "--model", model_path, "--flavour", "tensorrt-rtx", "--out", tmp_path)[0] == 0
    engine = tmp_path / f"{NAME}.fp32.tensorrt-rtx.engine"
    eval_on_voc = ["--dataset", "voc", "--data-root", voc_root]
    for command in (
        ["eval", "--model", engine, *eval_on_voc],
        ["eval", "--model", model_path, "--backend", "tensorrt-rtx", *eval_on_voc],
        ["detect", "--model", engine, "--images", voc_root / "JPEGImages"],
        ["parity", "--network", NAME, "--weights", "random", "--model", engine, *eval_on_voc],
        ["benchmark", "--model", engine],
    ):
        assert "GPU" in mistake(*command)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "@", "--precision", "int8"], "has its own"),
        (
            ["--model", "@", "--cuda-graph"],
            "ONNX Runtime's variant cuda-graph runs on the device cuda, not on 'cpu'; add --cuda, or leave it out",
        ),
        (
            ["--model", "@", "--backend", "torch"],
            "the torch backend does not run such a file; choose onnxruntime, openvino, tensorrt",
        ),
        (["--model", "@", "--backend", "tensorrt", "--provider", "cuda"], "'--provider': cuda is for ONNX Runtime"),
        (["--model", "missing.engine"], "missing.engine: there is no such model file"),
        (
            ["--network", NAME, "--precision", "bf16", "--backend", "onnxruntime"],
            "the onnxruntime backend runs no network in bf16; choose torch",
        ),
    ],
)
def test_options_that_do_not_fit_what_runs_are_named(
    mistake: Mistake, model_path: Path, voc_root: Path, options: list[str], words: str
) -> None:
    given = [str(model_path) if option == "@" else option for option in options]
    assert words in mistake("eval", *given, "--dataset", "voc", "--data-root", voc_root)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_eval_of_a_network_in_half_precision_finds_the_objects(
    run_cli: Run, voc_root: Path, tmp_path: Path, precision: str
) -> None:
    code, output = run_cli(
        "eval", "--network", NAME, "--weights", "random", "--precision", precision, "--dataset", "voc",
        "--data-root", voc_root, "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, output
    assert f"torch (cpu), {precision}" in output
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["detector"]["precision"] == precision
    if precision == "fp16":
        assert report["headline"] == pytest.approx(0.75)


def test_parity_compares_precisions_in_one_table_each_with_its_own_tolerances(
    run_cli: Run, voc_root: Path, tmp_path: Path
) -> None:
    code, output = run_cli(
        "parity", "--network", NAME, "--weights", "random", "--precision", "fp32,fp16", "--dataset", "voc",
        "--data-root", voc_root, "--json", tmp_path / "out.json", "--min-agreement", "0.5",
        "--score-threshold", "0.05",
    )  # fmt: skip
    assert code == 0, output
    comparisons = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    on_cpu = {entry["precision"]: entry for entry in comparisons if entry["backend"] == "onnxruntime (CPU)"}
    assert set(on_cpu) == {"fp32", "fp16"}
    assert on_cpu["fp32"]["tolerances"]["raw"] == 1e-3 and on_cpu["fp16"]["tolerances"]["raw"] is None
    assert (on_cpu["fp16"]["verdict"]["decided_by"], on_cpu["fp16"]["verdict"]["limit"]) == ("metric", 0.05)
    raw = {precision: entry["stages"][1]["difference"] for precision, entry in on_cpu.items()}
    assert raw["fp32"] < 1e-4 < raw["fp16"]


def test_half_precision_held_to_float32s_tolerances_fails(run_cli: Run, voc_root: Path) -> None:
    code, output = run_cli(
        "parity", "--network", NAME, "--weights", "random", "--precision", "fp16", "--dataset", "voc",
        "--data-root", voc_root, "--min-agreement", "1", "--score-threshold", "0.05",
    )  # fmt: skip
    assert code == 1 and "agreement AP" in output


def test_benchmark_writes_table_json_and_chart(run_cli: Run, voc_root: Path, tmp_path: Path) -> None:
    code, output = run_cli(
        "benchmark", "--network", NAME, "--weights", "random", "--backends", "torch,onnxruntime,tensorrt",
        "--batch-sizes", "1,2", "--rounds", "1", "--threads", "1", "--images", voc_root / "JPEGImages",
        "--json", tmp_path / "out.json", "--chart", tmp_path / "out.png",
    )  # fmt: skip
    assert code == 0, output
    report = json.loads((tmp_path / "out.json").read_text())
    measured = {(row["runner"], row["batch_size"]) for row in report["rows"]}
    assert measured >= {(name, size) for name in ("torch (cpu)", "onnxruntime (CPU)") for size in (1, 2)}
    assert "network: host clock" in output and "end to end" in output
    assert any(line.startswith("not run: tensorrt") for line in output.splitlines()) or len(measured) == 6
    height, width = cv2.imread(str(tmp_path / "out.png")).shape[:2]
    assert min(height, width) > 300


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--network", NAME, "--backends", "caffe"], "'caffe' does not exist"),
        (["--network", NAME, "--backends", "torch:fast"], "no variant 'fast'"),
        (["--network", NAME, "--batch-sizes", "0"], "'--batch-sizes': '0' is not a list of whole numbers above 0"),
        (["--network", NAME, "--precision", "fp8"], "'--precision': 'fp8' is not one of fp32"),
        (["--model", "@", "--backends", "torch"], "backend torch runs a network"),
        (["--model", "@", "--precision", "fp16"], "has its own"),
        (["--model", "missing.onnx"], "no such model file"),
        ([], "name a model"),
    ],
)
def test_benchmark_mistakes_are_named(mistake: Mistake, model_path: Path, options: list[str], words: str) -> None:
    given = [str(model_path) if option == "@" else option for option in options]
    weights = ["--weights", "random"] if "--network" in options else []
    assert words in mistake("benchmark", *given, *weights)


@pytest.mark.parametrize("options", [["--target-sm", "75"], ["--max-batch", "4"], ["--flavour", "tensorrt"]])
def test_options_of_an_engine_are_not_silently_ignored_for_onnx_alone(mistake: Mistake, options: list[str]) -> None:
    assert "needs an engine: --format tensorrt or tensorrt-rtx" in mistake(
        "export", "--network", NAME, "--weights", "random", *options
    )


def test_thresholds_are_not_silently_ignored_for_an_exported_file(mistake: Mistake, model_path: Path) -> None:
    assert "'--nms-iou': needs a network" in mistake("export", "--model", model_path, "--nms-iou", "0.9")


@pytest.mark.parametrize(("option", "value"), [("--workspace-mib", 10**14), ("--max-batch", 10**10)])
def test_numbers_past_any_gpu_are_refused(mistake: Mistake, model_path: Path, option: str, value: int) -> None:
    assert f"'{option}': {value} is not 1 to" in mistake("export", "--model", model_path, option, value)
