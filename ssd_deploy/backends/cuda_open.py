"""Opens a GPU with pycuda, or with cuda-python where that does not work.

Both work in the device's primary context, the one that PyTorch and TensorRT use too, so that all of them live in one
process.
"""

import os

from ssd_deploy.backends.cuda_device import CudaDevice, DriverError, require_cuda_python, require_package
from ssd_train.errors import BackendError


def open_device(index: int = 0) -> CudaDevice:
    """Open a GPU by CUDA's number of it.

    Raises:
        BackendError: neither package works.
        DriverError: there is no driver or no such GPU, or the environment hides it.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA shows what stands before the first number that is none.
    if visible is not None and visible.split(",")[0].strip()[:1] in ("", "-"):
        raise DriverError(f"no GPU is visible: CUDA_VISIBLE_DEVICES is {visible!r}; unset it, or name a GPU in it")
    problems: list[BackendError] = []
    for opener in (open_with_pycuda, open_with_cuda_python):
        try:
            return opener(index)
        except BackendError as error:
            problems.append(error)
    reasons = "; ".join(map(str, problems))
    if any(isinstance(problem, DriverError) for problem in problems):
        raise DriverError(
            f"no usable NVIDIA GPU {index} and driver ({reasons}); run this where `nvidia-smi` lists the GPU, or use "
            "an ONNX file in ONNX Runtime on the CPU"
        ) from problems[-1]
    raise BackendError(
        f"no CUDA package for Python works ({reasons}); install one: pip install cuda-python"
    ) from problems[-1]


def device_index(device: str) -> int:
    """Return CUDA's number of `cuda`, `cuda:N` or `auto`; raise BackendError for another device."""
    name, _, number = device.partition(":")
    if device in ("cuda", "auto"):
        return 0
    if name == "cuda" and number.isascii() and number.isdigit():
        return int(number)
    raise BackendError(f"device {device!r} is no NVIDIA GPU; choose cuda, cuda:N or auto", arguments=("device",))


def open_with_pycuda(index: int) -> CudaDevice:
    """Open a GPU with pycuda."""
    require_package("pycuda", "pycuda")
    from ssd_deploy.backends.cuda_pycuda import PycudaDevice

    return PycudaDevice(index)


def open_with_cuda_python(index: int) -> CudaDevice:
    """Open a GPU with cuda-python."""
    require_cuda_python()
    from ssd_deploy.backends.cuda_python import CudaPythonDevice

    return CudaPythonDevice(index)
