"""Figures of the numbers of `probes`: the crowd's gradients, the vote, pixels of unknown classes;
and a recipe as a diagram."""
from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass, fields

import numpy as np

from ..analysis.probes import COSINES, summary
from ..core.parts import LossMethod, Method
from .drawing import draw, draw_pictures, engine
from .looks import COLORS, FONT, GROUP_LABELS, GROUP_LOOKS, TITLE
from .matplotlib_backend import new_figure
from .panel import Panel, Series

HOW_TO_READ = {
    "gradient_crowd": "Right of 0 a sample's gradient pulls the way of the others, left of 0 "
                      "against them; the claim of the crowd holds where the "
                      "correct lie right and the wrong lie left.",
    "crowd_vote": "Bars of the vote that are taller than those of the images mean that this group "
                  "makes more of the mean gradient than its number "
                  "would; below 0 it pulls against.",
    "counterfactual_vote": "Points below the line at 0 fall in the step of the whole batch, and "
                           "those of them that lie right of 0 would have "
                           "risen by a step of their own: the crowd out-voted them.",
    "open_set_picture": "Orange pixels are of known classes and wrong, blue ones are of classes "
                        "that the model does not know, whatever it says "
                        "there; grey ones are right.",
    "procedure": "Follow the arrows from the images: what the two models say decides who is "
                 "learned from, and the step moves only the adapted model.",
}
TINTS = {"wrong": COLORS[1], "unknown": COLORS[0]}


def _named(numbers) -> dict:
    return {"": numbers} if "groups" in numbers else dict(numbers)


def _group(name: str) -> tuple[str, int]:
    return GROUP_LABELS.get(name, name), GROUP_LOOKS.get(name, 3)


def plot_gradient_crowd(numbers, backend: str = "matplotlib", ax=None, cosine: str = "others",
                        bins: int = 20):
    """Histograms of a cosine of ``probes.gradient_crowd`` by group, one panel for each named dict:
    {"round 0": ..., "round 9": ...}, or one dict.

    ``cosine``: "others", "crowd", "peers" or "step". Raises ValueError for another.
    """
    if cosine not in COSINES:
        raise ValueError(f"cosine must be one of {', '.join(COSINES)}, not {cosine!r}")
    panels = []
    top = 0.0
    edges = np.linspace(-1, 1, bins + 1)
    for title, here in _named(numbers).items():
        series = []
        for group, mask in here["groups"].items():
            values = np.asarray(here[cosine], np.float64)[mask]
            values = values[np.isfinite(values)]
            share = (np.histogram(values.clip(-1, 1), edges)[0] /
                     len(values) if len(values) else np.full(bins, math.nan))
            top = max(top, float(np.nanmax(share, initial=0)))
            series.append(Series(edges, share, *_group(group), "steps"))
        panels.append((title, tuple(series)))
    return draw([
        Panel(title or "Gradients of single samples", f"cosine with "
              f"the\n{COSINES[cosine]}", "share of the group", series, percent=True, top=top
              or None, upright=0.0) for title, series in panels
    ], backend, ax)


def plot_crowd_vote(numbers, backend: str = "matplotlib", ax=None):
    """Each group's share of the images and of the mean gradient (``probes.gradient_crowd``), one
    panel for each named dict, or one."""
    panels = []
    for title, here in _named(numbers).items():
        rows = summary(here)
        names = [_group(group)[0] for group in rows]
        series = tuple(
            Series(names, np.array([row[key] for row in rows.values()]), label, look, "bar")
            for key, label, look in (("images", "share of the images", 6),
                                     ("vote", "share of the mean gradient", 1)))
        panels.append(
            Panel(title or "Who makes the mean gradient", "", "share", series, percent=True,
                  top=1.0))
    return draw(panels, backend, ax)


