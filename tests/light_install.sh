#!/usr/bin/env bash
# `pip install .` in a fresh environment: no torch, and an exported model runs, detects and is evaluated.
#
# light_install.sh MODEL   an exported file of weights "shapes": what `make demo-model` leaves
set -euo pipefail
exported=$(realpath "$1")
cd "$(dirname "$0")/.."

work=.light
rm -rf "$work"
mkdir -p "$work"
# Without what lies beside it.
cp "$exported" "$work/model.onnx"

# The pip that is there installs into it.
"${PYTHON:-python3}" -m venv --without-pip "$work/venv"
.venv/bin/python -m pip --python "$work/venv" install --quiet --disable-pip-version-check .

# Away from the source tree, so that only what was installed is found.
cd "$work"
if venv/bin/python -c "import torch" 2>/dev/null; then
    echo "torch came along with the light installation" >&2
    exit 1
fi
venv/bin/ssd-deploy doctor
venv/bin/ssd-deploy models
venv/bin/ssd-deploy shapes --out shapes --train 1 --val 8
venv/bin/ssd-deploy detect --model model.onnx --images shapes/JPEGImages --out found
venv/bin/ssd-deploy eval --model model.onnx --dataset voc --data-root shapes --split val --json report.json
venv/bin/ssd-deploy benchmark --model model.onnx --batch-sizes 1 --rounds 1
if venv/bin/ssd-deploy export --network ssd_300_mobilenet0.25_custom --weights shapes --out . 2> error.txt; then
    echo "an export without torch did not fail" >&2
    exit 1
fi
grep -q "ssd-deploy\[export\]" error.txt
echo "light installation: ok"
