#!/usr/bin/env bash
# The blood cells' full recipe for a GPU: train ResNet-50 at 512 pixels, score it on the test list, export, compare.
#
#     bash benchmarks/bccd_on_gpu.sh OUT DATA [OPTION...]
#
# DATA is the BCCD folder in Pascal VOC's layout; further options go to the training (`--pretrained-backbone none`
# where GluonCV's ImageNet weights cannot be fetched, `--device cpu --epochs 1 --limit 8` to try the script out).
set -euo pipefail
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
data=$(cd "${2:?name the BCCD folder}" && pwd)
cd "$(dirname "$0")/.."
run=$([ -x .venv/bin/ssd-deploy ] && echo .venv/bin/ssd-deploy || echo ssd-deploy)
network=ssd_512_resnet50_v1_custom
device=$(command -v nvidia-smi > /dev/null && echo --cuda || echo --cpu)
classes="$out/classes.txt"
printf '%s\n' Platelets RBC WBC > "$classes"

"$run" train --network "$network" --classes "$classes" --dataset "$data" --train-split train --val-split val \
    --batch-size 16 --lr 2e-3 --lr-mode cos --warmup-iters 100 --epochs 120 --val-interval 10 --ema --channels-last \
    --out "$out/run" "${@:3}"
exported=(--network "$network" --classes "$classes" --weights "$out/run/best.safetensors")
held_out=(--dataset voc --data-root "$data" --split test)
"$run" export "${exported[@]}" --out "$out"
"$run" export "${exported[@]}" --out "$out" --precision int8 --calibration-data "$data/JPEGImages" --calibration-images 100
"$run" eval --model "$out/$network.fp32.onnx" "${held_out[@]}" --json "$out/test.json"
"$run" parity "${exported[@]}" --model "$out/$network.fp32.onnx" --model "$out/$network.int8.onnx" "${held_out[@]}" \
    "$device" --json "$out/parity.json"
