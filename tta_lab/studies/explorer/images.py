"""From a number to its images: which images of a run a place in a figure stands for, what was said
of each of them, and what a shift does to some images before anything runs. Nothing here needs a
widget."""
from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch

from ...analysis import timelines as views
from ...analysis.columns import column
from ...core.arguments import nearest
from ...streams.images import make_images
from .. import own
from . import study as E

KINDS = {"": "all", "wrong": "wrong", "right": "right", "fallen": "fallen (d < 0)",
         "risen": "risen (d > 0)", "unknown": "unknown", "changed": "answer changed"}
ORDERS = {"position": "as they came", "confidence": "most confident first",
          "d": "most fallen first", "entropy": "least certain first"}
NEED_LABELS = ("wrong", "right")
THUMBNAIL = 96  # pixels of a picture in a grid, at most


@dataclass(frozen=True)
class Where:
    """Which images of a run: rows from ``first`` to ``stop`` (not included), of a ``kind`` of
    `KINDS`, a ``true`` and a ``predicted`` class (index), a ``shift`` (name of the segment), an
    ``entropy`` range in nats. What is not given does not matter."""

    first: int | None = None
    stop: int | None = None
    kind: str = ""
    true: int | None = None
    predicted: int | None = None
    shift: str = ""
    entropy: tuple[float, float] | None = None


def rows_where(trace, where: Where, order: str = "position") -> np.ndarray:
    """Rows of a trace (k,) that ``where`` stands for, in an ``order`` of `ORDERS`.

    Raises ValueError for a kind or order that does not exist, and for a kind that needs labels
    where the run has none.
    """
    for name, value, there in (("kind", where.kind, KINDS), ("order", order, ORDERS)):
        if value not in there:
            raise ValueError(f"{name} must be one of {', '.join(filter(None, there))}, not "
                             f"{value!r}{nearest(value, list(there))}")
    if not len(trace):
        return np.zeros(0, np.int64)
    groups = views.split(trace)
    if where.kind in NEED_LABELS and not E.scored(trace).any():
        raise ValueError(f"Which images are {where.kind} cannot be said: that needs labels, and "
                         "this run has none. Choose fallen, risen or changed.")
    n = len(trace)
    mask = np.zeros(n, bool)
    mask[slice(where.first, where.stop)] = True
    d = column(trace, "rise_source")
    nobody = np.zeros(n, bool)
    of_kind = {"": ~nobody, "wrong": groups.get("wrong", nobody),
               "right": groups.get("correct", nobody), "fallen": d < 0, "risen": d > 0,
               "unknown": groups.get("unknown", nobody),
               "changed": _changed(trace)}
    mask &= of_kind[where.kind]
    if where.true is not None:
        mask &= (column(trace, "label") == where.true) & (column(trace, "known") != 0)
    if where.predicted is not None:
        mask &= column(trace, "prediction") == where.predicted
    if where.shift:
        names = trace.meta.get("segments", [])
        if where.shift not in names:
            raise ValueError(f"this run has no shift {where.shift!r}; it has: {', '.join(names)}")
        mask &= np.isin(column(trace, "segment"),
                        [i for i, name in enumerate(names) if name == where.shift])
    if where.entropy is not None:
        low, high = where.entropy
        entropy = column(trace, "entropy")
        mask &= (entropy >= low) & (entropy <= high)
    rows = np.flatnonzero(mask)
    key = {"position": rows, "confidence": -column(trace, "confidence")[rows], "d": d[rows],
           "entropy": -column(trace, "entropy")[rows]}[order]
    return rows[np.argsort(key, kind="stable")]


def _changed(trace) -> np.ndarray:
    source = column(trace, "source_prediction")
    return np.isfinite(source) & (source != column(trace, "prediction"))


def say_where(where: Where, n: int, trace, classes) -> str:
    """Which images are shown, in a few words: "12 of 400 images: images 26 to 50, wrong"."""
    parts = []
    if where.first is not None or where.stop is not None:
        first = where.first or 0
        stop = min(len(trace) if where.stop is None else where.stop, len(trace))
        parts.append(f"images {first + 1} to {stop}")
    parts += [KINDS[where.kind]] if where.kind else []
    parts += [f"called {classes[where.predicted]}"] if where.predicted is not None else []
    parts += [f"truly {classes[where.true]}"] if where.true is not None else []
    parts += [where.shift.replace("_", " ")] if where.shift else []
    if where.entropy is not None:
        parts.append(f"entropy {where.entropy[0]:.2f} to {where.entropy[1]:.2f} nats")
    found = f"{n} of {len(trace)} images"
    return f"{found}: {', '.join(parts)}." if parts else f"{found}."


