# Everything a contributor or a user runs. `make` alone lists it.
# An environment is made once, from the hashed lock in requirements/; a stamp file tells that it is still right.

VENV   := .venv
BIN    := $(VENV)/bin
PAGE   := Backend/sibyl/page
LOCKS  := requirements
ARGS   ?=

# Nothing is installed here that the lock does not name with its hash. Build sandboxes are off because pip would fill
# them with whatever is newest; requirements/build.txt puts the pinned build tools into the environment instead.
PIP     := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --require-hashes --no-deps --no-build-isolation

# Set CMAKE_ARGS to build llama.cpp for a GPU (CMAKE_ARGS=-DGGML_CUDA=on make setup); a wheel that pip has kept from an
# earlier build was built with other arguments, so it is passed over then.
CMAKE_ARGS   ?=
LLAMA_CACHE  := $(if $(strip $(CMAKE_ARGS)),--no-cache-dir)

# The oldest Node that Vite runs on.
HAS_NODE := { command -v npm >/dev/null 2>&1 && node -e \
  'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 22 || (a === 22 && b >= 12) || (a === 20 && b >= 19) ? 0 : 1)'; }
NO_NODE  := Node 20.19 or newer is not on this machine
CHROMIUM ?= $(firstword $(wildcard /usr/bin/chromium /usr/bin/chromium-browser /usr/bin/google-chrome))

PAGE_SOURCES := $(wildcard frontend/*.html frontend/*.css frontend/*.ts frontend/tsconfig.json frontend/package.json \
                           frontend/public/* frontend/src/* frontend/src/*/*)

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup run test style types layers bench protocol chaos mutants matrix ci page page-test wheel lock clean
.PHONY: has-node
.DEFAULT_GOAL := help

help: ## list what make can do here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.run page ## prepare everything that `make run` needs

run: setup ## start API, worker, embedded Redis and model on 127.0.0.1:8000 (ARGS="--port 9000" passes flags)
	@exec $(BIN)/sibyl serve $(ARGS)

test: $(VENV)/.dev page page-test ## run all tests, three files at a time (ARGS="-k cursor" passes flags to pytest)
	@$(BIN)/pytest $(if $(strip $(ARGS)),$(ARGS),--numprocesses=3 --dist=loadfile --no-loadscope-reorder)

style: $(VENV)/.dev ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev ## check types of the Python code and of the page
	@$(BIN)/mypy
	@if $(HAS_NODE); then $(MAKE) -s --no-print-directory frontend/node_modules/.ready && cd frontend && npm run --silent check; \
	else echo "types: the page was not checked: $(NO_NODE)"; fi

layers: $(VENV)/.dev ## check that imports only go down
	@$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev ## measure, print a table, write it as JSON (ARGS="servers --short"; see tests/load/README.md)
	@$(BIN)/python -m tests.load $(ARGS)

protocol: $(VENV)/.dev ## explore the model of the protocol, over two million states (ARGS="--mutant all" refutes mutants)
	@$(BIN)/python -m tests.protocol $(ARGS)

chaos: $(VENV)/.dev ## break everything for a minute and check the promises (ARGS="--engine llama --seconds 1800 --seed 7")
	@$(BIN)/python -m tests.chaos $(ARGS)

mutants: $(VENV)/.dev ## remove each fence in turn; the tests must notice
	@$(BIN)/python -m tests.mutants $(ARGS)

MATRIX := $(BIN)/pytest -q tests/store tests/worker tests/api
matrix: $(VENV)/.dev ## test store, worker and API on Sentinel, on a cluster, and on each program in SERVERS="..."
	@set -e; for topology in sentinel cluster; do echo "matrix: $$topology"; \
	  SIBYL_TEST_TOPOLOGY=$$topology SIBYL_TEST_SHARDS=$$([ $$topology = cluster ] && echo 3 || echo 1) $(MATRIX) $(ARGS); done
	@set -e; for server in $(SERVERS); do echo "matrix: $$server"; SIBYL_TEST_REDIS_SERVER=$$server $(MATRIX) $(ARGS); done

ci: ## what CI runs: style, types, layers, tests, the protocol's model, a minute of chaos, some of it with llama.cpp
	@$(MAKE) -s --no-print-directory style
	@$(MAKE) -s --no-print-directory types
	@$(MAKE) -s --no-print-directory layers
	@$(MAKE) -s --no-print-directory test
	@$(MAKE) -s --no-print-directory protocol
	@$(MAKE) -s --no-print-directory chaos ARGS="--seconds 60 --seed 7"
	@$(MAKE) -s --no-print-directory chaos ARGS="--seconds 15 --seed 14 --engine llama"

has-node:
	@$(HAS_NODE)

