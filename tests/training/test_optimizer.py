"""MXNet's momentum SGD and the learning rate of every step, by hand."""

import copy
import math

import pytest
import torch

from ssd_train.training.optimizer import MXNetSGD, learning_rate


def test_a_decay_of_the_learning_rate_leaves_old_steps_as_large_as_they_were() -> None:
    """Golden vector 7, from MXNet: w0 = 1, gradient always 7, three rates."""
    weight = torch.tensor([1.0], requires_grad=True)
    optimizer = MXNetSGD([weight], lr=0.1, momentum=0.9, weight_decay=0.01)
    for rate, expected in ((0.1, 0.299), (0.01, -0.4019299), (0.01, -1.1027266)):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor([7.0])
        optimizer.step()
        assert weight.item() == pytest.approx(expected, abs=1e-6)


def test_a_parameter_without_a_gradient_stays() -> None:
    moved, still = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = MXNetSGD([moved, still], lr=0.5, weight_decay=0.1)
    moved.grad = torch.ones(2)
    optimizer.step()
    # 1 - 0.5 (1 + 0.1).
    torch.testing.assert_close(moved.detach(), torch.full((2,), 0.45))
    assert torch.equal(still.detach(), torch.ones(3))
    assert still not in optimizer.state


def test_without_any_gradient_nothing_happens() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert MXNetSGD([weight], lr=0.5).step() is None
    assert torch.equal(weight.detach(), torch.ones(2))


def test_gradients_are_not_changed_by_the_decay_of_weights() -> None:
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.tensor([1.0, 2.0])
    MXNetSGD([weight], lr=0.5, weight_decay=0.1).step()
    assert weight.grad.tolist() == [1, 2]


def test_the_defaults_are_the_recipe_s() -> None:
    group = MXNetSGD([torch.ones(1, requires_grad=True)], lr=0.001).param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)


def test_a_step_is_the_same_after_saving_and_loading() -> None:
    def fresh() -> tuple[torch.Tensor, MXNetSGD]:
        weight = torch.tensor([1.0, -2.0], requires_grad=True)
        return weight, MXNetSGD([weight], lr=0.1)

    weight, optimizer = fresh()
    for gradient in (1.0, -3.0):
        weight.grad = torch.full((2,), gradient)
        optimizer.step()
    other, resumed = fresh()
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.data.copy_(weight.detach())
    for each, own in ((weight, optimizer), (other, resumed)):
        each.grad = torch.full((2,), 0.5)
        own.step()
    assert torch.equal(weight, other)


def test_a_closure_computes_the_loss_with_gradients() -> None:
    weight = torch.tensor([3.0], requires_grad=True)

    def closure() -> torch.Tensor:
        loss = (weight * 2).sum()
        loss.backward()
        return loss

    assert MXNetSGD([weight], lr=1.0, weight_decay=0).step(closure).item() == 6
    assert weight.item() == 1


RECIPE = {"base": 1e-3, "decay": 0.1, "decay_epochs": (160, 200), "warmup_steps": 0, "warmup_factor": 0.01}


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1e-3), (159, 1e-3), (160, 1e-4), (199, 1e-4), (200, 1e-5), (239, 1e-5)]
)
def test_the_recipe_s_rate_falls_tenfold_at_epochs_160_and_200(epoch: int, expected: float) -> None:
    rate = learning_rate(epoch * 500, epoch, 120_000, mode="step", **RECIPE)  # type: ignore[arg-type]
    assert rate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "expected"),
    # Half a cosine from 0.8: (1 + cos 60 degrees) / 2 at a third.
    [(0, 0.8), (100, 0.6), (150, 0.4), (200, 0.2), (300, 0.0), (400, 0.0)],
)
def test_the_cosine_rate_falls_to_nothing(step: int, expected: float) -> None:
    settings = {**RECIPE, "base": 0.8}
    # Epochs do not matter to it.
    rate = learning_rate(step, 250, 300, mode="cos", **settings)  # type: ignore[arg-type]
    assert rate == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.02), (5, 0.11), (9, 0.182), (10, 0.2), (11, 0.2)])
def test_the_rate_rises_linearly_in_warm_up(step: int, expected: float) -> None:
    settings = {**RECIPE, "base": 0.2, "warmup_steps": 10, "warmup_factor": 0.1}
    rate = learning_rate(step, 0, 100, mode="step", **settings)  # type: ignore[arg-type]
    assert rate == pytest.approx(expected, rel=1e-12)


def test_warm_up_is_a_share_of_the_rate_that_would_be() -> None:
    settings = {**RECIPE, "base": 1.0, "warmup_steps": 60, "warmup_factor": 0.0}
    # At step 30 of 60, half of the cosine's rate at 30 of 90.
    rate = learning_rate(30, 0, 90, mode="cos", **settings)  # type: ignore[arg-type]
    assert rate == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)) / 2, rel=1e-12)


def test_steps_and_gradients_are_laid_out_as_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the operators on lists take tensor by tensor on a GPU."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    add = torch._foreach_add

    def noted(gradients: list[torch.Tensor], weights: list[torch.Tensor], **options: float) -> list[torch.Tensor]:
        pairs.extend(zip(gradients, weights, strict=True))
        return list(add(gradients, weights, **options))

    monkeypatch.setattr(torch, "_foreach_add", noted)

    def trained(memory_format: torch.memory_format) -> list[torch.Tensor]:
        # A convolution of 1x1, whose strides along axes of one element are arbitrary, and one of 3x3.
        weights = [torch.arange(8.0).view(4, 2, 1, 1), torch.arange(72.0).view(4, 2, 3, 3)]
        weights = [weight.to(memory_format=memory_format).requires_grad_() for weight in weights]
        optimizer = MXNetSGD(weights, lr=0.1)
        for _ in range(3):
            weights[0].grad = torch.ones(8).view(4, 2, 1, 1)
            weights[1].grad = torch.ones(72).view(4, 2, 3, 3).to(memory_format=torch.channels_last)
            optimizer.step()
            for weight in weights:
                state = optimizer.state[weight]
                pairs.append((state["last_step"], weight))
                # As a checkpoint of a training with the other order has them.
                state["last_step"] = state["last_step"].contiguous()
        return [weight.detach() for weight in weights]

    for one, other in zip(trained(torch.contiguous_format), trained(torch.channels_last), strict=True):
        assert torch.equal(one, other)
    assert len(pairs) == 24 and all(one.stride() == other.stride() for one, other in pairs)