def plot_counterfactual_vote(numbers, backend: str = "matplotlib", ax=None):
    """Change of p[c_i] by a step alone (across) and by the step of the batch (upwards),
    ``probes.counterfactual_vote``, one panel for each named dict (two at most), or one; and how
    much of each group rises. Changes are in percentage points. Raises ValueError for more."""
    named = _named(numbers)
    if len(named) > 2:
        raise ValueError(f"this figure has room for two sets of votes, got {len(named)}: "
                         f"{', '.join(named)}")
    across = _range([here["self_change"] for here in named.values()])
    panels, bars = [], []
    groups = list(dict.fromkeys(group for here in named.values() for group in here["groups"]))
    for i, (title, here) in enumerate(named.items()):
        series = tuple(
            Series(100 * here["self_change"][mask], 100 *
                   here["batch_change"][mask], *_group(group), "points")
            for group, mask in here["groups"].items())
        panels.append(
            Panel(title or "Change of p[c]", "change of p[c], alone (points)",
                  "change of p[c], batch (points)", series, marks=(0.0,), line=(0.0, "no change"),
                  free=True, across=across))
        rows = summary(here)
        for key, label, look in (("rises_alone", "rise alone", 6), ("rises_together",
                                                                    "rise in the batch", 4)):
            heights = np.array([rows.get(group, {}).get(key, math.nan) for group in groups])
            bars.append(
                Series([_group(group)[0] for group in groups], heights,
                       f"{label}, {title}" if title else label, look - 3 * i, "bar"))
    panels.append(Panel("Who rises", "", "share of the group", tuple(bars), percent=True, top=1.0))
    return draw(panels, backend, ax)


def _range(columns) -> tuple[float, float]:
    """What an axis shows of these shares, in percentage points: all of it, 0 included, and a
    little room."""
    values = 100 * np.concatenate([np.asarray(c, np.float64) for c in columns] or [np.zeros(0)])
    values = np.append(values[np.isfinite(values)], 0.0)
    room = 0.06 * float(np.ptp(values)) or 1.0
    return float(values.min()) - room, float(values.max()) + room


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if np.isfinite(share) else "-"


def plot_open_set_picture(numbers, backend: str = "matplotlib", ax=None):
    """The images of ``probes.open_set_picture`` and, a row for each model, the same in grey with
    wrong and unknown pixels tinted."""
    images = np.asarray(numbers["images"], np.float64)
    images = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    grey = 0.45 + 0.5 * images.mean(1, keepdims=True).repeat(3, axis=1)
    rows = [("image", [(image, f"{_percent(share)} of the\npixels unknown")
                       for image, share in zip(images, numbers["unknown_share"], strict=True)])]
    for name, wrong in numbers["wrong"].items():
        shown = _tinted(_tinted(grey, numbers["unknown"], TINTS["unknown"]), wrong, TINTS["wrong"])
        rows.append((name, [
            (image, f"{error:.0f} % of the\nknown wrong" if np.isfinite(error) else "nothing known")
            for image, error in zip(shown, numbers["error"][name], strict=True)
        ]))
    return draw_pictures(rows if len(images) else [], backend, ax, "Nothing to draw: there are no "
                                                                   "images.")


def _tinted(images: np.ndarray, mask: np.ndarray, color: str,
            strength: float = 0.75) -> np.ndarray:
    rgb = np.array([int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)])[None, :, None, None]
    return np.where(mask[:, None], (1 - strength) * images + strength * rgb, images)


# --- the procedure


@dataclass(frozen=True)
class Box:
    """A box of the diagram: place of its upper left corner and size in inches (y downwards),
    heading and lines of text."""

    role: str
    x: float
    y: float
    width: float
    height: float
    title: tuple
    lines: tuple

    @property
    def right(self):
        return self.x + self.width

    @property
    def bottom(self):
        return self.y + self.height

    @property
    def middle(self):
        return self.y + self.height / 2


INKS = {  # role -> face on white, face on black; edge and text follow
    "images": ("#f2f2f2", "#2b2f36"), "adapted": ("#cfe4f4", "#123a56"), 
    "source": ("#e3e3e3", "#3a3f47"), "loss": ("#cdeadf", "#0f4536"),
    "select": ("#fbdcc4", "#5c2c0a"), "step": ("#f3dcea", "#512a42"),
    "answer": ("#f2f2f2", "#2b2f36"),
}
# of a line of text; height of a line and room around text, in inches
CHARACTERS, LINE, PAD = 25, 0.235, 0.13
COLUMN, GAP = 2.75, 0.62                    # width of a box and room between columns, in inches


