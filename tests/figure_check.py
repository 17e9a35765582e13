"""What is wrong with a figure, in sentences: texts that are cut off or touch, things of one style, data outside the axes, names of what holds no
number, axes of lines that are mostly empty. `faults` takes a figure of matplotlib or plotly; `watch` has a kernel keep what its notebook draws."""

import functools
import math
import os
import pickle
import sys
from pathlib import Path

import numpy as np

FULL = 0.48  # of the heights of an axis that lines have to use, unless its scale is declared
ROOM = 1.5  # pixels that texts may reach over each other or the border


def faults(figure, panels=None) -> list[str]:
    """Sentences; ``panels`` (`plots.panel`) say which scales are declared. Nothing for a figure without faults."""
    found = _of_plotly(figure) if hasattr(figure, "to_plotly_json") else _of_matplotlib(figure)
    return found + (_wasted(figure, panels) if panels else [])


def _finite(values) -> np.ndarray:
    values = np.ma.filled(np.ma.asarray(values, dtype=float), math.nan).ravel()
    return values[np.isfinite(values)]


def _alike(looks, where) -> list[str]:
    """``looks``: (name, style) of what is drawn; one name may be drawn in several panels."""
    named: dict = {}
    for name, style in looks:
        named.setdefault(style, []).append(name)
    found = [
        f"{where}: {', '.join(map(repr, dict.fromkeys(names)))} look alike"
        for names in named.values()
        if len(set(names)) > 1
    ]
    styles: dict = {}
    for name, style in looks:
        styles.setdefault(name, set()).add(style[0])
    return found + [f"{where}: {name!r} has two colours" for name, seen in styles.items() if name and len(seen) > 1]


# --- matplotlib


def _of_matplotlib(figure) -> list[str]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    axes = [axis for axis in figure.axes if axis.get_visible()]
    return [
        *_texts(figure, axes, renderer),
        *(fault for axis in axes for fault in _outside(axis)),
        *_styles(figure, axes),
        *_nothing(figure, axes),
    ]


def _name(axis) -> str:
    return (axis.get_title() or axis.get_ylabel() or axis.get_xlabel() or "an axis").replace("\n", " ")


def _corners(text, renderer) -> np.ndarray:
    """The four corners of a text, turned as it is."""
    box, angle = text.get_window_extent(renderer), text.get_rotation()
    middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    if angle % 90:
        text.set_rotation(0)
        flat = text.get_window_extent(renderer)
        text.set_rotation(angle)
        half = np.array([flat.width, flat.height]) / 2
    else:
        half, angle = np.array([box.width, box.height]) / 2, 0
    turn = np.array(
        [
            [math.cos(math.radians(angle)), -math.sin(math.radians(angle))],
            [math.sin(math.radians(angle)), math.cos(math.radians(angle))],
        ]
    )
    return middle + (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half) @ turn.T


def touch(one: np.ndarray, other: np.ndarray, room: float = ROOM) -> bool:
    """Whether two convex polygons share more than ``room`` pixels in every direction (separating axes)."""
    for polygon in (one, other):
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            normal = np.array([a[1] - b[1], b[0] - a[0]])
            normal = normal / (np.linalg.norm(normal) or 1)
            p, q = one @ normal, other @ normal
            if min(p.max(), q.max()) - max(p.min(), q.min()) <= room:
                return False
    return True


def _texts(figure, axes, renderer) -> list[str]:
    width, height = figure.bbox.width, figure.bbox.height
    seen = [*figure.texts, *([figure._suptitle] if figure._suptitle else [])]
    for legend in figure.legends:
        seen += legend.get_texts()
    for axis in axes:
        seen += [
            axis.title,
            axis._left_title,
            axis._right_title,
            axis.xaxis.get_offset_text(),
            axis.yaxis.get_offset_text(),
            *axis.texts,
        ]
        seen += axis.get_legend().get_texts() if axis.get_legend() else []
        if axis.axison:
            for line in (axis.xaxis, axis.yaxis):
                if line.get_visible():
                    seen.append(line.label)
                    seen += [label for tick in line._update_ticks() for label in (tick.label1, tick.label2)]
    texts = {id(t): t for t in seen if t.get_visible() and t.get_text().strip() and t.get_alpha() != 0}.values()
    corners = [(t.get_text().replace("\n", " "), _corners(t, renderer)) for t in texts]
    found = [
        f"{text!r} is cut off"
        for text, c in corners
        if c[:, 0].min() < -ROOM
        or c[:, 1].min() < -ROOM
        or c[:, 0].max() > width + ROOM
        or c[:, 1].max() > height + ROOM
    ]
    low, high = (np.array([f(c, axis=0) for _, c in corners]).reshape(-1, 2) for f in (np.min, np.max))
    near = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low) > ROOM).all(-1)
    found += [
        f"{corners[i][0]!r} and {corners[j][0]!r} overlap"
        for i, j in np.argwhere(np.triu(near, 1))
        if touch(corners[i][1], corners[j][1])
    ]
    return found


