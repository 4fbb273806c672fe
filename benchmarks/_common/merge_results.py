"""Put files of results into one, each under its name: `python benchmarks/_common/merge_results.py OUT.json FILE...`

A file of JSON lines becomes a list. OUT.json itself and one that is not there are left out; one that is no JSON is said
and left out.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ssd_train.files import write_json


def main() -> None:
    merged: dict[str, Any] = {}
    out = Path(sys.argv[1])
    for path in map(Path, sys.argv[2:]):
        if path == out or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        try:
            lines = path.suffix == ".jsonl"
            merged[path.stem] = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
        except json.JSONDecodeError as error:
            print(f"{path}: is left out, as it is no JSON ({error})", file=sys.stderr)
    write_json(out, merged)


if __name__ == "__main__":
    main()
