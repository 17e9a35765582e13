"""Notebook 04, collapse: numbers, sentences, figures."""
