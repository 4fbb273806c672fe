"""GluonCV's detectors, run and timed on request; `peers.py` starts this in GluonCV's own environment.

Standard input, a line of JSON each: first {"network", "params", "image", "out"} (a .npy of (1, 3, S, S) float32 to run
and an .npz for what is found), answered with versions; then any number of {"runs": K}, answered with the milliseconds
of each run and the process's peak memory in MB. Imports nothing of this project: MXNet needs an older NumPy.
"""

import importlib.metadata
import json
import sys
import time

import mxnet as mx
import numpy as np
from gluoncv import model_zoo


def main():
    wanted = json.loads(sys.stdin.readline())
    network = model_zoo.get_model(wanted["network"], pretrained=False, pretrained_base=False)
    network.load_parameters(wanted["params"])
    network.hybridize(static_alloc=True, static_shape=True)
    image = mx.nd.array(np.load(wanted["image"]))

    def run():
        found = network(image)
        for value in found:
            value.wait_to_read()
        return found

    labels, scores, boxes = (value.asnumpy()[0] for value in run())
    np.savez(wanted["out"], labels=labels[:, 0], scores=scores[:, 0], boxes=boxes)
    answer({name: importlib.metadata.version(name) for name in ("gluoncv", "mxnet", "numpy")})
    for line in sys.stdin:
        times = []
        for _ in range(json.loads(line)["runs"]):
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e3)
        answer({"ms": times, "peak_mb": peak_mb()})


def peak_mb():
    """Not from getrusage: its peak begins with that of the process that started this one."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def answer(value):
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
