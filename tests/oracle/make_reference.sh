#!/usr/bin/env bash
# Make GluonCV's reference outputs and print their folder; nothing to do where it is whole already.
#
# It is keyed by the scripts that write it and by the images it was made from. Photographs come from
# $SSD_TEST_DATA (default ../shared/data), folder coco_tiny/val2017; without them images are made up.
# $ORACLE_PYTHON (default python3.11) makes the environment: MXNet 1.9.1 needs NumPy < 1.24, and that
# needs Python 3.11 at most. Takes 4 minutes on two cores, 4 GB of disk, and 1 GB more for the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."

script=tests/oracle/gluoncv_reference.py
backbones=tests/oracle/gluoncv_backbones.py
training=tests/oracle/gluoncv_training_reference.py
packages="numpy==1.23.5 mxnet==1.9.1 gluoncv==0.10.5.post0"
photographs="${SSD_TEST_DATA:-../shared/data}/coco_tiny/val2017"
images=()
if [ -d "$photographs" ]; then
    images=(--images "$photographs")
fi

if [ "$(cat .venv-oracle/packages 2>/dev/null)" != "$packages" ]; then
    echo "making .venv-oracle: $packages" >&2
    rm -rf .venv-oracle
    "${ORACLE_PYTHON:-python3.11}" -m venv .venv-oracle >&2
    # shellcheck disable=SC2086  # one word a package
    .venv-oracle/bin/pip install --quiet --disable-pip-version-check $packages >&2
    echo "$packages" > .venv-oracle/packages # last, so that it marks a whole environment
fi

key=$({ cat "$script" "$backbones" "$training"; echo "$packages"; [ ${#images[@]} -eq 0 ] || ls -l "$photographs"; } | sha256sum | cut -c1-16)
folder=.oracle/$key
if [ ! -f "$folder/manifest.json" ]; then
    rm -rf .oracle # older references, 4 GB each
    # Before the reference itself, whose manifest marks the whole folder.
    .venv-oracle/bin/python "$backbones" "$folder/backbones" >&2
    .venv-oracle/bin/python "$training" "$folder/training" >&2
    .venv-oracle/bin/python "$script" "$folder" ${images[@]+"${images[@]}"} >&2
fi
realpath "$folder"
