.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint types unit slow docs clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

# torch first and pinned: left to the resolver, it would fetch gigabytes of GPU libraries.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## compress a LeNet on real digits: search, front, table, fine-tuned winner (about five minutes)
	$(BIN)/python examples/digits.py

test: $(VENV)/.installed lint types unit ## everything that must pass before a commit

lint: $(VENV)/.installed ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed ## mypy
	$(BIN)/mypy

unit: $(VENV)/.installed ## the tests, without the slow ones, by two processes
	$(BIN)/pytest --numprocesses 2

slow: $(VENV)/.installed ## the slow and data-hungry tests
	$(BIN)/pytest -m slow

docs: $(VENV)/.installed ## the documentation as HTML, docs/_build/index.html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs docs/_build

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build docs/_build *.egg-info
