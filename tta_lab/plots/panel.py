"""What a figure shows, as values that know no library: `Series` in a `Panel` or over a `HeatMap`,
and `Pictures`.

A kind of series is a word (`Series`) because all kinds hold the same numbers; a kind of panel is a
class. Each backend has one function for each kind.
"""
from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace

import numpy as np

from .fitting import finite, named
from .looks import PLAIN

MANY = 60      # points; longer lines are drawn without a marker at each
COLUMNS = 300  # of a heat map of rows; longer streams are drawn in wider windows
ROWS = 24      # of a heat map that get their own height and name; of more rows some are named
STANDING = ("bar", "steps", "stairs")  # kinds that stand on 0
# spans below this share of the largest height are drawn with room around them: they are all but
# equal
SAME = 0.05


@dataclass(frozen=True, eq=False)
class Series:
    """One "line", "path" (a line without markers), set of bars ("bar"), cloud of "points", or
    outline ("steps", and "stairs" without the drop to 0 at the ends: x are bin edges, one more
    than y); ``spread`` is a half-width of y."""

    x: object
    y: np.ndarray
    label: str
    look: int
    kind: str = "line"
    spread: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        return np.asarray(self.y, np.float64)

    @property
    def marked(self) -> bool:
        """Whether markers stand on the line: on a path only where dashes and colour are used up."""
        return self.kind != "path" or self.look >= PLAIN

    @property
    def alone(self) -> list[int]:
        """Places of points with no finite neighbour: a line without markers would not show them."""
        there = np.concatenate([[False], np.isfinite(self.values), [False]])
        return np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:]).tolist()


