# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust/core/src rust/python -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
# One profile for the extension, the Rust tests and clippy, so that the C of the crypto library is compiled once.
CARGO_FLAGS := --workspace --locked --release
# The locks and atomics of the model checker work in this test alone, so that it is built by itself.
CARGO_MODEL_FLAGS := --locked --release -p agentapi-core --features shuttle --test interleavings

.DEFAULT_GOAL := help
.PHONY: help run test check format rust-check python-check test-rust test-python wheel bench bench-run bench-check
.PHONY: browser sandbox conformance bench-dev bench-gateway bench-limits bench-oauth bench-oauth-flow bench-platform bench-scale
.PHONY: bench-sessions bench-strict fuzz deny constraints clean

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

rust-check: $(VENV)/.packages
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	cargo clippy $(CARGO_MODEL_FLAGS) -- -D warnings

python-check: $(VENV)/.extension
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest agentapi._core

# A file of tests stays with one worker, and each worker has servers of its own.
PYTEST_WORKERS ?= 2

test-rust: $(VENV)/.packages
	cargo test $(CARGO_FLAGS)
	cargo test $(CARGO_MODEL_FLAGS)

test-python: $(VENV)/.extension browser sandbox
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

browser: ## Install the Chromium that the tests look at pages with, if there is none (Debian, as root)
	@command -v chromium >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { \
			echo "The tests look at pages with Chromium: sudo apt-get install chromium, then run make again." >&2; exit 1; }; \
		echo "Installing Chromium..." >&2; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

sandbox: ## Install what the tests confine stdio servers with, if it is missing (Debian, as root)
	@{ command -v bwrap && ldconfig -p | grep libseccomp.so.2; } >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { \
			echo "The tests attack the sandbox: sudo apt-get install bubblewrap libseccomp2, then run make again." >&2; \
			exit 1; }; \
		echo "Installing bubblewrap..." >&2; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			bubblewrap libseccomp2 >/dev/null; }

wheel: $(VENV)/.packages ## Build the wheel into dist/
	$(BIN)/maturin build --release --locked --out dist

conformance: $(VENV)/.extension ## Run the conformance suite, directly and through the gateway, into docs/conformance.md
	PYTHONPATH=tests $(BIN)/python -m conformance.comparison

bench-dev: $(VENV)/.extension ## Measure start-up, memory and calls into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/dev_figures.py --out docs/performance.md

# A peer to be measured beside, in an environment of its own: it is no dependency.
FASTMCP := target/bench/fastmcp

bench-gateway: $(VENV)/.extension $(FASTMCP)/bin/python ## Measure calls beside FastMCP's proxy into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/gateway.py --fastmcp $(FASTMCP)/bin/python --out docs/performance.md

bench-oauth: $(VENV)/.extension ## Measure what a user's own credential costs into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/oauth.py --out docs/performance.md

bench-oauth-flow: $(VENV)/.extension ## Measure connecting an account into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/oauth_flow.py --out docs/performance.md

bench-platform: $(VENV)/.extension ## Measure authorisation and composed prompts into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/platform_costs.py --out docs/performance.md

bench-scale: $(VENV)/.extension ## Measure lists over 1,000 organisations and 1,000,000 audit rows into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/scale.py --out docs/performance.md

bench-limits: $(VENV)/.extension ## Measure shared rate limits, and press on one for two minutes, into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/shared_limits.py --out docs/performance.md

bench-strict: $(VENV)/.extension ## Measure what a strictly audited call waits for into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/audit.py --out docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/strict_profile.py --out docs/performance.md

bench-sessions: $(VENV)/.extension ## Measure starting a session into docs/performance.md
	PYTHONPATH=tests:bench $(BIN)/python bench/sessions.py --out docs/performance.md

$(FASTMCP)/bin/python:
	@$(PYTHON) -m venv $(FASTMCP)
	@$(FASTMCP)/bin/pip install --quiet --disable-pip-version-check fastmcp==4.1.2 uvloop==0.23.0 httptools==0.9.0

BENCHES := --bench envelope --bench sealed --bench token_bucket --bench circuit_breaker --bench token_cache
CARGO_BENCH := cargo bench --profile release --locked -p agentapi-core

bench-run: $(VENV)/.extension
	@mkdir -p target/bench
	$(CARGO_BENCH) --bench cold > target/bench/cold.jsonl
	$(BIN)/pytest bench -q -p no:cacheprovider --benchmark-json=target/bench/python.json --benchmark-disable-gc

bench: bench-run ## Measure the core beside its peers into docs/benchmarks.md
	rm -rf target/criterion
	$(CARGO_BENCH) $(BENCHES) -- --noplot --warm-up-time 0.3 --measurement-time 1
	$(CARGO_BENCH) --bench growth > target/bench/growth.jsonl
	$(BIN)/python bench/instructions.py
	$(BIN)/python bench/report.py

bench-check: bench-run ## Fail when a ratio or an instruction count is worse than its target
	$(BIN)/python bench/check.py
	$(BIN)/python bench/instructions.py --check

FUZZ_TARGETS := envelope jwt jwks sealed
FUZZ_SECONDS ?= 30

fuzz: ## Fuzz every parser for a short while: make fuzz FUZZ_SECONDS=600
	@command -v cargo-fuzz >/dev/null || { echo "cargo install cargo-fuzz --locked, then run make again" >&2; exit 1; }
	@mkdir -p $(foreach target,$(FUZZ_TARGETS),rust/fuzz/corpus.run/$(target))
	@for target in $(FUZZ_TARGETS); do \
		cargo fuzz run --fuzz-dir rust/fuzz -s none $$target rust/fuzz/corpus.run/$$target rust/fuzz/corpus/$$target -- \
		-dict=rust/fuzz/dictionaries/$$target.dict -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; done

deny: ## Licences, bans and sources of the Rust dependencies (needs cargo-deny)
	cargo deny --locked check licenses bans sources

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
