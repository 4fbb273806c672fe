"""A detector that a server runs: Triton, OpenVINO Model Server, or any that speaks the KServe protocol, version 2.

MODEL is the model's address in that protocol, `http://localhost:8000/v2/models/NAME`, perhaps with `/versions/N`. What
the detector expects and means comes from the server too: Triton gives out the parameters of its configuration, OpenVINO
Model Server the `model_info` of the file, and `ssd-deploy bundle` writes our entries into either. Tensors travel as
bytes (the protocol's binary data extension). The standard library and NumPy alone.
"""

import contextlib
import http.client
import json
import logging
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends.base import RawPredictions, check_images, filled
from ssd_deploy.backends.row import SERVED_ENTRY_PREFIX, RunOptions
from ssd_train.addresses import without_password
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError
from ssd_train.input_kinds import InputKind
from ssd_train.json_input import quoted, shown
from ssd_train.preprocess import Images
from ssd_train.spec import OUTPUT_NAMES, DetectorSpec

logger = logging.getLogger(__name__)

# Long enough for a server that begins with the first request, and an end to one that never answers.
TIMEOUT_S = 60

# Of any answer: detections take kilobytes.
MOST_BYTES = 2**26

# Types of the protocol, little-endian as its bytes are.
DTYPES = {"FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8"}

# What an input may be -> what the protocol calls it.
DATATYPES = {"float32": "FP32", "uint8": "UINT8"}

_HEADER_LENGTH = "Inference-Header-Content-Length"


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct):
    """Of a model, as every server gives it; `rt_info` is OpenVINO Model Server's."""

    inputs: list[_Tensor]
    outputs: list[_Tensor]
    platform: str = ""
    rt_info: dict[str, Any] = {}


class _Parameter(msgspec.Struct):
    string_value: str = ""


class _Config(msgspec.Struct):
    """Of a model, as Triton gives it."""

    max_batch_size: int = 0
    parameters: dict[str, _Parameter] = {}


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None


class _Output(_Tensor):
    parameters: _OutputParameters = _OutputParameters()
    data: list[Any] | None = None


class _Answer(msgspec.Struct):
    outputs: list[_Output]


class KServeRunner:
    """Sends batches to a served model. Several threads may; each has a connection of its own.

    Args:
        address: of the model, as above.

    Raises:
        BackendError: the server cannot be reached, or has no such model.
        ModelError: the model is none of ours, or the server does not say what it is.
    """

    def __init__(self, address: str) -> None:
        self._server = _Server(address)
        served = _read_model(self._server)
        self.spec = served.spec
        self.max_batch_size = served.most_images
        self._fixed_images = served.fixed_images
        self.name = f"kserve ({served.platform or 'unknown'} at {self._server.host})"

    def run(self, images: Images) -> PaddedDetections:
        """See `Runner.run`."""
        check_images(images, self.spec, self.max_batch_size)
        count = len(images)
        images = filled(images, self._fixed_images)
        found = self._infer(images)
        kept = self.spec.postprocess.max_detections
        return PaddedDetections(
            *(
                self._value(found, name, (len(images), kept, *more), kind)[:count]
                for name, more, kind in zip(
                    OUTPUT_NAMES, ((4,), (), ()), (np.float32, np.float32, np.int64), strict=True
                )
            )
        )

    def run_raw(self, images: Images) -> RawPredictions:
        """Raises BackendError: what the network predicts before decoding stays on the server."""
        raise BackendError(f"{self.name} gives out no raw predictions; run the served file itself to have them")

    def close(self) -> None:
        """See `Runner.close`."""
        self._server.close()

    def _infer(self, images: Images) -> dict[str, NDArray[Any]]:
        header, body = inference_request(images, self.spec.input)
        status, headers, content = self._server.ask("POST", "/infer", header + body, {_HEADER_LENGTH: str(len(header))})
        self._server.check(status, content)
        try:
            length = int(headers.get(_HEADER_LENGTH, len(content)))
            return dict(_values(content[:length], memoryview(content)[length:]))
        except (ValueError, msgspec.MsgspecError) as error:
            raise BackendError(f"{self._server.place}: answers what is no answer of the protocol ({error})") from error

    def _value(self, found: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        if name not in found or found[name].shape != shape:
            got = f"of shape {found[name].shape}" if name in found else "not at all"
            raise BackendError(f"{self._server.place}: gives {name} {got}, where {shape} is expected of this model")
        return found[name].astype(kind)


def inference_request(images: Images, kind: InputKind) -> tuple[bytes, bytes]:
    """Return a request's JSON and the bytes behind it.

    Args:
        images: a batch as `kind` has it.
    """
    body = images.astype(images.dtype.newbyteorder("<"), order="C", copy=False).tobytes()
    tensor = {
        "name": kind.tensor,
        "shape": images.shape,
        "datatype": DATATYPES[kind.dtype],
        "parameters": {"binary_data_size": len(body)},
    }
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUT_NAMES]
    return json.dumps({"inputs": [tensor], "outputs": outputs}).encode(), body