def plot_procedure(recipe, backend: str = "matplotlib", ax=None, dark: bool = False):
    """The procedure of a method as a diagram, drawn from its recipe: images, the source and the
    adapted model, the loss, the selectors in order, average, penalties, update and answer.
    ``dark`` is for dark pages. Raises TypeError for what is no method."""
    if not isinstance(recipe, Method):
        raise TypeError(f"plot_procedure draws a recipe such as make('tent'), got {recipe!r}")
    boxes, arrows = procedure(recipe)
    size = max(box.right for box in boxes) + 0.15, max(
        max(box.bottom for box in boxes), max(y for line, _ in arrows for _, y in line)) + 0.15
    text, ground = ("#f0f0f0", "#14171c") if dark else ("#111111", "#ffffff")
    engine(backend, ax)
    if backend == "plotly":
        return _plotly_procedure(boxes, arrows, size, text, ground, dark)
    from matplotlib.patches import FancyArrowPatch, Rectangle

    if ax is None:
        ax = new_figure(size, facecolor=ground).add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="equal", facecolor=ground)
    ax.axis("off")
    for box in boxes:
        face = INKS[box.role][dark]
        ax.add_patch(
            Rectangle((box.x, box.y), box.width, box.height, facecolor=face, edgecolor=text,
                      linewidth=1.3, linestyle="--" if box.role == "source" else "-"))
        ax.text(box.x + PAD, box.y + PAD, "\n".join(box.title), ha="left", va="top", fontsize=FONT,
                fontweight="bold", color=text, linespacing=1.2)
        ax.text(box.x + PAD, box.y + PAD + LINE * len(box.title) + 0.04, "\n".join(box.lines),
                ha="left", va="top", fontsize=FONT - 1, color=text, linespacing=1.2)
    for line, label in arrows:
        xs, ys = zip(*line, strict=True)
        ax.plot(xs, ys, color=text, linewidth=1.6, solid_joinstyle="miter")
        ax.add_patch(
            FancyArrowPatch(line[-2], line[-1], arrowstyle="-|>", mutation_scale=16, color=text,
                            linewidth=1.6, shrinkA=0, shrinkB=0))
        if label:
            at = max(zip(line, line[1:], strict=False),
                     key=lambda ends: abs(ends[0][0] - ends[1][0]))
            ax.text((at[0][0] + at[1][0]) / 2, at[0][1] - 0.06, label, ha="center", va="bottom",
                    fontsize=FONT - 1, color=text)
    return ax.figure


