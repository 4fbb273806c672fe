"""The two sets of rules that a score can be computed by.

`standard` is each data set's own definition: the VOC devkit's and pycocotools'. `gluoncv` is what GluonCV's metrics
compute, one-pixel conventions included; its published numbers were made that way. Both first clip detections to the
image, as GluonCV's scripts do. In what else they differ stands with each metric.
"""

import enum


class Protocol(enum.StrEnum):
    STANDARD = "standard"
    GLUONCV = "gluoncv"
