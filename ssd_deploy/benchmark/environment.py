"""What a measurement was made on: machine, GPU, packages, threads, and the memory in use."""

import contextlib
import ctypes
import dataclasses
import gc
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

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
        cores: logical cores that this process may use.
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
    gpu, driver = _nvidia_smi("name,driver_version") or (None, None)
    return Environment(
        cpu=_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        memory_bytes=_kilobytes(_field("/proc/meminfo", "MemTotal")),
        platform=platform.platform(),
        python=platform.python_version(),
        packages=packages,
        gpu=gpu,
        driver=driver,
    )


def usable_cores() -> int:
    """Return how many logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count() -> int | None:
    """Return how many threads this process has now; None where the system does not tell."""
    return _number(_field("/proc/self/status", "Threads"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes, or its growth; None where the system does not tell.

    Attributes:
        resident_bytes: of this process in the machine's memory, libraries included.
        gpu_bytes: in use on the GPU, by all processes.
    """

    resident_bytes: int | None
    gpu_bytes: int | None

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(
            resident_bytes=_sum(self.resident_bytes, other.resident_bytes, 1),
            gpu_bytes=_sum(self.gpu_bytes, other.gpu_bytes, 1),
        )

    def __sub__(self, other: "Memory") -> "Memory":
        return Memory(
            resident_bytes=_sum(self.resident_bytes, other.resident_bytes, -1),
            gpu_bytes=_sum(self.gpu_bytes, other.gpu_bytes, -1),
        )


def memory_in_use() -> Memory:
    """Return the memory in use now, after giving back what is free: it would hide what is taken next."""
    gc.collect()
    # Only glibc has it; elsewhere growth comes out too small where freed memory is used again.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    used = _nvidia_smi("memory.used")
    return Memory(
        resident_bytes=_kilobytes(_field("/proc/self/status", "VmRSS")),
        gpu_bytes=None if used is None else int(used[0]) * 2**20,
    )


def _sum(one: int | None, other: int | None, sign: int) -> int | None:
    return None if one is None or other is None else one + sign * other


def _field(path: str, name: str) -> str | None:
    """Return the value of the first `name: value` line of a file, None without one."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None


def _number(text: str | None) -> int | None:
    return None if text is None else int(text.split()[0])


def _kilobytes(text: str | None) -> int | None:
    value = _number(text)
    return None if value is None else value * 1024


def _nvidia_smi(fields: str) -> tuple[str, ...] | None:
    """Ask the driver's own tool for numbers of the first GPU that CUDA shows; None where there is none.

    Asked through the tool, so that it works the same with any runtime installed, and without one.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    # Takes numbers as well as UUIDs, the two forms of this variable.
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
    command = [program, f"--id={gpu}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    values = tuple(value.strip() for value in done.stdout.strip().split(","))
    # Some systems answer `[N/A]`, such as those whose GPU shares the machine's memory.
    return values if len(values) == len(fields.split(",")) and not any("[" in value for value in values) else None
