"""The sources use nothing that a version of TensorRT does not have, and the check of that can fail."""

import re
from pathlib import Path

import pytest
from bindings_contract import Finding, Use, check, read_sources
from bindings_stubs import VERSIONS, Bindings

REPOSITORY = Path(__file__).parents[2]

EVERYWHERE = frozenset(VERSIONS)
NOWHERE: frozenset[str] = frozenset()

# Source code and the versions that it is wrong for. Each is put at the end of a copy of ENGINE.
ENGINE = "export/engine/plan.py"
CASES = {
    "an enum member that came to an end with TensorRT 10": (
        """
        def case(trt: Any, config: "trt.IBuilderConfig") -> None:
            config.set_flag(trt.BuilderFlag.FP16)
        """,
        {"11", "rtx"},
    ),
    "an enum member that never was": (
        """
        def case(trt: Any, config: "trt.IBuilderConfig") -> None:
            config.set_flag(trt.BuilderFlag.TF23)
        """,
        EVERYWHERE,
    ),
    "a member of another enum": (
        """
        def case(trt: Any, config: "trt.IBuilderConfig") -> None:
            config.set_flag(trt.MemoryPoolType.WORKSPACE)
        """,
        EVERYWHERE,
    ),
    "a member of the module": (
        """
        def case(trt: Any) -> None:
            trt.Bulder
        """,
        EVERYWHERE,
    ),
    "a member in an f-string": (
        """
        def case(trt: Any) -> str:
            return f"version {trt.__versions__}"
        """,
        EVERYWHERE,
    ),
    "a class in an annotation": (
        """
        def case(config: "trt.IBuilderConfg") -> None: ...
        """,
        EVERYWHERE,
    ),
    "a method": (
        """
        def case(builder: "trt.Builder") -> None:
            builder.create_networks()
        """,
        EVERYWHERE,
    ),
    "a method that came to an end with TensorRT 10": (
        """
        def case(engine: "trt.ICudaEngine") -> None:
            engine.get_device_memory_size_for_profile(0)
        """,
        {"11", "rtx"},
    ),
    "a keyword": (
        """
        def case(builder: "trt.Builder") -> None:
            builder.create_network(flag=0)
        """,
        EVERYWHERE,
    ),
    "an argument too many": (
        """
        def case(builder: "trt.Builder") -> None:
            builder.create_builder_config(1)
        """,
        EVERYWHERE,
    ),
    "an argument too few": (
        """
        def case(config: "trt.IBuilderConfig") -> None:
            config.set_timing_cache(config.create_timing_cache(b""))
        """,
        EVERYWHERE,
    ),
    "an argument too few for any overload": (
        """
        def case(runtime: "trt.Runtime") -> None:
            runtime.deserialize_cuda_engine()
        """,
        EVERYWHERE,
    ),
    "a float for a whole number": (
        """
        def case(engine: "trt.ICudaEngine") -> None:
            engine.get_tensor_name(1.5)
        """,
        EVERYWHERE,
    ),
    "a constructor without its logger": (
        """
        def case(trt: Any) -> None:
            trt.Runtime()
        """,
        EVERYWHERE,
    ),
    "a class that only TensorRT makes objects of": (
        """
        def case(trt: Any) -> None:
            trt.IBuilderConfig()
        """,
        EVERYWHERE,
    ),
    "a property": (
        """
        def case(config: "trt.IBuilderConfig") -> None:
            config.builder_optimisation_level = 3
        """,
        EVERYWHERE,
    ),
    "a property that came to an end with TensorRT 10": (
        """
        def case(config: "trt.IBuilderConfig") -> None:
            config.algorithm_selector = None
        """,
        {"11", "rtx"},
    ),
    "a property that cannot be set": (
        """
        def case(network: "trt.INetworkDefinition") -> None:
            network.num_layers = 3
        """,
        EVERYWHERE,
    ),
    "a property's type": (
        """
        def case(config: "trt.IBuilderConfig") -> None:
            config.builder_optimization_level = "3"
        """,
        EVERYWHERE,
    ),
    "an attribute of what a call returns": (
        """
        def case(builder: "trt.Builder") -> int:
            return builder.create_builder_config().optimization_level
        """,
        EVERYWHERE,
    ),
    "an attribute in a comprehension": (
        """
        def case(parser: "trt.OnnxParser") -> list[str]:
            return [parser.get_error(index).description() for index in range(parser.num_errors)]
        """,
        EVERYWHERE,
    ),
    "an attribute of an item of what a call returns": (
        """
        def case(engine: "trt.ICudaEngine") -> int:
            return engine.get_tensor_profile_shape("image", 0)[0].batch
        """,
        EVERYWHERE,
    ),
    "an attribute of an attribute": (
        """
        class Case:
            def __init__(self, runtime: "trt.Runtime") -> None:
                self.runtime = runtime

            def close(self) -> None:
                self.runtime.destroy()
        """,
        EVERYWHERE,
    ),
    "a member of the module in an attribute": (
        """
        class CaseOfModule:
            def __init__(self, trt: Any) -> None:
                self._trt = trt

            def dtype(self) -> Any:
                return self._trt.DataTyp.FLOAT
        """,
        EVERYWHERE,
    ),
    "a call for RTX alone where any flavour comes": (
        """
        def case(config: "trt.IBuilderConfig") -> None:
            config.num_compute_capabilities = 1
        """,
        {"10", "11"},
    ),
    "a call that not even RTX has": (
        """
        def case(config: "trt_rtx.IBuilderConfig") -> None:
            config.number_of_compute_capabilities = 1
        """,
        {"rtx"},
    ),
    "an override of another signature": (
        """
        def case(trt: Any) -> None:
            class Log(trt.ILogger):
                def log(self, severity: "trt.ILogger.Severity") -> None: ...
        """,
        EVERYWHERE,
    ),
    "an override under another name": (
        """
        def case(trt: Any) -> None:
            class Log(trt.ILogger):
                def write(self, severity: "trt.ILogger.Severity", msg: str) -> None: ...
        """,
        EVERYWHERE,
    ),
    "one override of three missing": (
        """
        def case(trt: Any) -> None:
            class Monitor(trt.IProgressMonitor):
                def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
                def step_complete(self, phase_name: str, step: int) -> bool: ...
        """,
        EVERYWHERE,
    ),
    "an error with a comment that hides it": (
        """
        def case(builder: "trt.Builder") -> None:
            builder.create_networks()  # type: ignore[attr-defined]
        """,
        EVERYWHERE,
    ),
    "an object in a parameter of any type": (
        """
        def case(builder: "trt.Builder") -> None:
            case_helper(builder)

        def case_helper(builder: Any) -> None: ...
        """,
        EVERYWHERE,
    ),
    "an object in a variable of any type": (
        """
        def case(builder: "trt.Builder") -> None:
            config: Any = builder.create_builder_config()
        """,
        EVERYWHERE,
    ),
    "an object returned as any type": (
        """
        def case(builder: "trt.Builder") -> Any:
            return builder.create_builder_config()
        """,
        EVERYWHERE,
    ),
    "a call of something of any type": (
        """
        def case(builder: Any) -> None:
            builder.create_networks()
        """,
        EVERYWHERE,
    ),
    "a member by its name in a text": (
        """
        def case(trt: Any) -> Any:
            return getattr(trt.BuilderFlag, "FP16")
        """,
        EVERYWHERE,
    ),
    "the module by its name in a text": (
        """
        def case(trt: Any) -> Any:
            return getattr(trt, "Bulder")
        """,
        EVERYWHERE,
    ),
    "code that is never reached": (
        """
        def case(builder: "trt.Builder") -> None:
            return
            builder.create_networks()
        """,
        EVERYWHERE,
    ),
    "the module under another name": (
        """
        def case(trt: Any) -> None:
            tensorrt = trt
            tensorrt.Bulder
        """,
        EVERYWHERE,
    ),
    "the module in a parameter of another name": (
        """
        def case(trt: Any) -> None:
            case_other(trt)

        def case_other(module: Any) -> None: ...
        """,
        EVERYWHERE,
    ),
    "the module loaded under another name": (
        """
        def case() -> None:
            module = load_bindings(TENSORRT)
        """,
        EVERYWHERE,
    ),
    "a member of the module that was just loaded": (
        """
        def case() -> Any:
            return load_bindings(TENSORRT).Bulder
        """,
        EVERYWHERE,
    ),
    "an import of a part of the module": (
        """
        def case() -> None:
            from tensorrt import Builder
        """,
        EVERYWHERE,
    ),
    "nothing: right for all": (
        """
        def case(trt: Any, log: "trt.ILogger", plan: bytes, monitor: "trt.IProgressMonitor") -> "trt.ICudaEngine":
            builder = trt.Builder(log)
            config = builder.create_builder_config()
            config.progress_monitor = monitor
            config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, pool_size=1 << 30)
            network = builder.create_network(flags=1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            names = [layer.name for layer in network]
            shapes = [tuple(network.get_input(index).shape) for index in range(network.num_inputs)]
            profile = builder.create_optimization_profile()
            profile.set_shape("image", (1, 3), min(shapes), max=[len(names), 3])
            if trt.Runtime(log).deserialize_cuda_engine(plan) is None:
                raise BackendError(f"TensorRT {trt.__version__}: {bytes(config.get_timing_cache().serialize())!r}")
            return trt.Runtime(log).deserialize_cuda_engine(plan)
        """,
        NOWHERE,
    ),
    "nothing: right for RTX, and in its function": (
        """
        def case(trt_rtx: Any, config: "trt_rtx.IBuilderConfig") -> None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt_rtx.ComputeCapability.SM120, 0)
        """,
        NOWHERE,
    ),
}