def _values(header: bytes, body: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield an answer's outputs; raise ValueError or MsgspecError where it is none."""
    start = 0
    for output in msgspec.json.decode(header, type=_Answer).outputs:
        if output.name not in OUTPUT_NAMES:
            continue
        dtype = DTYPES.get(output.datatype)
        if dtype is None:
            raise ValueError(f"{output.name} is {quoted(output.datatype)}")
        size = output.parameters.binary_data_size
        if size is None:
            values = np.array(output.data or [], dtype)
        else:
            # What is cut off does not fit its shape.
            values = np.frombuffer(body[start : start + size], dtype)
            start += size
        yield output.name, values.reshape(output.shape)


class _Served(msgspec.Struct, frozen=True):
    """What a server says of a model; the images that a call takes at most, and those of a batch that is fixed."""

    spec: DetectorSpec
    platform: str
    most_images: int | None
    fixed_images: int | None


def describe_served(address: str) -> DetectorSpec:
    """Return what a served model says of itself; a `Backend.describe`, with the errors of `KServeRunner`."""
    server = _Server(address)
    with contextlib.closing(server):
        return _read_model(server).spec


def _read_model(server: "_Server") -> _Served:
    metadata = server.get("", _Metadata)
    assert metadata is not None
    # An extension of Triton's, which other servers answer with an error.
    config = server.get("/config", _Config, is_optional=True) or _Config()
    entries = {
        key.removeprefix(SERVED_ENTRY_PREFIX): each.string_value
        for key, each in config.parameters.items()
        if key.startswith(SERVED_ENTRY_PREFIX)
    }
    about = metadata.rt_info.get("model_info")
    if not entries and isinstance(about, dict):
        entries = {str(key): value for key, value in about.items() if isinstance(value, str)}
    if not entries:
        raise ModelError(
            f"{server.place}: does not say which classes and thresholds the model has; serve what `ssd-deploy bundle` "
            "writes"
        )
    spec = DetectorSpec.from_metadata(entries, server.place)
    tensor, datatype = spec.input.tensor, DATATYPES[spec.input.dtype]
    images = next((each for each in metadata.inputs if each.name == tensor), None)
    names = {each.name for each in metadata.outputs}
    if images is None or len(metadata.inputs) != 1 or not names >= set(OUTPUT_NAMES):
        inputs = ", ".join(shown(each.name) for each in metadata.inputs)
        raise ModelError(f"{server.place}: takes {inputs or 'nothing'} instead of {tensor}; serve another model")
    if images.datatype != datatype or images.shape[1:] != [*spec.image_shape]:
        raise ModelError(
            f"{server.place}: takes {shown(images.datatype)} of shape {images.shape}, where {datatype} of (N, "
            f"{', '.join(map(str, spec.image_shape))}) is sent; serve another file"
        )
    fixed = images.shape[0] if images.shape[0] > 0 else None
    return _Served(
        spec=spec,
        platform=shown(metadata.platform, 40),
        most_images=fixed or (config.max_batch_size if config.max_batch_size > 0 else None),
        fixed_images=fixed,
    )


class _Server:
    """Connections to a server, one for each thread; `place` is the address without a password, `host` a part of it."""

    def __init__(self, address: str) -> None:
        self.place = without_password(address)
        try:
            parts = urllib.parse.urlsplit(address)
            self._host, self._port, self._scheme = parts.hostname, parts.port, parts.scheme
        except ValueError as error:
            raise BackendError(f"{self.place}: is no address ({error}); {_EXAMPLE}") from error
        if not self._host or "/v2/models/" not in parts.path or parts.query or parts.username is not None:
            raise BackendError(f"{self.place}: is no address of a served model; {_EXAMPLE}")
        self.host = parts.netloc
        self._path = parts.path.rstrip("/")
        self._local = threading.local()
        self._open: list[http.client.HTTPConnection] = []

    def get(self, path: str, kind: Any, *, is_optional: bool = False) -> Any:
        """Return a JSON answer; None for an error where the answer is optional."""
        status, _, content = self.ask("GET", path)
        if is_optional and status >= 400:
            return None
        self.check(status, content)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise BackendError(f"{self.place}: answers what is no answer of the protocol ({error})") from error

    def check(self, status: int, content: bytes) -> None:
        """Raise BackendError where an answer is an error."""
        if status >= 300:
            try:
                said = msgspec.json.decode(content, type=dict[str, Any]).get("error", "")
            except msgspec.MsgspecError:
                said = ""
            reason = f"status {status}" + (f", {quoted(said, 300)}" if said else "")
            raise BackendError(f"{self.place}: the server refuses ({reason}); see which models it has")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, Any, bytes]:
        """Return status, headers and content of an answer."""
        try:
            try:
                return self._once(method, path, body, headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A server closes connections that rest; a request that it did not answer changes nothing there.
                self._connection().close()
                return self._once(method, path, body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection().close()
            raise BackendError(
                f"{self.place}: cannot be reached ({error}); start the server, or name another"
            ) from error

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, Any, bytes]:
        connection = self._connection()
        connection.request(method, self._path + path, body, {"Content-Type": "application/octet-stream", **headers})
        answer = connection.getresponse()
        content = answer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"an answer of more than {MOST_BYTES} bytes")
        return answer.status, answer.headers, content

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._local, "connection"):
            kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
            assert self._host is not None
            self._local.connection = kind(self._host, self._port, timeout=TIMEOUT_S)
            self._open.append(self._local.connection)
        return self._local.connection


_EXAMPLE = "name one such as http://localhost:8000/v2/models/NAME"


def open_runner(model: Any, options: RunOptions) -> KServeRunner:
    """Open a served model; see `backends.Backend.open`."""
    if not isinstance(model, str):
        raise BackendError("the kserve backend asks a server; name the address of a model")
    return KServeRunner(model)
