"""A compiled training on a GPU computes what a plain one does, CUDA graphs included."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from ssd_train.networks.build import build_ssd
from ssd_train.networks.zoo import network_config
from ssd_train.training.batches import Batch
from ssd_train.training.config import TrainingConfig
from ssd_train.training.initialise import initialise
from ssd_train.training.processes import Processes
from ssd_train.training.step import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("torch_on_gpu")]

# Without batch norms, which make much of the last bits; conv4_3's norm is in the first.
NETWORKS = ("ssd_128_vgg16_atrous_custom", "ssd_128_resnet18_v1_custom")
STEPS, SIDE, IMAGES = 4, 128, 8


def batch_of(seed: int) -> Batch:
    """Noise with two objects an image, in memory that a GPU fetches by itself."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(IMAGES, 2, 2, generator=generator) * 60
    batch = Batch(
        images=torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator),
        places=torch.tensor([[0, 0, SIDE, SIDE]] * IMAGES),
        colours=torch.eye(3, 4).repeat(IMAGES, 1, 1),
        boxes=torch.cat([corners, corners + 20 + 40 * torch.rand(IMAGES, 2, 2, generator=generator)], dim=2),
        labels=torch.randint(0, 3, (IMAGES, 2), generator=generator),
        paths=("",) * IMAGES,
        bad=(),
    )
    return batch.pin_memory()


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("variant", ["compile", "compile+cuda-graphs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_compiled_step_has_the_gradients_of_a_plain_one(name: str, variant: str, amp: str, tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    network = build_ssd(network_config(name, ("a", "b", "c")))
    initialise(network, 1)
    plain_config = TrainingConfig(network=name, dataset="voc", out=tmp_path, lr=1e-4, amp=amp)
    config = dataclasses.replace(plain_config, compile=True, cuda_graphs="cuda-graphs" in variant)
    processes = Processes(rank=0, count=1, device=device)
    torch._dynamo.reset()
    plain, other = (Trainer(copy.deepcopy(network).to(device), each, processes) for each in (plain_config, config))
    for step in range(STEPS):
        for trainer in (plain, other):
            trainer.start_training()
        # A difference is not to grow from step to step.
        other.load_state(copy.deepcopy(plain.state()))
        losses = [trainer.step(step, batch_of(step), 1e-4, stop=False).values()[:2] for trainer in (plain, other)]
        assert losses[1] == pytest.approx(losses[0], rel=5e-2 if amp == "bf16" else 1e-3), step
        for (key, expected), found in zip(plain.network.named_parameters(), other.network.parameters(), strict=True):
            assert (expected.grad is None) == (found.grad is None), key
            if expected.grad is None or found.grad is None:
                continue
            assert found.grad.shape == expected.grad.shape, key
            # bfloat16 keeps 8 bits of each number, and fused kernels round fewer of them.
            share = 0.2 if amp == "bf16" else 0.01
            assert (found.grad - expected.grad).norm() <= share * expected.grad.norm() + 1e-4, (step, key)
