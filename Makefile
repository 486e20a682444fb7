# Start with `make demo` or `make test`. Both build .venv if it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_MINUTES ?= 1.5

# Tiny Shakespeare: a file, or the name of the corpus, which is then downloaded.
CORPUS ?= tiny-shakespeare

.PHONY: demo test test-slow test-serve test-machines test-everywhere bench torture torture-ci mutate lint clean

$(VENV)/ready: pyproject.toml constraints.txt plugins/textgen-base-en/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]' -e plugins/textgen-base-en -c constraints.txt
	touch $@

demo: $(VENV)/ready
	$(BIN)/textgen train corpora/stories --minutes $(DEMO_MINUTES) --output-dir runs/demo --overwrite-output-dir
	$(BIN)/textgen sample -m runs/demo --prompt "Mina" --num-samples 3 --seed 1 --echo

# The example packages, installed like third-party plugins. `make demo` does not need them.
$(VENV)/worked: $(VENV)/ready $(wildcard plugins/textgen-*/pyproject.toml)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(addprefix -e ,$(dir $(filter plugins/%,$^)))
	touch $@

test: $(VENV)/worked
	$(BIN)/pytest -n 2 -q

test-slow: $(VENV)/ready
	$(BIN)/pytest -n 2 -q -m slow

# The server with other people's clients, OpenAI's and Schemathesis, and pages in Chromium where it is installed.
test-serve: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test-serve]' -c constraints.txt
	$(BIN)/pytest -q -m "slow or not slow" tests/test_page.py tests/test_openai_client.py tests/test_schema.py tests/test_export_page.py

# Numeric tests under other BLAS kernels, instruction sets, threads, locales and time zones (tests/machines.py).
test-machines: $(VENV)/worked
	$(BIN)/python -m tests.machines

# The whole suite under five such combinations, one in random order (five times as long as `make test`).
test-everywhere: $(VENV)/worked
	$(BIN)/python -m tests.machines --whole

# Tests the guarantees of the documentation thousands of times; results go to tests/torture/RESULTS.md.
torture: $(VENV)/ready
	$(BIN)/python -m tests.torture --output tests/torture/RESULTS.md

torture-ci: $(VENV)/ready
	$(BIN)/python -m tests.torture --ci

# Puts faults into a copy of the code; the test named for each must fail.
mutate: $(VENV)/ready
	$(BIN)/python -m tests.torture.mutate --unmutated --output tests/torture/MUTATIONS.md

# Nothing else should run on the machine meanwhile (about ten minutes).
bench: $(VENV)/ready
	$(BIN)/python benchmarks/bench.py $(CORPUS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
