"""Does a backend work on a device of this machine? Tried and not guessed; nothing is raised, whatever is broken."""

import importlib.metadata

from export.engine.bindings import load_bindings
from export.engine.flavours import FLAVOURS
from export.engine.plan import try_out
from ssd_deploy.backends.row import Finding
from ssd_deploy.engines import find_gpu
from ssd_train.errors import BackendError, SSDDeployError, first_line

# x -> Identity -> y, one float: the smallest file that a session opens (IR version 8, opset 13). Kept
# as bytes, since the onnx package is not part of the light installation.
IDENTITY_ONNX = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a0808"
    "0112040a02080142040a00100d"
)


def probe_torch(device: str) -> Finding:
    """Whether PyTorch computes on a device."""
    version = _version("torch")
    if version is None:
        return Finding(works=False, detail="not installed: pip install 'ssd-deploy[export]'")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(works=False, detail=f"torch {version} does not import: {error}")
    if device == "cpu":
        return Finding(works=True, detail=f"torch {version}, {torch.get_num_threads()} threads")
    if torch.version.cuda is None:
        return Finding(works=False, detail=f"torch {version} was built without CUDA")
    if not torch.cuda.is_available():
        detail = f"torch {version} (CUDA {torch.version.cuda}) finds no GPU or no driver"
        return Finding(works=False, detail=detail)
    name = torch.cuda.get_device_name()
    return Finding(works=True, detail=f"torch {version}, CUDA {torch.version.cuda}, {name}")


def probe_onnxruntime(provider: str) -> Finding:
    """Whether a session really runs in a provider."""
    try:
        import onnxruntime

        from export.session import open_session
        from ssd_deploy.backends.onnxruntime_options import provider_list

        providers = provider_list(provider, tensor_cores=False)
        used = open_session(IDENTITY_ONNX, "a test model", providers=providers).get_providers()
    except ImportError as error:
        return Finding(works=False, detail=f"does not import ({error}): pip install ssd-deploy")
    except SSDDeployError as error:
        return Finding(works=False, detail=str(error))
    return Finding(works=True, detail=f"onnxruntime {onnxruntime.__version__}, session uses {', '.join(used)}")


def probe_openvino(device: str) -> Finding:
    """Whether OpenVINO runs a model on the CPU, and which precisions that has units for."""
    version = _version("openvino")
    if version is None:
        return Finding(works=False, detail="not installed: pip install 'ssd-deploy[openvino]'")
    try:
        from ssd_deploy.backends.openvino import UNITS, try_out

        units = try_out(IDENTITY_ONNX)
    # ImportError, OSError of a shared library, or what the package's own code comes to.
    except Exception as error:
        return Finding(works=False, detail=f"openvino {version} does not work: {first_line(error)}")
    known = ", ".join(f"{precision} {'yes' if unit in units else 'no'}" for precision, unit in UNITS.items())
    return Finding(works=True, detail=f"openvino {version}; units of this CPU: {known}")


def probe_tensorrt(flavour: str) -> Finding:
    """Whether engines of a flavour run here; some may be built all the same."""
    try:
        version = load_bindings(flavour).__version__
    except BackendError as error:
        return Finding(works=False, detail=str(error))
    try:
        gpu = find_gpu()
    except BackendError as error:
        builds = ", builds engines" if FLAVOURS[flavour].builds_without_gpu else ""
        return Finding(works=False, detail=f"{flavour} {version}{builds}, runs none here: {error}")
    try:
        try_out(flavour, IDENTITY_ONNX)
    except BackendError as error:
        return Finding(works=False, detail=f"{error} ({gpu.name})")
    detail = f"{flavour} {version}, {gpu.name} (compute capability {gpu.compute_capability}) through {gpu.device_layer}"
    return Finding(works=True, detail=detail)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
