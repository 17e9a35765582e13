"""Notebook 02, streams and shifts: numbers, sentences, figures."""
