# Two commands for a newcomer: `make demo` and `make test`.  Each makes .venv from pyproject.toml if need be.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: demo test lint clean

demo: .venv/demo
	$(BIN)/luna-dt demo

test: .venv/test
	$(BIN)/python -m pytest

lint: .venv/test
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --no-error-summary
	@mkdir -p .venv/pack && ln -sfn "$(CURDIR)" .venv/pack/luna_pack  # the nodes import as ComfyUI lets them
	cd .venv/pack && ../bin/mypy --no-error-summary --config-file ../../pyproject.toml -p luna_pack.nodes

.venv/demo .venv/test: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing luna_dt[$(@F)] into .venv (torch is large; this takes minutes the first time)"
	@$(PIP) install -e ".[$(@F)]"
	@$(PIP) install "hnswlib>=0.8" 2>/dev/null || echo "hnswlib could not be built (no C++ compiler?): the exact engine will answer"
	@touch $@

clean:
	rm -rf .venv demo-out build *.egg-info .mypy_cache .pytest_cache .ruff_cache
