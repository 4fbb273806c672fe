"""What the README shows exists: every command and option, every Make target, every Python name."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from ssd_deploy.cli import app
from ssd_train.networks.zoo import NETWORKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(program):
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith(program)]


@pytest.mark.parametrize("line", commands("ssd-deploy"))
def test_every_command_in_the_readme_parses(line):
    _, name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[name]
    context = command.make_context(name, arguments)
    networks = [value for key, value in context.params.items() if key == "network" and value]
    assert all(network in NETWORKS for network in networks)


def test_the_readme_shows_every_command():
    shown = {shlex.split(line)[1] for line in commands("ssd-deploy")}
    assert shown == set(typer.main.get_command(app).commands)


@pytest.mark.parametrize("line", commands("make"))
def test_every_make_target_in_the_readme_exists(line):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert shlex.split(line)[1] in targets


@pytest.mark.parametrize("block", blocks("python"))
def test_every_import_in_the_readme_works(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_readmes_table_has_every_backbone_and_its_published_numbers():
    for config in NETWORKS.values():
        stem, data = config.name.rsplit("_", 1)
        row = next(line for line in README.splitlines() if line.startswith(f"| {stem} |"))
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert data in cells[1].split(", ") and cells[2] == str(config.num_anchors)
        if data == "voc":
            assert cells[3] == ("" if config.published_voc07 is None else f"{config.published_voc07:.1f}")
        if data == "coco":
            assert cells[4] == " / ".join(f"{value:.1f}" for value in config.published_coco or ())


def test_no_figure_was_forgotten():
    assert not re.findall(r"@[A-Z]+@", README)


def test_every_extra_in_the_readme_exists():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "Other extras: `train`, `plots`, `tensorrt`, `tensorrt-rtx`, `pycuda`, `all`, `dev`." in README
    assert set(extras) == {"train", "export", "plots", "tensorrt", "tensorrt-rtx", "pycuda", "all", "dev"}
