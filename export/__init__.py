"""Trained networks -> files that a runtime executes."""

import ssd_train as ssd_train  # before ONNX Runtime, which reports home otherwise
