# `make lab` opens the notebooks; `make test` checks the code and runs the notebooks; `make ci` is all that CI runs.
# All install what they need first.

PYTHON ?= python3
# Options for pip, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# Options for JupyterLab, e.g. LAB_ARGS="--port 9000"
LAB_ARGS ?=
# Options for nbconvert, e.g. where the slides find reveal.js: docs/teach/thirty.md
SLIDES_ARGS ?=
# Options for the benchmark, e.g. BENCH_ARGS="controlnet --output docs/bench"
BENCH_ARGS ?=

# Groups, and their order, are of tests/conftest.py.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
COLAB := .venv-colab
SITE := .venv-site
INSTALLED := $(VENV)/.installed
# JupyterLab's defaults, as on Binder. Messages of widgets on subshells lose inline figures (ipykernel 1564), windowing
# mode "full" hides tall outputs (jupyterlab 17023), and news would lie over the first page.
LAB_SETTINGS := $(VENV)/share/jupyter/lab/settings/overrides.json
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: class web site slides lab ci check lint style stripped types test colab platforms bench format hooks

# Without a display there is no browser to open: JupyterLab prints the address. As root it wants to be told.
lab: $(INSTALLED) $(LAB_SETTINGS)
	@set --; \
	[ "$$(id -u)" != 0 ] || set -- "$$@" --allow-root; \
	[ "$$(uname)" = Darwin ] || [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || set -- "$$@" --no-browser; \
	PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/python -m jupyterlab \
	    --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb "$$@" $(LAB_ARGS)

# All that CI runs; it stops at the first that fails.
ci:
	$(MAKE) test
	$(MAKE) colab
	$(MAKE) platforms

# What takes seconds; the hooks of .pre-commit-config.yaml are these four.
check: lint style stripped types

lint: $(INSTALLED)
	$(BIN)/ruff check
style: $(INSTALLED)
	$(BIN)/ruff format --check
stripped: $(INSTALLED)
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb docs/teach/*.ipynb
types: $(INSTALLED)
	$(BIN)/mypy

# Minutes that notebook 08 trains in the tests; on its own it takes two.
test colab platforms: export LCM_NB_MINUTES ?= 0.2

test: export LCM_NB_PROFILE = mini
test: export HF_HUB_OFFLINE = 1
# One process a core and one thread a process: threads of several processes would wait for each other.
test: export OMP_NUM_THREADS = 1
test: check
	$(BIN)/python -m pytest $(PARALLEL) --nbmake tests notebooks docs/teach

# The same code with Colab's versions, which are the oldest that pyproject.toml admits. test_colab.py is first: it installs lcm_nb as the notebooks do on Colab.
colab: export LCM_NB_PROFILE = mini
colab: export HF_HUB_OFFLINE = 1
colab: $(COLAB)/.installed
	$(COLAB)/bin/python -m pytest -m slow tests/test_colab.py
	$(COLAB)/bin/python -m pytest tests/test_panel.py tests/test_inputs.py tests/test_pictures.py tests/test_kernel.py
	$(COLAB)/bin/python -m pytest tests/test_guide.py tests/test_hub.py -k "image-to-image or brings_all"
	$(COLAB)/bin/python -m pytest --nbmake notebooks/00_start_here.ipynb notebooks/01_text_to_image.ipynb

# What Binder does with binder/, in a fresh environment; the memory that the heaviest notebooks take; Run All of each
# notebook that has a panel in JupyterLab; the LCM in a page, which needs npm; random events on the panels, here and
# through a kernel.
platforms: export OMP_NUM_THREADS = 1
platforms: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) -m slow tests/test_binder.py tests/test_memory.py tests/test_browser.py tests/test_web.py
	$(BIN)/python -m tests.storm --events 250
	$(BIN)/python -m tests.storm --events 50 --sections image-to-image --kernel

# What drawing takes on this computer, beside plain code and bare networks; some minutes, and never part of the tests.
bench: $(INSTALLED)
	LCM_NB_PROFILE=mini $(BIN)/lcm-nb bench $(BENCH_ARGS)

# Of these the LCM in a page alone: exported anew, then driven in Chromium and in JupyterLab. Needs npm.
web: export LCM_NB_PROFILE = mini
web: export HF_HUB_OFFLINE = 1
web: $(INSTALLED)
	$(BIN)/python -m pytest -m slow tests/test_web.py

# A server with Ray, killed and stopped; then thirty learners who drag sliders. Some minutes.
class: export LCM_NB_PROFILE = mini
class: export HF_HUB_OFFLINE = 1
class: export OMP_NUM_THREADS = 1
class: $(INSTALLED)
	$(BIN)/python -m pytest -m slow tests/test_serve.py
	$(BIN)/python -m tests.class_load --seconds 30 --kill

# The opening slides, drawn anew, into build/slides.
slides: export LCM_NB_PROFILE = mini
slides: $(INSTALLED)
	$(BIN)/jupyter nbconvert --to slides --execute --no-input --output-dir build/slides docs/teach/opening.ipynb $(SLIDES_ARGS)

# The lessons as pages, in build/site/html: run, put together, looked through and opened in Chromium. Needs npm. What has
# run is kept in build/site/run until a notebook or the package changes.
site: $(INSTALLED) $(SITE)/.installed
	$(BIN)/python docs/site/build.py build/site --sphinx $(SITE)/bin/sphinx-build
	$(BIN)/python -m pytest -m slow tests/test_site.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb docs/teach/*.ipynb

# Let git run the hooks of .pre-commit-config.yaml before each commit.
hooks: $(INSTALLED)
	$(BIN)/pre-commit install

$(LAB_SETTINGS): binder/overrides.json | $(INSTALLED)
	@mkdir -p $(@D)
	@cp $< $@

$(COLAB)/.installed: tests/colab.txt
	$(PYTHON) -m venv --clear $(COLAB)
	$(COLAB)/bin/python -m pip install $(PIP_ARGS) --requirement tests/colab.txt
	@touch $@

$(SITE)/.installed: docs/site/requirements.txt
	$(PYTHON) -m venv --clear $(SITE)
	$(SITE)/bin/python -m pip install $(PIP_ARGS) --requirement docs/site/requirements.txt
	@touch $@

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
	    echo "lcm_nb needs Python 3.11 or newer, and \"$(PYTHON)\" is: $$($(PYTHON) --version 2>&1)"; \
	    echo "Install one, or name the one to use: make PYTHON=python3.12"; exit 1; } >&2
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) --requirement requirements.txt
	$(BIN)/python -m pip install $(PIP_ARGS) --no-deps --editable .
	@touch $@
