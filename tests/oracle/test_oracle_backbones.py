"""Backbones that start from a classifier, against what GluonCV's SSD taps of that classifier."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import NETWORKS
from ssd_train.weights.backbone import PUBLISHED_SHA1, load_backbone

pytestmark = pytest.mark.oracle

SCRIPT = Path(__file__).parent / "gluoncv_backbones.py"

OF_GLUONCV = sorted({row.backbone for row in NETWORKS.values() if row.project == "gluoncv"})

# Largest difference as a fraction of the spread of all values. Both sides compute in float32 but sum in
# another order: 2e-5 is seen.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def backbones_dir(oracle_dir: Path) -> Path:
    folder = oracle_dir / "backbones"
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
    assert manifest["script_sha256"] == digest, f"{folder} was written by another version of {SCRIPT.name}"
    assert set(manifest["backbones"]) == set(PUBLISHED_SHA1), "not every backbone has a reference"
    return folder


@pytest.mark.parametrize("suffix", [".params", ".legacy.params"])
@pytest.mark.parametrize("backbone", PUBLISHED_SHA1)
def test_taps_of_a_loaded_classifier_are_gluoncv_s(backbones_dir: Path, backbone: str, suffix: str) -> None:
    network = build_ssd(next(config for config in NETWORKS.values() if config.backbone == backbone))
    load_backbone(network, backbones_dir / f"{backbone}{suffix}")
    with np.load(backbones_dir / f"{backbone}.npz") as file:
        reference = dict(file)
    with torch.inference_mode():
        taps = taps_of(network, torch.from_numpy(reference["x"]))
    assert len(taps) == 2
    for index, tap in enumerate(taps):
        theirs = reference[f"tap_{index}"]
        assert tap.shape == theirs.shape
        difference = np.abs(tap.numpy() - theirs).max() / theirs.std()
        assert difference <= TOLERANCE, f"tap {index} differs by {difference:.1e} of its spread"


def taps_of(network: SSD, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the maps of the backbone alone; the images are smaller than what the added levels can halve."""
    features = network.features
    if network.config.backbone == "vgg16_atrous":
        features.extras = torch.nn.ModuleList()
        return features(images)
    return features.backbone(images)
