"""Notebook 00, the explorer: numbers, sentences, figures."""
