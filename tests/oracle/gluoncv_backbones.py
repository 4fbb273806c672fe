#!/usr/bin/env python
"""Write GluonCV's ImageNet classifiers with random weights, and what an SSD taps of them.

Runs in the environment of `gluoncv_reference.py` and imports nothing of this project. No published weights are
needed: all parameters are drawn from a fixed seed.

    gluoncv_backbones.py OUT [--only BACKBONE ...]

What lies in OUT afterwards:

    manifest.json            the backbones; written last, so it marks a whole folder
    <backbone>.params        the classifier under the dotted names of `save_parameters`
    <backbone>.legacy.params the same under the older names, without the network's prefix
    <backbone>.npz           x (N, 3, S, S), tap_0 and tap_1 (N, channels, H, W): the maps that SSD's levels come from
"""

import argparse
import hashlib
import json
import time
import warnings
import zlib
from pathlib import Path
from unittest import mock

import mxnet as mx
import numpy as np
from gluoncv import model_zoo
from gluoncv.model_zoo.ssd import resnet_v1b_ssd
from gluoncv.model_zoo.ssd.vgg_atrous import VGGAtrousExtractor, vgg_spec
from gluoncv.nn.feature import FeatureExtractor
from gluoncv_reference import draw_parameters

# Odd after two halvings, so that every rule of rounding a map's size is met.
INPUT_SHAPE = (2, 3, 100, 100)

# The layers that GluonCV's presets tap; vgg16_atrous and resnet34_v1b return their maps themselves.
TAPS = {
    "vgg16_atrous": None,
    "resnet50_v1": ["stage3_activation5", "stage4_activation2"],
    # The ReLUs that end layer 3 and layer 4; there is no preset.
    "resnet50_v1s": ["layers3_relu17_fwd", "layers4_relu8_fwd"],
    "resnet18_v1": ["stage3_activation1", "stage4_activation1"],
    "resnet34_v1b": None,
    "resnet101_v2": ["stage3_activation22", "stage4_activation2"],
    "mobilenet1.0": ["relu22_fwd", "relu26_fwd"],
    "mobilenet0.25": ["relu22_fwd", "relu26_fwd"],
}


def build(backbone):
    """Build a classifier; VGG is the extractor without added levels, which is what GluonCV published."""
    if backbone == "vgg16_atrous":
        return VGGAtrousExtractor(*vgg_spec[16], extras=[])
    return model_zoo.get_model(backbone, pretrained=False)


def tapped(net, backbone, x):
    """Run the layers that an SSD takes over from a classifier; return the two maps it taps."""
    if backbone == "vgg16_atrous":
        return net(x)
    if backbone == "resnet34_v1b":
        # GluonCV's own module, made of this very classifier's layers; it sets the stride of the third stage to 1.
        with mock.patch.object(resnet_v1b_ssd, "get_model", return_value=net):
            features = resnet_v1b_ssd.resnet34_v1b_ssd()
        first = features.stage1(x)
        return [first, features.stage2(first)]
    return FeatureExtractor(net, TAPS[backbone])(x)


def write_backbone(backbone, out):
    """Build, fill, save and run one classifier."""
    started = time.perf_counter()
    rng = np.random.RandomState(zlib.crc32(backbone.encode()))
    x = mx.nd.array(rng.randn(*INPUT_SHAPE).astype(np.float32))
    net = build(backbone)
    net.initialize()
    net(x)  # which allocates the parameters
    draw_parameters(net, backbone, rng)
    net.save_parameters(str(out / f"{backbone}.params"))
    net.collect_params().save(str(out / f"{backbone}.legacy.params"), strip_prefix=net.prefix)
    maps = [tap.asnumpy() for tap in tapped(net, backbone, x)]
    np.savez(out / f"{backbone}.npz", x=x.asnumpy(), **{f"tap_{index}": tap for index, tap in enumerate(maps)})
    spread = ", ".join(f"{tap.shape} of spread {tap.std():.2g}" for tap in maps)
    print(f"{backbone}: {spread}, {time.perf_counter() - started:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", metavar="BACKBONE", default=list(TAPS))
    arguments = parser.parse_args()
    # MXNet warns that it has to infer the input's type, once a network.
    warnings.filterwarnings("ignore", message="Cannot decide type")
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    for backbone in arguments.only:
        write_backbone(backbone, out)
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    (out / "manifest.json").write_text(json.dumps({"script_sha256": digest, "backbones": arguments.only}) + "\n")


if __name__ == "__main__":
    main()
