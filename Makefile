# make demo: environment, installation, the whole chain on embedded data. make test: the same for the tests.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# The environment is made anew when the list of dependencies changes, and only then.
STAMP := $(VENV)/.dependencies-$(shell cat setup.cfg pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: demo test test-tools fuzz lint types wheel notebooks grid docs check install clean

demo: install
	$(PY) -m diffreid_lightning pipeline

# The package's tests. Those of what stands around it (rendering, training tiny-sd, configs that ship, experiments,
# benchmarks, the fuzzer, the examples of the documentation) are test-tools'. Compiled files are kept: every process of
# the tests imports the package.
export PYTHONDONTWRITEBYTECODE :=
PYTEST = $(PY) -m pytest -n 2 --dist worksteal --durations=25
TOOLS_TESTS := tests/unit/tools tests/unit/experiments tests/unit/benchmarks tests/fuzz \
	tests/integration/test_train_tiny_sd.py tests/integration/test_train_the_reader.py tests/integration/test_documentation.py tests/integration/test_recipes.py \
	tests/integration/test_configs.py tests/integration/test_packaged_grids.py
test: install
	$(PYTEST) tests $(TOOLS_TESTS:%=--ignore=%)

test-tools: install
	$(PYTEST) $(TOOLS_TESTS)

# Damages files of every kind that the commands read, for so many seconds, and looks for what must never happen.
FUZZ_SECONDS ?= 60
fuzz: install
	$(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS)

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install
	$(VENV)/bin/mypy

wheel: install
	$(PY) .ci/check_wheel.py

# Executed small, in a folder of their own; the notebooks here stay as they are.
notebooks: install
	rm -rf build/notebooks && mkdir -p build/notebooks && cp notebooks/*.ipynb build/notebooks
	cd build/notebooks && DIFFREID_QUICKSTART=chains/quick WANDB_MODE=offline $(abspath $(VENV))/bin/jupyter-execute *.ipynb

# The grid of benchmark/quick on the embedded data: every setting, from nothing.
grid: install
	rm -rf build/grid && WANDB_MODE=offline $(PY) -m diffreid_lightning benchmark --config benchmark/quick --root build/grid --jobs 2

# The site in build/site; `make docs DOCS=serve` shows it at http://127.0.0.1:8000 and rebuilds it on every change.
DOCS ?= build --strict
docs: install
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs $(DOCS)

check: lint types test test-tools fuzz wheel notebooks grid docs

install: $(STAMP)
	@# An environment shared by several checkouts must serve this one.
	@test "$$(cat $(VENV)/.checkout 2>/dev/null)" = "$(CURDIR)" || { \
	  $(PY) -m pip install --quiet --no-deps --no-build-isolation -e . && printf '%s' "$(CURDIR)" > $(VENV)/.checkout; }

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip "setuptools>=69" wheel
	$(PY) -m pip install --quiet -e ".[dev,docs,imagenet]"
	@rm -f $(VENV)/.dependencies-* && touch $(STAMP) && printf '%s' "$(CURDIR)" > $(VENV)/.checkout

clean:
	rm -rf $(VENV) build dist *.egg-info