def _outside(axis) -> list[str]:
    """Data that the axes do not show."""
    from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh

    x, y = [], []
    whole = axis.transData
    for line in axis.lines:
        data = np.asarray(line.get_xydata(), float) if line.get_transform() == whole else np.zeros((0, 2))
        data = data[np.isfinite(data).all(1)]
        x, y = x + list(data[:, 0]), y + list(data[:, 1])
        if line.get_transform() == axis.get_xaxis_transform(which="grid"):
            x += list(_finite(line.get_xdata()))
        if line.get_transform() == axis.get_yaxis_transform(which="grid"):
            y += list(_finite(line.get_ydata()))
    for patch in axis.patches:
        if hasattr(patch, "get_data"):
            data = patch.get_data()
            x, y = x + list(_finite(data.edges)), y + list(_finite(data.values))
        elif (
            hasattr(patch, "get_height")
            and patch.get_transform().contains_branch(whole)
            and np.isfinite(patch.get_height())
        ):
            x += [patch.get_x(), patch.get_x() + patch.get_width()]
            y += [patch.get_y(), patch.get_y() + patch.get_height()]
    for collection in axis.collections:
        if isinstance(collection, QuadMesh):
            points = collection.get_coordinates().reshape(-1, 2)
        elif isinstance(collection, PathCollection):
            points = np.asarray(collection.get_offsets(), float)
        elif isinstance(collection, PolyCollection | LineCollection) and collection.get_transform().contains_branch(
            whole
        ):
            points = np.concatenate([p.vertices for p in collection.get_paths()] or [np.zeros((0, 2))])
        else:
            continue
        points = points[np.isfinite(points).all(1)]
        x, y = x + list(points[:, 0]), y + list(points[:, 1])
    found = []
    for values, limits, scale, what in (
        (x, axis.get_xlim(), axis.get_xscale(), "across"),
        (y, axis.get_ylim(), axis.get_yscale(), "upwards"),
    ):
        low, high = sorted(limits)
        values = np.array([v for v in values if scale != "log" or v > 0])
        room = 1e-3 * (high - low)
        if len(values) and (values.min() < low - room or values.max() > high + room):
            found.append(
                f"{_name(axis)!r}: data from {values.min():.4g} to {values.max():.4g} {what}, but the axis from {low:.4g} to {high:.4g}"
            )
    return found


def _artists(axis):
    """(label, style, has numbers) of what has a name."""
    from matplotlib.colors import to_hex

    for line in axis.lines:
        if line.get_transform() == axis.transData and not line.get_label().startswith("_child"):
            dash = tuple(line._dash_pattern[1] or ()) if line.get_linestyle() != "None" else "none"
            y = np.asarray(line.get_ydata(), float)
            yield line.get_label(), (to_hex(line.get_color()), dash, line.get_marker()), np.isfinite(y).any()
    for bars in axis.containers:
        if hasattr(bars, "patches") and bars.patches:
            bar = bars.patches[0]
            yield (
                bars.get_label(),
                (to_hex(bar.get_facecolor()), bar.get_hatch() or "", "bar"),
                any(np.isfinite(b.get_height()) for b in bars),
            )
    for patch in axis.patches:
        if hasattr(patch, "get_data"):
            dash = tuple(patch._dash_pattern[1] or ())
            yield (
                patch.get_label(),
                (to_hex(patch.get_edgecolor()), dash, "steps"),
                np.isfinite(patch.get_data().values).any(),
            )


def _styles(figure, axes) -> list[str]:
    """Things of different names that look alike: in a panel, and where one legend serves several panels, in all of them."""
    found = []
    for axis in axes:
        found += _alike([(label, style) for label, style, there in _artists(axis) if there], repr(_name(axis)))
    if figure.legends and not found:
        found += _alike(
            [(label, style) for axis in axes for label, style, there in _artists(axis) if there], "the legend"
        )
    return found


def _nothing(figure, axes) -> list[str]:
    """Names in a legend of what holds no number."""
    shown = {label for axis in axes for label, _, there in _artists(axis) if there}
    empty = {label for axis in axes for label, _, there in _artists(axis) if not there}
    named = {
        t.get_text().replace("\n", " ")
        for legend in (*figure.legends, *(a.get_legend() for a in axes if a.get_legend()))
        for t in legend.get_texts()
    }
    return [
        f"{name!r} is in the legend and holds no number"
        for name in sorted(empty - shown)
        if name in named or name.startswith("_")
    ]


# --- plotly


def _em(text: str) -> float:
    from tta_lab.plots.fitting import inches

    return inches(text.replace("<br>", "\n"), 72)


