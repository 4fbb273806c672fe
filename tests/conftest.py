"""What every test may use: the real images and annotations, where this machine has them."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with `coco_tiny` and `bccd`; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("SSD_TEST_DATA", beside))
    if not (folder / "coco_tiny").is_dir():
        pytest.skip(f"no test images in {folder}; set SSD_TEST_DATA to the folder with coco_tiny and bccd")
    return folder
