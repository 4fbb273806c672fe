"""What the stand-in finds wrong in its callers, so that the tests beside this one can fail."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorrt
from tensorrt import driver
from tiny_detector import answer, batch

from export.engine.bindings import Messages, make_logger
from export.engine.build import BuiltEngine
from ssd_deploy.backends.cuda_device import CudaDevice
from ssd_train.errors import BackendError


@pytest.fixture
def context(engine: BuiltEngine, device: CudaDevice) -> Any:
    """An execution context of the tiny detector, `made`, with nothing set; what belongs to it; what was logged."""
    messages = Messages()
    with device.current():
        runtime = tensorrt.Runtime(make_logger(tensorrt, messages))
        loaded = runtime.deserialize_cuda_engine(engine.path.read_bytes())
        assert loaded is not None
        stream = device.create_stream()
        addresses = {name: device.allocate(4096) for name in ("boxes", "scores", "labels")}
        addresses["images"] = device.allocate(4 * 3 * 16 * 16 * 4)
        # pytest keeps what a fixture gives longer than the fixture does.
        kept = SimpleNamespace(
            made=loaded.create_execution_context(), addresses=addresses, stream=stream, messages=messages
        )
        yield kept
        del kept.made, loaded, runtime
        for address in addresses.values():
            device.free(address)
        device.destroy_stream(stream)


def make_ready(made: Any, addresses: dict[str, int], count: int = 2) -> None:
    assert made.set_input_shape("images", (count, 3, 16, 16)) and made.infer_shapes() == []
    assert all(made.set_tensor_address(name, address) for name, address in addresses.items())


def test_what_is_not_set_and_what_does_not_fit_is_refused_in_words(context: Any) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    assert made.infer_shapes() == ["images"] and not made.execute_async_v3(stream)
    assert not made.set_input_shape("images", (5, 3, 16, 16)) and not made.set_input_shape("boxes", (1, 4, 4))
    assert not made.set_tensor_address("image", addresses["images"])
    assert not made.set_tensor_address("images", addresses["images"] + 8)
    assert made.set_input_shape("images", (2, 3, 16, 16)) and not made.execute_async_v3(stream)
    assert tuple(made.get_tensor_shape("boxes")) == (2, 4, 4)
    assert [words.split(" ")[-3:] for words in context.messages.errors] == [
        ["is", "not", "set"], ["3,", "16,", "16)"], ["no", "input", "boxes"], ["no", "tensor", "image"],
        ["multiple", "of", "256"], ["is", "not", "set"],
    ]  # fmt: skip


def test_memory_that_was_given_back_or_is_too_small_is_a_misuse(
    context: Any, device: CudaDevice, forbidden: Callable[..., None]
) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    small = device.allocate(64)
    made.set_tensor_address("boxes", small)
    forbidden(lambda: made.execute_async_v3(stream), "boxes: 128 bytes are not within memory")
    device.free(small)
    forbidden(lambda: made.execute_async_v3(stream), "boxes: 128 bytes are not within memory")


def test_nothing_happens_before_somebody_waits(context: Any, device: CudaDevice, needs_fake_card: None) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    host, images = device.host_array((2, 4, 4), np.float32), device.host_array((2, 3, 16, 16), np.float32)
    images[:], host[:] = batch(2), 77
    device.copy_to_device(addresses["images"], images, stream)
    assert made.execute_async_v3(stream)
    device.copy_to_host(host, addresses["boxes"], stream)
    assert (host == 77).all()
    device.synchronize(stream)
    np.testing.assert_array_equal(host, answer(batch(2)).boxes)
    device.free_host_array(host)
    device.free_host_array(images)


def test_memory_that_is_given_back_before_the_work_is_done_is_an_error(
    context: Any, device: CudaDevice, needs_fake_card: None
) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    assert made.execute_async_v3(stream)
    device.free(addresses.pop("labels"))
    with pytest.raises(BackendError, match="illegal memory access"):
        device.synchronize(stream)
    assert driver.misuses == ["labels: 64 bytes are not within memory that the card has given"]
    driver.misuses.clear()


@pytest.mark.usefixtures("needs_graphs")
def test_the_first_run_after_a_change_of_shapes_cannot_be_captured(context: Any, device: CudaDevice) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    device.destroy_graph(device.capture(stream, lambda: made.execute_async_v3(stream)))
    assert context.messages.errors == ["stand-in: the first run after a change of shapes cannot be captured"]


@pytest.mark.usefixtures("needs_graphs")
def test_a_context_that_was_captured_stays_as_it_is(
    context: Any, device: CudaDevice, forbidden: Callable[..., None]
) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    assert made.execute_async_v3(stream)
    device.synchronize(stream)
    graph = device.capture(stream, lambda: made.execute_async_v3(stream))
    forbidden(lambda: made.set_input_shape("images", (1, 3, 16, 16)), "after a graph was captured")
    device.destroy_graph(graph)


@pytest.mark.usefixtures("needs_fake_card")
def test_streams_and_contexts_have_to_be_there(
    context: Any, device: CudaDevice, forbidden: Callable[..., None]
) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    gone = device.create_stream()
    device.destroy_stream(gone)
    forbidden(lambda: made.execute_async_v3(gone), "a stream that is not there")
    with ThreadPoolExecutor(1) as pool:
        forbidden(lambda: pool.submit(made.execute_async_v3, stream).result(), "without a current CUDA context")
