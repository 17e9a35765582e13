"""Notebook 05, compose your own: numbers, sentences, figures."""
