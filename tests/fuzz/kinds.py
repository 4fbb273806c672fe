"""The table of kinds: every kind of file that the product reads."""

import kinds_data
import kinds_media
import kinds_models
import kinds_runs
import kinds_weights

KINDS = (
    *kinds_media.KINDS,
    *kinds_data.KINDS,
    *kinds_weights.KINDS,
    *kinds_runs.KINDS,
    *kinds_models.KINDS,
)
