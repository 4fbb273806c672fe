"""What a session asks of ONNX Runtime: its provider, the options of that, and the variants that are tried by default.

Light: no session is opened here.
"""

from collections.abc import Sequence
from typing import Any

import onnxruntime

from ssd_train.errors import BackendError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

# Variant -> options of the CUDA provider.
VARIANTS: dict[str, dict[str, str]] = {
    "cuda-graph": {"enable_cuda_graph": "1"},
    "nhwc": {"prefer_nhwc": "1"},
}

# Turns off what is tried by default.
PLAIN = "plain"

# Precision -> combinations of variants to try on CUDA, the most promising first. Tensor cores read N, H, W, C order, so
# that a change of layout may pay where they are used; float32 without TF32 does not use them.
WITH_TENSOR_CORES: tuple[tuple[str, ...], ...] = (("cuda-graph", "nhwc"), ("cuda-graph",), ("nhwc",))
TRIED = {"fp16": WITH_TENSOR_CORES, "tf32": WITH_TENSOR_CORES}
TRIED_OTHERWISE: tuple[tuple[str, ...], ...] = (("cuda-graph",),)


def variants_to_try(provider: str, variants: Sequence[str], precision: str) -> tuple[tuple[str, ...], ...]:
    """Return combinations of variants that a session may change to, the first to try first; none on most providers.

    Args:
        provider: key of `PROVIDERS`.
        variants: what the user asked for; nothing leaves the choice to the program.
        precision: of the file.
    """
    if provider != "cuda" or variants:
        return ()
    return TRIED.get(precision, TRIED_OTHERWISE)


def check_variants(device: str, variants: Sequence[str]) -> None:
    """Raise BackendError where variants do not fit the device or each other."""
    gpu_only = [variant for variant in variants if variant in VARIANTS]
    if gpu_only and parse_device(device)[0] != "cuda":
        raise BackendError(
            f"ONNX Runtime's variant {gpu_only[0]} runs on the device cuda, not on {device!r}; add --cuda, or leave it "
            "out",
            arguments=(gpu_only[0].replace("-", "_"),),
        )
    if gpu_only and PLAIN in variants:
        raise BackendError(f"ONNX Runtime's variants {PLAIN} and {gpu_only[0]} contradict each other; leave one out")


def provider_list(device: str, *, tensor_cores: bool, variants: Sequence[str] = ()) -> list[Any]:
    """Return ONNX Runtime's provider argument for a device.

    Args:
        device: key of `PROVIDERS`, for a GPU perhaps with its number, such as `cuda:1`.
        tensor_cores: see `may_use_tensor_cores`.
        variants: some of `VARIANTS`.

    Raises:
        BackendError: no such device, or this build of ONNX Runtime lacks it.
    """
    provider, number = parse_device(device)
    name = PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if name not in available:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} was built without {name} (it has {', '.join(available)}); "
            "install onnxruntime-gpu, or choose the device cpu",
            arguments=("device",),
        )
    which = {"device_id": str(number)} if number else {}
    options = {"use_tf32": "1" if tensor_cores else "0"} | which
    for variant in variants:
        options |= VARIANTS.get(variant, {})
    cuda = (PROVIDERS["cuda"], options)
    if provider == "cpu":
        return [name]
    return [cuda] if provider == "cuda" else [(name, which) if which else name, cuda]


def may_use_tensor_cores(precision: str, allow_tf32: bool) -> bool:
    """Whether a file's session may have `use_tf32`.

    Without that option the CUDA provider drops every plan of cuDNN's that uses tensor cores, for convolutions of half
    precision too (`CreateCudnnFeExecutionPlan` in its `conv.cc`). Where no other plan is left, it logs "No execution
    plans support the graph" and allows them after all; the other convolutions run without tensor cores. A file in
    half precision has no convolution in float32, and no matrix product but those of whole numbers, which TF32 holds
    exactly, so that it may always have the option.
    """
    return allow_tf32 or precision == "fp16"


def parse_device(device: str) -> tuple[str, int]:
    """Split `cuda:1` into key of `PROVIDERS` and number of the GPU; raise BackendError for another device."""
    provider, colon, number = device.partition(":")
    has_number = number.isascii() and number.isdigit() and provider != "cpu"
    if provider not in PROVIDERS or (colon and not has_number):
        raise BackendError(
            f"ONNX Runtime's device {device!r} does not exist; choose {', '.join(PROVIDERS)}, or with a GPU's number "
            "cuda:1 and so on",
            arguments=("device",),
        )
    return provider, int(number or 0)
