"""The training's loss on validation images, which are resized and normalised as for detection and not augmented."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ssd_train.boxes import clip_boxes, resize_factors
from ssd_train.datasets.dataset import GroundTruth, Sample
from ssd_train.networks.ssd import SSD
from ssd_train.training.loss import multibox_loss
from ssd_train.training.processes import Processes
from ssd_train.training.targets import assign_targets


class ValidationLoss:
    """Sums the loss of one process's part of the validation images.

    An image without objects adds nothing, as in training.

    Args:
        network: gives anchors and input size.
        samples: that part, in the order in which predictions come.
        training_boxes: (objects, (height, width)) -> those that the training would learn, as it sees them.
    """

    def __init__(
        self,
        network: SSD,
        samples: Sequence[Sample],
        training_boxes: Callable[[GroundTruth, tuple[int, int]], GroundTruth],
    ) -> None:
        self.network = network
        self.samples = samples
        self.training_boxes = training_boxes
        self.done = 0
        # Classification loss, localisation loss, matched anchors.
        self.sums = np.zeros(3)

    @torch.no_grad()
    def add(self, cls_logits: Tensor, box_offsets: Tensor) -> None:
        """Count the next N samples, given (N, A, C + 1) and (N, A, 4) predictions for them."""
        for row in range(len(cls_logits)):
            boxes, labels = self._objects(self.samples[self.done])
            self.done += 1
            boxes, labels = boxes[None].to(cls_logits.device), labels[None].to(cls_logits.device)
            cls_targets, box_targets = assign_targets(boxes, labels, self.network.anchors)
            logits, offsets = cls_logits[row : row + 1], box_offsets[row : row + 1]
            losses = multibox_loss(logits, offsets, cls_targets, box_targets, num_positives=1)
            self.sums += [float(value) for value in (*losses, (cls_targets > 0).sum())]

    def mean(self, processes: Processes) -> dict[str, float]:
        """Return `cls_loss` and `box_loss` a matched anchor over all processes' parts; every process calls this."""
        cls_loss, box_loss, positives = np.sum(processes.gather(self.sums), axis=0).tolist()
        return {"cls_loss": cls_loss / max(positives, 1), "box_loss": box_loss / max(positives, 1)}

    def _objects(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Return (M, 4) float32 boxes in network-input pixels and (M,) labels; one row of padding where there is none.

        Clipped, and each with an area, as augmentation leaves them: see `assign_targets`.
        """
        truth = self.training_boxes(sample.ground_truth, sample.image_size)
        input_size = self.network.spec.input_size
        boxes = clip_boxes(truth.boxes * resize_factors(sample.image_size, input_size), input_size).astype(np.float32)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        if not has_area.any():
            return torch.zeros(1, 4), torch.full((1,), -1)
        return torch.from_numpy(boxes[has_area]), torch.from_numpy(truth.labels[has_area])