def where_of_click(figure: str, panel: int, x: float, y: float, numbers: dict,
                   trace) -> Where | None:
    """The images behind a place (``x``, ``y``, in units of its axes) of a panel of the explorer's
    figures "errors" and "predictions", drawn from ``numbers``; None where there are none."""
    if not len(trace):
        return None
    step = np.asarray(trace["step"])
    if figure == "errors" and panel == 0:
        row = int(np.clip(np.ceil(x) - 1, 0, len(step) - 1))
        return Where(*_rows_of_steps(step, step[row], step[row]))
    if figure == "errors" and panel == 1:
        middle = np.asarray(numbers["fall"]["image"])
        if not len(middle):
            return None
        stretch, _, _ = views.stretches(trace, len(middle))
        rows = np.flatnonzero(stretch == int(np.abs(middle - x).argmin()))
        return Where(int(rows[0]), int(rows[-1]) + 1, kind="fallen")
    if figure == "predictions" and panel == 0:
        found = numbers["entropy"]
        edges = np.asarray(found["edges"])
        i = int(np.clip(np.searchsorted(edges, x, "right") - 1, 0, len(edges) - 2))
        high = float(edges[i + 1]) if i + 2 < len(edges) else np.inf
        return Where(len(trace) - min(E.RECENT, (len(trace) + 1) // 2),
                     entropy=(float(edges[i]), high))
    if figure == "predictions" and panel == 1 and numbers["classes"]:
        found = numbers["classes"]
        first = np.asarray(found["first_step"])
        i = int(np.clip(np.searchsorted(first, x, "right") - 1, 0, len(first) - 1))
        predicted = int(np.clip(round(y), 0, len(found["classes"]) - 1))
        return Where(*_rows_of_steps(step, first[i], np.asarray(found["last_step"])[i]),
                     predicted=predicted)
    return None


def _rows_of_steps(step, first, last) -> tuple[int, int]:
    return (int(np.searchsorted(step, first, "left")), int(np.searchsorted(step, last, "right")))


def cards(trace, stream, rows, classes) -> list[dict]:
    """One dict for each row: ``key`` (the row), ``src`` (PNG as a data URI, "" where ``stream`` is
    None), ``lines`` below the picture, ``badge``, and ``alt``, the same in words."""
    rows = np.asarray(rows, np.int64)
    images = [None] * len(rows)
    if stream is not None and len(rows):
        segment = np.nan_to_num(column(trace, "segment"))
        images = views.pictures(stream, column(trace, "id")[rows], segment[rows])
    found = []
    for row, image in zip(rows, images, strict=True):
        t = E.image_summary(trace, int(row), classes)
        badge = _badge(t)
        lines = [t["prediction"], f"{t['confidence']:.2f}, d {t['d']:+.2f}" if np.isfinite(t["d"])
                 else f"{t['confidence']:.2f}"]
        found.append({"key": int(row), "src": "" if image is None else data_uri(image, THUMBNAIL),
                      "lines": lines, "badge": badge,
                      "alt": f"image {row + 1}, {badge[2:]}: called {', '.join(lines)}"})
    return found


def _badge(t: dict) -> str:
    """A shape and a word: colour alone says nothing."""
    if t["true"] == "unknown":
        return "? unknown"
    if not t["true"]:
        return "– no label"
    return "✓ right" if t["true"] == t["prediction"] else "✗ wrong"


def told(trace, stream, row: int, classes, references: dict, probabilities: dict) -> dict:
    """All that was recorded of one image: ``src``, ``facts`` [(name, text)], and ``answers`` [(who,
    class, confidence)] of source, BN-1 and this run, each with ``top``, its largest probabilities
    [(class, p)], where they were kept."""
    t = E.image_summary(trace, row, classes)
    src = ""
    if stream is not None:
        segment = np.nan_to_num(column(trace, "segment"))
        src = data_uri(views.pictures(stream, column(trace, "id")[[row]], segment[[row]])[0])
    answers = []
    for who in ("source", "BN-1", "this run"):
        other = trace if who == "this run" else references.get(who)
        if other is not None and len(other) > row:
            k = int(other["prediction"][row])
            answers.append({"who": who, "class": classes[k] if 0 <= k < len(classes) else str(k),
                            "confidence": float(other["confidence"][row]),
                            "top": _top(probabilities.get(who), row, classes)})
    facts = [("true class", t["true"] or "no label"),
             ("place", f"image {row + 1}, batch {int(trace['step'][row]) + 1}"),
             ("shift", t["shift"].replace("_", " ")),
             ("d = run - source", f"{t['d']:+.3f}" if np.isfinite(t["d"]) else "not recorded"),
             ("entropy", f"{t['entropy']:.3f} nats"),
             ("learned from", "yes" if t["kept"] else "no")]
    return {"src": src, "facts": [f for f in facts if f[1]], "answers": answers,
            "badge": _badge(t)}


def _top(p, row: int, classes, most: int = 3) -> list:
    if p is None or len(p) <= row:
        return []
    return [(classes[int(k)], float(p[row][k])) for k in np.argsort(-p[row])[:most]]


def data_uri(image, most: int = 0) -> str:
    """An image (C, H, W) in [0, 1] as a PNG in a data URI, no larger than ``most`` pixels (0: as it
    is)."""
    from PIL import Image

    values = (np.asarray(image).clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    if most and max(picture.size) > most:
        picture.thumbnail((most, most))
    target = io.BytesIO()
    picture.save(target, "png")
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"


def preview(images, shifts, severity: float = 5.0, n: int = 6, seed: int = 0) -> dict:
    """Some images, of different classes where there are any, clean and under each shift: ``rows``
    [(name, [(C, H, W) in [0, 1]])] and ``why``, a sentence on what cannot be shown, or ""."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    label = images.y[order]
    seen: dict[int, int] = {}
    for place, k in enumerate(label.tolist()):
        seen.setdefault(k, place)
    places = sorted(seen.values())[:n]
    places += [i for i in range(len(order)) if i not in set(places)][:n - len(places)]
    chosen = order[places]
    rows, missing = [], []
    for name in ("none", *[s for s in shifts if s != "none"]):
        try:
            if name == "none" and not own.has_clean(images):
                raise ValueError(f"{images.name} holds no clean images")
            here = images.rows(name)
            ids = chosen if here is None else here[:n]
            shown = make_images(images, None, ids, name, severity if name != "none" else 0.0, seed)
            rows.append(("clean" if name == "none" else name.replace("_", " "), list(shown.cpu())))
        except (ValueError, KeyError, RuntimeError) as why:
            missing.append(str(why).rstrip(".") + ".")
    return {"rows": rows, "why": " ".join(dict.fromkeys(missing))}
