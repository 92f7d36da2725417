# The commands of this house; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo check test tools lab chaos soak traces bench million lock format

BIN := .venv/bin
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
SOURCES := dialer_engine tests $(if $(wildcard bench/*.py),bench)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

help:  ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*##/:/' | awk -F': +' '{printf "make %-8s %s\n", $$1, $$2}'

setup: .venv/complete  ## .venv with exactly the locked, hashed dependencies

.venv/complete: requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

demo: setup  ## watch the daemon call 320 simulated people; needs no Asterisk, no Redis, no root
	$(BIN)/dialer-engine demo

check: setup  ## style, types, floors, and every test that needs neither Asterisk nor a daemon of its own
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q -n auto --dist loadgroup -m 'not lab and not system'

test: tools check  ## everything; installs what it needs (as root) and builds the lab
	$(BIN)/pytest -q -m 'lab or system'

# What the tests need beside Python, as PROGRAM:PACKAGE. Root gets it installed; anybody else is told, and the
# tests skip with the same reason. In CI (DIALER_CI) nothing may be missing.
TOOLS := redis-server:redis-server sipp:sip-tester mmdebstrap:mmdebstrap

tools: setup
	@missing=; for tool in $(TOOLS); do \
	  command -v $${tool%:*} >/dev/null || missing="$$missing $${tool#*:}"; \
	done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get -qq update && apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	else \
	  echo "not installed and not installable without root:$$missing"; [ -z "$$DIALER_CI" ]; \
	fi
	@$(BIN)/python -m tests.lab.rootfs || { echo "without its tree the lab is skipped"; [ -z "$$DIALER_CI" ]; }

lab: tools  ## watch the daemon dial a whole campaign on two real Asterisks
	$(BIN)/python -m tests.lab.watch

chaos: setup  ## kill the daemon at every step and count what was lost
	$(BIN)/python -m tests.chaos

soak: tools  ## ten minutes of a busy queue, its books held against Asterisk's and the world's
	$(BIN)/python -m tests.lab.soak

traces: tools  ## record on the lab what the real Asterisk says, for the simulator to say the same
	$(BIN)/python -m tests.traces

bench: tools  ## the figures of the README, measured here (some ten minutes, on a quiet machine)
	@failed=0; for measure in $(filter-out figures million,$(basename $(notdir $(wildcard bench/*.py)))); do \
	  echo "== $$measure"; $(BIN)/python -m bench.$$measure || failed=1; \
	done; exit $$failed

million: setup  ## a list of a million, its memory and archive, and the start of ten million (a quarter of an hour)
	$(BIN)/python -m bench.million

format: setup  ## let ruff put the source in order
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# A lock names versions and hashes, never an index: it installs from whatever index a machine uses.
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url \
	--no-annotate --no-header pyproject.toml

lock:  ## newest versions into requirements*.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install uv
	$(COMPILE) -o requirements.lock
	$(COMPILE) --group dev -o requirements-dev.lock
	! grep -nE '://' requirements.lock requirements-dev.lock
