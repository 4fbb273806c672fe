# `make test` and `make demo` need Python 3.11 or later, make and a package index; they install what is missing.
PYTHON ?= python3
# GluonCV's NumPy has no wheels for a newer Python.
ORACLE_PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
BINDINGS := .bindings
RUNTIMES := .runtimes
DEMO_NETWORK := ssd_300_mobilenet0.25_custom
DEMO_MODEL := .demo/$(DEMO_NETWORK).fp32.onnx

# Threads that wait for each other by spinning take ten times as long beside any other process.
export OMP_WAIT_POLICY := PASSIVE

# torch.compile then takes this CPU's vectors without trying them, which takes ten seconds.
export TORCHINDUCTOR_VEC_ISA_OK := 1

# What one process of the tests compiled serves all others.
export PYTHONDONTWRITEBYTECODE :=

# Processes that run tests: one a core, or a number; with 0 it is pytest's own.
WORKERS ?= auto

# A thread each. Each starts with its share of the files in order, so that fixtures are hardly ever made twice, and
# whichever is done first takes tests from the others, so that no core is idle at the end.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

ORACLE_REFERENCE := ORACLE_PYTHON=$(ORACLE_PYTHON) bash tests/oracle/make_reference.sh

.PHONY: install demo demo-model quick test test-engines test-engines-ci test-gpu test-oracle oracle-reference \
	test-runtimes faults fuzz fuzz-ci lint types light clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	# It asks for the OpenCV that needs libGL; the one that is here will do, and supervision brings the rest.
	$(BIN)/python -m pip install --quiet --no-deps 'trackers>=2.5'
	touch $@

# The detector that ships with the package, on pictures that it was not trained on.
demo: demo-model
	$(BIN)/ssd-deploy shapes --out .demo/shapes --train 1 --val 100
	$(BIN)/ssd-deploy eval --model $(DEMO_MODEL) --dataset voc --data-root .demo/shapes --split val \
		--save-thresholds --report .demo/report
	$(BIN)/ssd-deploy parity --network $(DEMO_NETWORK) --weights shapes --model $(DEMO_MODEL) \
		--dataset voc --data-root .demo/shapes --split val
	$(BIN)/ssd-deploy detect --model $(DEMO_MODEL) --images '.demo/shapes/JPEGImages/shapes1_100000*.jpg' \
		--out .demo/annotated

# Anew each time: the code may have changed.
demo-model: $(VENV)/installed
	$(BIN)/ssd-deploy export --network $(DEMO_NETWORK) --weights shapes --out .demo

# What one runs while working; tests that are marked slow, and whatever exports or opens a model, are left to `test`.
quick: $(VENV)/installed
	$(PARALLEL) -q -m "not slow and not engines and not gpu" $(wildcard tests/test_*.py) tests/datasets tests/evaluation \
		tests/metrics tests/networks tests/report tests/training tests/weights tests/deploy/test_import_direction.py

test: $(VENV)/installed $(BINDINGS)/made
	$(BIN)/python -m pytest -q -m alone tests/deploy/test_benchmark.py tests/deploy/test_detecting.py \
		tests/export/test_tensorrt_engine.py
	$(PARALLEL) --ignore tests/oracle --ignore tests/faults --ignore tests/runtimes \
		-m "not alone and not engines and not gpu"

# TensorRT for RTX really builds every network of the table and two rectangles, in every precision; no GPU needed.
test-engines: $(VENV)/installed
	$(BIN)/python -m pytest tests/export/test_engine_builds.py

# The same for three networks: plain, residual, and a depthwise rectangle.
test-engines-ci: $(VENV)/installed
	$(BIN)/python -m pytest tests/export/test_engine_builds.py -m engines_ci

# What needs an NVIDIA GPU; each test that lacks a part says which.
test-gpu: $(VENV)/installed
	$(BIN)/python -m pytest -m gpu tests

# TensorRT's own Python bindings, to check the calls against: they load without TensorRT's libraries.
$(BINDINGS)/made: $(VENV)/installed tests/bindings/make_bindings.sh
	PYTHON=$(BIN)/python bash tests/bindings/make_bindings.sh $(BINDINGS)
	touch $@

# Exported files in other runtimes than those that this package opens them in: see docs/runtimes.md.
test-runtimes: $(VENV)/installed $(RUNTIMES)/made
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/runtimes

$(RUNTIMES)/made: $(VENV)/installed tests/runtimes/make_runtimes.sh
	PYTHON=$(BIN)/python bash tests/runtimes/make_runtimes.sh $(RUNTIMES)
	touch $@

# What must not be lost where processes are killed, disks full, streams broken: see docs/reliability.md.
faults: $(VENV)/installed
	$(PARALLEL) tests/faults

# Everything against GluonCV itself, in an environment of its own; its outputs are kept in .oracle.
test-oracle: $(VENV)/installed oracle-reference
	reference=$$($(ORACLE_REFERENCE)) && SSD_ORACLE_DIR=$$reference $(PARALLEL) tests/oracle

# What takes minutes the first time.
oracle-reference:
	$(ORACLE_REFERENCE)

# Changed files of every kind that is read, under limits; what fails is kept in .fuzz. FUZZ_SEED makes other ones.
FUZZ_COUNT ?= 10000
FUZZ_SEED ?= 1
fuzz: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run_fuzz.py --count $(FUZZ_COUNT) --seed $(FUZZ_SEED)

fuzz-ci: $(VENV)/installed
	$(MAKE) fuzz FUZZ_COUNT=2000

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

# The light installation really has no torch, and runs a model all the same.
light: demo-model
	bash tests/light_install.sh $(DEMO_MODEL)

clean:
	rm -rf $(VENV) .venv-oracle .oracle .demo .light .fuzz $(BINDINGS) $(RUNTIMES) build *.egg-info
