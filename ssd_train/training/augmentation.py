"""How training images are changed at random, as data; `augment` draws from it."""

import dataclasses

from ssd_train.errors import SSDDeployError
from ssd_train.options import check_ranges, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges and switches; the defaults are those of GluonCV's `SSDDefaultTrainTransform`.

    Each of the four colour steps and the expansion happens to half of the images. A range of 0 leaves its step out, as
    `max_expansion=1` does for the expansion.

    Raises:
        SSDDeployError: a value outside its range, or a crop's smallest side above its largest.
    """

    colour: bool = option(True, "Change the images' colours.")
    brightness: float = option(32.0, "Largest shift of all channels, in grey levels of 255.", least=0, most=255)
    contrast: float = option(0.5, "Largest change of the factor of all channels, from 1.", least=0, most=1)
    saturation: float = option(0.5, "Largest change of the factor of what differs from grey, from 1.", least=0, most=1)
    hue: float = option(18.0, "Largest turn of the hue, in half turns; 18, GluonCV's, gives any hue alike.", least=0)
    max_expansion: float = option(
        4.0, "Largest canvas that an image is put on in augmentation, in sides of the image.", least=1
    )
    crop: bool = option(True, "Train on random parts of the images.")
    min_crop: float = option(0.3, "Smallest part that a crop takes, in sides of the canvas.", above=0, most=1)
    max_crop: float = option(1.0, "Largest part that a crop takes, in sides of the canvas.", above=0, most=1)
    flip: float = option(0.5, "Share of the images that are mirrored, left for right.", least=0, most=1)
    vertical_flip: float = option(0.0, "Share of the images that are mirrored, top for bottom.", least=0, most=1)

    def __post_init__(self) -> None:
        check_ranges(self, SSDDeployError)
        if self.min_crop > self.max_crop:
            raise SSDDeployError(
                f"min_crop {self.min_crop:g} is larger than max_crop {self.max_crop:g}; swap them",
                arguments=("min_crop", "max_crop"),
            )


DEFAULT_AUGMENTATION = Augmentation()
