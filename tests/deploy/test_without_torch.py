"""A deployment installs no torch: the command line runs where only the light requirements can be imported.

The environment is a folder of links to what `pip install ssd-deploy` brings, found by following the
requirements that installed packages declare. So an import that is not declared fails here too.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAVY = (
    "torch",
    "torchvision",
    "safetensors",
    "onnx",
    "onnxscript",
    "openvino",
    "tensorboard",
    "tensorrt",
    "tensorrt_rtx",
    "matplotlib",
)
OURS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
Light = Callable[..., subprocess.CompletedProcess[str]]


def requirements(package: str) -> set[str]:
    """Names of everything that a package needs here, itself included and extras left out."""
    found: set[str] = set()
    waiting = [package]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        # Ours as they are now: what an editable installation has noted may be older.
        declared = OURS if name == "ssd-deploy" else importlib.metadata.requires(name) or []
        parsed = map(Requirement, declared)
        waiting += [needed.name for needed in parsed if not needed.marker or needed.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def light_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    for name in requirements("ssd-deploy") - {"ssd-deploy"}:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
    for package in ("ssd_deploy", "ssd_train", "export"):
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.submodule_search_locations
        (folder / package).symlink_to(Path(next(iter(spec.submodule_search_locations))).resolve())
    return folder


@pytest.fixture
def light(light_folder: Path, tmp_path: Path) -> Light:
    """Run Python with the light requirements alone: no site-packages, no user folder, another working folder."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return subprocess.run(
            [sys.executable, "-S", "-s", *map(str, arguments)],
            env=environment | {"PYTHONPATH": str(light_folder), "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One sentence that names the extra to install, and nothing else."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("Error: ") and "pip install 'ssd-deploy[export]'" in line
    for word in words:
        assert word in line


def test_the_light_environment_has_no_heavy_package_and_all_of_the_light_ones(light: Light) -> None:
    code = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    assert light("-c", code, *HEAVY).stdout.strip() == "[]"
    ours = ("numpy", "cv2", "onnxruntime", "faster_coco_eval", "typer", "rich", "ssd_deploy")
    assert light("-c", code, *ours).stdout.strip() == str(list(ours))


def test_everything_torch_free_imports(light: Light) -> None:
    code = """
import importlib, pkgutil
shared = "boxes class_list detections draw nms errors files image_files picture_grid preprocess spec"
names = ["ssd_train." + name for name in shared.split()]
for package in ("data_check", "datasets", "evaluation", "metrics"):
    path = importlib.import_module("ssd_train." + package).__path__
    names += [info.name for info in pkgutil.walk_packages(path, f"ssd_train.{package}.")]
ours = ("backends.base backends.cuda_open backends.onnxruntime backends.tensorrt benchmark.chart benchmark.run cli "
        "describe detect_options detecting detector doctor engines model_source network_table parity.report parity.run "
        "progress results.table results.behind tiles")
names += ["ssd_deploy." + name for name in ours.split()]
names += ["export." + name for name in "file_metadata one_file quantize_options session step steps".split()]
names += ["export.engine.file", "export.engine.build", "export.engine.check"]
names += ["ssd_train.weights." + name for name in "description load params_file store".split()]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = light("-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_help_works(light: Light) -> None:
    done = light("-m", "ssd_deploy", "--help")
    assert done.returncode == 0 and "detect" in done.stdout


def test_models_are_listed_without_what_pytorch_counts(light: Light) -> None:
    done = light("-m", "ssd_deploy", "models")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("ssd_300_vgg16_atrous_voc "))
    assert row.split() == ["ssd_300_vgg16_atrous_voc", "300", "20", "-", "8732", "-", "77.6", "-", "published"]
    assert "PyTorch, which is not installed" in done.stdout


def test_doctor_says_that_torch_is_missing_and_onnxruntime_works(light: Light) -> None:
    done = light("-m", "ssd_deploy", "doctor")
    assert done.returncode == 0, done.stderr
    rows = {line[: line.index(")") + 1]: line for line in done.stdout.splitlines() if ")  " in line}
    assert " no " in rows["torch (cpu)"] and "pip install 'ssd-deploy[export]'" in rows["torch (cpu)"]
    assert " yes " in rows["onnxruntime (cpu)"]


def test_data_are_checked_and_charts_name_the_extra_that_draws_them(light: Light, tmp_path: Path) -> None:
    assert light("-m", "ssd_deploy", "shapes", "--out", "shapes", "--train", 6, "--val", 4).returncode == 0
    done = light("-m", "ssd_deploy", "check", "shapes", "--network", "ssd_512_mobilenet1.0_custom")
    assert done.returncode == 0, done.stderr
    assert "pip install 'ssd-deploy[plots]'" in done.stdout
    assert [path.name for path in (tmp_path / "runs" / "check" / "shapes").iterdir()] == ["samples.jpg"]


def test_an_exported_file_detects(light: Light, model_path: Path, voc_root: Path, tmp_path: Path) -> None:
    done = light(
        "-m", "ssd_deploy", "detect", "--model", model_path, "--images", voc_root / "JPEGImages", "--threshold", 0.01
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "detections" / "detections.json").read_text())
    assert [len(image["detections"]) for image in content["images"]][:2] == [100, 0]
    assert (tmp_path / "detections" / "p0.png").is_file()


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_an_exported_file_is_evaluated(
    light: Light, model_path: Path, voc_root: Path, coco_root: Path, tmp_path: Path, kind: str
) -> None:
    root = {"voc": voc_root, "coco": coco_root}[kind]
    done = light(
        "-m", "ssd_deploy", "eval", "--model", model_path, "--dataset", kind, "--data-root", root, "--json", "out.json"
    )
    assert done.returncode == 0, done.stderr
    headline = json.loads((tmp_path / "out.json").read_text())["headline"]
    assert headline == pytest.approx(0.75) if kind == "voc" else headline > 0.1


def test_an_exported_file_is_measured(light: Light, model_path: Path, tmp_path: Path) -> None:
    command = ["benchmark", "--model", model_path, "--batch-sizes", "1", "--rounds", "1"]
    done = light("-m", "ssd_deploy", *command, "--json", "out.json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["runner"] == "onnxruntime (CPU)"
    assert "pip install 'ssd-deploy[plots]'" in light("-m", "ssd_deploy", *command, "--chart", "out.png").stderr


def test_load_detector_runs_a_file(light: Light, model_path: Path) -> None:
    code = (
        "import sys, numpy as np; from ssd_deploy import load_detector;"
        "print(len(load_detector(sys.argv[1]).detect([np.zeros((9, 9, 3), np.uint8)] * 2)), 'torch' in sys.modules)"
    )
    done = light("-c", code, model_path)
    assert done.stdout.strip() == "2 False", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "--network", "ssd_300_mobilenet0.25_voc", "--weights", "random"],
        ["convert", "--network", "ssd_300_mobilenet0.25_voc", "--weights", "a.params", "--out", "b.safetensors"],
        ["fetch", "ssd_300_vgg16_atrous_voc"],
        ["eval", "--network", "ssd_300_mobilenet0.25_voc", "--weights", "random", "--dataset", "voc"],
        ["detect", "--network", "ssd_300_mobilenet0.25_voc", "--weights", "random", "--images", "."],
        ["parity", "--network", "ssd_300_mobilenet0.25_voc", "--weights", "random", "--dataset", "voc"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_need_torch_name_the_extra_that_brings_it(
    light: Light, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert_refused(light("-m", "ssd_deploy", *arguments), "torch")


def test_load_detector_of_a_network_names_the_extra_too(light: Light) -> None:
    done = light("-c", "from ssd_deploy import load_detector; load_detector('ssd_300_vgg16_atrous_voc')")
    assert "BackendError" in done.stderr and "ssd-deploy[export]" in done.stderr
