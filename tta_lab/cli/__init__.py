"""The environment, headless runs and the app behind ``python -m tta_lab``."""
