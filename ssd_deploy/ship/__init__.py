"""One command from a trained detector to a folder that is ready to deploy, with proof of what is in it.

    targets -> files -> each against PyTorch -> each timed -> the fastest -> certificate

`run` strings together what `export`, `quantize`, `build`, `parity` and `benchmark` are made of, as stages that are kept
(`stages`). What was found is a `certificate`, as JSON and as a page; `verify` holds a folder to it, on any machine.
"""
