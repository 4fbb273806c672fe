#!/usr/bin/env bash
# Everything that needs a GPU, in parts of at most 150 s each, which print as they go.
#
#     bash benchmarks/on_gpu.sh OUT [PART...]
#
#     contract     which backends work here, and whether they keep their contract
#     engines      a stand-in for TensorRT on the card's real memory; what TensorRT for RTX says of this card
#     inference    milliseconds by network, precision, backend, variant and batch; the share of post-processing
#     postprocess  decode and NMS alone
#     training     images a second, and the share of the card's matrix rate
#     bccd         the blood cells' recipe, as much of it as fits; a further call goes on
#     parity       every backend beside PyTorch on real images
#     loader       training images that the processor makes ready
#     plans        which convolutions of the fp16 file cuDNN has no plan for
#
# Without PART all of them, in this order. A part that fails does not stop the others, and one variant that fails does not
# stop its part. Each writes its numbers to OUT/PART.json as soon as there is one; OUT/results.json holds all of them, and
# OUT/on_gpu.log what was printed. Models, engines and trainings stay in $WORK (runs/on_gpu) for a further call.
#
# Runs with .venv's Python where there is one, else with python3, or with $PYTHON: no package index is needed. What is
# missing is said, and can be put on PYTHONPATH. SSD_TEST_DATA names the folder with coco_tiny and bccd (shared/data).
# QUICK=1 tries the whole script out on a CPU, with small networks.
set -uo pipefail
parts=(contract engines inference postprocess training bccd parity loader plans)
[ $# -gt 0 ] || { echo "name a folder for the results: bash benchmarks/on_gpu.sh OUT [PART...]"; exit 2; }
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
shift
for part in "$@"; do
    [[ " ${parts[*]} " == *" $part "* ]] || { echo "$part: is no part; choose ${parts[*]}"; exit 2; }
done
[ $# -eq 0 ] || parts=("$@")
cd "$(dirname "$0")/.."

[ -d shared/data ] && export SSD_TEST_DATA="${SSD_TEST_DATA:-$PWD/shared/data}"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
work=$(mkdir -p "${WORK:=runs/on_gpu}" && cd "$WORK" && pwd)
log=$out/on_gpu.log
# See tests/gpu/conftest.py.
export PYTHON=$python PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export SSD_DEPLOY_CACHE="${SSD_DEPLOY_CACHE:-$work/cache}" SSD_GPU_MODELS="$work/models" SSD_GPU_IMAGES=16
export SSD_GPU_CACHE=$SSD_DEPLOY_CACHE
mkdir -p "$SSD_GPU_MODELS"
part_seconds=150 device=cuda small=
if [ -n "${QUICK:-}" ]; then
    device=cpu small=ssd_300_mobilenet0.25_voc
    export NETWORK=ssd_300_mobilenet0.25_custom EPOCHS=1 PARITY_SCORE=0.1 SSD_GPU_IMAGES=4 SSD_GPU_CYCLES=20
fi

# run COMMAND...: within what is left of the part's time, printed as it goes; then it is stopped as by Ctrl-C, so that
# pytest still sums up what it has seen.
run() {
    local left=$((ends - SECONDS - 5)) begins process status
    if [ "$left" -lt 5 ]; then
        echo "no time left for: $*" | tee -a "$log"
        return 1
    fi
    begins=$(stat -c %s "$log")
    # Into the file and not through a pipe, which would stay open as long as a process that was left behind.
    timeout --signal INT --kill-after 4 "$left" "$@" >>"$log" 2>&1 &
    process=$!
    tail -c "+$((begins + 1))" -s 0.2 -f --pid "$process" "$log"
    wait "$process"
    status=$?
    case $status in 124 | 137) echo "stopped after $left s: $*" | tee -a "$log" ;; esac
    return "$status"
}
# tests PART PATHS...: what each test found goes to the part's JSON as it ends.
tests() {
    PYTEST_RESULTS="$out/$1.json" run "$python" -m pytest -v -p no:cacheprovider -p benchmarks._common.pytest_results \
        "${@:2}"
}
# script NAME SCRIPT OPTIONS...: its numbers go to OUT/NAME.json.
script() {
    run "$python" "benchmarks/$2" --json "$out/$1.json" "${@:3}"
}

contract() {
    run "$python" -m ssd_deploy doctor
    tests contract tests/deploy/test_backend_contract.py ${QUICK:+-k "onnxruntime and not cuda"}
}
engines() {
    tests engines -m gpu tests/gpu/test_gpu_rtx.py tests/gpu/test_stand_in_on_gpu.py
}
inference() {
    script inference gpu_inference.py --seconds $((ends - SECONDS - 12)) --models "$work/models" \
        ${QUICK:+--device cpu --networks "$small" --precisions fp32 --batch-sizes 1 --rounds 1}
}
postprocess() {
    script postprocess postprocess.py --device "$device"
}
training() {
    local status=0 compiled=compile,compile+cuda-graphs options=(--rounds 1 --seconds 3 --amp bf16)
    if [ -n "${QUICK:-}" ]; then
        compiled=compile
        options=(--device cpu --networks "$small" --rounds 1 --seconds 1 --amp off --batch-size 2 --workers 1)
    fi
    script training training_throughput.py "${options[@]}" --variants channels-last || status=1
    # By itself, since compiling takes most of its time.
    script training_compiled training_throughput.py "${options[@]}" --variants "$compiled" || status=1
    return "$status"
}
bccd() {
    export SECONDS_LEFT=$((ends - SECONDS - 12))
    run bash benchmarks/bccd_on_gpu.sh "$work/bccd" "${SSD_TEST_DATA:-../shared/data}/bccd" --pretrained-backbone none \
        ${QUICK:+--device cpu --limit 16 --workers 1}
    local status=$?
    cp "$work/bccd/results.json" "$out/bccd.json"
    return "$status"
}
parity() {
    tests parity -m gpu tests/gpu/test_gpu_parity.py tests/gpu/test_gpu_batches.py
}
loader() {
    script loader input_pipeline.py --rounds 1 --passes 1
}
plans() {
    local network=${small:-ssd_512_resnet50_v1_coco}
    local model=$work/models/$network.fp16.onnx
    # `inference` has left it there.
    [ -f "$model" ] ||
        run "$python" -m ssd_deploy export --network "$network" --weights random --precision fp16 --out "$work/models"
    script plans cudnn_plans.py "$model" --seconds $((ends - SECONDS - 12)) --device "$device"
}

: >"$log"
{
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no card here"
    "$python" -c '
import importlib.metadata as metadata, platform
known = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in metadata.distributions()}
wanted = ("numpy opencv-python-headless onnxruntime onnxruntime-gpu torch torchvision onnx onnxscript pytest typer rich "
          "safetensors faster-coco-eval psutil nvidia-ml-py tensorrt tensorrt-rtx cuda-python pycuda").split()
print("Python " + platform.python_version(), *(f"{name} {known.get(name, chr(45))}" for name in wanted), sep=", ")'
} 2>&1 | tee -a "$log"

failed=()
for part in "${parts[@]}"; do
    begun=$SECONDS ends=$((SECONDS + part_seconds))
    echo "== $part" | tee -a "$log"
    "$part" && ending=done || { ending="FAILED, see above" && failed+=("$part"); }
    "$python" benchmarks/_common/merge_results.py "$out/results.json" "$out"/*.json
    echo "== $part: $ending, $((SECONDS - begun)) s" | tee -a "$log"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
