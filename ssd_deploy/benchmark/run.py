"""Open the backends that a user names, measure them, report.

A backend is named `NAME` or `NAME:VARIANT+VARIANT`, for example `torch:compile+channels-last`.
"""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from ssd_deploy.backends.base import Runner
from ssd_deploy.benchmark.environment import describe_environment, memory_in_use, thread_count
from ssd_deploy.benchmark.images import benchmark_images
from ssd_deploy.benchmark.measure import BenchmarkSettings, Contender, measure
from ssd_deploy.benchmark.report import BenchmarkReport
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.requirements import require

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

# What there is to measure. The variants of ONNX Runtime exclude each other, all others combine.
VARIANTS = {
    "torch": ("compile", "channels-last", "cuda-graph"),
    "onnxruntime": ("cpu", "cuda", "tensorrt"),
    "tensorrt": ("cuda-graph",),
    "tensorrt-rtx": ("cuda-graph",),
}

# (`tensorrt` or `tensorrt-rtx`, with a CUDA graph?) -> model file -> runner. The first call raises where the flavour
# does not work here, before a model is exported for it.
OpenTensorRT = Callable[[str, bool], Callable[[Path], Runner]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendChoice:
    """One backend to measure.

    Attributes:
        name: key of `VARIANTS`.
        variants: some of its values there, in their order.
    """

    name: str
    variants: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name + (f":{'+'.join(self.variants)}" if self.variants else "")


def parse_backend(text: str) -> BackendChoice:
    """Read `torch`, `torch:compile+channels-last`, `onnxruntime:cuda` and so on.

    Raises:
        BackendError: no such backend or variant; the sentence lists what exists.
    """
    name, colon, rest = text.strip().partition(":")
    if name not in VARIANTS:
        raise BackendError(f"backend {text!r} does not exist; choose {_choices()}")
    asked = rest.split("+") if colon else []
    for variant in asked:
        if variant not in VARIANTS[name]:
            raise BackendError(
                f"backend {text!r}: {name} has no variant {variant!r}; choose {', '.join(VARIANTS[name])}"
            )
    if len(set(asked)) < len(asked) or (name == "onnxruntime" and len(asked) > 1):
        raise BackendError(
            f"backend {text!r}: these variants do not go together; name each once, and one of ONNX Runtime"
        )
    return BackendChoice(name=name, variants=tuple(variant for variant in VARIANTS[name] if variant in asked))


def parse_backends(text: str) -> tuple[BackendChoice, ...]:
    """Read a list with commas.

    Raises:
        BackendError: as `parse_backend`, or a backend is named twice.
    """
    choices = tuple(parse_backend(item) for item in text.split(","))
    twice = next((choice for choice in choices if choices.count(choice) > 1), None)
    if twice is not None:
        raise BackendError(f"backend {str(twice)!r} is named twice; name each once")
    return choices


def _choices() -> str:
    return ", ".join(f"{name} (variants after a colon: {', '.join(options)})" for name, options in VARIANTS.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where the detector comes from, in each precision that is asked for.

    Attributes:
        precisions: asked for, at least one; a model file stands for itself under any name.
        model_for: precision -> its .onnx or .engine file; called once a precision.
        network_for: precision -> network, likewise; None where there is only a model file.
    """

    precisions: tuple[str, ...]
    model_for: Callable[[str], Path]
    network_for: "Callable[[str], SSD] | None"

    @classmethod
    def from_file(cls, model: Path) -> "Source":
        """A model file, which has its precision inside."""
        return cls(precisions=("as built",), model_for=lambda _: model, network_for=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenBackends:
    """Backends that work here, and a sentence for each that does not."""

    contenders: tuple[Contender, ...]
    not_run: tuple[str, ...]


def run(
    source: Source,
    choices: Sequence[BackendChoice],
    settings: BenchmarkSettings,
    *,
    images: Sequence[Path] = (),
    cuda: bool = False,
    threads: int = 0,
    allow_tf32: bool = False,
    open_tensorrt: OpenTensorRT | None = None,
    on_turn: Callable[[int, int], None] | None = None,
) -> BenchmarkReport:
    """Open all backends in all precisions, measure those that work, close them.

    Args:
        images: files to measure with; generated ones where there are none.
        cuda: where PyTorch runs, and ONNX Runtime unless its variant says it.
        threads: CPU threads of PyTorch, ONNX Runtime and OpenCV; 0 leaves each its default.
        allow_tf32: let a GPU round float32 products.
        open_tensorrt: opens the two TensorRT backends; without it they are not run.
        on_turn: told the turns done and those in all.

    Raises:
        BackendError: no backend works, or one that cannot run a model file was named for it.
        ImageError: an image cannot be read.
    """
    with (
        cpu_threads(threads, torch_too=any(choice.name == "torch" for choice in choices)),
        benchmark_images(images) as (files, images_text),
        open_backends(
            source, choices, cuda=cuda, threads=threads, allow_tf32=allow_tf32, open_tensorrt=open_tensorrt
        ) as opened,
    ):
        measured = measure(opened.contenders, files, settings, on_turn=on_turn)
        return BenchmarkReport(
            spec=opened.contenders[0].runner.spec,
            settings=settings,
            images=images_text,
            measured=measured,
            not_run=opened.not_run,
            environment=describe_environment(),
            opencv_threads=cv2.getNumThreads(),
        )


@contextlib.contextmanager
def cpu_threads(threads: int, *, torch_too: bool) -> Iterator[None]:
    """Let OpenCV and PyTorch use so many CPU threads within the block; 0 leaves them as they are."""
    if threads < 0:
        raise BackendError(f"{threads} threads are not possible; use 1 or more, or 0 for the defaults")
    with contextlib.ExitStack() as restore:
        if threads:
            restore.callback(cv2.setNumThreads, cv2.getNumThreads())
            cv2.setNumThreads(threads)
        if threads and torch_too:
            with contextlib.suppress(ImportError):
                import torch

                restore.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(threads)
        yield


@contextlib.contextmanager
def open_backends(
    source: Source,
    choices: Sequence[BackendChoice],
    *,
    cuda: bool = False,
    threads: int = 0,
    allow_tf32: bool = False,
    open_tensorrt: OpenTensorRT | None = None,
) -> Iterator[OpenBackends]:
    """Yield every backend in every precision, open; those that do not work here are listed with their reason.

    Args and raises as for `run`.
    """
    _check_fits(source, choices)
    source = dataclasses.replace(
        source,
        model_for=functools.cache(source.model_for),
        network_for=functools.cache(source.network_for) if source.network_for else None,
    )
    contenders: list[Contender] = []
    not_run: list[str] = []
    with contextlib.ExitStack() as closing:
        for precision in source.precisions:
            for choice in choices:
                try:
                    opener = _opener(choice, precision, source, cuda, threads, allow_tf32, open_tensorrt)
                    contender = _open(choice, opener, threads)
                except SSDDeployError as error:
                    not_run.append(f"{choice}, {precision}: {error}")
                    continue
                closing.callback(contender.runner.close)
                contenders.append(contender)
        if not contenders:
            raise BackendError(f"none of these backends works here: {'; '.join(not_run)}")
        yield OpenBackends(contenders=tuple(contenders), not_run=tuple(not_run))


def _check_fits(source: Source, choices: Sequence[BackendChoice]) -> None:
    """A model file runs only where such a file can: asking for more is a mistake, and not a missing package."""
    if source.network_for is not None:
        return
    model = source.model_for(source.precisions[0])
    is_onnx = model.suffix.lower() == ".onnx"
    for choice in choices:
        if choice.name == "torch":
            raise BackendError(f"{model}: backend {choice} runs a --network; leave it out for a model file")
        if choice.name == "onnxruntime" and not is_onnx:
            raise BackendError(f"{model}: backend {choice} runs a .onnx file; leave it out for an engine")


def _opener(
    choice: BackendChoice,
    precision: str,
    source: Source,
    cuda: bool,
    threads: int,
    allow_tf32: bool,
    open_tensorrt: OpenTensorRT | None,
) -> Callable[[], Runner]:
    """Load what a backend needs, code and model; the function that is returned opens no more than the backend."""
    if choice.name == "torch":
        require("torch", "export", "The torch backend")
        from ssd_deploy.backends.pytorch import TorchRunner

        assert source.network_for is not None  # see `_check_fits`
        network = source.network_for(precision)
        # A copy, since a runner moves its network, to a device or into another memory format.
        return lambda: TorchRunner(
            copy.deepcopy(network),
            network.spec.postprocess,
            device="cuda" if cuda else "cpu",
            allow_tf32=allow_tf32,
            compiled="compile" in choice.variants,
            channels_last="channels-last" in choice.variants,
            cuda_graph="cuda-graph" in choice.variants,
        )
    if choice.name == "onnxruntime":
        from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner, provider_list

        provider = choice.variants[0] if choice.variants else ("cuda" if cuda else "cpu")
        # Before a model is exported for it.
        provider_list(provider, allow_tf32)
        model = source.model_for(precision)
        return lambda: OnnxRuntimeRunner(model, device=provider, allow_tf32=allow_tf32, threads=threads)
    if open_tensorrt is None:
        raise BackendError(f"{choice.name} cannot be opened here; see `ssd-deploy doctor`")
    open_file = open_tensorrt(choice.name, "cuda-graph" in choice.variants)
    model = source.model_for(precision)
    return lambda: open_file(model)


def _open(choice: BackendChoice, opener: Callable[[], Runner], threads: int) -> Contender:
    threads_before, memory_before = thread_count(), memory_in_use()
    runner = opener()
    memory = memory_in_use() - memory_before
    threads_after = thread_count()
    used = None
    if choice.name == "torch":
        import torch

        used = torch.get_num_threads()
    elif choice.name == "onnxruntime" and threads:
        used = threads
    elif runner.name == "onnxruntime (CPU)" and threads_before is not None and threads_after is not None:
        # ONNX Runtime does not tell what it chose: the calling thread and those that it started.
        used = threads_after - threads_before + 1
    return Contender(backend=str(choice), runner=runner, opening=memory, threads=used)
