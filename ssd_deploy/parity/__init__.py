"""Does a backend still compute what PyTorch computes? And if not, where does it start, and what did it cost?

`run` opens every backend that works here and compares each with PyTorch: the input tensor that each side's own
description makes of an image, the raw logits and offsets, the detections as pairs (`compare`), what changed of those
that count (`pairs`), and the data set's metric. `verdict` says which of these decides.
"""
