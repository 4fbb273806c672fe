"""A stand-in for Triton: it serves one folder of a model repository by the KServe protocol, in ONNX Runtime.

It reads `config.pbtxt`, and holds each request against it as Triton does. It is no Triton: nothing is batched or
scheduled, and what Triton's backends do with a file is not tried.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

DTYPES = {"FP32": np.float32, "INT64": np.int64, "UINT8": np.uint8}

_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[\w.+-]+)|(?P<sign>[{}\[\]:,]))')
# Of `ModelConfig`, which fields of these names are lists.
REPEATED = {"input", "output", "dims", "instance_group", "parameters", "step"}


def read_pbtxt(text: str) -> dict[str, Any]:
    """Read the part of the text format that a model's configuration uses."""
    tokens = iter([found for found in _TOKEN.finditer(text)])

    def scalar(token: re.Match[str]) -> Any:
        if token["text"] is not None:
            return json.loads(token["text"])
        return int(token["word"]) if re.fullmatch(r"-?\d+", token["word"]) else token["word"]

    def message() -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for token in tokens:
            if token["sign"] == "}":
                return fields
            name, value = token["word"], next(tokens)
            if value["sign"] == ":":
                value = next(tokens)
            if value["sign"] == "{":
                found = [message()]
            elif value["sign"] == "[":
                found = []
                for each in tokens:
                    if each["sign"] == "]":
                        break
                    if each["sign"] != ",":
                        found.append(scalar(each))
            else:
                found = [scalar(value)]
            if name in REPEATED:
                fields.setdefault(name, []).extend(found)
            else:
                (fields[name],) = found
        return fields

    return message()


@contextlib.contextmanager
def serving(model: Path, **changes: Any) -> Iterator[str]:
    """Serve a model's folder on a free port; yields its address.

    Args:
        changes: of its handler's attributes, for a server that does otherwise.
    """
    config = read_pbtxt((model / "config.pbtxt").read_text(encoding="utf-8"))
    assert config["name"] == model.name, "Triton refuses a model whose folder has another name"
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
    kind = type("Handler", (_Handler,), {"config": config, "session": session, "requests": [], **changes})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v2/models/{model.name}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    config: dict[str, Any]
    session: onnxruntime.InferenceSession
    requests: list[bytes]
    has_config = True
    rt_info: dict[str, Any] | None = None  # of OpenVINO Model Server
    in_json = False  # outputs as numbers, whatever was asked
    answer: bytes | None = None  # instead of what it should be

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        name, _, rest = self._parts()
        if name != self.config["name"]:
            self._send(404, {"error": f"Request for unknown model: '{name}' is not found"})
        elif rest == "/config" and self.has_config:
            parameters = {each["key"]: each["value"] for each in self.config["parameters"]}
            self._send(200, self.config | {"parameters": parameters})
        elif rest == "":
            self._send(200, {
                "name": name,
                "versions": ["1"],
                "platform": self.config["platform"],
                "inputs": [self._described(each) for each in self.config["input"]],
                "outputs": [self._described(each) for each in self.config["output"]],
                **({} if self.rt_info is None else {"rt_info": self.rt_info}),
            })  # fmt: skip
        else:
            self._send(400, {"error": "no such thing"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(body)
        length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
        try:
            outputs = self._infer(json.loads(body[:length]), body[length:])
        except AssertionError as error:
            self._send(400, {"error": str(error)})
            return
        if self.answer is not None:
            self._send_bytes(200, self.answer, {})
            return
        parts, described = [], []
        for name, value in outputs.items():
            entry = {"name": name, "shape": value.shape, "datatype": self._type_of(name)}
            if self.in_json:
                described.append(entry | {"data": value.ravel().tolist()})
            else:
                parts.append(value.tobytes())
                described.append(entry | {"parameters": {"binary_data_size": len(parts[-1])}})
        header = json.dumps({"model_name": self.config["name"], "model_version": "1", "outputs": described}).encode()
        self._send_bytes(200, header + b"".join(parts), {"Inference-Header-Content-Length": str(len(header))})

    def _infer(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        (tensor,), (known,) = request["inputs"], self.config["input"]
        assert tensor["name"] == known["name"], f"unexpected inference input '{tensor['name']}'"
        assert tensor["datatype"] == known["data_type"].removeprefix("TYPE_"), "inference input data-type is another"
        most, shape = self.config["max_batch_size"], tensor["shape"]
        assert shape[most > 0 :] == known["dims"], f"unexpected shape {shape}"
        assert most == 0 or 1 <= shape[0] <= most, f"inference request batch-size must be <= {most}"
        assert tensor["parameters"]["binary_data_size"] == len(body), "unexpected size of the binary data"
        values = np.frombuffer(body, DTYPES[tensor["datatype"]]).reshape(shape)
        names = [each["name"] for each in request["outputs"]]
        return dict(zip(names, self.session.run(names, {tensor["name"]: values}), strict=True))

    def _described(self, tensor: dict[str, Any]) -> dict[str, Any]:
        batch = [-1] if self.config["max_batch_size"] > 0 else []
        datatype = tensor["data_type"].removeprefix("TYPE_")
        return {"name": tensor["name"], "datatype": datatype, "shape": [*batch, *tensor["dims"]]}

    def _type_of(self, name: str) -> str:
        return next(each["data_type"] for each in self.config["output"] if each["name"] == name).removeprefix("TYPE_")

    def _parts(self) -> tuple[str, str, str]:
        found = re.fullmatch(r"/v2/models/([^/]+)(/versions/\d+)?(/.*)?", self.path)
        assert found is not None, self.path
        return found[1], found[2] or "", found[3] or ""

    def _send(self, status: int, value: Any) -> None:
        self._send_bytes(status, json.dumps(value).encode(), {})

    def _send_bytes(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
