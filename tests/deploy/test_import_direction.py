"""Imports point one way: ssd_train <- export <- ssd_deploy; what a deployment runs on needs no torch. Only parsed."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Files and folders of ssd_train that the light installation runs on.
TORCH_FREE = [
    f"ssd_train/{name}"
    for name in (
        "boxes.py", "class_list.py", "cpus.py", "datasets", "detection_formats.py", "detection_rows.py",
        "detections.py", "draw.py",
        "errors.py", "evaluation", "files.py", "image_files.py", "image_input.py", "lettering.py", "metrics",
        "nms.py", "picture_grid.py", "preprocess.py", "printable.py", "report", "requirements.py", "spec.py",
    )
]  # fmt: skip


def imported_by(path: Path) -> set[str]:
    """Every module that a file names in an import, at the top or inside a function, with what is taken from it."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def imports_of(folder: str) -> dict[str, set[str]]:
    files = [ROOT / folder] if folder.endswith(".py") else sorted((ROOT / folder).rglob("*.py"))
    assert files, f"{folder} has no Python files"
    return {str(path.relative_to(ROOT)): imported_by(path) for path in files}


def offenders(folder: str, packages: set[str]) -> list[str]:
    """Imports of any of the top-level `packages` in a folder's files."""
    return [
        f"{file} imports {name}"
        for file, names in imports_of(folder).items()
        for name in sorted(names)
        if name.split(".")[0] in packages
    ]


def test_imports_are_found_at_every_depth_and_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.py").write_text(
        "import one.two as x\nfrom three import four\ndef f():\n    from . import five\n    from ..six import seven\n"
    )
    found = {"one.two", "three", "three.four", "a.b", "a.b.five", "a.six", "a.six.seven"}
    assert imports_of("a") == {"a/b/c.py": found}
    assert offenders("a", {"one"}) == ["a/b/c.py imports one.two"]


@pytest.mark.parametrize(("folder", "later"), [("ssd_train", {"export", "ssd_deploy"}), ("export", {"ssd_deploy"})])
def test_no_package_imports_a_later_one(folder: str, later: set[str]) -> None:
    assert offenders(folder, later) == []


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_a_deployment_runs_on_imports_nothing_heavy_and_no_network(module: str) -> None:
    heavy = {"torch", "torchvision", "safetensors", "onnx", "onnxscript", "tensorrt", "tensorboard"}
    assert offenders(module, heavy) == []
    later = ("ssd_train.networks", "ssd_train.weights", "ssd_train.training")
    names = {name for names in imports_of(module).values() for name in names if name.startswith(later)}
    assert not names


def test_a_check_of_data_imports_nothing_heavy_and_of_networks_their_table_alone() -> None:
    assert offenders("ssd_train/data_check", {"torch", "torchvision", "safetensors", "onnx", "tensorboard"}) == []
    names = {name for names in imports_of("ssd_train/data_check").values() for name in names}
    modules = {".".join(name.split(".")[:3]) for name in names if name.startswith("ssd_train.networks.")}
    assert modules == {f"ssd_train.networks.{name}" for name in ("anchors", "config", "zoo")}
    assert not [name for name in names if name.startswith(("ssd_train.weights", "ssd_train.training"))]


def test_packages_and_tests_import_from_no_benchmark_and_no_test() -> None:
    for folder in ("ssd_train", "export", "ssd_deploy"):
        assert offenders(folder, {"benchmarks", "tests"}) == []


@pytest.mark.parametrize(
    "module", ["answers", "onnxruntime", "onnxruntime_bound", "onnxruntime_options", "openvino", "recordings"]
)
def test_a_runner_of_files_needs_no_torch(module: str) -> None:
    names = imported_by(ROOT / "ssd_deploy" / "backends" / f"{module}.py")
    assert {name for name in names if name.split(".")[0] == "torch"} == set()
    assert {name for name in names if name.startswith(("ssd_train.networks", "ssd_train.weights"))} == set()
