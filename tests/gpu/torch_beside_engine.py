"""PyTorch and an engine take turns in one process; run by test_gpu_process.py in a fresh one.

python tests/gpu/torch_beside_engine.py torch|engine pycuda|cuda-python FILE.engine EXPECTED.npz
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from gpu_parts import OTHER_BACKEND, SMALL, assert_same

from ssd_train.detections import PaddedDetections

TURNS_AT_ONCE = 20


class Engine:
    """The engine's turns; opens it at the first."""

    def __init__(self, path: Path, layer: str, images: Any, expected: PaddedDetections) -> None:
        self._path, self._layer, self._images, self._expected = path, layer, images, expected
        self._runner: Any = None

    def turn(self) -> None:
        from test_gpu_process import open_layer

        from ssd_deploy.backends import tensorrt

        if self._runner is None:
            self._runner = tensorrt.TensorRTRunner(self._path, device=open_layer(self._layer))
        assert_same(self._runner.run(self._images), self._expected, OTHER_BACKEND)

    def close(self) -> None:
        self._runner.close()
        self._runner = None


class Torch:
    """PyTorch's turns: the network, a step of training in the default stream, work in a stream of its own."""

    def __init__(self, images: Any, expected: PaddedDetections, device: str = "cuda") -> None:
        self._images, self._expected, self._device = images, expected, device
        self._runner: Any = None
        self._sums: set[float] = set()

    def turn(self) -> None:
        import torch

        from ssd_deploy.backends.pytorch import TorchRunner
        from ssd_train import build_network

        if self._runner is None:
            self._runner = TorchRunner(build_network(SMALL, weights="random"), device=self._device)
        assert_same(self._runner.run(self._images), self._expected, OTHER_BACKEND)
        weights = torch.ones(64, 64, device=self._device, requires_grad=True)
        with torch.cuda.stream(torch.cuda.Stream() if self._device == "cuda" else None):
            product = weights @ torch.eye(64, device=self._device)
        if self._device == "cuda":
            torch.cuda.synchronize()
        product.square().sum().backward()
        assert weights.grad is not None
        # By hand: each of the 64 * 64 ones has the gradient 2.
        assert float(weights.grad.sum()) == 2 * 64 * 64


def take_turns(first: str, engine: Engine, torch: Torch) -> None:
    """Let both take turns, both at once in two threads, and each go on after the other has ended."""
    one, other = (torch, engine) if first == "torch" else (engine, torch)
    for _ in range(2):
        one.turn()
        other.turn()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(lambda part=part: [part.turn() for _ in range(TURNS_AT_ONCE)]) for part in (one, other)]
        for future in both:
            future.result()
    engine.close()
    torch.turn()
    engine.turn()
    torch.turn()
    engine.close()


def main() -> None:
    first, layer, path, expected_path = sys.argv[1:]
    with np.load(expected_path) as expected:
        images = expected["images"]
        answer = PaddedDetections(*(expected[name] for name in PaddedDetections._fields))
    take_turns(first, Engine(Path(path), layer, images, answer), Torch(images, answer))
    print("both are right")


if __name__ == "__main__":
    main()
