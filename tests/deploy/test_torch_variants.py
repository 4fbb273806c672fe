"""Faster ways to run PyTorch give what the plain one gives. On the CPU here; those of a GPU skip by name."""

import contextlib
import copy
import dataclasses
import functools
import gc
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import Image
from torch import Tensor, nn

from ssd_deploy.backends import BACKENDS, RunOptions, open_model, pytorch, torch_graphs
from ssd_deploy.backends.base import CUDA_EVENTS, DeviceTimed
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_deploy.backends.torch_graphs import TorchGraph
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import squares
from ssd_train.precisions import in_precision
from ssd_train.preprocess import preprocess

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


class TwoMaps(nn.Module):
    """A backbone of two convolutions, which compiles in seconds."""

    channels = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=8, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.first(images).relu()
        return [first, self.second(first).relu()]


@pytest.fixture(scope="module")
def tiny_ssd() -> SSD:
    config = NetworkConfig(
        name="tiny",
        backbone="two maps",
        input_size=(64, 64),
        class_names=("a", "b", "c"),
        feature_sizes=squares(8, 4),
        sizes=(16.0, 32.0, 48.0),
        ratios=((1.0, 2.0, 0.5), (1.0, 2.0, 0.5)),
        steps=squares(8, 16),
    )
    torch.manual_seed(0)
    return SSD(config, TwoMaps()).eval()


@pytest.fixture
def noise() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 3, (3, 3, 64, 64)).astype(np.float32)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Whatever a test compiles is forgotten before and after it."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_close(found: PaddedDetections, expected: PaddedDetections) -> None:
    """Float32 sums in another order; the random scores here lie further apart than that."""
    assert (expected.labels >= 0).sum() >= 100
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=1e-2)


def test_compiled_gives_the_same(tiny_ssd: SSD, noise: NDArray[np.float32], fresh_compiler: None) -> None:
    plain, compiled = TorchRunner(copy.deepcopy(tiny_ssd)), TorchRunner(copy.deepcopy(tiny_ssd), compiled=True)
    assert compiled.name == "torch (cpu, compile)"
    for value, expected in zip(compiled.run_raw(noise), plain.run_raw(noise), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-3 * expected.std())
    assert_close(compiled.run(noise), plain.run(noise))


def test_each_batch_size_is_compiled_once_past_the_limit_of_pytorch_too(
    tiny_ssd: SSD, fresh_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_sizes: list[int] = []

    def fake_compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        """A fake: notes the size of the batch and leaves the network as it is."""
        compiled_sizes.extend(len(value) for value in inputs if value.shape[1:] == (3, 64, 64))
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=fake_compiler))
    # 8 unless it is set; 1 is reached sooner.
    with torch._dynamo.config.patch(recompile_limit=1):
        runner = TorchRunner(copy.deepcopy(tiny_ssd), compiled=True)
        for count in (1, 2, 3, 1):
            images = np.zeros((count, 3, 64, 64), np.float32)
            assert len(runner.run(images).labels) == len(runner.run_raw(images).cls_logits) == count
    assert compiled_sizes == [1, 2, 3]


