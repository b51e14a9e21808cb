# The work is in scripts/; CONTRIBUTING.md says when to use what.
# PYTHON=INTERPRETER for .venv, CONFIG=FILE for run, ARGS='...' for pytest and the benchmarks.

.PHONY: help setup run lint check test bench lock clean

# Recorded cases may lie beside the checkout; the tests that want them skip without.
ifndef POLLER_CASES
POLLER_CASES := $(abspath $(wildcard ../shared/cases))
endif
ifneq ($(POLLER_CASES),)
export POLLER_CASES
endif

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1	/p' Makefile

setup: ## .venv as requirements.lock says, with the project in it
	@scripts/setup

run: setup ## the quick start, or CONFIG=FILE
	@scripts/run

lint: setup ## ruff and strict types
	@scripts/lint

check: setup ## the fast loop: lint, unit and engine tests
	@scripts/check $(ARGS)

test: setup ## everything, against real servers too
	@scripts/test $(ARGS)

bench: setup ## the benchmarks
	@scripts/bench $(ARGS)

lock: ## requirements.lock anew, from pyproject.toml
	@scripts/lock

clean: ## away with all that the other targets made
	@scripts/clean