def _of_plotly(figure, width: float = 820) -> list[str]:
    """Places of texts are estimated."""
    found, layout = [], figure.layout
    width, height, size = layout.width or width, layout.height or 450, layout.font.size or 12
    margin = layout.margin
    plain = width - (margin.l or 80) - (margin.r or 80)
    for note in layout.annotations:
        if note.xref == "paper" and note.yanchor == "bottom" and note.text:
            here = [x for x in figure.select_xaxes() if x.domain and x.domain[0] - 1e-6 <= note.x <= x.domain[1] + 1e-6]
            share = min((x.domain[1] - x.domain[0] for x in here), default=1)
            if _em(note.text) * (note.font.size or size) > share * plain + 60:
                found.append(f"{note.text!r} is wider than its panel")
            if note.y > 0.99 and (note.text.count("<br>") + 1) * 1.25 * (note.font.size or size) > (margin.t or 100):
                found.append(f"{note.text!r} is cut off at the top")
    names = (
        list(dict.fromkeys(t.name for t in (*figure.data, *layout.shapes) if t.name and t.showlegend is not False))
        if layout.showlegend
        else []
    )
    found += [f"{name!r} is cut off in the legend" for name in names if _em(name) * size + 40 > width]
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        room = height if axis.plotly_name.startswith("y") else width
        if axis.title.text and _em(axis.title.text) * size > room:
            found.append(f"{axis.title.text!r} is cut off")
    axes: dict = {}
    for trace in figure.data:
        if trace.type in ("scatter", "bar"):
            axes.setdefault((trace.xaxis or "x", trace.yaxis or "y"), []).append(trace)
    looks = []
    for (x, y), traces in axes.items():
        found += _plotly_outside(layout["xaxis" + x[1:]], layout["yaxis" + y[1:]], traces)
        here = [
            (t.name, _plotly_style(t))
            for t in traces
            if t.name and (t.type == "bar" or t.fill is None) and len(_finite(_numbers(t.y)))
        ]
        found += _alike(here, f"axis {y}")
        looks += here
    found += _alike(looks, "the legend") if not any("look" in f for f in found) else []
    there = {name for name, _ in looks}
    return found + [
        f"{t.name!r} is in the legend and holds no number"
        for t in figure.data
        if t.type in ("scatter", "bar")
        and t.name
        and t.showlegend
        and t.name not in there
        and not t.name.replace("<br>", " ").endswith(": no numbers")
        and len(t.y)
    ]


def _numbers(values):
    return [math.nan if v is None else v for v in values] if values is not None else []


def _plotly_style(t):
    if t.type == "bar":
        return t.marker.color, t.marker.pattern.shape or "", "bar"
    if t.mode == "markers":
        return t.marker.color, "none", t.marker.symbol
    sizes = np.atleast_1d(t.marker.size if t.marker.size is not None else 6)
    return t.line.color, t.line.dash, t.marker.symbol if "markers" in t.mode and sizes.any() else "lines"


def _plotly_outside(across, upwards, traces) -> list[str]:
    found = []
    for axis, what in ((across, "x"), (upwards, "y")):
        if axis.range is None:
            continue
        values = []
        for t in traces:
            v = t[what]
            if v is None or len(v) and isinstance(v[0], str):
                continue
            v = np.array(_numbers(v), float)
            values += list(v)
            error = t.error_y if what == "y" else None
            if error is not None and error.array is not None:
                less = error.array if error.arrayminus is None else error.arrayminus
                values += [*(v + np.array(_numbers(error.array))), *(v - np.array(_numbers(less)))]
            if t.type == "bar" and what == "y":
                values.append(0)
        values = _finite(values)
        values = np.log10(values[values > 0]) if axis.type == "log" else values
        low, high = sorted(axis.range)
        room = 1e-3 * (high - low)
        if len(values) and (values.min() < low - room or values.max() > high + room):
            found.append(
                f"{axis.plotly_name}: data from {values.min():.4g} to {values.max():.4g}, but the axis from {low:.4g} to {high:.4g}"
            )
    return found


# --- scales