def test_without_a_compiler_there_is_one_sentence(
    tiny_ssd: SSD, noise: NDArray[np.float32], fresh_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    runner = TorchRunner(copy.deepcopy(tiny_ssd), compiled=True)
    with pytest.raises(
        BackendError, match=r"torch \(cpu, compile\).*No working C\+\+ compiler.*such as g\+\+"
    ) as caught:
        runner.run(noise)
    assert "\n" not in str(caught.value)


def test_channels_last_gives_the_same(network: SSD, pictures: list[Image]) -> None:
    plain, runner = TorchRunner(copy.deepcopy(network)), TorchRunner(network, channels_last=True)
    assert runner.name == "torch (cpu, channels-last)"
    batch = np.stack([preprocess(picture, runner.spec) for picture in pictures])
    seen: list[bool] = []
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    for value, expected in zip(runner.run_raw(batch), plain.run_raw(batch), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-3 * expected.std())
    assert_close(
        PaddedDetections(*(a[:1] for a in runner.run(batch))), PaddedDetections(*(a[:1] for a in plain.run(batch)))
    )
    assert seen == [True, True]


def test_a_runner_computes_in_the_precision_of_its_network(tiny_ssd: SSD) -> None:
    assert TorchRunner(copy.deepcopy(tiny_ssd)).spec.precision == "fp32"
    assert TorchRunner(in_precision(tiny_ssd, "bf16")).spec.precision == "bf16"
    # There is no TF32 on a CPU.
    assert TorchRunner(copy.deepcopy(tiny_ssd), allow_tf32=True).spec.precision == "fp32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def test_cudnn_may_try_its_algorithms_for_the_one_shape_of_a_detectors_input(
    tiny_ssd: SSD, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    TorchRunner(copy.deepcopy(tiny_ssd))
    assert torch.backends.cudnn.benchmark


def test_what_needs_a_gpu_is_refused_on_the_cpu(tiny_ssd: SSD, noise: NDArray[np.float32]) -> None:
    with pytest.raises(BackendError, match="a CUDA graph runs on a GPU, not on device 'cpu'; add --cuda"):
        TorchRunner(copy.deepcopy(tiny_ssd), cuda_graph=True)
    runner = TorchRunner(copy.deepcopy(tiny_ssd))
    assert isinstance(runner, DeviceTimed) and runner.device_clock is None
    with pytest.raises(BackendError, match="uses no GPU"):
        runner.device_times_ms(noise, 1)


def test_a_failure_that_is_no_compilers_keeps_its_traceback(
    tiny_ssd: SSD, noise: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    runner = TorchRunner(copy.deepcopy(tiny_ssd))
    monkeypatch.setattr(runner, "_detect", fail)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        runner.run(noise)


def test_too_little_memory_is_one_sentence_with_the_batch_size(
    tiny_ssd: SSD, noise: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nand a table")

    runner = TorchRunner(copy.deepcopy(tiny_ssd))
    monkeypatch.setattr(runner, "_detect", fail)
    with pytest.raises(BackendError, match=r"torch \(cpu\): a batch of 3 does not fit into memory; use smaller ones"):
        runner.run(noise)


def test_closing_lets_the_network_go_and_may_be_repeated(tiny_ssd: SSD) -> None:
    runner = TorchRunner(copy.deepcopy(tiny_ssd))
    network = weakref.ref(runner.detector.network)
    runner.close()
    runner.close()
    gc.collect()
    assert network() is None
    assert dataclasses.is_dataclass(runner.spec)


class FakeCudaGraph:
    """A fake of a CUDA graph: replays by computing once more, from and into the memory that was captured."""

    def __init__(self, detect: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._detect = detect
        self.captured: list[tuple[Tensor, tuple[Tensor, ...]]] = []
        self.arguments: dict[str, object] = {}

    def detect(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self._detect(images)
        self.captured.append((images, outputs))
        return outputs

    def replay(self) -> None:
        images, outputs = self.captured[-1]
        for output, value in zip(outputs, self._detect(images), strict=True):
            output.copy_(value)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeCudaGraph], None]:
    """Puts a fake graph, and as much of torch.cuda as a capture needs, in PyTorch's place."""

    def install(graph: FakeCudaGraph) -> None:
        @contextlib.contextmanager
        def capture(_: object, **arguments: object) -> Iterator[None]:
            graph.arguments = arguments
            yield

        class FakeStream:
            def wait_stream(self, _: object) -> None: ...

        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
        monkeypatch.setattr(torch.cuda, "graph", capture)
        monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
        monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
        for name in ("device", "stream"):
            monkeypatch.setattr(torch.cuda, name, contextlib.nullcontext)
        monkeypatch.setattr(torch_graphs, "page_locked", torch.tensor)
        monkeypatch.setattr(torch_graphs, "to_host", lambda values: [value.numpy().copy() for value in values])

    return install


def test_a_graph_reads_and_writes_where_it_was_captured(
    tiny_ssd: SSD, noise: NDArray[np.float32], fake_cuda: Callable[[FakeCudaGraph], None]
) -> None:
    runner = TorchRunner(copy.deepcopy(tiny_ssd))
    fake = FakeCudaGraph(runner._detect)
    fake_cuda(fake)
    with torch.inference_mode():
        graph = TorchGraph(fake.detect, (1, *noise.shape[1:]), torch.device("cpu"), torch.contiguous_format, "a pool")  # type: ignore[arg-type]
    assert len(fake.captured) == torch_graphs.RUNS_BEFORE_CAPTURE + 1
    assert fake.arguments == {"pool": "a pool", "capture_error_mode": "thread_local"}
    first = graph.run(noise[:1])
    kept = PaddedDetections(*(array.copy() for array in first))
    for row in (2, 1):
        assert_close(graph.run(noise[row : row + 1]), runner.run(noise[row : row + 1]))
    for array, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, before)
    memory = weakref.ref(graph._images)
    graph.close()
    graph.close()
    fake.captured.clear()
    gc.collect()
    assert memory() is None


def test_a_runner_on_a_gpu_captures_sizes_that_come_again(
    tiny_ssd: SSD, noise: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[object, ...]] = []

    class FakeTorchGraph:
        """A fake of a captured graph: detects as usual."""

        def __init__(self, detect: Callable[[Tensor], tuple[Tensor, ...]], *arguments: object) -> None:
            self._detect = detect
            made.append(arguments)

        def run(self, images: NDArray[np.float32]) -> PaddedDetections:
            return PaddedDetections(*(output.numpy() for output in self._detect(torch.tensor(images))))

        def close(self) -> None: ...

    monkeypatch.setattr(pytorch, "TorchGraph", FakeTorchGraph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    runner, plain = TorchRunner(copy.deepcopy(tiny_ssd), channels_last=True), TorchRunner(copy.deepcopy(tiny_ssd))
    assert runner._recordings is None, "there is no GPU in it"
    runner._recordings = runner._make_recordings()
    for count in (3, 3, 3, 2, 3):
        assert_close(runner.run(noise[:count]), plain.run(noise[:count]))
    assert runner._recordings.recorded() == (3,)
    assert made == [((3, 3, 64, 64), torch.device("cpu"), torch.channels_last, "a pool")]
    runner.close()
    assert runner._recordings.recorded() == ()


def test_a_capture_that_was_asked_for_and_fails_is_one_sentence(
    tiny_ssd: SSD, noise: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand a table")

    monkeypatch.setattr(pytorch, "TorchGraph", fail)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    runner = TorchRunner(copy.deepcopy(tiny_ssd))
    runner._captures = True
    runner._recordings = runner._make_recordings()
    runner.device = torch.device("meta")  # any but the CPU, where it would be a mistake of ours
    with pytest.raises(
        BackendError, match=r"a batch of 3 cannot be captured .*is capturing\); run it without the CUDA"
    ):
        runner.run(noise)


def test_eager_is_named_and_contradicts_a_graph(tiny_ssd: SSD) -> None:
    runner = open_model(BACKENDS["torch"], tiny_ssd, RunOptions(variants=("channels-last", "eager")))
    assert runner.name == "torch (cpu, channels-last, eager)"
    with pytest.raises(BackendError, match="variants cuda-graph and eager contradict each other; leave one out"):
        open_model(BACKENDS["torch"], tiny_ssd, RunOptions(device="cuda", variants=("cuda-graph", "eager")))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_cuda_graph_gives_the_same_for_every_batch_size(
    tiny_ssd: SSD, noise: NDArray[np.float32], compiled: bool
) -> None:
    plain = TorchRunner(copy.deepcopy(tiny_ssd), device="cuda", cuda_graph=False)
    graph = TorchRunner(copy.deepcopy(tiny_ssd), device="cuda", compiled=compiled, cuda_graph=True)
    assert graph.name == ("torch (cuda, compile, cuda-graph)" if compiled else "torch (cuda, cuda-graph)")
    first = graph.run(noise[:1])
    kept = first.scores.copy()
    for count in (3, 1, 2):
        assert_close(graph.run(noise[-count:]), plain.run(noise[-count:]))
    np.testing.assert_array_equal(first.scores, kept)
    graph.close()


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("channels_last", [False, True])
def test_sizes_that_come_again_are_captured_without_being_asked(
    tiny_ssd: SSD, noise: NDArray[np.float32], channels_last: bool
) -> None:
    plain = TorchRunner(copy.deepcopy(tiny_ssd), device="cuda", cuda_graph=False)
    runner = TorchRunner(copy.deepcopy(tiny_ssd), device="cuda", channels_last=channels_last)
    for _ in range(5):
        for count in (3, 1):
            assert_close(runner.run(noise[-count:]), plain.run(noise[-count:]))
    assert runner._recordings is not None and runner._recordings.recorded() == (3, 1)
    runner.close()


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [None, False, True])
def test_device_times_are_positive_and_as_many_as_asked(
    tiny_ssd: SSD, noise: NDArray[np.float32], cuda_graph: bool | None
) -> None:
    runner = TorchRunner(copy.deepcopy(tiny_ssd), device="cuda", cuda_graph=cuda_graph)
    assert runner.device_clock == CUDA_EVENTS
    times_ms = runner.device_times_ms(noise, 5)
    assert len(times_ms) == 5 and min(times_ms) > 0


@needs_gpu
@pytest.mark.gpu
def test_tf32_is_named_on_a_gpu(tiny_ssd: SSD) -> None:
    assert TorchRunner(copy.deepcopy(tiny_ssd), device="cuda", allow_tf32=True).spec.precision == "tf32"
    assert TorchRunner(in_precision(tiny_ssd, "fp16"), device="cuda", allow_tf32=True).spec.precision == "fp16"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
