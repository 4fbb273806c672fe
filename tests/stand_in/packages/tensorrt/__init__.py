"""A stand-in for TensorRT's Python module. It is not TensorRT, and nothing that it computes comes from TensorRT.

Its engines are ONNX files, which ONNX Runtime runs on the very device pointers and in the very stream that it is given:
on the CPU where the driver is the fake of `tests/fake_driver.c`, on the GPU where it is NVIDIA's. Names, parameters and
numbers of enumerations are those of TensorRT 10; `tests/bindings` compares them with the real bindings. What TensorRT
documents as a fault of its caller, and would answer with wrong results or a crash, is a `Misuse` here.
"""

from tensorrt.builder import Builder, IBuilderConfig, IHostMemory, IOptimizationProfile, ITimingCache
from tensorrt.callbacks import ILogger, IProgressMonitor
from tensorrt.engine import EngineInspector, ICudaEngine, IExecutionContext, Runtime
from tensorrt.enumerations import (
    BuilderFlag,
    DataType,
    ErrorCode,
    HardwareCompatibilityLevel,
    LayerInformationFormat,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    TensorIOMode,
)
from tensorrt.network import Dims, ILayer, INetworkDefinition, ITensor, OnnxParser, ParserError
from tensorrt.plan_file import VERSION as __version__

__all__ = [
    "Builder",
    "BuilderFlag",
    "DataType",
    "Dims",
    "EngineInspector",
    "ErrorCode",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
    "__version__",
]
