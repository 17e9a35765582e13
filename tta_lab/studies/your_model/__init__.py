"""Notebook 06, your model: numbers, sentences, figures."""
