"""What the README and docs/ show exists: every command and option, Make target, Python name and link."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

from ssd_deploy.cli import app
from ssd_train.networks.zoo import NETWORKS, is_network

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
SHOWN = [README, *DOCS]
# Pages whose links are followed; no command stands in them alone.
LINKED = [
    *SHOWN,
    ROOT / "benchmarks" / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
]
# Its blocks belong together and are run by test_extending.
EXTENDING = ROOT / "docs" / "extending.md"


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def shown(program):
    """Return (page, line) of each command of a program in a sh block, without its comment."""
    return [
        pytest.param(page, line, id=f"{page.name}: {line}")
        for page in SHOWN
        for block in blocks(page, "sh")
        for line in (text.split("#")[0].strip() for text in block.splitlines())
        if line.startswith(program)
    ]


@pytest.mark.parametrize("page, line", shown("ssd-deploy"))
def test_every_command_that_is_shown_parses(page, line):
    _, name, *arguments = shlex.split(line)
    typer.main.get_command(app).commands[name].make_context(name, arguments)
    named = [word for word in arguments if word.startswith("ssd_") and "/" not in word and "=" not in word]
    networks = [word for word in named if not word.endswith((".onnx", ".engine", ".params", ".pth", ".safetensors"))]
    assert [network for network in networks if not is_network(network)] == []


def test_every_command_is_shown():
    names = {shlex.split(case.values[1])[1] for case in shown("ssd-deploy")}
    assert names == set(typer.main.get_command(app).commands)


def test_every_line_of_a_sh_block_is_a_command():
    for page in SHOWN:
        for block in blocks(page, "sh"):
            first = {line.split()[0] for line in block.splitlines() if line.strip()}
            assert first <= {"ssd-deploy", "make", "pip"}, page


@pytest.mark.parametrize("page, line", shown("make"))
def test_every_make_target_that_is_shown_exists(page, line):
    assert shlex.split(line)[1] in targets()


def test_every_make_target_in_the_prose_exists():
    named = {
        target
        for page in LINKED
        for targets in re.findall(r"`make ([a-z -]+)`", text_of(page))
        for target in targets.split()
    }
    assert named and named <= set(targets())


def targets():
    return re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE)


@pytest.mark.parametrize(
    "page, block",
    [
        pytest.param(page, block, id=f"{page.name} {index}")
        for page in SHOWN
        if page != EXTENDING
        for index, block in enumerate(blocks(page, "python"))
    ],
)
def test_every_import_that_is_shown_works(page, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            exec(ast.unparse(node), {})


def anchors(page):
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL))
    for link in links:
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_file_that_is_named_exists():
    for page in SHOWN:
        for path in re.findall(r"`((?:ssd_train|export|ssd_deploy|benchmarks|tests)/[\w/.-]+\.\w+)`", text_of(page)):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        for path in re.findall(r"^((?:ssd_train|export|ssd_deploy|benchmarks)/[\w/]*)  ", text_of(page), re.MULTILINE):
            assert (ROOT / path).is_dir(), f"{page.name}: {path}"


def test_the_readme_is_one_page_and_leads_to_every_other():
    text = text_of(README)
    assert len(text.splitlines()) <= 150
    pages = [f"docs/{page.relative_to(ROOT / 'docs')}" for page in DOCS if page.name != "README.md"]
    assert [page for page in pages if f"({page})" not in text] == []
    assert [page for page in pages if f"({Path(page).name})" not in text_of(ROOT / "docs" / "README.md")] == []


def test_the_table_of_networks_has_every_backbone_and_its_published_numbers():
    lines = text_of(ROOT / "docs" / "networks.md").splitlines()
    for config in NETWORKS.values():
        if config.project in ("torchvision", "pytorch-ssd"):
            assert f"`{config.name}`" in "\n".join(lines)  # on a page of its own, which says what is known of it
            continue
        stem, data = config.name.rsplit("_", 1)
        row = next(line for line in lines if line.startswith(f"| {stem} |"))
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert data in cells[1].split(", ") and cells[2] == str(config.num_anchors)
        if data == "voc":
            assert cells[3] == ("" if config.published_voc07 is None else f"{config.published_voc07:.1f}")
        if data == "coco":
            assert cells[4] == " / ".join(f"{value:.1f}" for value in config.published_coco or ())


def test_no_figure_was_forgotten():
    assert [page for page in LINKED if re.search(r"@[A-Z]+@|TODO|FIXME", text_of(page))] == []


def test_every_extra_in_the_readme_exists():
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    assert (
        "Other extras: `train`, `plots`, `report`, `video`, `track`, `supervision`, `pycocotools`, `mlflow`, `wandb`, "
        "`openvino`, `ray`, `tensorrt`, `tensorrt-rtx`, `pycuda`, `all`, `dev`." in " ".join(text_of(README).split())
    )
    assert set(extras) == {
        "train",
        "export",
        "plots",
        "report",
        "video",
        "track",
        "supervision",
        "pycocotools",
        "mlflow",
        "wandb",
        "tensorrt",
        "openvino",
        "ray",
        "tensorrt-rtx",
        "pycuda",
        "all",
        "dev",
    }
