"""Every backbone through torch.compile, forward and backward, against PyTorch without it; and what is refused."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_checks import two_images
from torch import Tensor, nn
from training_runs import CLASSES, small_config

from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.networks import build, resnet, resnet_v2
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.vgg_atrous import L2Normalize
from ssd_train.networks.zoo import NETWORKS, network_config
from ssd_train.training import compiling
from ssd_train.training.compiling import compile_options, compiled, compiler_errors
from ssd_train.training.initialise import initialise
from ssd_train.training.processes import Processes
from ssd_train.training.step import Trainer

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))
SIDE = 96
# Of VGG-16, so that no map of one cell is halved again, which a CPU has no gradients for in bfloat16.
VGG_SIDE = 160


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SSD]:
    """Build a backbone's network with one block of each kind a stage; tracing takes as long as there are layers."""
    for name in ("RESNET18_V1", "RESNET50_V1", "RESNET50_V1S", "RESNET50_V1B"):
        monkeypatch.setattr(build, name, dataclasses.replace(getattr(build, name), blocks=(1, 1, 1, 1)))
    two_blocks = dataclasses.replace(resnet.RESNET34_V1B_SSD, blocks=(1, 1, 2, 1))
    monkeypatch.setattr(resnet, "RESNET34_V1B_SSD", two_blocks)
    monkeypatch.setattr(resnet_v2, "BLOCKS", (1, 1, 2))
    monkeypatch.setattr(resnet_v2, "TAP_BLOCK", 1)

    def built(backbone: str) -> SSD:
        side = VGG_SIDE if backbone == "vgg16_atrous" else SIDE
        network = build_ssd(network_config(f"ssd_{side}_{backbone}_custom", CLASSES)).train()
        initialise(network, 1)
        return network

    return built