@dataclass(frozen=True, eq=False)
class Axes:
    """What both kinds of panel have; ``percent`` writes shares 0..1 as per cent."""

    title: str
    x: str
    y: str
    series: tuple = ()
    percent: bool = False
    top: float | None = None      # the natural maximum: of the heights, or of a heat map's values
    line: tuple | None = None     # (height, label): a reference line across
    marks: tuple = ()             # thin reference lines at these x
    height: float = 1.0           # among panels stacked on each other, in inches
    note: str = ""                # shown in place of the usual sentence when there is nothing

    @property
    def empty(self) -> bool:
        return not any(len(finite(values)) for values in self._drawn())

    def _drawn(self) -> list:
        return [s.y for s in self.series]

    @property
    def shown(self) -> tuple:
        """The series that hold a number."""
        return tuple(s for s in self.series if len(finite(s.y)))

    @property
    def few(self) -> bool:
        """Whether the points are so few that each is drawn large."""
        return sum(len(s.y) for s in self.series if s.kind == "points") <= MANY

    def band(self, s: Series) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of a series: its heights where it has no spread. The band of a
        share ends where shares do, at 0 and at 1."""
        y = s.values
        if s.spread is None:
            return y, y
        spread = np.nan_to_num(np.abs(np.asarray(s.spread, np.float64)))
        low = y - spread
        high = y + spread
        if self.percent and self.top == 1:
            low = np.maximum(low, np.minimum(y, 0))
            high = np.minimum(high, np.maximum(y, 1))
        return low, high

    def sentence(self, width: int = 44) -> str:
        """What is written where there is nothing to draw."""
        if not self.note:
            return f"Nothing to draw: {self.y.split(' (')[0]}\nholds no finite numbers here."
        return "\n".join(textwrap.wrap(self.note, width))


@dataclass(frozen=True, eq=False)
class Panel(Axes):
    """Series over x: lines, bars, points, outlines."""

    upright: float | None = None  # a reference line at this x, always in sight
    log: bool = False             # heights on a logarithmic scale
    # of a logarithmic scale, by default below the lowest thing drawn
    bottom: float | None = None
    free: bool = False            # heights from the lowest thing drawn, not from 0
    whole: bool = False           # heights from 0 to ``top`` however little of that is used
    heights: tuple | None = None  # (lowest, highest) height shown, in place of what fits
    across: tuple | None = None   # (first, last) x shown

    def _drawn(self) -> list:
        values = [s.values for s in self.series]
        return [np.where(v > 0, v, np.nan) for v in values] if self.log else values

    @property
    def bars(self) -> list[Series]:
        return [s for s in self.shown if s.kind == "bar"]

    @property
    def standing(self) -> bool:
        """Whether something stands on 0."""
        return any(s.kind in STANDING for s in self.series)

    def around(self) -> tuple[float, float]:
        """What is shown across when the upright line has to be seen: the series and the line."""
        ends = [np.asarray(s.x, np.float64)[[0, -1]] for s in self.series]
        ends = finite(np.concatenate([*ends, [self.upright]]))
        return float(ends.min()), float(ends.max())

    def extremes(self) -> tuple[float, float]:
        """Lowest and highest of what is drawn: lines with their bands, bars and outlines with the
        0 they stand on, the line across."""
        ends = [finite(end) for s in self.series for end in self.band(s)]
        values = np.concatenate(ends) if ends else np.zeros(0)
        values = values[values > 0] if self.log else values
        if self.line and len(values) and (self.line[0] > 0 or not self.log):
            values = np.append(values, self.line[0])
        if self.standing and not self.log:
            values = np.append(values, 0.0)
        return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)

    def limits(self) -> tuple[float, float]:
        """Heights of the axis: all that is drawn, from 0 (up to ``top``) where that wastes less
        than half of it."""
        if self.heights:
            return self.heights
        low, high = self.extremes()
        if self.log:
            return min(self.bottom or low / 1.5, low), max(high, self.top or high) * 1.5
        natural = max(high, self.top or high)
        bottom = min(low, 0.0)
        span = high - low
        if self.whole:
            return 1.05 * bottom, 1.05 * natural
        if not self.free and self.top and (self.standing or 2 * span >= natural - bottom):
            return _roomy(bottom, natural)
        if not self.free and (self.standing or 2 * span >= max(high, 0) - bottom):
            return _roomy(bottom, max(high, 0.0))
        largest = max(abs(low), abs(high))
        if span <= 1e-9 * largest and not self.free:  # one value: from 0, or up to 0
            return _roomy(bottom, max(natural, 0.0))
        room = max(0.05 * span, (SAME * largest - span) / 2) or 0.5
        return low - room, high + room


@dataclass(frozen=True, eq=False, kw_only=True)
class HeatMap(Axes):
    """Cells in shades, and series over them.

    ``scale``: "" for shares (with ``rows``: the low end widened), "plain" from 0 upwards, "root"
    the same with the low end widened, "diverging" around 0; ``top`` is its upper end, by default
    the largest value.
    """

    values: np.ndarray            # (W, H)
    name: str                     # of the values
    rows: tuple = ()              # their names, from the top down
    columns: tuple = ()           # their names
    x_edges: object = None        # of the cells (W + 1,), by default around each column
    y_edges: object = None        # of the cells (H + 1,), by default around each row
    scale: str = ""
    # format of the number written into each cell of a map with a scale; per cent with ``percent``
    cells: str = ""

    def _drawn(self) -> list:
        return [*super()._drawn(), self.values]

    @property
    def edges(self) -> list[np.ndarray]:
        """Of the cells: x (W + 1,), y (H + 1,)."""
        return [np.arange(n + 1) - 0.5 if ends is None else np.asarray(ends, np.float64)
                for n, ends in zip(self.values.shape, (self.x_edges, self.y_edges), strict=True)]

    @property
    def diverging(self) -> bool:
        return self.scale == "diverging"

    @property
    def widened(self) -> bool:
        """Whether the low end has more than its share of the shades."""
        return self.scale == "root" or not self.scale and bool(self.rows)

    @property
    def reach(self) -> tuple[float, float | None]:
        """Lowest and highest value of the shades; None: that of the values."""
        if not self.scale:
            return 0, 1 if self.rows else None
        high = self.top or float(np.max(np.abs(finite(self.values)), initial=0)) or 1.0
        return (-high if self.diverging else 0.0), high

    def written(self) -> list[tuple[float, float, str, bool]]:
        """Place, text and whether the ground is dark, of each number written into a cell; nothing
        for 0 and for NaN."""
        if not self.cells:
            return []
        x, y = ((edges[1:] + edges[:-1]) / 2 for edges in self.edges)
        dark = (0.6 if self.diverging else 0.55) * self.reach[1]
        texts = [(i, j, value, self.cells.format(100 * value if self.percent else value))
                 for (i, j), value in np.ndenumerate(self.values) if np.isfinite(value)]
        return [(x[i], y[j], text, abs(value) > dark) for i, j, value, text in texts
                if text.strip("-+0.%")]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Rows of images of one shape, with a caption below each, laid out in pixels of the images."""

    places: list          # [(name of the row, [(left, top, image (C, H, W), caption)])]
    size: tuple           # (width, height) of an image
    extent: tuple         # (width, height) of all of it
    unit: float           # inches of a pixel

    @classmethod
    def of(cls, rows: list) -> Pictures:
        """Lay out [(name of the row, [(image (C, H, W) in [0, 1], caption)])].

        Raises ValueError for images of different shapes, and for none.
        """
        shapes = {image.shape for _, pictures in rows for image, _ in pictures}
        if len(shapes) != 1 or (shape := next(iter(shapes)))[0] not in (1, 3):
            raise ValueError(f"all pictures must have one shape (1 or 3 channels, height, width), "
                             f"got {sorted(shapes)}")
        _, height, width = shape
        captions = [caption for _, pictures in rows for _, caption in pictures]
        lines = max(caption.count("\n") + 1 for caption in captions)
        longest = max(len(line) for caption in captions for line in caption.split("\n"))
        n = max(len(pictures) for _, pictures in rows)
        high = 1.25                                # inches of an image
        unit = high / height
        wide = max(1.4, 0.098 * longest + 0.1, width * unit + 0.15)  # inches of a column
        left = (np.arange(n) * wide + (wide - width * unit) / 2) / unit
        row_height = high + 0.24 * lines + 0.2
        top = np.arange(len(rows)) * row_height / unit
        places = [(name, [(left[j], top[i], image, caption)
                          for j, (image, caption) in enumerate(pictures)])
                  for i, (name, pictures) in enumerate(rows)]
        extent = n * wide / unit, len(rows) * row_height / unit
        return cls(places, (width, height), extent, unit)


