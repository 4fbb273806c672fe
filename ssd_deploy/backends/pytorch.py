"""PyTorch: the reference that every other backend is compared with."""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_deploy.backends.base import RawPredictions, check_images
from ssd_train.evaluation.detections import PaddedDetections
from ssd_train.evaluation.errors import BackendError
from ssd_train.evaluation.spec import PostprocessSettings
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD


class TorchRunner:
    """Runs a network and the very post-processing module that is exported.

    Args:
        network: in evaluation mode; moved to `device`.
        settings: thresholds and counts.
        device: `cpu`, `cuda` or `cuda:N`.
        allow_tf32: let the GPU round float32 products to 10 bits of mantissa. Off by default, and set
            for the whole process, since PyTorch knows no narrower switch.

    Raises:
        BackendError: there is no such device.
    """

    max_batch_size: int | None = None

    def __init__(
        self,
        network: SSD,
        settings: PostprocessSettings = PostprocessSettings(),
        *,
        device: str = "cpu",
        allow_tf32: bool = False,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendError(f"torch {torch.__version__} finds no CUDA device; use --cpu, or see `ssd-deploy doctor`")
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
        torch.backends.cudnn.allow_tf32 = allow_tf32
        try:
            self.device = torch.device(device)
            self.network = network.eval().to(self.device)
        except RuntimeError as error:
            raise BackendError(
                f"torch {torch.__version__} cannot use device {device!r} ({str(error).splitlines()[0]}); "
                "use cpu or cuda, or see `ssd-deploy doctor`"
            ) from error
        self.postprocess = Postprocess(settings)
        precision = "tf32" if allow_tf32 and self.device.type == "cuda" else "fp32"
        self.spec = dataclasses.replace(network.spec, postprocess=settings, precision=precision)
        self.name = f"torch ({self.device})"

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        """See `Runner.run`."""
        raw = self._predict(images)
        boxes, scores, labels = self.postprocess(*raw, self.network.anchors)
        return PaddedDetections(boxes.cpu().numpy(), scores.cpu().numpy(), labels.cpu().numpy())

    @torch.inference_mode()
    def run_raw(self, images: NDArray[np.float32]) -> RawPredictions:
        """See `Runner.run_raw`."""
        cls_logits, box_offsets = self._predict(images)
        return RawPredictions(cls_logits.cpu().numpy(), box_offsets.cpu().numpy())

    def _predict(self, images: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        check_images(images, self.spec, self.max_batch_size)
        # A copy: arrays from other libraries may be read-only, which PyTorch does not support.
        return self.network(torch.tensor(images).to(self.device))
