# make demo: the whole pipeline on real digits. make test: the tests. make check: lint, types, architecture.
# make proofs: replay of views and kills of jobs, small sizes of bench/proofs.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
PYTHON ?= python3
RUN := $(UV) run --frozen --no-sync

.PHONY: demo test check proofs setup

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

proofs: setup  # sizes for CI; the whole sizes stand in docs/EVIDENCE.md
	$(RUN) python -m bench.proofs.replay --views 2000
	$(RUN) python -m bench.proofs.replay --views 20000 --size 32
	$(RUN) python -m bench.proofs.engines --views 2000
	$(RUN) python -m bench.proofs.engines --views 2000 --size 32
	$(RUN) python -m bench.proofs.kills --kills 200

setup: .venv/.ready

.venv/.ready: uv.lock pyproject.toml | $(UV)
	$(UV) sync --frozen --compile-bytecode
	@touch $@

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv
