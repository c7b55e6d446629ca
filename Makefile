# One command per chore, the same for a person and for CI. ARGS=… is handed on to the tool.

PYTHON_HERE = .venv/bin/python
CODE = $(wildcard src tests bench scripts/*.py examples)

.PHONY: help setup setup-tests demo test test-long check format lock bench clean
.DEFAULT_GOAL := help

help: ## list the chores
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1	/p' Makefile | expand -t 12

setup: ## make .venv, and install rsync and OpenSSH where they are missing
	@scripts/setup

setup-tests: setup
	@scripts/setup-tests

demo: setup ## the real thing on this machine, start to end, cleaned up afterwards
	@$(PYTHON_HERE) scripts/demo.py $(ARGS)

test: setup-tests ## run the tests (ARGS="-k word" and so on)
	$(PYTHON_HERE) -m pytest -n auto --maxprocesses=4 $(ARGS)

test-long: setup-tests ## run all tests, the long fault and fuzz runs too
	$(PYTHON_HERE) -m pytest -n auto --maxprocesses=4 -m '' $(ARGS)

check: setup ## format, lint and types, without changing anything
	$(PYTHON_HERE) -m ruff format --check $(CODE)
	$(PYTHON_HERE) -m ruff check $(CODE)
	$(PYTHON_HERE) -m mypy --strict $(CODE)

format: setup ## format, and fix what the linter can fix
	$(PYTHON_HERE) -m ruff check --fix $(CODE)
	$(PYTHON_HERE) -m ruff format $(CODE)

lock: ## pin the requirements again (ARGS=--upgrade for the newest; needs Python 3.11)
	@scripts/lock $(ARGS)

bench: setup ## measure psync beside rsync and ssh on this machine
	@$(PYTHON_HERE) -m bench $(ARGS)

clean: ## remove caches and build output (.venv stays)
	rm -rf build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