def as_bytes(image) -> np.ndarray:
    """(C, H, W) in [0, 1] as (H, W, 3) bytes."""
    image = np.broadcast_to(np.asarray(image, np.float64), (3, *image.shape[1:]))
    return (image.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


def common(panels: list) -> list:
    """The panels with one scale of heights, that of all of them together."""
    plain = [isinstance(panel, Panel) and not panel.empty for panel in panels]
    shown = [panel.limits() for panel, one in zip(panels, plain, strict=True) if one]
    if not shown:
        return list(panels)
    ends = min(low for low, _ in shown), max(high for _, high in shown)
    return [replace(panel, heights=ends) if one else panel
            for panel, one in zip(panels, plain, strict=True)]


def missing(panels: list) -> list[str]:
    """What the legend says of series that hold no number in any panel."""
    there = {s.label for p in panels for s in p.shown}
    absent = (s.label for p in panels if not p.empty for s in p.series)
    return [f"{name}: no numbers" for name in dict.fromkeys(absent) if name and name not in there]


def labels(panels: list) -> list[str]:
    """All entries of the legend."""
    found = [name for p in panels if not p.empty
             for name in (*(s.label for s in p.shown), *([p.line[1]] if p.line else []))]
    return [name for name in dict.fromkeys((*found, *missing(panels))) if name]


def named_rows(names) -> tuple[list[int], list[str]]:
    """Places and names of the rows that get a name: all, or evenly spaced ones and the last."""
    return named(names, ROWS)


def _roomy(low: float, high: float) -> tuple[float, float]:
    if low == high:
        return low, high + 1.0
    room = 0.05 * (high - low)
    return (low - room if low < 0 else low), (high + room if high > 0 else high)
