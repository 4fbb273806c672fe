"""What a processor can compute at most, as a large matrix product shows it."""

import time

import torch

MATRIX_SIZES = {"cuda": 8192, "cpu": 1024}
MATRIX_SECONDS = 1.0


def matrix_tflops(dtype: torch.dtype, device: torch.device, *, allow_tf32: bool = False) -> float:
    """Return 1e12 operations a second of a large matrix product, the best of several stretches."""
    side = MATRIX_SIZES[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    best, begun = 0.0, time.perf_counter()
    try:
        while time.perf_counter() - begun < MATRIX_SECONDS:
            started = time.perf_counter()
            for _ in range(10):
                left @ right
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = max(best, 10 * 2 * side**3 / (time.perf_counter() - started) / 1e12)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return best