def _wasted(figure, panels) -> list[str]:
    """Line charts whose lines use less than half of their axis; probabilities declare the whole scale, panels of one scale count together."""
    from tta_lab.plots import HeatMap

    found = []
    if hasattr(figure, "to_plotly_json"):
        axes = [sorted(axis.range) if axis.range else None for axis in figure.select_yaxes()]
    else:
        axes = [sorted(axis.get_ylim()) for axis in figure.axes if axis.get_label() != "<colorbar>"]
    used = {}
    for panel, limits in zip(panels, axes, strict=False):
        if (
            panel.empty
            or isinstance(panel, HeatMap)
            or panel.log
            or panel.whole
            or limits is None
            or any(s.kind in ("bar", "steps", "stairs") for s in panel.series)
        ):
            continue
        values = []
        for s in panel.series:
            y = np.asarray(s.y, float)
            spread = 0 if s.spread is None else np.nan_to_num(s.spread)
            values += [*_finite(y - spread), *_finite(y + spread)]
        values += [panel.line[0]] if panel.line else []
        used.setdefault(tuple(limits) if panel.heights else (panel.title, *limits), []).append((panel, values, limits))
    for group in used.values():
        values = np.concatenate([v for _, v, _ in group])
        low, high = group[0][2]
        span, largest = np.ptp(values), np.abs(values).max()
        if span > 1e-9 * largest and span < FULL * (high - low) and high - low > 0.1 * largest:
            found.append(
                f"{group[0][0].title!r}: lines from {values.min():.4g} to {values.max():.4g} on an axis from {low:.4g} to {high:.4g}"
            )
    return found


# --- what notebooks draw


def watch(folder) -> None:
    """Keep what is drawn from now on: what `drawing` is asked for as files of ``folder``, and the faults of pictures as they are saved."""
    from matplotlib.backend_bases import FigureCanvasBase

    import tta_lab.studies.zoo.figures
    from tta_lab.plots import drawing

    folder, count = Path(folder), iter(range(10**6))
    folder.mkdir(parents=True, exist_ok=True)

    def keep(kind, content):
        (folder / f"{os.getpid()}-{next(count):04d}-{kind}.pickle").write_bytes(pickle.dumps((caller(), kind, content)))

    def recorded(module, name):
        real = getattr(module, name)

        @functools.wraps(real)
        def wrapper(*args, **more):
            keep(name, (args, more))
            return real(*args, **more)

        for other in [m for key, m in list(sys.modules.items()) if key.startswith("tta_lab") and m]:
            for key, value in list(vars(other).items()):
                if value is real:
                    setattr(other, key, wrapper)

    for name in ("draw", "draw_frames", "draw_pictures"):
        recorded(drawing, name)
    recorded(tta_lab.studies.zoo.figures, "plot_zoo")
    real = FigureCanvasBase.print_figure

    @functools.wraps(real)
    def print_figure(self, *args, **more):
        if not getattr(self.figure, "_checked", False):
            self.figure._checked = True
            keep("picture", faults(self.figure))
        return real(self, *args, **more)

    FigureCanvasBase.print_figure = print_figure


def caller() -> str:
    """The names of the plot functions that are being called, the outermost last."""
    frame, names = sys._getframe(1), []
    while frame:
        name = frame.f_code.co_name
        names += [name] if name.startswith("plot_") and name not in names else []
        frame = frame.f_back
    return " of ".join(names)


def drawn_again(kept):
    """(what, figure, panels) in both engines of a record of `watch`."""
    from tta_lab.plots import drawing
    from tta_lab.studies.zoo import figures as zoo

    who, kind, (args, more) = kept
    for backend in ("matplotlib", "plotly"):
        if kind == "plot_zoo":
            yield f"{who or kind}, {backend}", zoo.plot_zoo(args[0], backend), None
            continue
        own = list(args)
        place = 2 if kind == "draw_frames" else 1
        own[place : place + 2] = [backend, None]
        panels = (
            drawing.distinct(drawing.common(own[0]) if more.get("columns") or kind == "draw_frames" else own[0])
            if kind != "draw_pictures"
            else None
        )
        yield f"{who or kind}, {backend}", getattr(drawing, kind)(*own, **more), panels


def records(folder):
    """The records of `watch`; of the many states of a figure the first two and the last four, of whatever notebook."""
    kept: dict = {}
    for path in sorted(Path(folder).rglob("*.pickle"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        record = pickle.loads(path.read_bytes())
        kept.setdefault(record[:2], []).append(record)
    return [
        record
        for (_, kind), same in kept.items()
        for record in (same if len(same) < 7 or kind == "picture" else same[:2] + same[-4:])
    ]


def faults_of(record) -> list[str]:
    """What is wrong with a recorded figure, in both engines; of a picture, what was wrong when it was saved."""
    if record[1] == "picture":
        return [f"{record[0] or 'a picture'}, as shown: {fault}" for fault in record[2]]
    return [f"{who}: {fault}" for who, figure, panels in drawn_again(record) for fault in faults(figure, panels)]


def hooked(folder) -> str:
    """The IPYTHONDIR in which every kernel watches what its notebook draws and keeps it in ``folder``."""
    startup = Path(folder) / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    here = str(Path(__file__).resolve().parent)
    (startup / "00-figures.py").write_text(
        f"import sys\nsys.path.append({here!r})\nimport figure_check\nfigure_check.watch({str(folder)!r})\n"
        "del sys, figure_check\n"
    )
    return str(startup.parents[1])
