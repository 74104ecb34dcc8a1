# Each target installs what it needs into .venv first; only Python ≥ 3.11 has to be there.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: serve test lint format loop chaos chaos-full fuzz audit clean

serve: .venv/serve.done
	$(BIN)/noisewell serve $(ARGS)

test: .venv/dev.done
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/dev.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The whole loop under load, for real: make loop ARGS="MNIST.zip"
loop: .venv/dev.done
	$(BIN)/python benchmarks/loop.py $(ARGS)

# Breaks things on purpose and writes docs/chaos.md; the second does all of it, and can be stopped.
chaos: .venv/dev.done
	$(BIN)/python -m benchmarks.chaos $(ARGS)

chaos-full: .venv/dev.done
	$(BIN)/python -m benchmarks.chaos --full $(ARGS)

# Sends what nobody should: make fuzz, make fuzz ARGS="raw --raw 1000000 --seed 7"
fuzz: .venv/fuzz.done
	$(BIN)/python -m benchmarks.fuzz $(ARGS)

audit: .venv/dev.done
	$(BIN)/python tools/audit.py $(ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv

.venv/serve.done: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/dev.done: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ .venv/serve.done

.venv/fuzz.done: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	touch $@ .venv/serve.done
