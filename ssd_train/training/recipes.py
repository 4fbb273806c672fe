"""The table of recipes: settings that belong together. A recipe only sets values, which `config.json` then holds."""

import dataclasses
from typing import Any

from ssd_train.errors import SSDDeployError
from ssd_train.table import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row.

    Attributes:
        name: what the command line calls it.
        values: fields of `TrainingConfig`, each with the value that it has unless the user gives another.
    """

    name: str
    values: dict[str, Any]


RECIPES: Table[Recipe] = Table(
    "recipe",
    (
        # The defaults of `TrainingConfig`, so that they are written once.
        Recipe(name="gluoncv", values={}),
        # For a few hundred pictures; what `benchmarks/bccd.py` found on 205 of blood cells, with fresh weights too.
        Recipe(
            name="small",
            values={
                "network": "ssd_512_mobilenet0.25_custom",
                "batch_size": 4,
                "shrink_batch": True,
                # The linear rule (Goyal et al., Accurate, large minibatch SGD, section 2.1), from 0.03 at 4 images.
                "lr": 0.03,
                "lr_images": 4,
                "lr_mode": "cos",
                # From fresh weights a shorter one leads, by chance and the machine's rounding, to a network that learns
                # nothing for forty epochs.
                "warmup_share": 0.125,
                "epochs": 60,
                # Half of the epochs: a cosine gains most where it is low.
                "patience": 30,
                "val_interval": 5,
                "ema": True,
                # The usual zoom-out leaves little of small objects; the zoom-in brings nothing in so few epochs.
                "max_expansion": 1.4,
                "crop": False,
                "pretrained_backbone": "auto",
                "channels_last": True,
            },
        ),
    ),
    SSDDeployError,
)
