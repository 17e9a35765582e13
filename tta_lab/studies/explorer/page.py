"""Kept runs as one HTML page for readers without Jupyter: no code cells, nothing beside the file.
"""
from __future__ import annotations

import base64
import html
import io
import math
from dataclasses import replace
from pathlib import Path

from ... import __version__
from ...analysis import timelines as views
from ...components.controllers.guard import actions
from ...core.arguments import path_of
from ...core.files import write_text
from ...core.knobs import knobs
from ...experiments.experiment import Experiment
from ...experiments.kept_runs import KeptRun, KeptRuns
from ...experiments.runner import row
from ...plots import draw, png
from ...plots.theme import CHART, PAGE_STYLE
from . import kept
from . import study as E
from .figures import FIGURES, HOW_TO_READ, run_look, so_far_panel

LARGEST = 900_000  # bytes of a page; figures of further runs are left out, and said to be
MOST = 6           # shifts named in a sentence
PAGE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 20px auto;
  padding: 0 16px; color: #1a1a1a; background: #fff; overflow-wrap: break-word; }
h1 { font-size: 24px; } h2 { font-size: 19px; border-bottom: 1px solid #bbb; margin-top: 32px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 2px 8px; text-align: right; border-bottom: 1px solid #ccc; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } figure { margin: 10px 0; }
figcaption, .small { font-size: 13px; color: #555; }
pre { overflow-x: auto; border: 1px solid #bbb; padding: 8px; font-size: 13px; }
summary { cursor: pointer; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #111; } figcaption, .small { color: #aaa; }
  h2, th, td, pre { border-color: #555; } a { color: #8ab4f8; }
}
"""


def write_report(runs: list[KeptRun], path: str | Path) -> Path:
    """Write `report_page` to a file, whole or not at all, and return its path. Raises ValueError
    for no runs and for a folder, OSError as the system does."""
    path = path_of("path", path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file, such as {path / 'report.html'}")
    return write_text(path, report_page(runs))


def report_page(runs: list[KeptRun]) -> str:
    """One HTML document about runs: what was run, table, error curves (a chart for each stream),
    then of each run its figures, what they say and how to repeat it; figures of further runs are
    left out where the page would grow beyond 1 MB. Raises ValueError for no runs, and for runs that
    have seen no images."""
    named = KeptRuns()  # two runs of one name would share a curve
    for run in runs:
        if not isinstance(run, KeptRun) or not len(run.trace):
            name = getattr(run, "name", None)
            raise ValueError(f"the run {name!r} has seen no images yet; let it run, or leave it "
                             "out" if isinstance(run, KeptRun) else
                             f"a report is made of KeptRun objects, not of {type(run).__name__}")
        named.add(replace(run))
    if not named:
        raise ValueError("there is no run to report; run something first, or name a folder of "
                         "saved runs")
    lights = {number: _light(run) for number, run in named.items()}
    facts = {number: _facts(run, lights[number]) for number, run in named.items()}
    names = [run.name for run in named.values()]
    title = "Test-time adaptation: " + (names[0] if len(names) == 1 else f"{len(names)} runs")
    parts = [f"<h1>{_e(title)}</h1>",
             "<p>A model meets images that it was not trained for and adapts to them while it "
             "answers, without labels. <b>Source</b> is the same model left as it is, <b>BN-1</b> "
             "only takes its normalization statistics from each batch. Errors are in per cent, the "
             "mean over the domains seen; lower is better.</p>",
             "<h2>What was run</h2><ul>" + "".join(
                 f"<li><b>{_e(run.name)}</b>: {_e(say_settings(run))}</li>"
                 for run in named.values()) + "</ul>",
             f"<h2>Results</h2>{_table(list(named.values()), list(facts.values()))}"]
    parts += [_curves(named, numbers) + _differences(named, numbers)
              for numbers in _streams(named)]
    size = sum(map(len, parts))
    # what is said of every run comes first, so that it has its place
    said = {number: (_said(run, lights[number]), _repeat(run)) for number, run in named.items()}
    size += sum(len(a) + len(b) for a, b in said.values())
    full = False
    for number, run in named.items():
        words, repeat = said[number]
        parts.append(f"<h2>{_e(run.name)}</h2>{words}")
        for figure in () if full else _figures(run, number, lights[number]):
            full = size + len(figure) > LARGEST
            if full:
                break
            parts.append(figure)
            size += len(figure)
        if full:
            parts.append("<p class=small>Figures of this run were left out to keep the page small; "
                         "a report of fewer runs shows them.</p>")
        parts.append(repeat)
    parts.append(f"<p class=small>Written by TTA Lab {_e(__version__)}.</p>")
    return ("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
            f"<title>{_e(title)}</title><style>{PAGE}{PAGE_STYLE}</style></head>\n<body><main>"
            + "\n".join(parts) + "</main></body></html>\n")


def _e(text) -> str:
    return html.escape(str(text))


# --- words

def say_settings(run: KeptRun) -> str:
    """What was run, in words: method, model, stream, seed and the settings of the method."""
    meta, choice = run.trace.meta, run.choice
    recipe = str(meta.get("recipe", ""))
    method = run.facts.get("method") or recipe.partition("(")[0] or "a method"
    model = run.facts.get("model") or (
        choice.model if choice is not None and isinstance(choice.model, str)
        else f"a model with weights {meta.get('weights', 'unknown')}")
    text = f"{method} on {model}. Stream: {_say_stream(run)}. Seed {meta.get('seed', 0)}."
    if choice is None:
        return text + (f" Settings: {recipe}." if recipe else "")
    found = [f"{'learning rate' if k.name == 'update.lr' else _plain(k.name)} {_value(k.value)}"
             for k in knobs(choice.recipe)]
    return text + (f" Settings: {', '.join(found)}." if found else " It has no settings.")


def _plain(name: str) -> str:
    return name.removeprefix("update.").replace("_", " ").replace(".", " ")


def _value(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _say_stream(run: KeptRun) -> str:
    meta = run.trace.meta
    stream = meta.get("stream", {})
    shifts = [_plain(str(s)) for s in dict.fromkeys(meta.get("domains", []))]
    also = f" and {len(shifts) - MOST} more" if len(shifts) > MOST else ""
    steps = len(run.trace.columns("steps").get("step", ()))
    text = f"{len(run.trace)} images in {steps} batches"
    if not meta.get("complete", True):
        text += f" of {meta.get('batches', 'more')} (the run was stopped)"
    name = " ".join(str(found).replace("_", " ") for found in (run.facts.get("stream"),
                                                               stream.get("known")) if found)
    text = f"{name}, {text}" if name else text
    if shifts:
        text += f", shown as {', '.join(shifts[:MOST])}{also}"
    return text + (f", severity {stream['severity']:g}" if isinstance(
        stream.get("severity"), int | float) else "")


def _light(run: KeptRun):
    light = E.Light()
    return light.see(run.trace), light


def _alarm(state: str, light) -> str:
    if light.first >= 0:
        return f"first alarm in batch {light.first + 1}; now: {light.name or 'none'}"
    return "cannot judge" if state == "unsure" else "none"


def _facts(run: KeptRun, light) -> dict:
    r = row(run.trace)
    beside = {name: row(t.head(len(run.trace)))["error"] for name, t in run.references.items()
              if len(t)}
    free = E.label_free(run.trace, run.references)
    return {"error": r["error"], **{f"error of {n}": v for n, v in beside.items()},
            "like source": free.get("like source", math.nan),
            "like BN-1": free.get("like BN-1", math.nan), "images": r["images"],
            "alarm": _alarm(*light), "cost": r.get("ms_per_image", math.nan)}


def _table(runs: list[KeptRun], facts: list[dict]) -> str:
    columns = {"error": "error (%)", "error of source": "source (%)",
               "error of BN-1": "BN-1 (%)", "like source": "answers like source (%)",
               "like BN-1": "answers like BN-1 (%)", "images": "images", "alarm": "alarm",
               "cost": "cost (ms an image)"}
    columns = {name: title for name, title in columns.items()
               if any(not _lacks(f.get(name)) for f in facts)}
    head = "".join(f"<th scope=col>{_e(title)}</th>" for title in ("run", *columns.values()))
    lines = "".join(
        f"<tr><td>{_e(run.name)}</td>"
        + "".join(f"<td>{_e(_cell(f.get(name), name))}</td>" for name in columns) + "</tr>"
        for run, f in zip(runs, facts, strict=True))
    return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def _lacks(value) -> bool:
    return value is None or isinstance(value, float) and not math.isfinite(value)


def _cell(value, name: str) -> str:
    if _lacks(value):
        return "-"
    return f"{value:.{2 if name == 'cost' else 1}f}" if isinstance(value, float) else str(value)


def _said(run: KeptRun, light) -> str:
    state, lamp = light
    r = row(run.trace)
    if math.isfinite(r["error"]):
        others = ", ".join(f"{name} {row(t.head(len(run.trace)))['error']:.1f} %"
                           for name, t in run.references.items() if len(t))
        text = [f"Error {r['error']:.1f} % over {len(run.trace)} images"
                + (f"; on the same images {others}." if others else ".")]
    else:
        text = []
    why = f" ({lamp.why})" if state == "unsure" and lamp.why else ""
    free = E.say_label_free(E.label_free(run.trace, run.references))
    text += [E.say_missing(run.trace), f"Alarm of the collapse detector: {_alarm(state, lamp)}"
             f"{why}. {lamp.words}".strip(), f"Without labels: {free}" if free else "",
             run.stored[:1].upper() + run.stored[1:]]
    return "".join(f"<p>{_e(t)}</p>" for t in text if t)


def _repeat(run: KeptRun) -> str:
    meta = run.trace.meta
    made = f"made {run.made}, " if run.made else ""
    versions = (f'<p class="small">Versions: {_e(made)}TTA Lab {_e(meta.get("tta_lab", "unknown"))}'
                f', torch {_e(meta.get("torch", "unknown"))}, device '
                f'{_e(meta.get("device", "unknown"))}; weights {_e(meta.get("weights", "unknown"))}'
                f', stream {_e(meta.get("stream", {}).get("hash", "unknown"))}.</p>')
    code, why = _code(run.choice)
    if not code:
        return versions + (f"<p>This run cannot be repeated from this page: "
                           f"{_e(run.missing or why)}</p>")
    return (f"{versions}<details><summary>How to repeat {_e(run.name)} (Python with TTA Lab)"
            f"</summary><pre>{_e(code)}</pre></details>")


def _code(choice: Experiment | None) -> tuple[str, str]:
    if choice is None:
        return "", "its model or images have no name that a file could hold."
    try:
        return choice.to_code(), ""
    except (ValueError, OSError) as why:
        return "", str(why)


# --- several runs

def _streams(runs: KeptRuns) -> list[list[int]]:
    """Numbers of the runs of each stream and model."""
    found: dict[tuple, list[int]] = {}
    for number, run in runs.items():
        found.setdefault(kept.chart_of(run), []).append(number)
    return list(found.values())


def _curves(runs: KeptRuns, numbers: list[int]) -> str:
    found = kept.curves(runs, numbers)
    looks = {runs[n].name: run_look(n) for n in numbers}
    figure = draw([so_far_panel(found, looks)], "matplotlib", None)
    last = ", ".join(f"{name} {value:.1f}" for name, value in found["last"].items())
    return (f"<h2>{'Errors' if found['labelled'] else 'Agreement'} over the stream of "
            f"{_e(_names(runs, numbers))}</h2>"
            + _image(figure, f"Curves, {found['what']}, at the end: {last}" if last
                     else found["why"], "The mean over all images up to there, so the end of each "
                     "line is the result."))


def _names(runs: KeptRuns, numbers: list[int]) -> str:
    return ", ".join(runs[n].name for n in numbers)


def _differences(runs: KeptRuns, numbers: list[int]) -> str:
    first, *others = numbers
    return "".join(f"<p>{_e(kept.paired_of(runs, first, other)['words'])}</p>" for other in others)


# --- figures

def _figures(run: KeptRun, number: int, light):
    """The figures of a run as HTML, one after the other."""
    trace = run.trace
    beside = {name: t.head(len(trace)) for name, t in run.references.items() if len(t)}
    classes = _classes(run)
    steps = [t for t, _ in actions(trace)] + [light[1].first] * (light[1].first >= 0)
    so_far = E.so_far({run.name: trace} | beside)
    last = ", ".join(f"{name} {value:.1f}" for name, value in so_far["last"].items())
    yield _image(
        FIGURES["errors"]({"so_far": so_far, "fall": E.fall_over_time(trace),
                           "marks": [int((trace["step"] <= step).sum()) for step in steps],
                           "looks": {run.name: run_look(number)}}),
        f"{run.name}, {so_far['what']}: {last}; and the share of images that lose probability at "
        "the source's class, over the stream.", HOW_TO_READ["explorer_errors"])
    entropy = E.entropy_now(trace)
    yield _image(
        FIGURES["predictions"]({"entropy": entropy,
                                "classes": views.class_shares(trace, names=classes)}),
        f"{run.name}: entropy of the last {entropy['n']} images, and how often each class is "
        "predicted over time.", HOW_TO_READ["explorer_predictions"])
    if "known" in trace and (trace["known"] == 0).any():
        threshold = E.threshold_at(trace)
        yield _image(FIGURES["threshold"](threshold), f"{run.name}: {E.say_threshold(threshold)}",
                     HOW_TO_READ["explorer_threshold"])
    yield _photographs(run, classes)


def _classes(run: KeptRun) -> list[str]:
    if run.choice is not None:
        return [str(c) for c in run.choice.stream.classes]
    return [str(c) for c in range(int(run.trace.meta.get("classes", 0)))]


def _photographs(run: KeptRun, classes: list[str]) -> str:
    if run.choice is None:
        return f"<p>{_e(run.why_no_images)}</p>"
    try:
        found = E.pictures(run.trace, run.choice.stream, E.picked(run.trace), classes)
    except (ValueError, OSError) as why:  # its files may lie elsewhere
        return f"<p>The images of this run cannot be shown here: {_e(why)}</p>"
    if not found:
        return "<p>There are no images to show.</p>"
    said = {kind: [f"{t['source'] or 'unknown'} to {t['prediction']}" for _, t in images]
            for kind, images in found.items()}
    alt = "; ".join(f"{' '.join(E.KINDS[kind].split())}: {', '.join(texts)}"
                    for kind, texts in said.items())
    return _image(FIGURES["images"](found), f"{run.name}, images by kind, the source's answer and "
                  f"the adapted one. {alt}", E.say_picked(run.trace) + " "
                  + HOW_TO_READ["explorer_images"], chart=False)


def _image(figure, alt: str, caption: str, chart: bool = True) -> str:
    """A matplotlib figure as HTML; a chart is turned round on a dark page, photographs never."""
    kind = f' class="{CHART}"' if chart else ""
    data = base64.b64encode(_small(png(figure))).decode()
    return (f'<figure><img{kind} alt="{_e(alt)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_e(caption)}</figcaption></figure>")


def _small(content: bytes) -> bytes:
    """A PNG with at most 256 colours: a third of the bytes, and nothing that one sees is lost."""
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGBA")
    out = io.BytesIO()
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        out, "PNG", optimize=True)
    return min(content, out.getvalue(), key=len)
