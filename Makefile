# Everything in two commands: `make demo` trains on real data, `make test` runs the tests.
# Several checkouts can share one environment: make test VENV=~/envs/easydl
VENV ?= .venv
BENCH_VENV ?= $(VENV)-bench
PYTHON ?= python3
STAMP := $(shell cksum < pyproject.toml | tr ' \t' '--')
RUN := PYTHONPATH="$(CURDIR)" "$(VENV)/bin/python"

.PHONY: demo test check soak bench bench-here profile format clean help

help: ## list the commands
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: $(VENV)/.recipes-$(STAMP) ## train LeNet-5 on real digits and draw what happened
	$(RUN) recipes/demo.py

test: $(VENV)/.test-$(STAMP) ## run the test suite
	$(RUN) -m pytest

check: $(VENV)/.test-$(STAMP) ## lint, format and type check, then test
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/ruff" format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest

soak: $(VENV)/.test-$(STAMP) ## every proof in full and the slow tests
	$(RUN) -m pytest -m slow -o addopts="--strict-markers -v"
	$(RUN) -m proofs.bad_inputs
	$(RUN) -m proofs.mutants --sample 100

bench: ## easydl beside hand-written loops and its peers (QUICK=1: a few minutes)
	@$(MAKE) --no-print-directory VENV="$(BENCH_VENV)" bench-here

bench-here: $(VENV)/.bench-$(STAMP)
	$(RUN) benchmarks/run.py $(if $(QUICK),--quick)
	$(if $(QUICK),,$(RUN) benchmarks/costs.py)
	$(if $(QUICK),,$(RUN) benchmarks/data.py)
	$(if $(QUICK),,$(RUN) benchmarks/streams.py)

profile: $(VENV)/.recipes-$(STAMP) ## where a training step's microseconds go (WORK=mlp: another network)
	$(RUN) benchmarks/steps.py $(WORK)

format: $(VENV)/.test-$(STAMP) ## format the sources
	"$(VENV)/bin/ruff" check --fix .
	"$(VENV)/bin/ruff" format .

clean: ## remove the environment of this checkout and all caches
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install --quiet --upgrade pip

# One stamp an extra, named by the contents of pyproject.toml: a change installs anew.
$(VENV)/.%-$(STAMP): | $(VENV)/bin/python
	@echo "installing easydl[$*] into $(VENV) (torch and what it needs: about 5 GB, a minute or more)"
	"$(VENV)/bin/python" -m pip install --quiet --editable ".[$*]"
	@touch "$@"
