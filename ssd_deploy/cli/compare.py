"""Compare: backends with PyTorch, and backends with each other in speed."""

from pathlib import Path
from typing import Annotated

import typer

from export.quantize_options import QuantizeOptions
from ssd_deploy.cli.options import Data, Images, Loading, ModelsArgument, Running, SeveralModels, SeveralPrecisions
from ssd_train.command_line import Result, check_results, parse_list, parse_numbers
from ssd_train.precisions import PRECISIONS


def parity() -> Result: ...


def benchmark() -> Result: ...
