"""What the package says of itself: its version, its types, and every folder of it in what is installed."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

import ssd_deploy

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("ssd_train", "export", "ssd_deploy")


def test_the_version_is_the_installed_ones():
    assert ssd_deploy.__version__ == importlib.metadata.version("ssd-deploy")


def test_a_source_tree_that_is_not_installed_has_no_version(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert ssd_deploy.__version__ == "unknown"


def test_the_version_costs_nothing_where_nobody_asks():
    code = "import sys, ssd_deploy; sys.exit('importlib.metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_folder_with_modules_is_installed():
    found = find_packages(str(ROOT), **{"include": PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]})
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }
    assert set(found) == folders


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_are_told_that_there_are_types(package):
    assert (ROOT / package / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["*"]


def test_the_changelog_and_the_citation_name_this_version():
    version = PROJECT["project"]["version"]
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_what_runs_before_a_commit_is_what_make_lint_and_make_types_run():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for tool in ("ruff check", "ruff format --check", "mypy"):
        assert f".venv/bin/{tool}" in hooks and f"$(BIN)/{tool}" in makefile
