"""A peer in an environment of its own, which works only when it is asked to: a line of JSON in, a line of JSON out."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ORACLE_PYTHON = ROOT / ".venv-oracle" / "bin" / "python"


class AskedProcess:
    """A script of this folder under GluonCV's Python.

    Args:
        script: its file name.
        variables: environment variables to set.
    """

    def __init__(self, script: str, variables: Mapping[str, str]) -> None:
        # No path of this environment: both hold packages of the same names.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(variables)
        self._process = subprocess.Popen(
            [str(ORACLE_PYTHON), str(ROOT / "benchmarks" / "_common" / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, question: Any) -> Any:
        """Return the answer to a question; ends this program where the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"GluonCV's process ended with code {self._process.wait()}; try {ORACLE_PYTHON} by hand")
        return json.loads(answer)

    def close(self) -> None:
        """Let the process end, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