def procedure(recipe) -> tuple[list[Box], list[tuple]]:
    """The diagram of a recipe: boxes, and arrows ([(x, y), ...] with only level and upright
    pieces, label), in inches, y downwards.

    Left to right: what comes in and goes out, the models, loss and selectors, what becomes of
    their average.
    """
    columns = [0.15 + i * (COLUMN + GAP) for i in range(4)]
    top = 0.75 if recipe.learns else 0.15

    def box(role, column, y, title, *texts, least=0.0):
        lines = tuple(line for t in texts if t
                      for line in textwrap.wrap(t, CHARACTERS, break_long_words=True))
        head = tuple(textwrap.wrap(title, CHARACTERS - 5))
        return Box(role, columns[column], y, COLUMN,
                   max(least, 2 * PAD + LINE * (len(head) + len(lines)) + (0.04 if lines else 0)),
                   head, lines)

    named = type(recipe).__name__
    own_output = type(recipe).output is not Method.output
    answer = box("answer", 0, top, "Answer",
                 "the method's own output" if own_output else "logits of the adapted model",
                 f"{recipe.answer} the update" if recipe.learns else "")
    images = box("images", 0, answer.bottom + 0.45, "Images", "one batch x, no labels")
    tuned = "tuned: " + _settings(recipe.train) if recipe.learns else "nothing is tuned"
    adapted = box("adapted", 1, top, "Adapted model", "normalisation: " + _settings(recipe.norm),
                  tuned, least=1.5)
    boxes = [answer, images, adapted]
    arrows = [([(adapted.x, answer.middle), (answer.right, answer.middle)], "")]

    chain = []
    if recipe.learns:
        own = ("on learning batches of its own: memory or single images"
               if type(recipe).learning_batches is not LossMethod.learning_batches else "")
        chain.append(box("loss", 2, top, f"Loss per image: {_words(named)}", _sentence(recipe),
                         own))
        for i, selector in enumerate(recipe.select):
            chain.append(
                box("select", 2, chain[-1].bottom + 0.4, f"{i + 1}. "
                    f"{_words(type(selector).__name__)}", *_rule(selector)))
    uses = [
        b for b, selector in zip(chain[1:], getattr(recipe, "select", ()), strict=True)
        if _looks_at_source(selector)
    ]
    if not uses and "source_logits" in recipe.needs:
        uses = chain[:1]
    if uses:
        statistics = next((s.statistics for s in recipe.select if hasattr(s, "statistics")),
                          "batch")
        source = box(
            "source", 1, max(adapted.bottom + 0.5,
                             min(uses[0].middle, images.bottom) - 0.5), "Source model",
            "frozen, never changes", f"statistics of its batch norm: "
            f"{'this batch' if statistics == 'batch' else 'stored'}")
        boxes.append(source)
    boxes += chain
    bus = images.right + GAP / 2
    into = max(
        images.middle if adapted.y < images.middle < adapted.bottom else adapted.bottom - 0.25,
        answer.middle + 0.3)
    arrows.append(([(images.right, images.middle), (bus, images.middle), (bus, into),
                    (adapted.x, into)] if into != images.middle else [(images.right, into),
                                                                      (adapted.x, into)], ""))
    if uses:
        arrows.append(([(images.right, images.middle), (bus, images.middle), (bus, source.middle),
                        (source.x, source.middle)], ""))
    if not recipe.learns:
        return boxes, arrows

    level = min(chain[0].middle, adapted.bottom - 0.3)
    arrows.append(([(adapted.right, level), (chain[0].x, level)], ""))
    for one, other in zip(chain, chain[1:], strict=False):
        arrows.append(([(one.x + COLUMN / 2, one.bottom), (one.x + COLUMN / 2, other.y)], ""))
    bus = adapted.right + GAP / 2
    for b in uses:
        at = b.middle if b is not chain[0] else b.bottom - 0.25
        arrows.append(([(source.right, source.middle), (bus, source.middle), (bus, at),
                        (b.x, at)], ""))

    over = "the images kept" if recipe.average == "kept" else "all images"
    average = "mean loss over " + over if recipe.select else "mean loss over the batch"
    empty = (("nothing kept: no step" if recipe.when_empty == "skip" else "nothing kept: step on "
              "the penalties alone") if recipe.select else "")
    right = [("step", "Average", (average, empty))]
    for penalty in recipe.penalties:
        right.append(("loss", f"plus {_words(type(penalty).__name__).lower()}", (_sentence(penalty),
                                                                                 _knobs(penalty))))
    watched = ["controller: " + _settings(c) for c in recipe.controllers]
    right.append(("step", f"Update: {_words(type(recipe.update).__name__).lower()}",
                  (_knobs(recipe.update), *watched)))
    laid, y = [], 0.0
    for role, title, texts in reversed(right):
        laid.append(box(role, 3, y, title, *texts))
        y = laid[-1].bottom + 0.4
    laid.reverse()      # from the average up to the update
    shift = max(top, chain[-1].middle - laid[0].height / 2 - laid[0].y)
    laid = [Box(b.role, b.x, b.y + shift, b.width, b.height, b.title, b.lines) for b in laid]
    boxes += laid
    first, last = laid[0], chain[-1]
    bus = last.right + GAP / 2
    arrows.append(
        ([(last.right, last.middle), (bus, last.middle), (bus, first.middle),
          (first.x,
           first.middle)] if abs(first.middle - last.middle) > 1e-9 else [(last.right, last.middle),
                                                                          (first.x, first.middle)],
         ""))
    for one, other in zip(laid, laid[1:], strict=False):
        arrows.append(([(one.x + COLUMN / 2, one.y), (one.x + COLUMN / 2, other.bottom)], ""))
    up, down = laid[-1].x + COLUMN / 2, adapted.x + COLUMN / 2
    arrows.append(([(up, laid[-1].y), (up, top - 0.3), (down, top - 0.3),
                    (down, adapted.y)], "one step moves the tuned parameters"))
    return boxes, arrows


