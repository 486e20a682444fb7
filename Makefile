# `make demo` and `make test` are all a newcomer needs; both build .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_MINUTES ?= 1.5

# Tiny Shakespeare, as a file or by its name; then it is downloaded.
CORPUS ?= tiny-shakespeare

.PHONY: demo test test-slow test-machines test-everywhere bench torture torture-ci mutate lint clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]' -c constraints.txt
	touch $@

demo: $(VENV)/ready
	$(BIN)/textgen train corpora/stories --minutes $(DEMO_MINUTES) --output-dir runs/demo --overwrite-output-dir
	$(BIN)/textgen sample -m runs/demo --prompt "Mina" --num-samples 3 --seed 1 --echo

# The worked packages, as anyone would install them; not needed to train, so `make demo` does without.
$(VENV)/worked: $(VENV)/ready $(wildcard plugins/textgen-*/pyproject.toml)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(addprefix -e ,$(dir $(filter plugins/%,$^)))
	touch $@

test: $(VENV)/worked
	$(BIN)/pytest -n 2 -q

test-slow: $(VENV)/ready
	$(BIN)/pytest -n 2 -q -m slow

# The numeric tests under other BLAS kernels, instruction sets, threads, locales and zones (tests/machines.py).
test-machines: $(VENV)/worked
	$(BIN)/python -m tests.machines

# The whole suite under five rows of such settings, one in random order (five times as long as `make test`).
test-everywhere: $(VENV)/worked
	$(BIN)/python -m tests.machines --whole

# What the documentation promises, tried thousands of times; the figures go to tests/torture/RESULTS.md.
torture: $(VENV)/ready
	$(BIN)/python -m tests.torture --output tests/torture/RESULTS.md

torture-ci: $(VENV)/ready
	$(BIN)/python -m tests.torture --ci

# Each fault put into a copy of the code must be caught by the test that is named for it.
mutate: $(VENV)/ready
	$(BIN)/python -m tests.torture.mutate --unmutated --output tests/torture/MUTATIONS.md

# Nothing else should run on the machine meanwhile (some twelve minutes).
bench: $(VENV)/ready
	$(BIN)/python benchmarks/bench.py $(CORPUS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
