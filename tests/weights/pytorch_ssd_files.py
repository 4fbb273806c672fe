"""Checkpoints as pytorch-ssd saves them, of random values: its names and shapes, and plain forward passes by its names.

Written from its modules (`vision/ssd/mobilenetv1_ssd.py`, `mobilenet_v2_ssd_lite.py`, `vgg_ssd.py`), not from ours.
"""

import torch
from torch import Tensor
from torch.nn import functional

# MobileNet v1's pairs: channels, stride. MobileNet v2's blocks: expansion, channels, count, stride.
V1_PAIRS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
V2_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
V2_EXTRAS = ((0.2, 512), (0.25, 256), (0.5, 256), (0.25, 64))
VGG = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
    31: (512, 1024), 33: (1024, 1024),
}  # fmt: skip
EXTRAS = ((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256))


class Checkpoint:
    """Tensors under construction, seeded."""

    def __init__(self, seed: int = 0) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def conv(self, name: str, channels_in: int, channels: int, kernel: int, *, groups: int = 1, bias: bool = True):
        shape = (channels, channels_in // groups, kernel, kernel)
        spread = (2 / (shape[1] * kernel**2)) ** 0.5
        self.tensors[f"{name}.weight"] = torch.randn(shape, generator=self.generator) * spread
        if bias:
            self.tensors[f"{name}.bias"] = torch.randn(channels, generator=self.generator) * 0.1

    def batch_norm(self, name: str, channels: int) -> None:
        for part, low, high in (("weight", 0.5, 1.5), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2)):
            self.tensors[f"{name}.{part}"] = torch.empty(channels).uniform_(low, high, generator=self.generator)
        self.tensors[f"{name}.running_var"] = torch.empty(channels).uniform_(0.5, 2, generator=self.generator)
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def inverted_residual(self, name: str, channels_in: int, channels: int, hidden: int, *, expands: bool) -> None:
        position = 0
        if expands:
            self.conv(f"{name}.conv.0", channels_in, hidden, 1, bias=False)
            self.batch_norm(f"{name}.conv.1", hidden)
            position = 3
        self.conv(f"{name}.conv.{position}", hidden, hidden, 3, groups=hidden, bias=False)
        self.batch_norm(f"{name}.conv.{position + 1}", hidden)
        self.conv(f"{name}.conv.{position + 3}", hidden, channels, 1, bias=False)
        self.batch_norm(f"{name}.conv.{position + 4}", channels)

    def plain_extras(self) -> None:
        for level, (channels_in, between, channels) in enumerate(EXTRAS):
            self.conv(f"extras.{level}.0", channels_in, between, 1)
            self.conv(f"extras.{level}.2", between, channels, 3)

    def plain_heads(self, channels: tuple[int, ...], per_cell: tuple[int, ...], columns: int) -> None:
        for level, (width, count) in enumerate(zip(channels, per_cell, strict=True)):
            self.conv(f"classification_headers.{level}", width, count * columns, 3)
            self.conv(f"regression_headers.{level}", width, count * 4, 3)


def mb1_ssd(columns: int) -> dict[str, Tensor]:
    made = Checkpoint()
    made.conv("base_net.0.0", 3, 32, 3, bias=False)
    made.batch_norm("base_net.0.1", 32)
    width = 32
    for index, (channels, _) in enumerate(V1_PAIRS, start=1):
        made.conv(f"base_net.{index}.0", width, width, 3, groups=width, bias=False)
        made.batch_norm(f"base_net.{index}.1", width)
        made.conv(f"base_net.{index}.3", width, channels, 1, bias=False)
        made.batch_norm(f"base_net.{index}.4", channels)
        width = channels
    made.plain_extras()
    made.plain_heads((512, 1024, 512, 256, 256, 256), (6,) * 6, columns)
    return made.tensors


def mb2_ssd_lite(columns: int) -> dict[str, Tensor]:
    made = Checkpoint()
    made.conv("base_net.0.0", 3, 32, 3, bias=False)
    made.batch_norm("base_net.0.1", 32)
    width, index = 32, 1
    for expansion, channels, count, _ in V2_BLOCKS:
        for _ in range(count):
            made.inverted_residual(f"base_net.{index}", width, channels, expansion * width, expands=expansion > 1)
            width, index = channels, index + 1
    made.conv("base_net.18.0", 320, 1280, 1, bias=False)
    made.batch_norm("base_net.18.1", 1280)
    width = 1280
    for level, (ratio, channels) in enumerate(V2_EXTRAS):
        made.inverted_residual(f"extras.{level}", width, channels, round(width * ratio), expands=True)
        width = channels
    for kind, values in (("classification", columns), ("regression", 4)):
        for level, width in enumerate((576, 1280, 512, 256, 256)):
            made.conv(f"{kind}_headers.{level}.0", width, width, 3, groups=width)
            made.batch_norm(f"{kind}_headers.{level}.1", width)
            made.conv(f"{kind}_headers.{level}.3", width, 6 * values, 1)
        made.conv(f"{kind}_headers.5", 64, 6 * values, 1)
    return made.tensors


