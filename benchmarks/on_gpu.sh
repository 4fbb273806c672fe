#!/usr/bin/env bash
# Everything that needs a GPU: its tests, the backend contract and the benchmarks of inference and of training.
#
#     bash benchmarks/on_gpu.sh OUT [PART]
#
# PART is `inference`, `speed` (inference again, by batch sizes of 1 to 128, and the share of the card's matrix rate) or
# `training`, each in under ten minutes; without it all, in under half an hour.
# Runs with .venv's Python where there is one, else with python3, or with $PYTHON: no package index is needed. NumPy,
# OpenCV, faster-coco-eval, typer, rich, safetensors, PyTorch, onnx, onnxscript and pytest are needed for anything at all;
# what is missing is said, and can be put on PYTHONPATH. All that comes out lands in OUT as it goes; a step that fails
# does not stop the others. SSD_TEST_DATA names the folder with coco_tiny, without which backends are not compared on
# real images; QUICK=1 measures little, to try the script out.
set -uo pipefail
part=${2:-all}
case $part in
    all) limit=1740 ;;
    inference | speed | training) limit=580 ;;
    *) echo "$part: expected inference, speed or training" && exit 2 ;;
esac
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
[ -d shared/data ] && export SSD_TEST_DATA="${SSD_TEST_DATA:-$PWD/shared/data}"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
# Models and engines are large, and of no use afterwards.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export SSD_DEPLOY_CACHE="${SSD_DEPLOY_CACHE:-$scratch/cache}"
# See tests/gpu/conftest.py.
export SSD_GPU_MODELS="$scratch/models" SSD_GPU_CACHE="$SSD_DEPLOY_CACHE" SSD_GPU_RESULTS="$out/gpu_tests.jsonl"
mkdir -p "$SSD_GPU_MODELS"
rm -f "$SSD_GPU_RESULTS"
failed=()

# step NAME SECONDS COMMAND...: its output goes to OUT/NAME.log, and then to the screen. After SECONDS, or when the
# minutes of all parts are over, it is stopped as by Ctrl-C, so that pytest still sums up what it has seen.
step() {
    local name=$1 start=$SECONDS left=$((limit - SECONDS))
    local seconds=$(($2 < left ? $2 : left))
    shift 2
    if [ "$seconds" -lt 10 ]; then
        echo "== $name: no time left" | tee "$out/$name.log"
        failed+=("$name")
        return
    fi
    echo "== $name"
    # Into the file and not through a pipe, which would stay open as long as a process that was left behind.
    timeout --signal INT --kill-after 10 "$seconds" "$@" >"$out/$name.log" 2>&1
    local status=$?
    cat "$out/$name.log"
    [ "$status" = 124 ] || [ "$status" = 137 ] && echo "$name: stopped after $seconds s" | tee -a "$out/$name.log"
    [ "$status" = 0 ] || failed+=("$name")
    echo "== $name: exit $status after $((SECONDS - start)) s"
}

environment() {
    nvidia-smi || echo "nvidia-smi: not there"
    ldconfig -p | grep -E "nvinfer|libcuda\.so" || echo "ldconfig knows no TensorRT and no driver"
    find / -xdev \( -name 'libnvinfer*.so*' -o -name 'libtensorrt_rtx*.so*' \) 2>/dev/null | head -20
    "$python" - <<'PYTHON'
import importlib.metadata, importlib.util, platform

print("Python", platform.python_version())
needed = {"numpy": "numpy", "cv2": "opencv-python-headless", "onnxruntime": "onnxruntime", "faster_coco_eval": "faster-coco-eval",
          "rich": "rich", "typer": "typer", "torch": "torch", "torchvision": "torchvision", "safetensors": "safetensors",
          "onnx": "onnx", "onnxscript": "onnxscript", "pytest": "pytest", "tensorrt": "tensorrt",
          "tensorrt_rtx": "tensorrt-rtx", "pycuda": "pycuda", "cuda.bindings": "cuda-python", "matplotlib": "matplotlib"}
for module, package in needed.items():
    try:
        found = importlib.util.find_spec(module) is not None
    except ImportError:
        found = False
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    print(f"{package}: {version if found else 'MISSING'}")
PYTHON
    "$python" -m ssd_deploy doctor
}

# What TensorRT for RTX says about this card, in its own words: it supports consumer and workstation cards only.
rtx_on_this_card() {
    "$python" - <<'PYTHON'
from export.engine.plan import try_out
from ssd_deploy.doctor import IDENTITY_ONNX
from ssd_train.errors import SSDDeployError

try:
    try_out("tensorrt-rtx", IDENTITY_ONNX)
    print("TensorRT for RTX builds and loads an engine on this card")
except SSDDeployError as error:
    print(error)
PYTHON
}