@pytest.fixture(scope="session")
def sources() -> dict[str, str]:
    return read_sources(REPOSITORY)


@pytest.fixture(scope="session")
def checked(bindings: Bindings, stubs: Path, sources: dict[str, str]) -> tuple[list[Finding], list[Use]]:
    return check(sources, bindings, stubs)


# Modules that are not there yet; the first names TensorRT, the second only uses what it is given.
NEW_MODULES = {
    "ssd_deploy/new_module.py": "def new(trt: object) -> object:\n    return trt.Bulder\n",
    "export/new_user.py": "from export.new_maker import make\n\n\ndef use() -> None:\n    make().infer()\n",
    "export/new_maker.py": 'def make() -> "trt.IExecutionContext":\n    raise NotImplementedError\n',
}


@pytest.fixture(scope="session")
def found_in_copy(bindings: Bindings, stubs: Path, sources: dict[str, str]) -> tuple[list[Finding], dict[str, range]]:
    """What is found in a copy with all of CASES and NEW_MODULES, and the lines of each case."""
    text, lines = sources[ENGINE], {}
    for number, (name, (code, _)) in enumerate(CASES.items()):
        start = len(text.splitlines())
        text += re.sub(r"\bcase(_\w+)?\(", rf"case\1_{number}(", code.replace("\n        ", "\n"))
        lines[name] = range(start + 1, len(text.splitlines()) + 1)
    findings, _ = check({**sources, **NEW_MODULES, ENGINE: text}, bindings, stubs)
    return findings, lines


