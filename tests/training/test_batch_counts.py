"""Batch norms count their batches as PyTorch does, and only those that train."""

import pytest
import torch
from torch import Tensor, nn

from ssd_train.training.batch_counts import counted_at_once, counting_norms


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.BatchNorm2d(4)).train()


def state_after(network: nn.Module, at_once: bool) -> dict[str, Tensor]:
    norms = counting_norms(network)
    for seed in range(3):
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        if at_once:
            with counted_at_once(norms):
                network(images)
        else:
            network(images)
    return network.state_dict()


def test_all_of_the_state_is_what_pytorch_makes_of_it() -> None:
    plain, ours = layers(), layers()
    ours.load_state_dict(plain.state_dict())
    for network in (plain, ours):
        # As a frozen layer is.
        network[3].eval()
    expected, found = state_after(plain, at_once=False), state_after(ours, at_once=True)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert [int(found[f"{index}.num_batches_tracked"]) for index in (1, 3, 4)] == [3, 0, 3]


def test_after_an_error_the_counters_are_where_they_were() -> None:
    network = layers()
    with pytest.raises(ValueError, match="expected"), counted_at_once(counting_norms(network)):
        network[1](torch.ones(3))
    assert {name for name in network.state_dict() if "num_batches" in name} == {
        f"{index}.num_batches_tracked" for index in (1, 3, 4)
    }
    assert int(network[1].num_batches_tracked) == 0


def test_those_of_several_gpus_count_for_themselves() -> None:
    assert counting_norms(nn.SyncBatchNorm.convert_sync_batchnorm(layers())) == []
