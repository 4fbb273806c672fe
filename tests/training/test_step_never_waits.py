"""No operation of a training step waits for the GPU, which would leave it without work.

A described GPU stands in for one: `FakeTensorMode` gives tensors a device and shapes, and no values. What needs a value
(`nonzero`, `item`, an index of booleans) cannot run there, and what copies from the host is seen.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssd_train.training import input_batch as input_module
from ssd_train.training.batch_counts import counted_at_once, counting_norms
from ssd_train.training.batches import Batch
from ssd_train.training.input_batch import input_batch
from ssd_train.training.loss import empty_images_share, multibox_loss
from ssd_train.training.optimizer import MXNetSGD
from ssd_train.training.targets import assign_targets

IMAGES, OBJECTS, ANCHORS, CLASSES, SIDE = 2, 3, 50, 4, 16


class HostCopies(TorchDispatchMode):
    """Notes each operator that takes a tensor of the host and gives or changes one of the GPU, or the reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        # A number that became a tensor goes along with the kernel.
        if (
            len({tensor.device.type for tensor in tensors if tensor.dim() or func is torch.ops.aten._to_copy.default})
            > 1
        ):
            self.names.append(str(func))
        return result


@pytest.fixture
def described_gpu() -> Iterator[torch.device]:
    input_module._on_device.cache_clear()
    with FakeTensorMode(), torch.device("cuda", 0) as gpu:
        yield gpu
    # Its constants have no values.
    input_module._on_device.cache_clear()


@pytest.fixture
def batch(described_gpu: torch.device) -> Batch:
    return Batch(
        images=torch.empty(IMAGES, SIDE, SIDE, 3, dtype=torch.uint8),
        places=torch.empty(IMAGES, 4, dtype=torch.int64),
        colours=torch.empty(IMAGES, 3, 4),
        boxes=torch.empty(IMAGES, OBJECTS, 4),
        labels=torch.empty(IMAGES, OBJECTS, dtype=torch.int64),
        paths=("",) * IMAGES,
        bad=(),
    )


def test_the_stand_in_sees_what_waits(described_gpu: torch.device) -> None:
    values = torch.empty(4)
    for wait, error in (
        (lambda: values.nonzero(), DynamicOutputShapeException),
        (lambda: values[values > 0], DynamicOutputShapeException),
        (lambda: values.sum().item(), DataDependentOutputException),
    ):
        with pytest.raises(error):
            wait()
    with HostCopies() as seen:
        torch.tensor([1.0, 2.0], device="cpu").to(described_gpu)
    assert seen.names == ["aten._to_copy.default"]


def test_the_network_input_does_not_wait(batch: Batch) -> None:
    mean = (0.5, 0.4, 0.3)
    input_batch(batch, mean, mean)
    # The constants are there from the second step on.
    with HostCopies() as seen:
        images = input_batch(batch, mean, mean)
    assert images.device.type == "cuda" and images.is_contiguous(memory_format=torch.channels_last)
    assert seen.names == []


def test_targets_and_loss_do_not_wait(batch: Batch) -> None:
    with HostCopies() as seen, torch.no_grad():
        cls_targets, box_targets = assign_targets(batch.boxes, batch.labels, torch.empty(ANCHORS, 4))
        positives = (cls_targets > 0).sum(dim=1).float()
        counts = positives.sum(), (positives > 0).float().sum(), (positives == 0).float().sum()
        positives_of_empty, divisor = empty_images_share(*counts)
        logits, offsets = torch.empty(IMAGES, ANCHORS, CLASSES + 1), torch.empty(IMAGES, ANCHORS, 4)
        losses = multibox_loss(logits, offsets, cls_targets, box_targets, divisor, positives_of_empty)
    assert [loss.device.type for loss in losses] == ["cuda", "cuda"]
    assert seen.names == []


def test_the_optimizer_does_not_wait(described_gpu: torch.device) -> None:
    weights = [torch.empty(4, 3, requires_grad=True), torch.empty(5, requires_grad=True)]
    optimizer = MXNetSGD(weights, lr=0.1)
    with HostCopies() as seen:
        for _ in range(2):
            for weight in weights:
                weight.grad = torch.empty_like(weight)
            optimizer.step()
    assert seen.names == []


def test_batch_norms_are_counted_in_one_operation(described_gpu: torch.device) -> None:
    norms = torch.nn.Sequential(*(torch.nn.BatchNorm2d(3) for _ in range(7))).train()
    launched: list[str] = []

    class Launched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            launched.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Launched(), counted_at_once(counting_norms(norms)):
        norms(torch.empty(2, 3, 8, 8))
    assert launched.count("_foreach_add_") == 1 and "add_" not in launched