def test_the_sources_use_only_what_the_bindings_have(checked: tuple[list[Finding], list[Use]]) -> None:
    findings, _ = checked
    assert not findings, "\n".join(map(str, findings))


def test_the_modules_that_build_and_run_engines_were_looked_at(checked: tuple[list[Finding], list[Use]]) -> None:
    _, uses = checked
    engine = {f"export/engine/{name}.py" for name in ("bindings", "build", "cache", "check", "inspector", "plan")}
    runner = {f"ssd_deploy/backends/{name}.py" for name in ("tensorrt", "tensorrt_session")}
    assert engine | runner <= {use.path for use in uses}
    # One of each kind: function of the module, enum member, method, property that is read, property that is set.
    members = {use.member for use in uses}
    assert {"Builder", "TF32", "set_shape", "num_io_tensors", "progress_monitor", "execute_async_v3"} <= members


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_found_and_what_is_right_is_not(
    name: str, bindings: Bindings, found_in_copy: tuple[list[Finding], dict[str, range]]
) -> None:
    findings, lines = found_in_copy
    found = [finding for finding in findings if finding.path == ENGINE and finding.line in lines[name]]
    assert bool(found) == (bindings.name in CASES[name][1]), found


def test_a_new_module_is_looked_at(found_in_copy: tuple[list[Finding], dict[str, range]]) -> None:
    findings, _ = found_in_copy
    assert {"ssd_deploy/new_module.py", "export/new_user.py"} <= {finding.path for finding in findings}


def test_every_use_is_found_when_it_is_misspelt(
    bindings: Bindings, stubs: Path, sources: dict[str, str], checked: tuple[list[Finding], list[Use]]
) -> None:
    _, uses = checked
    misspelt = {path: text.splitlines() for path, text in sources.items()}
    for use in set(uses):
        lines = misspelt[use.path]
        # An expression may begin on an earlier line than its member.
        line = next(line for line in range(use.line - 1, len(lines)) if re.search(rf"\.{use.member}\b", lines[line]))
        lines[line] = re.sub(rf"\.{use.member}\b", f".{use.member}_misspelt", lines[line])
    findings, _ = check({path: "\n".join(lines) for path, lines in misspelt.items()}, bindings, stubs)
    found = {(finding.path, finding.line) for finding in findings}
    missed = [use for use in uses if (use.path, use.line) not in found]
    assert uses and not missed
