# make demo: the whole pipeline on real digits. make test: the tests. make check: lint, types, architecture.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
PYTHON ?= python3
RUN := $(UV) run --frozen --no-sync

.PHONY: demo test check setup

demo: setup
	$(RUN) dvc repro
	@$(RUN) python -m stages.report --show work/report/summary.json

test: setup
	$(RUN) pytest

check: setup
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) pytest -p no:xdist -o addopts=-q tests/test_architecture.py

setup: .venv/.ready

.venv/.ready: uv.lock pyproject.toml | $(UV)
	$(UV) sync --frozen
	@touch $@

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv
