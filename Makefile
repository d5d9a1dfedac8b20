# make benchmark   set up, then compare the learners on the embedded faces; writes results/
#                  (interrupted, it goes on where it was; remove results/ to start afresh)
# make test        set up for development, then lint, layers, types and tests (needs a C compiler once)
# make suite       the tests alone
# make test-slow   the tests that take minutes
# make docs        the site of the documents, with the reference: site/docs/index.html
# make dist        wheel and sdist in dist/, each installed and tried on Python 3.10, 3.12 and 3.13
# make clean       remove the environments and what the tools left behind; results/ stays
#
# PYTHON=python3.12 picks the Python that .venv is made with (3.10 or newer);
# ARGS="--minutes 5" adds options to `metaface benchmark` or `pytest`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Types are checked against the stubs of a numpy that is still maintained. Python 3.10 has none newer
# than 2.2, whose stubs take other types for the same right code; there, the suite alone must pass.
TYPES = if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then $(BIN)/mypy; \
  else echo "types: not checked on Python 3.10, but on 3.11 and newer"; fi
# A worker a core, of one thread each; the tests of a file stay together, as they share what was trained.
SUITE = OMP_NUM_THREADS=1 METAFACE_REQUIRE_LEARN2LEARN=1 \
  $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile $(ARGS)

.DELETE_ON_ERROR:
.PHONY: benchmark test suite test-slow docs dist clean

benchmark: $(VENV)/.installed
	$(BIN)/metaface benchmark --embedding conv4-32 --out results --resume $(ARGS)

test: $(VENV)/.development $(VENV)/.learn2learn
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(TYPES)
	$(SUITE)

suite: $(VENV)/.development $(VENV)/.learn2learn
	$(SUITE)

test-slow: $(VENV)/.development $(VENV)/.learn2learn
	$(BIN)/python -m pytest -m slow $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . site
	@echo "the site: site/docs/index.html"

dist: $(VENV)/.development
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python tools/check_dist.py dist

clean:
	rm -rf $(VENV) .venv-3.* build dist site docs/reference *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find metaface benchmarks tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each step runs once, and again when what it depends on changed.

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "MetaFace needs Python 3.10 or newer, and $(PYTHON) is not: make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.created
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[fast]'
	@touch $@

$(VENV)/.development: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(VENV)/.learn2learn: tools/build_learn2learn.py | $(VENV)/.development
	$(BIN)/python tools/build_learn2learn.py
	@touch $@
