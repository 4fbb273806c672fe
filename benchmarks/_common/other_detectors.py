"""Other projects' detectors as ONNX files, for scale: exported by their own exporters, with random weights.

Ultralytics' package is under the AGPL. It is installed into an environment of its own and asked for a file there;
nothing of it is imported here.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torchvision.models.detection import ssd300_vgg16

from _common.asked_process import ROOT
from export.session import open_session, quiet_options

ULTRALYTICS_PACKAGES = ("ultralytics==8.4.190", "ultralytics-thop")
# Its head without suppression is the network's own way; both lie in the file, as decode and NMS do in ours.
EXPORT_YOLO = """
from ultralytics import YOLO
YOLO("yolo26n.yaml").export(format="onnx", imgsz=640, opset=17, simplify=False, dynamic=False, nms=False)
"""

Images = NDArray[np.float32]


def torchvision_file(folder: Path) -> Path:
    """Export torchvision's SSD300 with 21 classes, whose input is one image without a batch dimension."""
    torch.manual_seed(0)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21).eval()
    path = folder / "torchvision.onnx"
    image = torch.rand(3, 300, 300)
    torch.onnx.export(model, ([image],), str(path), dynamo=False, opset_version=17, input_names=["image"])
    return path


def ultralytics_file(folder: Path) -> Path:
    """Export Ultralytics' smallest detector from its configuration; no weights are fetched.

    Raises:
        RuntimeError: the package cannot be installed, or does not export.
    """
    environment = ROOT / ".venv-peers"
    if not environment.is_dir():
        environment = folder / ".venv-ultralytics"
        _run([sys.executable, "-m", "venv", str(environment)], folder)
        # It runs with this environment's PyTorch, which is too large to install once more.
        packages = next((environment / "lib").glob("python*")) / "site-packages"
        (packages / "this_project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        _run([*pip, *ULTRALYTICS_PACKAGES], folder)
    _run([str(environment / "bin" / "python"), "-c", EXPORT_YOLO], folder)
    return folder / "yolo26n.onnx"


def _run(command: list[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


def in_onnx_runtime(path: Path, image: Images, threads: int) -> Callable[[], object]:
    """Return a call that runs a file once."""
    session = open_session(path, path.name, quiet_options(threads=threads))
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})


def in_openvino(path: Path, image: Images, threads: int) -> Callable[[], object]:
    """Return a call that runs a file once, in float32."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": openvino.Type.f32,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda: compiled([image])


RUNTIMES = {"ONNX Runtime": in_onnx_runtime, "OpenVINO": in_openvino}


class Other(NamedTuple):
    """One of others' detectors.

    Attributes:
        label: what tables call it.
        beside: this project's network that is nearest, with which it takes turns.
        export: folder -> its file there.
        input_shape: of what it runs on.
    """

    label: str
    beside: str
    export: Callable[[Path], Path]
    input_shape: tuple[int, ...]


OTHERS = (
    Other("torchvision ssd300_vgg16", "ssd_300_vgg16_atrous_voc", torchvision_file, (3, 300, 300)),
    Other("ultralytics yolo26n at 640", "ssd_512_mobilenet1.0_coco", ultralytics_file, (1, 3, 640, 640)),
)
