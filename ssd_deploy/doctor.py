"""Which backends work on this machine, tried and not guessed, and why each other does not."""

import dataclasses
import importlib
import importlib.metadata
import importlib.util

from ssd_train.evaluation.errors import SSDDeployError

# x -> Identity -> y, one float: the smallest file that a session opens (IR version 8, opset 13). Kept
# as bytes, since the onnx package is not part of the light installation.
IDENTITY_ONNX = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a0808"
    "0112040a02080142040a00100d"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One backend: whether it works here, and what is known about it or missing."""

    backend: str
    works: bool
    detail: str


def examine() -> list[Finding]:
    """Try every backend; nothing is raised, whatever is broken."""
    return [_torch("cpu"), _torch("cuda"), *(_onnxruntime(name) for name in ("cpu", "cuda", "tensorrt")), *_tensorrt()]


def _torch(device: str) -> Finding:
    backend = f"torch ({device})"
    version = _version("torch")
    if version is None:
        return Finding(backend=backend, works=False, detail="not installed: pip install 'ssd-deploy[export]'")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(backend=backend, works=False, detail=f"torch {version} does not import: {error}")
    if device == "cpu":
        return Finding(backend=backend, works=True, detail=f"torch {version}, {torch.get_num_threads()} threads")
    if torch.version.cuda is None:
        return Finding(backend=backend, works=False, detail=f"torch {version} was built without CUDA")
    if not torch.cuda.is_available():
        detail = f"torch {version} (CUDA {torch.version.cuda}) finds no GPU or no driver"
        return Finding(backend=backend, works=False, detail=detail)
    name = torch.cuda.get_device_name()
    return Finding(backend=backend, works=True, detail=f"torch {version}, CUDA {torch.version.cuda}, {name}")


def _onnxruntime(provider: str) -> Finding:
    backend = f"onnxruntime ({provider})"
    try:
        import onnxruntime

        from ssd_deploy.backends.onnxruntime import open_session, provider_list, session_options

        providers = provider_list(provider, allow_tf32=False)
        used = open_session(IDENTITY_ONNX, "a test model", session_options(), providers).get_providers()
    except ImportError as error:
        return Finding(backend=backend, works=False, detail=f"does not import ({error}): pip install ssd-deploy")
    except SSDDeployError as error:
        return Finding(backend=backend, works=False, detail=str(error))
    return Finding(
        backend=backend, works=True, detail=f"onnxruntime {onnxruntime.__version__}, session uses {', '.join(used)}"
    )


def _tensorrt() -> list[Finding]:
    """TensorRT and its sibling for RTX cards: whether their Python packages load."""
    findings = []
    for backend, module, package, extra in (
        ("tensorrt", "tensorrt", "tensorrt", "tensorrt"),
        ("tensorrt-rtx", "tensorrt_rtx", "tensorrt-rtx", "tensorrt-rtx"),
    ):
        version = _version(package)
        if importlib.util.find_spec(module) is None:
            detail = f"not installed: pip install 'ssd-deploy[{extra}]'"
            findings.append(Finding(backend=backend, works=False, detail=detail))
            continue
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            detail = f"{package} {version} does not import: {error}"
            findings.append(Finding(backend=backend, works=False, detail=detail))
            continue
        detail = f"{package} {version} imports; this version of ssd-deploy has no runner for it yet"
        findings.append(Finding(backend=backend, works=False, detail=detail))
    return findings


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