def gradients(network: SSD, forward: Callable[[Tensor], Any], amp: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return what a network gives for two noisy images, and the gradients of a random sum of it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *network.config.input_size, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        outputs = forward(images)
    torch.autograd.backward(outputs, [torch.randn(part.shape, generator=generator) for part in outputs])
    named = network.named_parameters()
    return [part.detach() for part in outputs], {name: value.grad for name, value in named if value.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    # With one block, that of resnet101_v1b is ResNet-50's.
    sorted({row.backbone for row in NETWORKS.values() if row.name.endswith("_custom")} - {"resnet101_v1b"}),
)
def test_every_backbone_is_one_graph_with_pytorch_s_gradients(backbone: str, shallow: Callable[[str], SSD]) -> None:
    plain = shallow(backbone)
    other = copy.deepcopy(plain)
    torch._dynamo.reset()
    # Both passes as torch.compile traces them, without its kernels, which take minutes to make.
    traced = torch.compile(other, backend="aot_eager", fullgraph=True)
    # In mixed precision where there is no batch norm: over so few values that makes anything of the last bits.
    amp = backbone == "vgg16_atrous"
    outputs, expected = gradients(plain, plain, amp=amp)
    found_outputs, found = gradients(other, traced, amp=amp)
    assert found.keys() == expected.keys()
    # The same operators; a convolution in bfloat16 sums differently with where its memory lies.
    share = 0.05 if amp else 1e-2
    named = zip(("logits", "offsets", *expected), (*outputs, *expected.values()), strict=True)
    for (name, reference), value in zip(named, (*found_outputs, *found.values()), strict=True):
        assert value.shape == reference.shape, name
        assert (value - reference).norm() <= share * reference.norm() + 1e-6, name


@pytest.mark.slow
def test_a_step_of_a_compiled_training_is_that_of_a_plain_one(
    shallow: Callable[[str], SSD], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shallow("resnet18_v1")
    batch = two_images()
    batch = dataclasses.replace(
        batch,
        images=batch.images[:, :SIDE, :SIDE].contiguous(),
        places=torch.tensor([[0, 0, SIDE, SIDE]] * 2),
        boxes=batch.boxes.clamp(max=SIDE),
    )
    torch._dynamo.reset()
    monkeypatch.setattr(
        torch,
        "compile",
        lambda network, *, options, _compile=torch.compile: _compile(network, backend="aot_eager", fullgraph=True),
    )
    ends: list[dict[str, Tensor]] = []
    losses = []
    for compiles in (False, True):
        trainer = Trainer(copy.deepcopy(first), small_config(tmp_path, tmp_path / "run", compile=compiles), ALONE)
        trainer.start_training()
        losses.append(trainer.step(0, batch, 0.01, stop=False).values())
        ends.append(trainer.network.state_dict())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    plain, found = ends
    for name, start in first.state_dict().items():
        assert (found[name] - plain[name]).float().norm() <= 1e-3 * (plain[name] - start).float().norm() + 1e-6, name
    assert int(found["features.backbone.stem.1.num_batches_tracked"]) == 1


def test_a_cpu_has_no_gradients_in_bfloat16_for_one_cell_that_is_halved(tmp_path: Path) -> None:
    network = build_ssd(network_config(f"ssd_{SIDE}_mobilenet0.25_custom", CLASSES))
    with pytest.raises(
        BackendError, match=f"^amp bf16 on a CPU .* which ssd_{SIDE}_mobilenet0.25_custom has"
    ) as caught:
        Trainer(network, small_config(tmp_path, tmp_path / "run", amp="bf16"), ALONE)
    assert caught.value.arguments == ("amp",)


@pytest.mark.slow
def test_the_scale_of_the_norm_has_a_gradient_of_its_shape() -> None:
    layer = L2Normalize(8)
    features = torch.rand(2, 8, 5, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    results = []
    for forward in (layer, compiled(layer)):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            forward(features).square().sum().backward()
        assert layer.scale.grad is not None
        results.append(layer.scale.grad.clone())
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-3)


def test_the_fused_reduction_of_wrong_shapes_is_off() -> None:
    known = set(torch._inductor.list_options())
    assert set(compile_options(cuda_graphs=True)) <= known
    assert compile_options().get(compiling.MIX_ORDER_REDUCTION, False) is False
    assert "triton.cudagraphs" not in compile_options()
    assert compile_options(cuda_graphs=True)["triton.cudagraphs"] is True


def test_a_pytorch_without_that_reduction_is_not_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor

    monkeypatch.setattr(torch._inductor, "list_options", lambda: ["triton.cudagraphs"])
    assert compile_options(cuda_graphs=True) == {"triton.cudagraphs": True}


def test_a_machine_that_cannot_compile_is_a_sentence() -> None:
    sentence = r"^torch\.compile failed \(no compiler\); install a C\+\+ compiler such as g\+\+"
    with pytest.raises(BackendError, match=sentence) as caught, compiler_errors():
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nand much more")
    assert caught.value.arguments == ("compile",)
    # What is no fault of the compiler's stays what it is.
    with pytest.raises(ZeroDivisionError), compiler_errors():
        1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("processes", "where"),
    [(ALONE, "a CPU"), (Processes(rank=0, count=2, device=torch.device("cuda", 0)), "2 processes")],
)
def test_cuda_graphs_are_for_one_gpu(processes: Processes, where: str, tmp_path: Path) -> None:
    config = small_config(tmp_path, tmp_path / "run", compile=True, cuda_graphs=True)
    with pytest.raises(
        BackendError, match=f"^cuda_graphs is for a training on one GPU, not for {where}; leave"
    ) as caught:
        Trainer(nn.Module(), config, processes)  # type: ignore[arg-type]
    assert caught.value.arguments == ("cuda_graphs",)


def test_cuda_graphs_go_with_compile(tmp_path: Path) -> None:
    with pytest.raises(SSDDeployError, match=r"^cuda_graphs records what torch\.compile makes; add compile"):
        small_config(tmp_path, tmp_path / "run", cuda_graphs=True)


@pytest.mark.parametrize(("asked", "expected"), [(None, False), (True, True), (False, False)])
def test_without_a_word_a_cpu_keeps_its_order_of_memory(asked: bool | None, expected: bool, tmp_path: Path) -> None:
    network = build_ssd(network_config("ssd_96_mobilenet0.25_custom", ("circle",)))
    Trainer(network, small_config(tmp_path, tmp_path / "run", channels_last=asked), ALONE)
    weight = network.class_predictors[0].predictor.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is expected
