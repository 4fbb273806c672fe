#!/usr/bin/env bash
# Make a folder (default .bindings) with TensorRT's Python bindings of two major versions, for
# test_bindings_contract.py; nothing to do where it is whole already.
#
# The packages have the bindings alone (6 MB each), without NVIDIA's libraries: those are several GB, and
# libraries of our own with the same names are enough to import the bindings. $PYTHON (default
# .venv/bin/python) is the Python that will import them and needs pip; $CC (default cc) is a C compiler.
set -euo pipefail
if [ "$(uname -s)" != Linux ]; then
    echo "make_bindings.sh: nothing to do, TensorRT's packages with these bindings are for Linux" >&2
    exit 0
fi
python=$(command -v "${PYTHON:-$(dirname "$0")/../../.venv/bin/python}") || {
    echo "make_bindings.sh: no Python at ${PYTHON:-.venv/bin/python}; run \`make install\`, or set PYTHON" >&2
    exit 1
}
python=$(realpath --no-symlinks "$python")
folder=$(realpath --canonicalize-missing "${1:-$(dirname "$0")/../../.bindings}")
cd "$(dirname "$0")"

versions="10.16.1.11 11.4.0.106"
compiler=${CC:-cc}

key=$({ "$python" -VV; echo "$versions"; cat make_bindings.sh stub_libraries.c; } | sha256sum | cut -c1-16)
if [ "$(cat "$folder/made" 2>/dev/null)" = "$key" ]; then
    exit 0
fi
"$python" -m pip --version >/dev/null 2>&1 || {
    echo "make_bindings.sh: $python has no pip; run \`$python -m ensurepip\`" >&2
    exit 1
}
command -v "$compiler" >/dev/null || {
    echo "make_bindings.sh: there is no C compiler $compiler; install gcc or clang, or set CC" >&2
    exit 1
}
if [ -e "$folder" ] && [ ! -e "$folder/made" ] && [ -n "$(ls -A "$folder")" ]; then
    echo "make_bindings.sh: $folder is not a folder of bindings; remove it or name another" >&2
    exit 1
fi
mkdir -p "$folder"
echo "unfinished" > "$folder/made"

for version in $versions; do
    major=${version%%.*}
    echo "making $folder/$major: TensorRT's Python bindings $version" >&2
    rm -rf "${folder:?}/$major"
    mkdir -p "$folder/$major/libraries"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --target "$folder/$major/packages" "tensorrt-cu13-bindings==$version" >&2
    for library in nvinfer nvinfer_plugin nvonnxparser; do
        "$compiler" -shared -fPIC -o "$folder/$major/libraries/lib$library.so.$major" stub_libraries.c
    done
done
echo "$key" > "$folder/made" # last, so that it marks a whole folder