backends=torch,torch:eager,torch:channels-last,torch:compile
backends+=,onnxruntime:cuda,onnxruntime:cuda+plain,onnxruntime:cuda+nhwc,onnxruntime:cuda+cuda-graph
backends+=,tensorrt,tensorrt:cuda-graph,tensorrt-rtx,tensorrt-rtx:cuda-graph
measure() {
    local chart=()
    "$python" -c "import matplotlib" 2>/dev/null && chart=(--chart "$out/benchmark_$1.png")
    "$python" -m ssd_deploy benchmark --network "$1" --weights random --cuda --backends "$2" --precision "$3" \
        --batch-sizes "$4" --rounds "$5" --json "$out/benchmark_$1.json" ${chart[@]+"${chart[@]}"}
}
gpu_tests() {
    "$python" -m pytest -v -p no:cacheprovider -m gpu "$@"
}
sizes=1,8,32 rounds=3 networks=() input_options=(--rounds 3 --passes 2) step_options=() throughput_options=(--rounds 2 --seconds 4)
speed_options=()
if [ -n "${QUICK:-}" ]; then
    sizes=1 rounds=1 networks=(ssd_300_mobilenet0.25_voc)
    input_options=(--rounds 1 --passes 1) step_options=(--rounds 1)
    throughput_options=(--networks ssd_300_mobilenet0.25_voc --rounds 1 --seconds 1)
    speed_options=(--networks ssd_300_mobilenet0.25_voc --batch-sizes 1,2 --compiled-batch-sizes none --rounds 1)
    export SSD_GPU_IMAGES=4 SSD_GPU_CYCLES=20
fi

# The scripts need torchvision, and the images in SSD_TEST_DATA; GluonCV takes part where .venv-oracle is.
benchmark_training() {
    step input_pipeline 90 "$python" benchmarks/input_pipeline.py --json "$out/input_pipeline.json" \
        ${input_options[@]+"${input_options[@]}"}
    for amp in off bf16; do
        step "training_step_$amp" 60 "$python" benchmarks/training_step.py --device cuda --amp "$amp" \
            --json "$out/training_step_$amp.json" ${step_options[@]+"${step_options[@]}"}
    done
    step training_throughput 200 "$python" benchmarks/training_throughput.py \
        --json "$out/training_throughput.json" ${throughput_options[@]+"${throughput_options[@]}"}
    # Compiling takes most of its time.
    step training_throughput_compiled 220 "$python" benchmarks/training_throughput.py --amp bf16 \
        --variants channels-last,channels-last+compile --json "$out/training_throughput_compiled.json" \
        ${throughput_options[@]+"${throughput_options[@]}"}
}
benchmark_speed() {
    step gpu_inference 570 "$python" benchmarks/gpu_inference.py --json "$out/gpu_inference.json" \
        ${speed_options[@]+"${speed_options[@]}"}
}
inference() {
    step rtx_on_this_card 30 bash -c rtx_on_this_card
    # PyTorch's exporter takes most of the time of the comparisons and needs no GPU: one process a model, meanwhile.
    timeout 200 "$python" tests/gpu/export_models.py "$SSD_GPU_MODELS" ${networks[@]+"${networks[@]}"} \
        >"$out/export_models.log" 2>&1 &
    exports=$!
    step backend_contract 90 "$python" -m pytest -q -p no:cacheprovider tests/deploy/test_backend_contract.py
    step gpu_tests_engines 100 bash -c \
        'gpu_tests tests/gpu/test_gpu_batches.py tests/gpu/test_gpu_process.py tests/gpu/test_gpu_engine_files.py -k "not memory"'
    step gpu_tests_memory 90 bash -c 'gpu_tests tests/gpu/test_gpu_process.py -k memory'
    wait "$exports" || failed+=(export_models)
    step benchmark_ssd_300_vgg16_atrous_voc 110 bash -c \
        "measure ssd_300_vgg16_atrous_voc $backends fp32,fp16 $sizes $rounds"
    step benchmark_ssd_512_resnet50_v1_coco 120 bash -c \
        "measure ssd_512_resnet50_v1_coco ${backends/torch:compile,/} fp32,fp16 $sizes $rounds"
    # It gets whatever is left of the time; the most different networks come first.
    step gpu_tests_parity 580 bash -c 'gpu_tests tests/gpu/test_gpu_parity.py'
}

export python out
export -f environment rtx_on_this_card measure gpu_tests
step environment 60 bash -c environment
case $part in all | training) benchmark_training ;; esac
case $part in all | speed) benchmark_speed ;; esac
case $part in all | inference) inference ;; esac

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}; see the logs in $out"
    exit 1
fi
echo "all steps passed; results are in $out"
