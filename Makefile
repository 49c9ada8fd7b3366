# `make lab` opens the notebooks; `make test` runs every check that CI runs. Both install what they need first.

PYTHON ?= python3
# Options for pip, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# Options for JupyterLab, e.g. LAB_ARGS="--port 9000"
LAB_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: lab test format

# Without a display there is no browser to open: JupyterLab prints the address. As root it wants to be told.
lab: $(INSTALLED)
	@set --; \
	[ "$$(id -u)" != 0 ] || set -- "$$@" --allow-root; \
	[ "$$(uname)" = Darwin ] || [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || set -- "$$@" --no-browser; \
	PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/python -m jupyterlab \
	    --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb "$$@" $(LAB_ARGS)

# The hygiene of notebooks (nothing stored, structure) is tests/test_hygiene.py.
test: export LCM_NB_PROFILE = mini
test: export HF_HUB_OFFLINE = 1
test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest --nbmake notebooks

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
	    echo "lcm_nb needs Python 3.11 or newer, and \"$(PYTHON)\" is: $$($(PYTHON) --version 2>&1)"; \
	    echo "Install one, or name the one to use: make PYTHON=python3.12"; exit 1; } >&2
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) --requirement requirements.txt
	$(BIN)/python -m pip install $(PIP_ARGS) --no-deps --editable .
	@touch $@
