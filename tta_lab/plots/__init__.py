"""Figures in matplotlib or plotly: ``plot_x(numbers, backend="matplotlib", ax=None)`` draws the numbers of the function ``x``.

Each function turns its numbers into `drawing.Panel` values once, and one of two small renderers draws them, so both backends
carry the same data.  ``matplotlib`` returns a ``matplotlib.figure.Figure`` that pyplot does not know (it shows itself
in a notebook); ``ax`` draws into given axes instead: one for a single panel, a sequence for several.  ``plotly``
returns a ``plotly.graph_objects.Figure``.  Numbers with nothing finite in them give an empty figure holding a sentence. ``HOW_TO_READ[x]``
says in a sentence how to read the figure.
"""
from .drawing import COLOURS, FONT, GROUP_LABELS, GROUP_LOOKS, MARKERS, Panel, Series, captioned, draw, look, png  # noqa: F401
from .runs import *  # noqa: F403
from .runs import HOW_TO_READ  # noqa: F401
