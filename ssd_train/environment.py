"""What a measurement was made on: machine, GPU, packages, threads, and the memory in use."""

import contextlib
import ctypes
import dataclasses
import gc
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pynvml

from ssd_train.cpus import available_cpus

# Packages whose version changes a measurement, as they are called where they are installed from.
PACKAGES = (
    "ssd-deploy", "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu",
    "torch", "tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """A machine as a report names it; None stands for what could not be found out.

    Attributes:
        cpu: model name.
        cores: logical cores that this process may use, as many as a container's limit leaves of them.
        memory_bytes: of the whole machine.
        platform, python: as Python names them.
        packages: installed package -> version.
        gpu, driver: name of the GPU and version of its driver, None without one.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    platform: str
    python: str
    packages: dict[str, str]
    gpu: str | None
    driver: str | None

    def lines(self) -> list[str]:
        """Return the same as text."""
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.1f} GiB of memory"
        gpu = "none found" if self.gpu is None else f"{self.gpu}, driver {self.driver}"
        return [
            f"machine: {self.cpu}, {self.cores} cores{memory}; GPU: {gpu}",
            f"software: {self.platform}, Python {self.python}, "
            + ", ".join(f"{name} {version}" for name, version in self.packages.items()),
        ]


def describe_environment() -> Environment:
    """Look at this machine; nothing is raised, whatever is missing."""
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    gpu = driver = None
    with _visible_gpu() as handle:
        if handle is not None:
            gpu, driver = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion()
    return Environment(
        cpu=_cpu_name(),
        cores=available_cpus(),
        memory_bytes=psutil.virtual_memory().total,
        platform=platform.platform(),
        python=platform.python_version(),
        packages=packages,
        gpu=gpu,
        driver=driver,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes, or its growth.

    Attributes:
        resident_bytes: of this process in the machine's memory, libraries included.
        gpu_bytes: in use on the GPU, by all processes; None where there is none, or it does not tell.
    """

    resident_bytes: int
    gpu_bytes: int | None

    def __add__(self, other: "Memory") -> "Memory":
        known = self.gpu_bytes is not None and other.gpu_bytes is not None
        return Memory(
            resident_bytes=self.resident_bytes + other.resident_bytes,
            gpu_bytes=(self.gpu_bytes or 0) + (other.gpu_bytes or 0) if known else None,
        )

    def __sub__(self, other: "Memory") -> "Memory":
        return self + Memory(
            resident_bytes=-other.resident_bytes, gpu_bytes=None if other.gpu_bytes is None else -other.gpu_bytes
        )


def memory_in_use() -> Memory:
    """Return the memory in use now, after giving back what is free: it would hide what is taken next."""
    gc.collect()
    # Only glibc has it; elsewhere growth comes out too small where freed memory is used again.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    gpu_bytes = None
    with _visible_gpu() as handle:
        if handle is not None:
            # Some GPUs share the machine's memory, and do not tell.
            with contextlib.suppress(pynvml.NVMLError):
                gpu_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    return Memory(resident_bytes=int(psutil.Process().memory_info().rss), gpu_bytes=gpu_bytes)


@contextlib.contextmanager
def _visible_gpu() -> Iterator[Any]:
    """Yield the driver's handle of the first GPU that CUDA shows; None where there is none.

    Asked of the driver itself, so that it works the same with any runtime installed, and without one.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield _first_visible(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip())
    finally:
        pynvml.nvmlShutdown()


def _first_visible(name: str) -> Any:
    """Return the handle of a GPU by its number or the beginning of its UUID, the two forms that CUDA takes.

    Anything else, and nothing at all, hides every GPU from CUDA.
    """
    with contextlib.suppress(pynvml.NVMLError):
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            if name == str(number) or (name.startswith("GPU-") and pynvml.nvmlDeviceGetUUID(handle).startswith(name)):
                return handle
    return None


def _cpu_name() -> str:
    """Return the processor's model, which Python and psutil do not know on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
