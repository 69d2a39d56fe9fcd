# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
# One profile for the extension, the Rust tests and clippy, so that the C of the crypto library is compiled once.
CARGO_FLAGS := --workspace --locked --release

.DEFAULT_GOAL := help
.PHONY: help run test check format rust-check python-check test-rust test-python wheel bench-dev constraints clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

run: $(VENV)/.extension ## Start a gateway to try: make run ARGS="--port 8123 --json"
	@$(BIN)/agentapi dev $(ARGS)

test: check test-rust test-python ## Everything that CI runs; sets itself up

check: rust-check python-check ## Lint, types, stub and import rules, short of the tests

format: $(VENV)/.packages ## Mend what can be mended
	cargo fmt
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

rust-check:
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

python-check: $(VENV)/.extension
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest agentapi._core

test-rust:
	cargo test $(CARGO_FLAGS)

test-python: $(VENV)/.extension
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

wheel: $(VENV)/.packages ## Build the wheel into dist/
	$(BIN)/maturin build --release --locked --out dist

bench-dev: $(VENV)/.extension ## Measure start-up, memory and calls into docs/performance.md
	$(BIN)/python bench/dev_figures.py

constraints: $(VENV)/.packages ## Resolve the Python dependencies anew into constraints.txt
	$(BIN)/python tools/constraints.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) target dist .test-cache .coverage .coverage.*

# maturin builds and installs the extension in place; Python sources need no rebuild.
$(VENV)/.extension: $(VENV)/.packages $(RUST_SOURCES) pyproject.toml
	@echo "Building the extension (release); the first time takes a minute or two..." >&2
	@VIRTUAL_ENV=$(abspath $(VENV)) PIP_QUIET=1 $(BIN)/maturin develop --release --locked --quiet >&2
	@touch $@

$(VENV)/.packages: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AgentAPI needs Python 3.11 or newer; say make PYTHON=python3.11")'
	@command -v cargo >/dev/null || { echo "AgentAPI is built with Rust: install cargo (rustup.rs), then run make again." >&2; exit 1; }
	@echo "Making the virtual environment..." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@touch $@
