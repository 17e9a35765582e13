"""Notebook 03, the method zoo: numbers, sentences, figures."""
