# Two commands for a newcomer: `make demo` and `make test`.  Each makes .venv from pyproject.toml if need be.
PYTHON ?= python3
WORKERS ?= 3
BIN := .venv/bin
PIP := -m pip --disable-pip-version-check -qq
HNSWLIB := install "hnswlib>=0.8"
NO_HNSWLIB := echo "hnswlib could not be built (no C++ compiler?): the exact engine will answer"
# side by side, one more than two cores, since many wait; more threads than cores only wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
QUICK := not (postgres or models or processes or browser or comfyui or slow)

.PHONY: help demo test quick light lint fix constraints clean

help:
	@echo "make demo         show it all on a drawn library (demo-out/)"
	@echo "make test         every test"
	@echo "make quick        the tests that need no database, no process and no large model: under a minute"
	@echo "make light        the same on another Python, without torch: make light PYTHON=python3.12"
	@echo "make lint         style, types, and which room may know which"
	@echo "make fix          mend the style"
	@echo "make constraints  renew the versions that the tests run with"
	@echo "make clean        remove what was made"

demo: .venv/demo
	$(BIN)/luna-dt demo

test: .venv/test
	$(PYTEST)

quick: .venv/test
	$(PYTEST) -m "$(QUICK)"

light:
	@$(PYTHON) -m venv --clear build/light
	@build/light/bin/python $(PIP) install -c constraints.txt -e ".[light]"
	@build/light/bin/python $(PIP) $(HNSWLIB) 2>/dev/null || $(NO_HNSWLIB)
	OMP_NUM_THREADS=1 build/light/bin/python -m pytest -p no:cacheprovider -n $(WORKERS) --dist loadgroup -m "$(QUICK)"

lint: .venv/test
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --no-error-summary
	@mkdir -p .venv/pack && ln -sfn "$(CURDIR)" .venv/pack/luna_pack  # the nodes import as ComfyUI lets them
	cd .venv/pack && ../bin/mypy --no-error-summary --config-file ../../pyproject.toml -p luna_pack.nodes
	@$(BIN)/lint-imports --no-cache > .venv/floors 2>&1 || { cat .venv/floors; exit 1; }

fix: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints:
	$(PYTHON) -m venv --clear build/constraints
	build/constraints/bin/python $(PIP) install -e ".[test]" "hnswlib>=0.8"
	build/constraints/bin/python tools/constraints.py

.venv/demo .venv/test: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing luna_dt[$(@F)] into .venv (torch is large; this takes minutes the first time)"
	@$(BIN)/python $(PIP) install $(if $(filter test,$(@F)),-c constraints.txt) -e ".[$(@F)]"
	@$(BIN)/python $(PIP) $(HNSWLIB) 2>/dev/null || $(NO_HNSWLIB)
	@touch $@

clean:
	rm -rf .venv demo-out build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
