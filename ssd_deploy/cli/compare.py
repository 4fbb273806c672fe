"""Compare: backends with PyTorch, and backends with each other in speed."""

from ssd_train.command_line import Result


def parity() -> Result: ...


def benchmark() -> Result: ...
