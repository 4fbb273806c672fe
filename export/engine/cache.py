"""Engines that were built before, and TensorRT's measurements of earlier builds.

cache/engines/<network>.<precision>.<flavour>.<key>.engine   a plan, its JSON beside it
cache/locks/<the same>.lock                                  held by who builds it
cache/timing/<flavour>-<version>-<card>.cache                measurements, TensorRT's alone
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from export.engine.file import BuildOptions, EngineInfo, Gpu, engine_name, info_path, read_info, write_info
from export.engine.flavours import FLAVOURS
from ssd_train.errors import BackendError, ModelError, SSDDeployError
from ssd_train.files import check_writable, sha256_of_file, written_atomically
from ssd_train.input_files import open_regular
from ssd_train.paths import user_path
from ssd_train.shared_folder import make_way
from ssd_train.spec import DetectorSpec
from ssd_train.temporary import kept_folder

if TYPE_CHECKING:
    import tensorrt as trt

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """An engine that is wanted: everything that decides what it is, but the file's place.

    Attributes:
        spec: the file's description, with the precision that is asked for.
        flavour, version: of TensorRT.
        gpu: the card to build on; None where none is needed.
        outputs: the graph's values to make outputs.
    """

    onnx: Path
    onnx_sha256: str
    spec: DetectorSpec
    options: BuildOptions
    flavour: str
    version: str
    gpu: Gpu | None
    outputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its file name in a cache."""
        card = [self.gpu.name, self.gpu.compute_capability] if self.gpu else None
        options = self.options.built_with()
        decides = [self.onnx_sha256, self.flavour, self.version, card, options, list(self.outputs)]
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
        return engine_name(self.spec, self.flavour).replace(".engine", f".{key}.engine")

    def on_gpu(self) -> contextlib.AbstractContextManager[None]:
        """Make the card, where there is one, the one that the calling thread works on."""
        return self.gpu.current() if self.gpu else contextlib.nullcontext()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine in a cache folder.

    Attributes:
        path: the plan; its JSON lies beside it. Where the cache cannot be written both go with the process.
        info: what the JSON says.
        from_cache: it was there already.
    """

    path: Path
    info: EngineInfo
    from_cache: bool


def default_cache() -> Path:
    """Return the folder of engines and timing caches: SSD_DEPLOY_CACHE, else `ssd-deploy` in the user's cache.

    Raises:
        BackendError: a variable names what can be no path.
    """
    if named := os.environ.get("SSD_DEPLOY_CACHE"):
        return user_path(named, BackendError, source="SSD_DEPLOY_CACHE")
    named = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(named, BackendError, source="XDG_CACHE_HOME") / "ssd-deploy"


def engine_path(cache: Path, name: str) -> Path:
    """Return the place of an engine in a cache folder."""
    return cache / "engines" / name


def find_engine(cache: Path, request: EngineRequest) -> BuiltEngine | None:
    """Return the engine of a request; None where it is absent, or its JSON speaks of another one or another plan."""
    path = engine_path(cache, request.name)
    if any(each.is_symlink() for each in (path, info_path(path))):
        return None  # no cache makes links
    try:
        info = read_info(path)
        is_asked = (info.flavour, info.tensorrt_version, info.spec, info.onnx_sha256, info.options.built_with()) == (
            request.flavour, request.version, request.spec, request.onnx_sha256, request.options.built_with(),
        )  # fmt: skip
        found = is_asked and sha256_of_file(path) == info.plan_sha256
    except (ModelError, OSError, MemoryError):
        return None
    return BuiltEngine(path=path, info=info, from_cache=True) if found else None


def writable_cache(cache: Path, name: str) -> Path:
    """Return `cache` where an engine can be written into it, else `process_cache`: before a build of minutes."""
    try:
        check_writable(engine_path(cache, name))
    except SSDDeployError as error:
        _log.warning("%s; this engine is not kept for another time", error)
        return process_cache()
    return cache


@functools.cache
def process_cache() -> Path:
    """Return a cache folder that is removed when this process ends."""
    return kept_folder()


@contextlib.contextmanager
def building(cache: Path, name: str) -> Iterator[None]:
    """Hold the lock of an engine. Who waited for it looks again: the engine may be there now."""
    lock = filelock.FileLock(cache / "locks" / f"{name}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        _log.info("waiting for another process that builds %s", name)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        # Some network drives have no locks. Two may then build at once, as long as they do not write at once.
        _log.warning("%s: cannot be locked (%s); building without a lock", lock.lock_file, error)
    try:
        yield
    finally:
        lock.release()


def write_engine(cache: Path, name: str, plan: bytes, info: EngineInfo) -> Path:
    """Write an engine and its JSON; returns its place, in `process_cache` where the disk of `cache` is full."""
    path = engine_path(cache, name)
    try:
        # The JSON goes first: a plan without one would count as built, a JSON without its plan does not.
        path.parent.mkdir(parents=True, exist_ok=True)
        for written in (path, info_path(path)):
            make_way(written)
        write_info(path, info)
        with written_atomically(path) as temporary:
            temporary.write_bytes(plan)
    except (SSDDeployError, OSError) as error:
        if cache == process_cache():
            raise
        _log.warning("%s; this engine is not kept for another time", error)
        return write_engine(process_cache(), name, plan, info)
    return path


def timing_cache_path(cache: Path, request: EngineRequest) -> Path | None:
    """Return the place of a card's measurements; None where none help."""
    if request.gpu is None or not FLAVOURS[request.flavour].keeps_timings:
        return None
    card = f"{request.gpu.name}-sm{request.gpu.compute_capability}"
    card = "".join(letter if letter.isalnum() else "-" for letter in card)
    return cache / "timing" / f"{request.flavour}-{request.version}-{card}.cache"


def load_timing_cache(config: "trt.IBuilderConfig", path: Path) -> None:
    """Give the builder its measurements of earlier builds; a file of another version or card counts as empty."""
    saved = b""
    with contextlib.suppress(OSError, MemoryError), open_regular(path) as file:
        saved = file.read()
    cache = config.create_timing_cache(saved)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: "trt.IBuilderConfig", path: Path) -> None:
    """Keep the builder's measurements; that they cannot be kept is no reason to lose what was built with them."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        make_way(path)
        with written_atomically(path) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))
    except (SSDDeployError, OSError) as error:
        _log.warning("%s; the next build measures again", error)
