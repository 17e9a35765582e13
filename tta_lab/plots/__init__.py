"""Figures in matplotlib or plotly: ``plot_x(numbers, backend="matplotlib", ax=None)`` draws the
numbers of the function ``x``.

Each function turns its numbers into panels (`panel`) once, and one of two small backends
(`matplotlib_backend`, `plotly_backend`) draws them, so both carry the same data.  ``matplotlib``
returns a ``matplotlib.figure.Figure`` that pyplot does not know (it shows itself in a notebook);
``ax``
draws into given axes instead: one for a single panel, a sequence for several.  ``plotly`` returns
a ``plotly.graph_objects.Figure``.  Numbers with nothing finite in them give an empty figure
holding a sentence. ``HOW_TO_READ[x]`` says in a sentence how to read the figure.
"""
from .collapse import HOW_TO_READ as _collapse
from .collapse import plot_collapse, plot_collapse_detector  # noqa: F401
from .drawing import draw, draw_pictures, engine, fit  # noqa: F401
from .guard import HOW_TO_READ as _guard
from .guard import plot_guard_runs, plot_guarding  # noqa: F401
from .looks import COLORS, FONT, GROUP_LABELS, GROUP_LOOKS, MARKERS, TITLE, look  # noqa: F401
from .matplotlib_backend import captioned, new_figure, png, shown_as  # noqa: F401
from .panel import HeatMap, Panel, Series, common  # noqa: F401
from .probes import HOW_TO_READ as _probes
from .probes import (  # noqa: F401
    plot_counterfactual_vote,
    plot_crowd_vote,
    plot_gradient_crowd,
    plot_open_set_picture,
    plot_procedure,
)
from .runs import *  # noqa: F403
from .runs import HOW_TO_READ as _runs
from .selection import HOW_TO_READ as _selection
from .selection import plot_regret  # noqa: F401
from .timelines import *  # noqa: F403
from .timelines import HOW_TO_READ as _views

HOW_TO_READ = {**_runs, **_collapse, **_guard, **_probes, **_views, **_selection}
