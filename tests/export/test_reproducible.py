"""Equal weights and settings give equal bytes, in another process, folder and order of hashes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_train.datasets.generated_files import write_shapes

MAKE = """
import json, sys
from pathlib import Path
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.steps import STEPS
from ssd_deploy.model_source import export_network
from ssd_train.files import sha256_of_file
from ssd_train.weights.load import load_network
from ssd_train.weights.network_file import save_network

out, pictures = Path(sys.argv[1]), Path(sys.argv[2])
network = load_network("ssd_300_mobilenet0.25_custom", weights="shapes")
made = {}
for suffix in (".safetensors", ".pth"):
    for packed in (False, True):
        path = out / f"{out.name}-{packed}{suffix}"
        save_network(network, path, packed)
        made[f"{suffix} {packed}"] = path
made["fp16"] = export_network(network, out, "fp16")
made["fp32"] = export_onnx(network.eval(), out)
made["int8"] = STEPS["int8"].apply(made["fp32"], out, QuantizeOptions(calibration_data=pictures)).path
made["cpu"] = STEPS["cpu"].apply(made["int8"], out).path
print(json.dumps({name: sha256_of_file(path) for name, path in made.items()}))
"""


@pytest.mark.slow
def test_two_processes_make_the_same_files(tmp_path: Path) -> None:
    pictures = write_shapes(tmp_path / "data", train=4, val=1, seed=1) / "JPEGImages"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(tmp_path / name), str(pictures)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, seed in (("one", "1"), ("another", "2"))
    ]
    answers = [process.communicate(timeout=600)[0] for process in processes]
    first, second = (json.loads(answer.splitlines()[-1]) for answer in answers)
    assert first == second and len(first) == 8
