#!/usr/bin/env bash
# `pip install .` in a fresh environment: no torch, and an exported model runs, detects and is evaluated.
set -euo pipefail
cd "$(dirname "$0")/.."

work=.light
rm -rf "$work"
mkdir -p "$work"
network=ssd_300_mobilenet0.25_custom
.venv/bin/ssd-deploy export --network "$network" --weights shapes --out "$work"

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check .

# Away from the source tree, so that only what was installed is found.
cd "$work"
if venv/bin/python -c "import torch" 2>/dev/null; then
    echo "torch came along with the light installation" >&2
    exit 1
fi
venv/bin/ssd-deploy doctor
venv/bin/ssd-deploy models
venv/bin/ssd-deploy shapes --out shapes --train 1 --val 8
venv/bin/ssd-deploy detect --model "$network.fp32.onnx" --images shapes/JPEGImages --out found
venv/bin/ssd-deploy eval --model "$network.fp32.onnx" --dataset voc --data-root shapes --split val --json report.json
venv/bin/ssd-deploy benchmark --model "$network.fp32.onnx" --batch-sizes 1 --rounds 1
if venv/bin/ssd-deploy export --network "$network" --weights shapes --out . 2> error.txt; then
    echo "an export without torch did not fail" >&2
    exit 1
fi
grep -q "ssd-deploy\[export\]" error.txt
echo "light installation: ok"
