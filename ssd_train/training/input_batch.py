"""8-bit images of a batch -> network input: colour distortion and normalisation, on the training device."""

import functools

import cv2
import numpy as np
import torch
from torch import Tensor

from ssd_train.training.batches import Batch


def input_batch(
    batch: Batch, mean: tuple[float, float, float], std: tuple[float, float, float], *, over: Tensor | None = None
) -> Tensor:
    """Apply each image's colour map and normalise, in one affine step.

    Args:
        batch: on the training device.
        mean, std: for RGB values in [0, 1].
        over: an earlier result that is needed no more. On a CPU its memory is used again where the shape fits:
            fresh memory takes the system longer to hand out than the pixels take to compute.

    Returns:
        (N, 3, H, W) float32 in channels-last order; 0 where no image is, which is the mean color.
    """
    device = batch.images.device
    means, scales = _on_device(mean, device), _on_device(std, device)
    matrix = batch.colours[:, :, :3] / (255 * scales[:, None])
    offset = (batch.colours[:, :, 3] / 255 - means) / scales
    if device.type != "cpu":
        return _with_torch(batch, matrix, offset).permute(0, 3, 1, 2)
    pixels = None if over is None else over.permute(0, 2, 3, 1)
    if pixels is None or pixels.shape != batch.images.shape or not pixels.is_contiguous():
        pixels = torch.empty(batch.images.shape)
    _with_opencv(batch, matrix, offset, pixels)
    return pixels.permute(0, 3, 1, 2)


# Made once: a copy from a list waits for all that the GPU has still to do.
@functools.cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def _with_torch(batch: Batch, matrix: Tensor, offset: Tensor) -> Tensor:
    """Return (N, H, W, 3), in a few operations on the whole batch."""
    count, height, width = batch.images.shape[:3]
    pixels = torch.baddbmm(offset.unsqueeze(1), batch.images.view(count, -1, 3).float(), matrix.transpose(1, 2))
    pixels = pixels.view(count, height, width, 3)
    y, x = torch.arange(height, device=pixels.device), torch.arange(width, device=pixels.device)
    left, top, right, bottom = (edge.unsqueeze(1) for edge in batch.places.unbind(1))
    is_row, is_column = (top <= y) & (y < bottom), (left <= x) & (x < right)
    # A byte a pixel, and the colours are touched once.
    is_image = (is_row.unsqueeze(2) & is_column.unsqueeze(1)).unsqueeze(3)
    return pixels.masked_fill_(~is_image, 0)


def _with_opencv(batch: Batch, matrix: Tensor, offset: Tensor, pixels: Tensor) -> None:
    """Fill (N, H, W, 3) on a CPU, where PyTorch takes ten times as long for a product of three by three."""
    maps = torch.cat([matrix, offset.unsqueeze(2)], dim=2).numpy()
    floats = np.empty(pixels.shape[1:], np.float32)
    for image, out, colour, (left, top, right, bottom) in zip(
        batch.images.numpy(), pixels.numpy(), maps, batch.places.tolist(), strict=True
    ):
        out[:top] = out[bottom:] = 0
        rows = out[top:bottom]
        rows[:, :left] = rows[:, right:] = 0
        part = floats[: bottom - top, : right - left]
        np.copyto(part, image[top:bottom, left:right])
        # Into a view, which OpenCV fills where it lies.
        cv2.transform(part, colour, dst=rows[:, left:right])
