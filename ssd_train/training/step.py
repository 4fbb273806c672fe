"""One training step: images -> network -> targets -> loss -> gradients -> weights."""

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssd_train.errors import BackendError
from ssd_train.networks.ssd import SSD
from ssd_train.training.batch_counts import counted_at_once, counting_norms
from ssd_train.training.batches import Batch
from ssd_train.training.compiling import compiled, compiler_errors
from ssd_train.training.config import TrainingConfig
from ssd_train.training.ema import MovingAverage
from ssd_train.training.freeze import freeze
from ssd_train.training.input_batch import input_batch
from ssd_train.training.loss import empty_images_share, multibox_loss
from ssd_train.training.optimizer import MXNetSGD
from ssd_train.training.processes import Processes
from ssd_train.training.targets import assign_targets

AMP_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

# GluonCV's loss scale in half precision. GradScaler doubles and halves it by the same rules, but has no upper limit,
# where GluonCV's is 2^24.
INITIAL_LOSS_SCALE = 2.0**16


@dataclasses.dataclass(frozen=True)
class StepResult:
    """A step's numbers, which are copied from the device meanwhile; `values` waits for them.

    Attributes:
        step: which one.
        lr: its learning rate.
        paths: image files of this process's part of the batch.
        given_at: when the device had been given all its work, in seconds of `time.perf_counter`.
    """

    step: int
    lr: float
    paths: tuple[str, ...]
    given_at: float
    _numbers: Tensor
    _copied: torch.cuda.Event | None

    def values(self) -> tuple[float, float, bool]:
        """Return classification and localisation loss of the whole batch, and whether a process was asked to stop."""
        if self._copied is not None:
            self._copied.synchronize()
        classification, localisation, stop = self._numbers.tolist()
        return classification, localisation, stop > 0


