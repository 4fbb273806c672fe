"""What a network is, as data: input, feature maps, anchors, classes. No torch needed."""

import dataclasses
from typing import Literal

from ssd_train.errors import NetworkError
from ssd_train.spec import GLUONCV_RESIZE, IMAGENET_MEAN, IMAGENET_STD, PostprocessSettings

AnchorClip = Literal["none", "sizes", "all"]
Project = Literal["gluoncv", "ssd-deploy", "torchvision", "pytorch-ssd"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One network; L feature maps. Whatever has two sides is (height, width).

    Attributes:
        name: what the command line and the weight files call it.
        backbone: key of `build.BACKBONES`.
        input_size: (height, width) of the network input in pixels.
        class_names: empty for networks of any class list until one is given.
        feature_sizes: (rows, columns) of each of the L feature maps.
        sizes: L + 1 anchor sizes in input pixels; level i uses sizes[i] and sizes[i + 1].
        ratios: L tuples of aspect ratios, width by height.
        steps: L distances (down, across) between cells in input pixels; in the table GluonCV's, which in the rows of
            mobilenet0.25 at 300 cover only half of the input.
        default_class_names: what `class_names` become where nobody gives a list; empty where one has to.
        project: whose network it is.
        mean, std: per-channel RGB statistics of its input, for values in [0, 1].
        resize: text of the row of `RESIZE_RULES` that its pictures are resized by.
        postprocess: thresholds and counts that it is usually run with.
        anchor_clip: what of an anchor is cut at the input: nothing, `sizes` (w and h, at its sides), or `all` (the
            centre, too).
        published_voc07: VOC07 mAP in percent that GluonCV published, None where it published none.
        published_coco: AP, AP50, AP75 in percent, likewise.
        params_sha1: SHA-1 of GluonCV's published `.params` file; None where there is none.
    """

    name: str
    backbone: str
    input_size: tuple[int, int]
    class_names: tuple[str, ...]
    feature_sizes: tuple[tuple[int, int], ...]
    sizes: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    steps: tuple[tuple[float, float], ...]
    default_class_names: tuple[str, ...] = ()
    project: Project = "gluoncv"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: str = GLUONCV_RESIZE
    postprocess: PostprocessSettings = PostprocessSettings()
    anchor_clip: AnchorClip = "none"
    published_voc07: float | None = None
    published_coco: tuple[float, float, float] | None = None
    params_sha1: str | None = None

    def __post_init__(self) -> None:
        levels = len(self.feature_sizes)
        if not len(self.ratios) == len(self.steps) == len(self.sizes) - 1 == levels:
            raise NetworkError(f"{self.name}: feature sizes, anchor sizes, ratios and steps do not fit together")

    @property
    def anchors_per_cell(self) -> tuple[int, ...]:
        return tuple(len(ratios) + 1 for ratios in self.ratios)

    @property
    def num_anchors(self) -> int:
        maps = zip(self.feature_sizes, self.anchors_per_cell, strict=True)
        return sum(rows * columns * count for (rows, columns), count in maps)


def size_name(input_size: tuple[int, int]) -> str:
    """Return how names write an input: `512`, or width first, `640x384`."""
    height, width = input_size
    return str(width) if width == height else f"{width}x{height}"
