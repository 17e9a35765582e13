PYTHON ?= python3
.PHONY: run test lab test-all clean

run:      # the first notebook, headless; options: make run ARGS="--full --set seed=1"
	$(PYTHON) -m tta_lab run $(ARGS)

test:     # the quick tests; options: make test ARGS="-k adapter"
	$(PYTHON) -m tta_lab test $(ARGS)

lab:      # JupyterLab on the notebooks
	$(PYTHON) -m tta_lab lab $(ARGS)

test-all: # also the slow tests, and every cell of every notebook
	$(PYTHON) -m tta_lab test --all $(ARGS)

clean:    # the environment and the caches; results in runs/ stay
	rm -rf .venv .venv.lock .pytest_cache .ruff_cache build dist && find . -name __pycache__ -type d -prune -exec rm -rf {} +
