#!/usr/bin/env bash
# `pip install .` in a fresh environment: no torch, and an exported model runs, detects and is evaluated.
set -euo pipefail
cd "$(dirname "$0")/.."

work=.light
rm -rf "$work"
mkdir -p "$work"
network=ssd_300_mobilenet0.25_voc
.venv/bin/ssd-deploy export --network "$network" --weights random --out "$work"
.venv/bin/python examples/make_pictures.py "$work/pictures"

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
venv/bin/ssd-deploy detect --model "$network.fp32.onnx" --images pictures --out found --threshold 0.1

# A data set of one picture with one object.
mkdir -p voc/JPEGImages voc/Annotations voc/ImageSets/Main
cp pictures/shapes_640x480.png voc/JPEGImages/one.png
echo one > voc/ImageSets/Main/test.txt
cat > voc/Annotations/one.xml <<'XML'
<annotation><size><width>640</width><height>480</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>200</xmax><ymax>200</ymax></bndbox></object>
</annotation>
XML
venv/bin/ssd-deploy eval --model "$network.fp32.onnx" --dataset voc --data-root voc --json report.json
venv/bin/ssd-deploy benchmark --model "$network.fp32.onnx" --batch-sizes 1 --rounds 1
if venv/bin/ssd-deploy export --network "$network" --weights random --out . 2> error.txt; then
    echo "an export without torch did not fail" >&2
    exit 1
fi
grep -q "ssd-deploy\[export\]" error.txt
echo "light installation: ok"
