"""Notebook 08, lifelong adaptation: numbers, sentences, figures."""
