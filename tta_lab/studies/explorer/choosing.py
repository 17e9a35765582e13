"""Which of several runs to take when there are no labels: their ranking, and rates to try."""
from __future__ import annotations

import html
import math
from dataclasses import replace

import numpy as np

from ...analysis import model_selection as M
from ...core.arguments import whole
from ...core.knobs import knobs, with_knobs
from ...experiments.experiment import Experiment
from ...experiments.kept_runs import KeptRun
from ...experiments.runner import row
from . import study as E

RATE = "update.lr"
BESIDE = ("effective_classes", "confidence")  # scores shown beside the one that ranks
POSSIBLE = tuple(name for name in M.NAMES if M.NEEDS[name] in ("trace", "source", "candidates"))
WORDS = {"vote": ("vote (% with the majority)", ".1f"),
         "effective_classes": ("effective classes", ".2f"),
         "confidence": ("mean confidence", ".3f")}


def ranked(runs: list[KeptRun], score: str | None = None) -> dict:
    """Runs of one stream ranked without labels, beside source and BN-1 of the first one.

    ``score`` is a name of `model_selection.definitions` that needs no source images and no logits;
    by default "vote", the share of images that get the class that most candidates give. It was
    named before the study and had the least mean regret there: 5.3 points on 18 streams of held-out
    models, where ``effective_classes`` has 6.5, ``window_information`` 9.1, drawing blindly 14.7
    and confidence and entropy 31 to 32, since they choose what has collapsed. Among the rates of
    one method, where little collapses, it costs 0.35 points, ``effective_classes`` 0.28 and drawing
    blindly 0.45, too close to tell apart. A vote is as good as its company, so source and BN-1
    vote and can win. With fewer than three candidates there is no majority: then the default is
    ``effective_classes``.

    Compared are the first ``images`` (a number) that all have seen. ``order`` lists (name, score),
    the best first, NaN last; ``chosen`` is the first, ``decided`` whether another has its score
    too; ``scores`` name -> all scores; ``references`` the names that are no runs;
    ``errors`` name -> error in per cent, {} without labels, and ``regret``, error of the chosen -
    least error, in points, with what else `model_selection.regret` says, or {}. Raises ValueError
    for fewer than two runs, runs of several streams, runs without images and other scores.
    """
    runs = list(runs)
    if len(runs) < 2:
        raise ValueError(f"a ranking needs two runs or more, not {len(runs)}; run another method "
                         "or rate on the same stream")
    empty = [run.name for run in runs if not len(run.trace)]
    if empty:
        raise ValueError(f"the run {empty[0]!r} has seen no images yet; let it run first, or leave "
                         "it out")
    streams = [run.trace.meta.get("stream", {}).get("hash") for run in runs]
    other = [run.name for run, stream in zip(runs, streams, strict=True) if stream != streams[0]]
    if other:
        raise ValueError(f"{other[0]!r} was shown another stream than {runs[0].name!r}, so they "
                         "cannot be ranked; choose runs of one stream")
    n = min(len(run.trace) for run in runs)
    traces = _candidates(runs, n)
    score = score or ("vote" if len(traces) > 2 else "effective_classes")
    if score not in POSSIBLE:
        raise ValueError(f"runs cannot be ranked by {score!r}; choose one of "
                         f"{', '.join(POSSIBLE)}")
    if score == "vote" and len(traces) < 3:
        raise ValueError("two candidates have no majority; add a run, or choose another score such "
                         "as effective_classes")
    order = M.rank(traces, score, source=traces.get("source"))
    errors = {name: row(t)["error"] for name, t in traces.items() if E.scored(t).any()}
    known = len(errors) == len(traces)
    best = order[0][1]
    return {"score": score, "order": order, "chosen": order[0][0], "images": n,
            "decided": math.isfinite(best) and not any(v == best for _, v in order[1:]),
            "scores": {name: M.scores(t, source=traces.get("source"))
                       for name, t in traces.items()},
            "references": list(traces)[len(runs):],
            "errors": errors if known else {},
            "regret": M.regret(errors, order[0][0]) if known else {}}


def _candidates(runs: list[KeptRun], n: int) -> dict:
    """name -> the first n images of each run, and of the references of the first one where they
    are as long; a reference that answers as one of the runs does is that run."""
    traces: dict = {}
    for run in runs:
        name, i = run.name, 1
        while name in traces:
            i += 1
            name = f"{run.name} ({i})"
        traces[name] = run.trace.head(n)
    own = list(traces.values())
    for name, t in runs[0].references.items():
        part = t.head(n)
        if (name not in traces and np.array_equal(part["id"], own[0]["id"]) and not any(
                np.array_equal(part["prediction"], other["prediction"]) for other in own)):
            traces[name] = part
    return traces


