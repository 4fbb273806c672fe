"""A network that computes in half precision where that is safe, and in float32 where it is not.

Convolutions, activations and pooling are half; what squares or divides stays float32, and so do the
images that come in, the biases of the predictors, the raw predictions that go out, and with them
softmax, decode and NMS. The casts are part of the module, so the exported graph says what is rounded, whichever
runtime computes it.
"""

import copy
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from ssd_train.networks.feature_expander import Backbone
from ssd_train.networks.ssd import SSD, ConvPredictor
from ssd_train.networks.vgg_atrous import L2Normalize

# The sum of squares of conv4_3's 512 channels leaves half precision's range (65504) from a mean
# activation of 12 on. A batch norm that no convolution can absorb divides by a small variance.
FLOAT32_LAYERS = (L2Normalize, nn.BatchNorm2d)


def rounded_to(network: SSD, dtype: torch.dtype) -> SSD:
    """Return a copy whose convolutions compute in a type of 16 bits.

    Batch norms are folded into the convolutions in front of them first, in float32, since their
    small variances do not survive being rounded by themselves.
    """
    rounded = copy.deepcopy(network).eval()
    features = cast(nn.Module, rounded.features)
    traced = fx.GraphModule(features, _Tracer().trace(features))
    rounded.features = cast(Backbone, fuse(traced, no_trace=True))
    for parent in list(rounded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FLOAT32_LAYERS):
                setattr(parent, name, InFloat32(child))
            elif isinstance(parent, ConvPredictor) and name == "predictor":
                setattr(parent, name, BiasInFloat32(cast(nn.Conv2d, child), dtype))
            elif isinstance(child, nn.Conv2d):
                setattr(parent, name, _rounded(child, dtype))
    return rounded


class InFloat32(nn.Module):
    """A layer that computes in float32 within a network that does not."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float()).to(x.dtype)


class BiasInFloat32(nn.Module):
    """A predictor's convolution whose bias is added in float32, and which returns float32.

    The background's bias is larger than what the convolution adds to it: rounded together to half
    precision, the sum would lose two bits of the logit.
    """

    bias: Tensor

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        assert convolution.bias is not None
        self.register_buffer("bias", convolution.bias.detach().reshape(-1, 1, 1))
        convolution.bias = None
        self.convolution = _rounded(convolution, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).float() + self.bias


class RoundedConv2d(nn.Conv2d):
    """A convolution of half-precision values, which a CPU multiplies and sums in float32 before it rounds.

    That is what a half-precision convolution does on a GPU too. Most CPUs have none of their own, and PyTorch's
    replacement takes a hundred times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_exporting():
            return super().forward(x)
        bias = None if self.bias is None else self.bias.float()
        wide = nn.functional.conv2d(
            x.float(), self.weight.float(), bias, self.stride, self.padding, self.dilation, self.groups
        )
        return wide.to(x.dtype)


def _rounded(layer: nn.Conv2d, dtype: torch.dtype) -> RoundedConv2d:
    rounded = RoundedConv2d(
        layer.in_channels,
        layer.out_channels,
        cast(tuple[int, int], layer.kernel_size),
        cast(tuple[int, int], layer.stride),
        cast(tuple[int, int], layer.padding),
        cast(tuple[int, int], layer.dilation),
        layer.groups,
        bias=layer.bias is not None,
        dtype=dtype,
    )
    rounded.load_state_dict(layer.state_dict())
    return rounded.eval()


class _Tracer(fx.Tracer):
    """Keeps the layers that stay in float32 whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FLOAT32_LAYERS) or super().is_leaf_module(m, module_qualified_name)
