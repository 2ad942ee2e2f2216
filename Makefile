# Each target makes the virtual environment .venv if it is not there, and installs what it needs.
PYTHON ?= python3
# a folder with cifar10/train-*.parquet, which the comparisons look at
DATA ?= data
BIN := .venv/bin
PYRIGHT := .venv/pyright/node_modules/.bin/pyright

.PHONY: demo test test-all test-browser fuzz kills board docs bench check clean

demo: .venv/ready
	$(BIN)/unshaken demo

test: .venv/ready
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal

# with every variant of every test, and the long comparisons; the workflow on GitHub runs this
test-all: .venv/ready
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal -m ""

# the pages in a real browser: Chromium where there is one, else the one that Playwright fetches
test-browser: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	command -v chromium chromium-browser google-chrome >/dev/null || $(BIN)/python -m playwright install chromium
	test -e .venv/axe/node_modules/axe-core/axe.min.js || npm install --silent --prefix .venv/axe axe-core || echo "no npm: accessibility is not tested"
	UNSHAKEN_BROWSER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/browser

# the documentation as pages in docs-site; a dead link or a missing name is an error
docs: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

board: .venv/ready
	$(BIN)/unshaken board results --out site

# damage to files of every kind; SEED=2 draws other damage
fuzz: .venv/ready
	FAULTS=$${FAULTS:-5000} OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/test_faults.py -s --timeout 1800

# commands of every verb that writes, killed at random moments and given again; then three of each at once
kills: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/kills.py $${KILLS:-200} --together

bench: .venv/ready
	for name in $$($(BIN)/python -m bench --names); do OMP_NUM_THREADS=1 $(BIN)/python -m bench $$name --keep --data $(DATA) || exit 1; done

check: .venv/ready
	$(BIN)/ruff check src tests bench examples
	$(BIN)/ruff format --check src tests bench examples
	test -e $(PYRIGHT) || npm install --silent --prefix .venv/pyright pyright@1.1.414 || echo "no npm: types are not checked"
	test ! -e $(PYRIGHT) || $(PYRIGHT) --pythonpath $(BIN)/python

clean:
	rm -rf .venv demo site docs-site

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unshaken needs Python 3.11 or newer; say which by make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