def say_ranked(found: dict) -> str:
    """What `ranked` chose, by which score, and where labels exist what that cost."""
    chosen, value = found["order"][0]
    if not math.isfinite(value):
        return f"The score {found['score']} cannot be worked out for any of these runs."
    name, form = _word(found["score"])
    others = " and ".join(found["references"])
    also = f", with {others} among the candidates" if others else ""
    text = (f"Without labels {chosen} is chosen, by {name}: {value:{form}}, over the first "
            f"{found['images']} images{also}.")
    if not found["decided"]:
        text += " Others have the same score, so the choice among them is by their order alone."
    if found["score"] == "vote":
        text += " A vote is as good as its company: where most have collapsed alike, it is wrong."
    cost = found["regret"]
    if not cost:
        return text + " Whether that is the best one cannot be said without labels."
    if cost["regret"] <= 0:
        return text + f" With labels: it has the least error, {cost['error']:.1f} %."
    best = min(found["errors"], key=found["errors"].get)
    return text + (f" With labels: its error is {cost['error']:.1f} %, the least is "
                   f"{cost['oracle']:.1f} % ({best}), so the choice costs {cost['regret']:.1f} "
                   f"points; drawing blindly costs {cost['random']:.1f} on average.")


def ranking_table(found: dict) -> tuple[list[str], list[list[str]]]:
    """Titles and rows (HTML, escaped) of `ranked`, the best first: rank, run, the score and what
    else needs no label, then with labels error and regret."""
    shown = list(dict.fromkeys((found["score"], *BESIDE)))
    titles = ["rank", "run", *(html.escape(_word(s)[0]) for s in shown)]
    errors = found["errors"]
    titles += ["error (%)", "regret (points)"] if errors else []
    rows = []
    for i, (name, value) in enumerate(found["order"]):
        values = found["scores"][name] | {found["score"]: value}
        line = [str(i + 1), html.escape(name), *(_number(values[s], _word(s)[1]) for s in shown)]
        if errors:
            line += [_number(errors[name], ".1f"),
                     _number(errors[name] - min(errors.values()), ".1f")]
        rows.append(line)
    return titles, rows


def _word(score: str) -> tuple[str, str]:
    return WORDS.get(score, (score.replace("_", " "), ".3g"))


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else "-"


def rates_around(choice: Experiment, n: int = 5) -> tuple[Experiment, ...]:
    """The same choice at n learning rates, the smallest first: a tenth to ten times the paper's, in
    equal steps of the logarithm, inside the knob's range; the rate of the choice takes the place of
    the nearest.

    Raises ValueError for a recipe without a learning rate, and for n below 2.
    """
    n = whole("n", n, 2)
    knob = {k.name: k for k in knobs(choice.recipe)}.get(RATE)
    if knob is None:
        raise ValueError(f"{type(choice.recipe).__name__} has no learning rate, so there are no "
                         "rates to try; choose a method that learns, such as tent")
    given, paper = float(knob.value), _paper_rate(choice.recipe)
    low = max(paper / 10, knob.low or 0.0)
    high = paper * 10 if knob.high is None else min(paper * 10, knob.high)
    exact = np.geomspace(low, high, n)
    rates = [float(f"{rate:.2g}") for rate in exact]
    if len(set(rates)) < n or rates[0] < low or rates[-1] > high:
        rates = [float(rate) for rate in exact]
    # what differs by rounding alone is the paper's own
    rates = [paper if math.isclose(rate, paper, rel_tol=1e-6) else rate for rate in rates]
    if given not in rates:
        free = [i for i in range(n) if rates[i] != paper]
        nearest = min(free, key=lambda i: abs(rates[i] - given) if given <= 0 else
                      abs(math.log(rates[i] / given)))
        rates[nearest] = given
    return tuple(replace(choice, recipe=with_knobs(choice.recipe, **{RATE: rate}))
                 for rate in sorted(rates))


def _paper_rate(recipe) -> float:
    """The rate that a recipe of this kind has when nothing is set; its own where that is none or
    cannot be made."""
    own = float(recipe.update.lr)
    try:
        rate = float(type(recipe)().update.lr)
    except (TypeError, ValueError, AttributeError):
        rate = own
    if rate > 0:
        return rate
    found = {k.name: k for k in knobs(recipe)}[RATE]
    return float(found.default)