page: ## build the page that the API serves under /
	@if $(HAS_NODE); then $(MAKE) -s --no-print-directory $(PAGE)/index.html; \
	elif [ -n "$$SIBYL_CI_REQUIRE_BROWSER" ]; then echo "page: $(NO_NODE)" >&2; exit 1; \
	else echo "page: $(NO_NODE), so there will be no page under /; the API serves without it"; fi

page-test: $(VENV)/.dev page ## test the page: its parts in Node, the whole in a real Chromium
	@if ! $(HAS_NODE); then echo "page-test: skipped, $(NO_NODE)"; \
	else (cd frontend && npm test --silent) && \
	  cd frontend && $(if $(CHROMIUM),SIBYL_TEST_CHROMIUM=$(CHROMIUM)) npm run --silent test:browser; fi

wheel: $(VENV)/.run page ## build the wheel, with page and model, into dist/
	@$(BIN)/python -m hatchling build -t wheel -d dist

lock: $(VENV)/.run ## write requirements/ anew (UPGRADE=1 takes the newest versions)
	@$(PIP) install -qq --group lock
	@set -e; compile="$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header"; \
	$$compile $(if $(UPGRADE),--upgrade) pyproject.toml --extra hub --extra deepgram --extra whisper --group dev --group build -o $(LOCKS)/dev.txt; \
	$$compile pyproject.toml --extra hub -c $(LOCKS)/dev.txt -o $(LOCKS)/run.txt; \
	$$compile --group build -c $(LOCKS)/dev.txt -o $(LOCKS)/build.txt; \
	$$compile $(if $(UPGRADE),--upgrade) --group ci -o $(LOCKS)/ci.txt
	@if grep -nE '://|file:|^-' $(LOCKS)/*.txt; then echo "lock: an address got into the lock" >&2; exit 1; fi

clean: ## remove what was built; the environment in .venv and the data of runs stay
	@rm -rf $(PAGE) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find Backend tests -name __pycache__ -type d -prune -exec rm -rf {} +

# How the environment comes about ------------------------------------------------------------------------------------

$(VENV)/.base: $(LOCKS)/build.txt
	@set -e; found=; for python in $(PYTHON) python3.11 python3.12 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	[ -n "$$found" ] || { echo "setup: Python 3.11 or newer is needed and was not found (set PYTHON to its path)" >&2; exit 1; }; \
	$$found -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "setup: $$found cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 1; }; \
	echo "setup: making $(VENV) with $$($$found --version)"; \
	$$found -m venv $(VENV)
	@$(PIP) install -qq --require-hashes --no-deps -r $(LOCKS)/build.txt
	@touch $@

# llama-cpp-python comes as source. It is built once for a machine: pip keeps the wheel and later recognises it by the
# hash of that source.
$(VENV)/.llama: $(VENV)/.base $(LOCKS)/run.txt
	@set -e; awk '/^[^ #]/ {on = /^llama-cpp-python==/} on' $(LOCKS)/run.txt > $(VENV)/llama.txt; \
	version=$$(sed -n 's/^llama-cpp-python==\([^ ;]*\).*/\1/p' $(VENV)/llama.txt); \
	quiet=-qq; \
	if [ -n "$(LLAMA_CACHE)" ] || ! { $(PIP) list --format=freeze 2>/dev/null | grep -qx "llama_cpp_python==$$version" \
	    || $(PIP) cache list "llama_cpp_python-$$version" --format=abspath 2>/dev/null | grep -q whl; }; then \
	  { command -v cc && command -v c++; } >/dev/null || \
	    { echo "setup: building llama.cpp needs a C and a C++ compiler; on Debian: apt-get install build-essential" >&2; exit 1; }; \
	  echo "setup: building llama.cpp, about four minutes on two cores, once for this machine"; \
	  quiet=; \
	fi; \
	$(INSTALL) $$quiet $(LLAMA_CACHE) -r $(VENV)/llama.txt
	@touch $@

$(VENV)/.run: $(VENV)/.llama pyproject.toml
	@echo "setup: installing what a run needs"
	@$(INSTALL) -qq -r $(LOCKS)/run.txt
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run $(LOCKS)/dev.txt
	@echo "setup: installing what the tests need"
	@$(INSTALL) -qq -r $(LOCKS)/dev.txt
	@touch $@

frontend/node_modules/.ready: frontend/package.json frontend/package-lock.json
	@echo "page: installing its packages"
	@cd frontend && npm ci --loglevel=error --no-audit --no-fund
	@touch $@

$(PAGE)/index.html: frontend/node_modules/.ready $(PAGE_SOURCES)
	@echo "page: building it"
	@cd frontend && npm run --silent build -- --logLevel warn
	@touch $@
