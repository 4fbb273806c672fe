"""Convolution kernels in 8 bits, for weight files of a quarter of the size; the network computes in float32.

The scale of a channel has so few binary places that its multiples are exact in float32. So whatever was
unpacked is packed to the same bits again, and a file may be read and written any number of times.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssd_train.errors import WeightsError

# What the metadata of a packed file says under the key `packed`.
PACKED = "int8 per output channel"

SCALE_SUFFIX = ".scale"

# Smaller kernels would save less than their scales' entries cost.
MIN_VALUES = 1024
# -128 stays unused, so that the range is symmetric.
LARGEST = 127
# 24 binary places of float32 less the 7 of `LARGEST`.
SCALE_BITS = 17
# Weights below this are 0: multiples of a smaller scale would leave the normal numbers of float32.
SMALLEST_SCALE = 2.0**-100


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store each convolution kernel as integers times a scale for every output channel.

    Args:
        tensors: by name. Kernels are those of shape (O, I, h, w), float32, with at least `MIN_VALUES` values.

    Returns:
        A kernel as int8 from -127 to 127 under its own name, with (O,) float32 `<name>.scale`; a value is off
        by at most half its channel's scale, which is a 127th of the channel's largest magnitude. All other
        tensors are as they came.

    Raises:
        WeightsError: a kernel has NaN or infinite values.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.ndim != 4 or tensor.numel() < MIN_VALUES:
            packed[name] = tensor
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{name}: holds values that are not finite, which 8 bits cannot say; train it again")
        kernel = tensor.detach().double()
        scale = _scale_of(kernel)
        packed[name] = torch.round(kernel / scale).to(torch.int8)
        packed[name + SCALE_SUFFIX] = scale.flatten().float()
    return packed


def unpack(tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Turn what `pack` returned into float32 kernels under their own names.

    Args:
        tensors: integers and their scales, and what was not packed.
        source: the file, for errors.

    Raises:
        WeightsError: an int8 tensor has no scale for each of its output channels.
    """
    names = [name for name, tensor in tensors.items() if tensor.dtype == torch.int8]
    scales = {name + SCALE_SUFFIX for name in names}
    unpacked = {name: tensor for name, tensor in tensors.items() if name not in scales}
    for name in names:
        kernel, scale = tensors[name], tensors.get(name + SCALE_SUFFIX)
        if scale is None or scale.dtype != torch.float32 or scale.shape != kernel.shape[:1]:
            found = "none" if scale is None else f"{scale.dtype} of shape {tuple(scale.shape)}"
            raise WeightsError(
                f"{source}: is damaged, since {name} is in 8 bits and needs a float32 scale for each of its "
                f"{kernel.shape[0] if kernel.ndim else 0} channels, but there is {found}; copy or download it again"
            )
        unpacked[name] = kernel.float() * scale.view(-1, *[1] * (kernel.ndim - 1))
    return unpacked


def _scale_of(kernel: Tensor) -> Tensor:
    """Return (O, 1, 1, 1) float64: the largest magnitude by `LARGEST`, rounded up to `SCALE_BITS` binary places."""
    exact = kernel.abs().amax(dim=(1, 2, 3), keepdim=True) / LARGEST
    mantissa, exponent = torch.frexp(exact)
    rounded = torch.ldexp(torch.ceil(mantissa * 2**SCALE_BITS), exponent - SCALE_BITS)
    return rounded.clamp(min=SMALLEST_SCALE)
