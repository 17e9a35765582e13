"""Notebook 07, normalisation: numbers, sentences, figures."""
