"""Widgets: thin shells around functions that also run headlessly."""
