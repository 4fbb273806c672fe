"""`threads` of a training: it holds for the libraries while the training runs."""

from pathlib import Path

import cv2
import pytest
import torch

from ssd_train.training import loop
from ssd_train.training.config import TrainingConfig


class _Stop(Exception):
    """Ends a training at its first look for a checkpoint."""


@pytest.mark.parametrize("threads", [2, 0])
def test_a_training_computes_with_the_threads_that_it_was_given(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noting(config: TrainingConfig) -> None:
        seen.append((torch.get_num_threads(), cv2.getNumThreads()))
        raise _Stop

    monkeypatch.setattr(loop, "find_checkpoint", noting)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads(), cv2.getNumThreads()
    config = TrainingConfig(network="n", dataset="d", out=tmp_path, device="cpu", threads=threads)
    with pytest.raises(_Stop):
        loop.train(config)
    assert seen == [(threads, threads) if threads else before]
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