class Trainer:
    """Network, optimizer and moving average on this process's device, and what a step does to them.

    Args:
        network: on the device; its weights are updated in place.
        config: learning rate of the first step, momentum, weight decay, precision and variants.
        processes: whose gradients are averaged.

    Raises:
        BackendError: a variant that does not work on this device.
        NetworkError: there is less to freeze than was asked for.
    """

    def __init__(self, network: SSD, config: TrainingConfig, processes: Processes) -> None:
        self.network = network
        self.processes = processes
        device = processes.device
        if config.sync_bn and device.type != "cuda":
            raise BackendError("sync_bn is for GPUs; leave it out on a CPU", arguments=("sync_bn",))
        if config.amp == "fp16" and device.type != "cuda":
            raise BackendError("amp fp16 is for GPUs; on a CPU use bf16 or off", arguments=("amp",))
        if config.amp == "bf16" and device.type == "cpu" and (1, 1) in network.config.feature_sizes[:-1]:
            # oneDNN leaves the gradient of the taps that see the border alone as it found the memory: PyTorch 2.14.
            raise BackendError(
                f"amp bf16 on a CPU has no gradients for a map of one cell that is halved again, which "
                f"{network.config.name} has; use amp off or a larger input",
                arguments=("amp",),
            )
        if config.sync_bn and processes.count > 1:
            # The backbone's; GluonCV leaves those of the added levels to each process.
            nn.SyncBatchNorm.convert_sync_batchnorm(network.backbone)
        if config.cuda_graphs and (device.type != "cuda" or processes.count > 1):
            where = "a CPU" if device.type != "cuda" else f"{processes.count} processes"
            raise BackendError(
                f"cuda_graphs is for a training on one GPU, not for {where}; leave it out", arguments=("cuda_graphs",)
            )
        # FP32 means FP32, as everywhere in this project; for speed there is `amp`.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # Sizes never change, so cuDNN may try its algorithms once and keep the fastest.
        torch.backends.cudnn.benchmark = True
        # cuDNN's convolutions in half precision want this order, and it is the one that images come in.
        is_last = device.type == "cuda" if config.channels_last is None else config.channels_last
        self.memory_format = torch.channels_last if is_last else torch.contiguous_format
        network.to(memory_format=self.memory_format)
        self.amp_type = AMP_TYPES.get(config.amp)
        self.frozen = freeze(network, config.freeze)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = MXNetSGD(trained, config.lr, config.momentum, config.weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, INITIAL_LOSS_SCALE, enabled=config.amp == "fp16")
        self.cuda_graphs = config.cuda_graphs
        self.batch_norms = counting_norms(network)
        forward: nn.Module = network
        # Telling what the compiler raises takes a second of imports, which no other training is to wait for as it ends.
        self.compiler_errors: Callable[[], AbstractContextManager[None]] = nullcontext
        if config.compile:
            forward = compiled(network, cuda_graphs=config.cuda_graphs)
            self.compiler_errors = compiler_errors
        if processes.count > 1:
            forward = DistributedDataParallel(forward, device_ids=[device] if device.type == "cuda" else None)
        self.forward = forward
        self.with_negatives = config.negatives
        self.average = MovingAverage(network, config.ema_decay) if config.ema else None
        self._images: Tensor | None = None

    @property
    def kept_network(self) -> SSD:
        """The network that is validated and saved: the moving average, where there is one."""
        return self.network if self.average is None else self.average.network

    def start_training(self) -> None:
        """Put the network into training mode, but for what is frozen."""
        self.network.train()
        for module in self.frozen:
            module.eval()

    def step(self, step: int, batch: Batch, lr: float, *, stop: bool) -> StepResult:
        """Take a step on this process's part of a batch, which is on the CPU; `stop` is what all are to know."""
        device = self.processes.device
        batch = batch.to(device)
        spec = self.network.spec
        images = input_batch(batch, spec.mean, spec.std, over=self._images)
        if device.type == "cpu":
            self._images = images
        images = images.contiguous(memory_format=self.memory_format)
        cls_targets, box_targets = assign_targets(batch.boxes, batch.labels, self.network.anchors)
        # All processes divide by the positives of the whole batch. Their gradients are averaged, hence the product.
        positives = (cls_targets > 0).sum(dim=1).to(torch.float32)
        has_some = (positives > 0).to(torch.float32)
        counted = [positives.sum(), has_some.sum(), (1 - has_some).sum(), torch.full_like(has_some[0], float(stop))]
        num_positives, num_with, num_empty, stops = self.processes.sum(torch.stack(counted))
        positives_of_empty: Tensor | float = 0
        if self.with_negatives:
            positives_of_empty, num_positives = empty_images_share(num_positives, num_with, num_empty)
        if self.cuda_graphs:
            # The last step's gradients lie in memory that this one is about to use.
            self.optimizer.zero_grad(set_to_none=True)
            torch.compiler.cudagraph_mark_step_begin()
        with (
            self.compiler_errors(),
            counted_at_once(self.batch_norms),
            torch.autocast(device.type, self.amp_type or torch.bfloat16, enabled=self.amp_type is not None),
        ):
            cls_logits, box_offsets = self.forward(images)
        classification, localisation = multibox_loss(
            cls_logits, box_offsets, cls_targets, box_targets, num_positives, positives_of_empty
        )
        loss = (classification + localisation) * self.processes.count

        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with self.compiler_errors():
            self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        losses = self.processes.sum(torch.stack([classification.detach(), localisation.detach()]))
        numbers, copied = _copy_async(torch.cat([losses, stops[None]]))
        if self.average is not None:
            self.average.update(self.network, step)
        return StepResult(step, lr, batch.paths, time.perf_counter(), numbers, copied)

    def state(self) -> dict[str, Any]:
        """Return what a resumed training needs, weights included."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.network.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])


def _copy_async(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start copying a step's numbers to the host, and return them and when they are there.

    Waiting for them here would leave the GPU without work.
    """
    if numbers.device.type != "cuda":
        return numbers, None
    on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    on_host.copy_(numbers, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return on_host, copied
