"""Files of raw predictions in ncnn, as pnnx converts them."""

import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import ncnn
import numpy as np
import pnnx
from cases import answer

# pnnx numbers the outputs in the file's order.
OUTPUTS = {"cls_logits": "out0", "box_offsets": "out1"}


def run(model: str, name: str, images: np.ndarray) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "model.onnx")
        copy.write_bytes(Path(model).read_bytes())
        shape = ",".join(str(side) for side in (1, *images.shape[1:]))
        command = [pnnx.EXEC_PATH, str(copy), f"inputshape=[{shape}]f32", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        network = ncnn.Net()
        # Half precision is its default where a CPU has it.
        network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
        network.opt.num_threads = 1
        if not Path(folder, "model.ncnn.param").is_file():
            raise RuntimeError(f"pnnx: {done.stdout[-200:]}{done.stderr[-200:]}")
        network.load_param(str(Path(folder, "model.ncnn.param")))
        network.load_model(str(Path(folder, "model.ncnn.bin")))
        found = [one_image(network, image) for image in images]
    return {name: np.stack([values[name] for values in found]) for name in OUTPUTS}


def one_image(network: ncnn.Net, image: np.ndarray) -> dict[str, np.ndarray]:
    extractor = network.create_extractor()
    extractor.input("in0", ncnn.Mat(image).clone())
    return {name: np.array(extractor.extract(blob)[1]) for name, blob in OUTPUTS.items()}


answer(version("ncnn"), run)
