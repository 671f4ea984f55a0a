# make book    executes the chapters on the embedded data and builds the site
# make check   style, types and the fast tests: after every edit
# make test    style, types, all tests, and every notebook against its stored outputs
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Two processes, each with whole files, for fixtures are shared within a file and cells within a notebook.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: book check test style clean
book: $(READY)
	@echo "== executing the chapters and building the site"
	$(BIN)/nbrepro book

check: style
	@echo "== fast tests"
	$(PYTEST) -m "not slow"

test: style
	@echo "== tests, and every notebook against its stored outputs"
	$(PYTEST) --nbval

style: $(READY)
	@echo "== style and types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All packages at the versions of constraints.txt; a few gigabytes, most of it torch.
$(READY): pyproject.toml constraints.txt
	@echo "== creating $(VENV) and installing packages (minutes, once)"
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "Python 3.11 to 3.13 is needed; set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

clean:
	rm -rf $(VENV) build book/_build runs
