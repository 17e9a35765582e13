PYTHON ?= python3
.PHONY: run test lab app test-all test-browser clean

run:      # the first notebook, headless; options: make run ARGS="--full --set seed=1"
	$(PYTHON) -m tta_lab run $(ARGS)

test:     # the quick tests; options: make test ARGS="-k adapter"
	$(PYTHON) -m tta_lab test $(ARGS)

lab:      # JupyterLab on the notebooks
	$(PYTHON) -m tta_lab lab $(ARGS)

app:      # the explorer as a page without code; another notebook: make app ARGS=04_collapse
	$(PYTHON) -m tta_lab app $(ARGS)

test-browser: # the notebooks and the app in Chromium
	$(PYTHON) -m tta_lab test --browser $(ARGS)

test-all: # also the slow tests, and every cell of every notebook
	$(PYTHON) -m tta_lab test --all $(ARGS)

clean:    # the environment and the caches; results in runs/ stay
	rm -rf .venv .venv.lock .pytest_cache .ruff_cache build dist && find . -name __pycache__ -type d -prune -exec rm -rf {} +
