"""The table of kinds: every kind of file that the product reads."""

import kinds_data

KINDS = (*kinds_data.KINDS,)
