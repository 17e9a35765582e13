"""pytest: the student notebooks stop at the first exercise by design, so only the solutions are run
as tests."""
collect_ignore_glob = ["module_*.ipynb"]
