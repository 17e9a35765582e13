"""Notebook 01, the wisdom of crowds: numbers, sentences, figures."""
