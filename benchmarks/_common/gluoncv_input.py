"""GluonCV's training transform, timed on request; `input_pipeline.py` starts this in GluonCV's own environment.

Standard input, a line of JSON each: first a list of images (path, boxes xyxy in pixels, labels), answered with
versions; then any number of {"input_size": S, "passes": P}, answered with an image's seconds [by the clock, of
computing]. Imports nothing of this project: MXNet needs an older NumPy.
"""

import importlib.metadata
import json
import sys
import time

import cv2
import mxnet as mx
import numpy as np
from gluoncv.data.transforms.presets.ssd import SSDDefaultTrainTransform

# As many as a batch of the other variants, which stack theirs too.
BATCH_SIZE = 16


def make_inputs(images, input_size, passes):
    """Read and transform every image, and wait for the values, which MXNet computes when it likes."""
    transform = SSDDefaultTrainTransform(input_size, input_size)
    for _ in range(passes):
        for start in range(0, len(images), BATCH_SIZE):
            batch = [transform(mx.image.imread(path), label)[0] for path, label in images[start : start + BATCH_SIZE]]
            mx.nd.stack(*batch).wait_to_read()
    return passes * len(images)


def main():
    cv2.setNumThreads(0)
    np.random.seed(233)
    mx.random.seed(233)
    images = []
    for image in json.loads(sys.stdin.readline()):
        rows = np.column_stack([np.array(image["boxes"]).reshape(-1, 4), image["labels"]])
        images.append((image["path"], rows.astype(np.float32)))
    versions = {name: importlib.metadata.version(name) for name in ("gluoncv", "mxnet", "numpy")}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        clock, computing = time.perf_counter(), time.process_time()
        count = make_inputs(images, asked["input_size"], asked["passes"])
        seconds = [time.perf_counter() - clock, time.process_time() - computing]
        print(json.dumps([value / count for value in seconds]), flush=True)


if __name__ == "__main__":
    main()
