"""Fixtures of the comparison with GluonCV: the reference folder, and one case of it at a time.

Everything here skips, saying why, unless SSD_ORACLE_DIR names a reference folder; `make test-oracle`
makes one.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle_reference import ReferenceCase, read_manifest

SCRIPT = Path(__file__).parent / "gluoncv_reference.py"

# Fixture name -> which cases of the manifest a test that asks for it runs on. Exported are one of
# each kind of trunk, one of them sparse, so that it has padding rows.
SELECTIONS: dict[str, Callable[[ReferenceCase], bool]] = {
    "case": lambda case: True,
    "legacy_case": lambda case: case.entry["legacy"],
    "exported_case": lambda case: case.name in ("ssd_300_vgg16_atrous_voc", "ssd_512_mobilenet1.0_voc-sparse"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for every case that it asks for; the scope lets several tests share a case's outputs."""
    for fixture, is_selected in SELECTIONS.items():
        if fixture not in metafunc.fixturenames:
            continue
        found = read_manifest()
        if isinstance(found, str):
            metafunc.parametrize(fixture, [pytest.param(None, marks=pytest.mark.skip(reason=found))], scope="module")
            continue
        folder, manifest = found
        cases = [ReferenceCase(entry["name"], entry, folder) for entry in manifest["cases"]]
        cases = [case for case in cases if is_selected(case)]
        metafunc.parametrize(fixture, cases, ids=[case.name for case in cases], scope="module")


@pytest.fixture(scope="session")
def reference_folder() -> tuple[Path, dict[str, Any]]:
    found = read_manifest()
    if isinstance(found, str):
        pytest.skip(found)
    # An old reference would pass or fail for what the script no longer does.
    digest = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
    assert found[1]["script_sha256"] == digest, f"{found[0]} was written by another version of {SCRIPT.name}"
    return found


@pytest.fixture(scope="session")
def oracle_dir(reference_folder: tuple[Path, dict[str, Any]]) -> Path:
    return reference_folder[0]


@pytest.fixture(scope="session")
def manifest(reference_folder: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return reference_folder[1]
