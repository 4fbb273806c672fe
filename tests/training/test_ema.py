"""The moving average of the weights, by hand."""

import pytest
import torch

from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.training.ema import MovingAverage

NAME = "ssd_300_mobilenet0.25_custom"


@pytest.fixture
def network() -> SSD:
    return build_ssd(network_config(NAME, ("cat",)))


def fill(network: SSD, value: float) -> None:
    """Set every parameter and every statistic; the anchors are a part of the state too."""
    for tensor in network.state_dict().values():
        tensor.fill_(value)


def test_it_starts_as_the_network_in_evaluation_mode_and_follows_by_itself(network: SSD) -> None:
    network.train()
    average = MovingAverage(network, 0.9)
    assert network.training and not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert any(parameter.requires_grad for parameter in network.parameters())
    before = {name: value.clone() for name, value in average.network.state_dict().items()}
    fill(network, 5)
    for name, value in average.network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("decay", "step", "expected"),
    [
        # (1 + step) / (10 + step) of the old value, at most `decay`: 1/10, 2/11, then 0.9 and 0.5.
        (0.9, 0, 0.1 * 2 + 0.9 * 12),
        (0.9, 1, 2 / 11 * 2 + 9 / 11 * 12),
        (0.9, 80, 0.9 * 2 + 0.1 * 12),
        (0.9, 100_000, 3.0),
        (0.5, 100, 7.0),
        (0.0, 100, 12.0),
    ],
)
def test_a_step_leaves_the_decay_s_share_of_the_average(network: SSD, decay: float, step: int, expected: float) -> None:
    fill(network, 2)
    average = MovingAverage(network, decay)
    fill(network, 12)
    average.update(network, step)
    for name, value in average.network.state_dict().items():
        # Counters of batches are taken over; weights and statistics are averaged, in float32.
        wanted = expected if value.is_floating_point() else 12
        torch.testing.assert_close(value, torch.full_like(value, wanted), rtol=1e-6, atol=0, msg=name)
    assert all((value == 12).all() for value in network.state_dict().values())


def test_several_steps_are_the_sum_of_a_geometric_series(network: SSD) -> None:
    fill(network, 0)
    average = MovingAverage(network, 0.5)
    for value in (8, 4, 16):
        fill(network, value)
        average.update(network, 1000)
    # 8/8 + 4/4 + 16/2.
    assert next(average.network.parameters()).flatten()[0].item() == 10
