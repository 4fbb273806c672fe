"""A network of the stand-in -> its plan."""

import hashlib
from collections.abc import Sequence

from tensorrt import driver
from tensorrt.callbacks import ILogger, IProgressMonitor, checked_logger, need_card
from tensorrt.driver import Counted
from tensorrt.enumerations import BuilderFlag, HardwareCompatibilityLevel, MemoryPoolType, ProfilingVerbosity
from tensorrt.network import Dims, INetworkDefinition
from tensorrt.plan_file import VERSION, PlanHeader, write_plan
from tensorrt.sessions import open_session

NOTE = "stand-in for TensorRT: ONNX Runtime runs this engine, no kernel of TensorRT is in it"
PHASES = ("look at the network", "try the network", "write the plan")


class IHostMemory:
    """Bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def __bytes__(self) -> bytes:
        return self._data

    def __buffer__(self, flags: int, /) -> memoryview:  # Python 3.12 and later
        return memoryview(self._data)


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[Dims]] = {}

    def set_shape(
        self, input: str, min: Dims | Sequence[int], opt: Dims | Sequence[int], max: Dims | Sequence[int]
    ) -> None:
        if not len(min) == len(opt) == len(max):
            raise ValueError("stand-in: shapes of one profile have different numbers of sizes")
        self._shapes[input] = [Dims(shape) for shape in (min, opt, max)]

    def get_shape(self, input: str) -> list[Dims]:
        return self._shapes[input]


class ITimingCache:
    """What was measured before on one card: an entry for each layer of every network that was built."""

    def __init__(self, entries: list[str]) -> None:
        self._entries = entries

    def serialize(self) -> IHostMemory:
        return IHostMemory("\n".join([_timing_mark(), *self._entries]).encode())


class IBuilderConfig:
    def __init__(self) -> None:
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None
        # As in TensorRT, where TF32 is allowed unless it is forbidden.
        self._flags = {BuilderFlag.TF32}
        self._pools: dict[MemoryPoolType, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._timings: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self._flags

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        return self._pools.get(pool, 0)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        for low, best, high in profile._shapes.values():
            if any(not 0 < a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
                return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        mark, *entries = bytes(serialized_timing_cache).decode(errors="replace").split("\n")
        return ITimingCache(entries) if mark in ("", _timing_mark()) else None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._timings = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timings


class Builder(Counted):
    def __init__(self, logger: ILogger) -> None:
        super().__init__()
        self._logger = checked_logger(logger)
        need_card(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        monitor, name, plan = config.progress_monitor, "Building Engine", None
        if monitor is not None:
            monitor.phase_start(name, None, len(PHASES))
        steps = (lambda: _profile_fault(network, config), lambda: _session_fault(network), lambda: None)
        for number, fault_of in enumerate(steps):
            fault = fault_of()
            if fault is not None:
                self._logger.log(ILogger.Severity.ERROR, f"stand-in: {fault}")
                break
            if monitor is not None and not monitor.step_complete(name, number):
                self._logger.log(ILogger.Severity.ERROR, "stand-in: the build was stopped by its monitor")
                break
        else:
            plan = self._written(network, config)
        if monitor is not None:
            monitor.phase_finish(name)
        return plan

    def _written(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory:
        card = driver.card()
        assert card is not None
        header = PlanHeader(
            version=VERSION,
            gpu=card[0],
            compute_capability=card[1],
            profiles=[
                {name: [list(shape) for shape in shapes] for name, shapes in profile._shapes.items()}
                for profile in config._profiles
            ],
            allow_tf32=config.get_flag(BuilderFlag.TF32),
            is_detailed=config.profiling_verbosity == ProfilingVerbosity.DETAILED,
            is_version_compatible=config.get_flag(BuilderFlag.VERSION_COMPATIBLE),
            is_hardware_compatible=config.hardware_compatibility_level != HardwareCompatibilityLevel.NONE,
        )
        onnx = network._onnx()
        if config._timings is not None:
            config._timings._entries = list(dict.fromkeys([*config._timings._entries, *_measured(network)]))
        self._logger.log(ILogger.Severity.WARNING, NOTE)
        return IHostMemory(write_plan(header, onnx))


def _timing_mark() -> str:
    return f"{VERSION}: timings for {driver.card()}"


def _measured(network: INetworkDefinition) -> list[str]:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return [hashlib.sha256(layer.name.encode()).hexdigest() for layer in layers]


def _profile_fault(network: INetworkDefinition, config: IBuilderConfig) -> str | None:
    """Say what is wrong with the profile of the network's dynamic inputs."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 not in tensor.shape:
            continue
        shapes = [profile._shapes.get(tensor.name) for profile in config._profiles]
        if not shapes or None in shapes:
            return f"{tensor.name} has a dynamic shape, and no profile for it"
        for shape in (shape for three in shapes for shape in three or ()):
            fits = len(shape) == len(tensor.shape) and all(
                size in (-1, asked) for size, asked in zip(tensor.shape, shape, strict=True)
            )
            if not fits:
                return f"{tensor.name} has the shape {tuple(tensor.shape)}, its profile {tuple(shape)}"
    return None


def _session_fault(network: INetworkDefinition) -> str | None:
    """Say why ONNX Runtime does not run the network."""
    if network.num_outputs == 0:
        return "the network has no output"
    try:
        open_session(network._onnx(), None, allow_tf32=False)
    except Exception as error:  # ONNX Runtime's errors have no base in common
        return str(error)
    return None
