"""Runs, comparisons and their cache; experiments as values; recipes put together; published
numbers."""