def _looks_at_source(selector) -> bool:
    return hasattr(selector, "statistics") or "source_logits" in selector.needs


def _rule(selector) -> tuple[str, ...]:
    """What a selector does, in words; the comparison of the wisdom of crowds in its own terms."""
    from ..components.selectors import ConfidenceRise

    if isinstance(selector, ConfidenceRise):
        limit = f"-{selector.tolerance:g}" if selector.tolerance else "0"
        return ("d = adapted - source probability at the source's class", f"keep d >= {limit}")
    return (_sentence(selector), _knobs(selector))


def _words(name: str) -> str:
    """A class name as words: ConfidenceRise -> Confidence rise."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.lstrip("_"))
    return words[:1] + words[1:].lower() if " " in words else words


def _sentence(part) -> str:
    """The first sentence of a docstring, without the name before its colon (methods) or the
    formula after it (other parts)."""
    text = " ".join((type(part).__doc__ or "").split("\n\n")[0].split())
    text = re.split(r"(?<=[a-z)])\. ", text)[0].rstrip(".").replace("*", "").replace("``", "")
    name, colon, rest = text.partition(": ")
    if not colon:
        return text
    return rest if isinstance(part, Method) or len(name.split()) < 3 else name


def _knobs(part) -> str:
    """The settings of a part: name and value."""
    values = []
    for f in fields(part):
        value = getattr(part, f.name)
        if isinstance(value, bool | int | float | str):
            shown = (f"{value:.4g}" if isinstance(value, float) else
                     {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value))
            if f.name == "rule":
                values.insert(0, {"adam": "Adam", "sgd": "SGD"}.get(shown, shown))
            elif value is not False and value != f.default or f.name in ("lr", "weight", "fraction",
                                                                         "margin", "share",
                                                                         "threshold"):
                values.append(f"{f.name.replace('_', ' ')} {shown}")
    return ", ".join(values)


def _settings(part) -> str:
    """A part in words with the settings that differ from its defaults."""
    settings = _knobs(part)
    return _words(type(part).__name__).lower() + (f" ({settings})" if settings else "")


def _plotly_procedure(boxes, arrows, size, text, ground, dark):
    import plotly.graph_objects as go

    figure = go.Figure()
    for box in boxes:
        figure.add_shape(
            type="rect", x0=box.x, x1=box.right, y0=box.y, y1=box.bottom,
            fillcolor=INKS[box.role][dark], layer="below",
            line={"color": text, "width": 1.3, "dash": "dash" if box.role == "source" else "solid"})
        words = f"<b>{'<br>'.join(box.title)}</b>" + "".join(f"<br>{line}" for line in box.lines)
        figure.add_annotation(x=box.x + PAD / 2, y=box.y + PAD / 2, text=words, showarrow=False,
                              xanchor="left", yanchor="top", align="left",
                              font={"color": text, "size": FONT + 1})
    for line, label in arrows:
        for (x0, y0), (x1, y1) in zip(line, line[1:], strict=False):
            figure.add_shape(type="line", x0=x0, y0=y0, x1=x1, y1=y1,
                             line={"color": text, "width": 1.6})
        (x0, y0), (x1, y1) = line[-2:]
        figure.add_annotation(x=x1, y=y1, ax=x0, ay=y0, xref="x", yref="y", axref="x", ayref="y",
                              text="", arrowhead=2, arrowsize=1.4, arrowwidth=1.6, arrowcolor=text,
                              showarrow=True)
        if label:
            at = max(zip(line, line[1:], strict=False),
                     key=lambda ends: abs(ends[0][0] - ends[1][0]))
            figure.add_annotation(x=(at[0][0] + at[1][0]) / 2, y=at[0][1], text=label,
                                  showarrow=False, yanchor="bottom",
                                  font={"color": text, "size": FONT + 1})
    figure.update_xaxes(visible=False, range=[0, size[0]])
    figure.update_yaxes(visible=False, range=[size[1], 0], scaleanchor="x", scaleratio=1)
    figure.update_layout(width=round(86 * size[0]), height=round(86 * size[1]),
                         margin={"l": 0, "r": 0, "t": 0, "b": 0}, plot_bgcolor=ground,
                         paper_bgcolor=ground, title_font_size=TITLE)
    return figure
