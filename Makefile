# Everything lands in .venv; system packages are installed once, by scripts/install.sh, if they are missing.

VENV := .venv
BIN := $(VENV)/bin
DEMO := examples/demo

.PHONY: install demo up down test lint bench plugin protos docs lock clean

install: $(VENV)/.installed-run

$(VENV)/.installed-run: requirements.lock pyproject.toml scripts/install.sh
	@scripts/install.sh run

$(VENV)/.installed-test: requirements.lock pyproject.toml scripts/install.sh
	@scripts/install.sh test

## The main job on SoftHSM: token, server, agent, entry, SVIDs, proofs.  Cleans up after itself.
demo: $(VENV)/.installed-run
	@$(DEMO)/demo.sh

## The same set-up, left running in .run; "make down" ends it.
up: $(VENV)/.installed-run
	@$(DEMO)/up.sh

down:
	@$(DEMO)/down.sh

test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy scripts $(DEMO)
	$(BIN)/lint-imports
	for script in .ci/run scripts/*.sh softhsm-setup/*.sh $(DEMO)/*.sh; do sh -n "$$script" || exit 1; done
	$(BIN)/python -m spiffe_core.api.generate --check
	$(BIN)/python tests/conformance/register.py --check
	$(BIN)/python -m scripts.settings --check
	$(BIN)/python -m scripts.commands --check

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.tokens

## build/steeple-keymanager: our key managers as a plugin of SPIRE, in one file.
plugin: $(VENV)/.installed-run
	$(BIN)/python -m scripts.plugin_file

protos: $(VENV)/.installed-test
	$(BIN)/python -m spiffe_core.api.generate

docs: $(VENV)/.installed-test
	$(BIN)/python tests/conformance/register.py --write
	$(BIN)/python -m scripts.settings --write
	$(BIN)/python -m scripts.commands --write

## After a change of dependencies in pyproject.toml.
lock: $(VENV)/.installed-test
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --extra dev \
		--python-version 3.11 pyproject.toml -o requirements.lock

clean: down
	rm -rf $(VENV) .run .mypy_cache .ruff_cache .pytest_cache .hypothesis