def vgg16_ssd(columns: int) -> dict[str, Tensor]:
    made = Checkpoint()
    for position, (channels_in, channels) in VGG.items():
        made.conv(f"base_net.{position}", channels_in, channels, 1 if position == 33 else 3)
    made.batch_norm("source_layer_add_ons.0", 512)
    made.plain_extras()
    made.plain_heads((512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4), columns)
    return made.tensors


CHECKPOINTS = {"mb1-ssd": mb1_ssd, "mb2-ssd-lite": mb2_ssd_lite, "vgg16-ssd": vgg16_ssd}


class Forward:
    """What a checkpoint predicts, layer by layer by its names."""

    def __init__(self, tensors: dict[str, Tensor], columns: int) -> None:
        self.tensors, self.columns = tensors, columns
        self.logits: list[Tensor] = []
        self.offsets: list[Tensor] = []

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int | None = None, dilation: int = 1) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        padding = weight.shape[2] // 2 if padding is None else padding
        groups = x.shape[1] // weight.shape[1]
        bias = self.tensors.get(f"{name}.bias")
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    def predict(self, x: Tensor, level: int) -> None:
        for kind, values, to in (("classification", self.columns, self.logits), ("regression", 4, self.offsets)):
            name, found = f"{kind}_headers.{level}", x
            if f"{name}.0.weight" in self.tensors:
                found = functional.relu6(self.norm(self.conv(x, f"{name}.0"), f"{name}.1"))
                name = f"{name}.3"
            to.append(self.conv(found, name).permute(0, 2, 3, 1).reshape(len(x), -1, values))

    def result(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self.logits, 1), torch.cat(self.offsets, 1)

    def plain_extras(self, x: Tensor, paddings: tuple[int, ...], strides: tuple[int, ...]) -> None:
        for level, (padding, stride) in enumerate(zip(paddings, strides, strict=True)):
            x = functional.relu(self.conv(x, f"extras.{level}.0"))
            x = functional.relu(self.conv(x, f"extras.{level}.2", stride, padding))
            self.predict(x, 2 + level)

    def mb1_ssd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu(self.norm(self.conv(x, "base_net.0.0", 2), "base_net.0.1"))
        for index, (_, stride) in enumerate(V1_PAIRS, start=1):
            if index == 12:
                self.predict(x, 0)
            x = functional.relu(self.norm(self.conv(x, f"base_net.{index}.0", stride), f"base_net.{index}.1"))
            x = functional.relu(self.norm(self.conv(x, f"base_net.{index}.3"), f"base_net.{index}.4"))
        self.predict(x, 1)
        self.plain_extras(x, (1, 1, 1, 1), (2, 2, 2, 2))
        return self.result()

    def inverted_residual(self, x: Tensor, name: str, stride: int, *, predicts: bool = False) -> Tensor:
        start, position = x, 0
        if f"{name}.conv.6.weight" in self.tensors:
            x = functional.relu6(self.norm(self.conv(x, f"{name}.conv.0"), f"{name}.conv.1"))
            position = 3
            if predicts:
                self.predict(x, 0)
        x = functional.relu6(self.norm(self.conv(x, f"{name}.conv.{position}", stride), f"{name}.conv.{position + 1}"))
        x = self.norm(self.conv(x, f"{name}.conv.{position + 3}"), f"{name}.conv.{position + 4}")
        return x + start if stride == 1 and x.shape == start.shape else x

    def mb2_ssd_lite(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu6(self.norm(self.conv(x, "base_net.0.0", 2), "base_net.0.1"))
        strides = [first if index == 0 else 1 for _, _, count, first in V2_BLOCKS for index in range(count)]
        for index, stride in enumerate(strides, start=1):
            x = self.inverted_residual(x, f"base_net.{index}", stride, predicts=index == 14)
        x = functional.relu6(self.norm(self.conv(x, "base_net.18.0"), "base_net.18.1"))
        self.predict(x, 1)
        for level in range(4):
            x = self.inverted_residual(x, f"extras.{level}", 2)
            self.predict(x, 2 + level)
        return self.result()

    def vgg16_ssd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for position in VGG:
            if position in (5, 10, 17, 24):
                if position == 24:
                    self.predict(self.norm(x, "source_layer_add_ons.0"), 0)
                x = functional.max_pool2d(x, 2, 2, ceil_mode=position == 17)
            if position == 31:
                x = functional.max_pool2d(x, 3, 1, 1)
            padding, dilation = (6, 6) if position == 31 else (None, 1)
            x = functional.relu(self.conv(x, f"base_net.{position}", padding=padding, dilation=dilation))
        self.predict(x, 1)
        self.plain_extras(x, (1, 1, 0, 0), (2, 2, 1, 1))
        return self.result()


@torch.inference_mode()
def plain_forward(name: str, tensors: dict[str, Tensor], columns: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and offsets of (N, 3, 300, 300) images."""
    found: tuple[Tensor, Tensor] = getattr(Forward(tensors, columns), name.replace("-", "_"))(images)
    return found
