"""How many operators does a training step start on a GPU, and how many bytes do they move?

    python benchmarks/training_ops.py [--json OUT.json] [--networks ssd_300_vgg16_atrous_voc] [--amp bf16,off]

A whole step (network input, targets, network, loss, gradients, weights, moving average) runs on tensors that have
shapes and no values (`FakeTensorMode`): nothing is computed, and no GPU is needed. The network input is a GPU's. An
operator is a call below autograd and autocast, so at least one kernel. What waits for values (`nonzero`, `item`) cannot
run this way at all. Bytes are those of the tensors that operators read and write, whatever a cache would hold.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from _common.operators import CountedOperators
from _common.turns import recorded_environment
from ssd_deploy.text_table import text_table
from ssd_train.files import write_json
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.training import input_batch as input_module
from ssd_train.training import step as step_module
from ssd_train.training.batches import Batch
from ssd_train.training.config import TrainingConfig
from ssd_train.training.processes import Processes
from ssd_train.training.step import Trainer

PARTS = ("input", "targets", "forward", "loss", "backward", "optimizer", "average", "other")
NETWORKS = "ssd_300_vgg16_atrous_voc,ssd_512_resnet50_v1_voc,ssd_512_mobilenet1.0_voc"
LR = 1e-3


def fake_batch(count: int, size: tuple[int, int], objects: int) -> Batch:
    """Return a batch without values; every image has as many objects."""
    return Batch(
        images=torch.empty(count, *size, 3, dtype=torch.uint8),
        places=torch.empty(count, 4, dtype=torch.int64),
        colours=torch.empty(count, 3, 4),
        boxes=torch.empty(count, objects, 4),
        labels=torch.empty(count, objects, dtype=torch.int64),
        paths=("",) * count,
        bad=(),
    )


def input_on_gpu(batch: Batch, mean: Any, std: Any, *, over: Tensor | None = None) -> Tensor:
    """Do what `input_batch` does with a batch on a GPU."""
    device = batch.images.device
    means, scales = input_module._on_device(mean, device), input_module._on_device(std, device)
    matrix = batch.colours[:, :, :3] / (255 * scales[:, None])
    offset = (batch.colours[:, :, 3] / 255 - means) / scales
    return input_module._with_torch(batch, matrix, offset).permute(0, 3, 1, 2)


def network_without_values(name: str, channels_last: bool, mode: FakeTensorMode) -> SSD:
    with unset_fake_temporarily():
        network = build_ssd(network_config(name)).train()
        network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        for module in network.modules():
            for values in (module._parameters, module._buffers):
                values.update({key: mode.from_tensor(value) for key, value in values.items() if value is not None})
    # They lie as they should already; tensors without values cannot be moved.
    network.to = lambda **_: network  # type: ignore[method-assign]
    return network


def count_step(name: str, amp: str, channels_last: bool, options: argparse.Namespace) -> CountedOperators:
    """Count a step that is not the first: the optimizer has its buffers."""
    counted = CountedOperators()

    def within(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with counted.part(part):
                return function(*args, **kwargs)

        return call

    with FakeTensorMode() as mode:
        network = network_without_values(name, channels_last, mode)
        config = TrainingConfig(
            network=name, dataset="voc", out=Path("unused"), amp=amp, channels_last=channels_last, ema=True
        )
        processes = Processes(rank=0, count=1, device=torch.device("cpu"))
        with mock.patch.object(copy, "deepcopy", lambda _: network_without_values(name, channels_last, mode)):
            trainer = Trainer(network, config, processes)
        batch = fake_batch(options.batch_size, network.spec.input_size, options.objects)
        trainer.forward.forward = within("forward", trainer.forward.forward)  # type: ignore[method-assign]
        trainer.optimizer.step = within("optimizer", trainer.optimizer.step)  # type: ignore[method-assign]
        assert trainer.average is not None
        trainer.average.update = within("average", trainer.average.update)  # type: ignore[method-assign]
        replaced = {
            "input_batch": within("input", input_on_gpu),
            "assign_targets": within("targets", step_module.assign_targets),
            "multibox_loss": within("loss", step_module.multibox_loss),
        }
        with (
            mock.patch.multiple(step_module, **replaced),
            mock.patch.object(Tensor, "backward", within("backward", Tensor.backward)),
        ):
            trainer.step(0, batch, LR, stop=False)
            with counted:
                trainer.step(1, batch, LR, stop=False)
    input_module._on_device.cache_clear()
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks", default="ssd_300_vgg16_atrous_voc,ssd_512_resnet50_v1_voc,ssd_512_mobilenet1.0_voc"
    )
    parser.add_argument("--amp", default="bf16,off", help="off is float32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--objects", type=int, default=16, help="of the fullest image")
    parser.add_argument(
        "--channels-last", action=argparse.BooleanOptionalAction, default=True, help="as training on a GPU does"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {
        "environment": recorded_environment(),
        "batch_size": options.batch_size,
        "objects": options.objects,
        "channels_last": options.channels_last,
        "steps": [],
    }
    for name in options.networks.split(","):
        for amp in options.amp.split(","):
            counted = count_step(name, amp, options.channels_last, options)
            parts = {part: counted.parts[part] for part in PARTS if part in counted.parts}
            total = sum(part.operators for part in parts.values()), sum(part.bytes for part in parts.values())
            values = {
                part: {"operators": found.operators, "megabytes": found.bytes / 1e6, "most": found.names.most_common(6)}
                for part, found in parts.items()
            }
            step = {"network": name, "amp": amp, "operators": total[0], "megabytes": total[1] / 1e6, "parts": values}
            results["steps"].append(step)
            rows = [(part, str(found.operators), f"{found.bytes / 1e6:.1f}") for part, found in parts.items()]
            print(f"{name}, amp {amp}, batch {options.batch_size}, {options.objects} objects in the fullest image")
            print(text_table(("part", "operators", "MB"), [*rows, ("all", str(total[0]), f"{total[1] / 1e6:.1f}")]))
            print(flush=True)
            if options.json is not None:
                write_json(options.json, results)


if __name__ == "__main__":
    main()
