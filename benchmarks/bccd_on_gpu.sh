#!/usr/bin/env bash
# The blood cells' full recipe for a GPU: train ResNet-50 at 512 pixels, score it on the test list, export, compare.
#
#     bash benchmarks/bccd_on_gpu.sh OUT DATA [OPTION...]
#
# DATA is the BCCD folder in Pascal VOC's layout; further options go to the training (`--pretrained-backbone none`
# where GluonCV's ImageNet weights cannot be fetched). With SECONDS_LEFT=N it stops the training after N seconds; a
# further call goes on where this one ended, and once the training is done it does what is left to do. OUT/results.json
# holds what there is by then: losses and validations, scores, parity. NETWORK=ssd_300_mobilenet0.25_custom,
# EPOCHS=1, PARITY_SCORE=0.1 and `--device cpu --limit 8` try the script out.
set -euo pipefail
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
data=$(cd "${2:?name the BCCD folder}" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
network=${NETWORK:-ssd_512_resnet50_v1_custom}
device=$(command -v nvidia-smi > /dev/null && echo --cuda || echo --cpu)
classes="$out/classes.txt"
printf '%s\n' Platelets RBC WBC > "$classes"

collect() {
    "$python" benchmarks/_common/merge_results.py "$out/results.json" \
        "$out/run/metrics.jsonl" "$out/test.json" "$out/parity.json"
}
trap collect EXIT
# once FILE COMMAND...: unless it has made its file already.
once() {
    [ -f "$1" ] || "$python" -m ssd_deploy "${@:2}"
    collect
}

if [ ! -f "$out/trained" ]; then
    status=0
    timeout --signal TERM "${SECONDS_LEFT:-0}" "$python" -m ssd_deploy train --network "$network" \
        --classes "$classes" --dataset "$data" --train-split train --val-split val --batch-size 16 --lr 2e-3 --lr-mode cos \
        --warmup-iters 100 --epochs "${EPOCHS:-120}" --val-interval 10 --ema --channels-last --out "$out/run" --resume auto "${@:3}" ||
        status=$?
    if [ "$status" = 124 ]; then
        echo "stopped after $SECONDS_LEFT s; the same command goes on"
        exit 0
    fi
    [ "$status" = 0 ] || exit "$status"
    touch "$out/trained"
fi
exported=(--network "$network" --classes "$classes" --weights "$out/run/best.safetensors")
held_out=(--dataset voc --data-root "$data" --split test)
fp32="$out/$network.fp32.onnx" int8="$out/$network.int8.onnx"
once "$fp32" export "${exported[@]}" --out "$out"
once "$out/test.json" eval --model "$fp32" "${held_out[@]}" --json "$out/test.json"
once "$int8" export "${exported[@]}" --out "$out" --precision int8 --calibration-data "$data/JPEGImages" \
    --calibration-images 100
once "$out/parity.json" parity "${exported[@]}" --model "$fp32" --model "$int8" "${held_out[@]}" "$device" \
    --score-threshold "${PARITY_SCORE:-0.3}" --json "$out/parity.json"
