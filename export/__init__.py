"""Trained networks -> files that a runtime executes."""

import os

# ONNX Runtime looks at it while it is imported, which whatever imports it here does after this package.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
