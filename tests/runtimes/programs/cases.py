"""What a program of this folder is told: files to run, each with its input and a folder for what comes out.

The programs know an ONNX file and one runtime, and nothing of this project, as a program of a user's would.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

# A file, the name of its input, its input -> outputs by name.
Run = Callable[[str, str, np.ndarray], dict[str, np.ndarray]]


def answer(version: str, run: Run) -> None:
    """Run every case of the JSON file that the command line names, and print the runtime's version.

    Outputs are written as bare bytes, so that a program in another language can write the same; what a runtime
    says against a file is written instead of them.
    """
    for case in json.loads(Path(sys.argv[1]).read_text()):
        out = Path(case["out"])
        images = np.fromfile(case["data"], case["dtype"]).reshape(case["shape"])
        try:
            outputs = run(case["model"], case["input"], images)
        except Exception as error:
            (out / "error.txt").write_text(f"{type(error).__name__}: {error}")
        else:
            for name, values in outputs.items():
                np.ascontiguousarray(values).tofile(out / f"{name}.bin")
    print(version)
