"""Figures of the notebook on lifelong adaptation: rounds, forgetting, distance from the source,
second visits, cycles, guard."""
from __future__ import annotations

import numpy as np

from ...plots import Panel, Series, common, draw
from ..drawings import STEP, curves, errors_beside, known, live, risk, seeds_of

HOW_TO_READ = {"rounds": "Every round shows the same images in another order, so a line that falls "
                         "has learned them and one that climbs is getting lost; BN-1, which cannot "
                         "learn, shows how much is chance.",
               "forgetting": "Bars above that of BN-1 have forgotten some of what the source knew "
                             "about images without shift; BN-1 has learned nothing, so its own "
                             "distance from the dotted line is the price of batch statistics.",
               "distances": "A line that levels off is held by something; one that drops was put "
                            "back; CoTTA and RMT tune all weights, the others scale and shift of "
                            "the normalisation only.",
               "second_visits": "Bars below 0: the second visit goes better than the first, beyond "
                                "what BN-1 shows; whiskers of one standard error that reach over 0 "
                                "twice as long say that it may be chance.",
               "cyclic": "From left to right as the stretches come: where the bars keep their "
                         "distances nothing is gained or lost by having been here before.",
               "guards": "Top: error of the last images; bottom: the detector's probability of "
                         "collapse with its threshold; at upright lines the guard acted.",
               "lifelong_live": "Left: a line that climbs above BN-1 has got lost; right: how far "
                                "the weights are from the source's, a drop is a return; upright "
                                "lines are rounds on the left and returns on the right."}
USUAL = "published rates"
LARGE = "large rates"


def _two(arms):
    from .study import LARGE as large
    from .study import USUAL as usual

    looks = {a: i for i, a in enumerate(a for a in usual if a not in ("source", "batch_norm"))} | {
        a: i for i, a in enumerate(large)}
    return ((USUAL, [a for a in arms if a in usual and a in looks]),
            (LARGE, [a for a in arms if a in large])), looks


def _look(number: int) -> int:
    """Looks without the black one, which is BN-1's."""
    return number if number < 3 else number + 1


def plot_rounds(result, backend: str = "matplotlib", ax=None):
    """Two panels of a ``lifelong.study.Study``: error per round at published and at large rates,
    each beside BN-1; mean and deviation over seeds."""
    from .study import ARMS

    def line(arm, look):
        values = [result.runs[arm, k]["per_round"]["error"] for k in result.plan.all_seeds]
        return seeds_of(np.arange(1, len(values[0]) + 1), values, ARMS[arm], look, "line")

    panels, looks = _two(result.arms)
    drawn = [Panel(title, "round (1 = first)", "error (%)",
                   (line("batch_norm", 3), *(line(a, _look(looks[a])) for a in arms)), free=True)
             for title, arms in panels]
    return draw(common(drawn), backend, ax, size=(11, 5.6))


def plot_forgetting(numbers, backend: str = "matplotlib", ax=None):
    """Bars of ``lifelong.study.forgetting_table``, and the source's error as a line."""
    after = Series(numbers["arms"], numbers["after"], "", 0, "bar", known(numbers["sd"]))
    return draw([Panel("Clean images, after the stream", "", "error (%)", (after,),
                       line=(numbers["before"], "the source, before"))], backend, ax, size=(9, 5))


def plot_distances(result, backend: str = "matplotlib", ax=None):
    """Two panels of a ``lifelong.study.Study``, first seed: distance of the tuned weights from the
    source's over time, as a share of their length."""
    from .study import ARMS, distance

    panels, looks = _two(result.arms)
    found = {a: distance(result.traces[a]) for _, arms in panels for a in arms
             if a in result.traces}
    return draw([Panel(title, STEP, "share of the length",
                       tuple(Series(found[a]["step"], found[a]["distance"], ARMS[a],
                                    _look(looks[a]), "path") for a in arms if a in found),
                       percent=True) for title, arms in panels], backend, ax, size=(11, 5.4))


def plot_second_visits(numbers, backend: str = "matplotlib", ax=None):
    """A panel of bars for each stream of ``lifelong.study.second_visits``."""
    from .study import ARMS, STREAMS

    return draw([Panel(STREAMS[name], "", "second - first visit, beyond BN-1 (points)",
                       (Series([ARMS[a] for a in found["arms"]], found["points"], "", 0, "bar",
                               found["error"]),)) for name, found in numbers.items()], backend, ax,
                size=(13, 5.4))


def plot_cyclic(result, backend: str = "matplotlib", ax=None):
    """Bars of the stretches of the cyclic stream of a ``lifelong.study.Study``, mean and deviation
    over seeds."""
    from .study import ARMS, CYCLIC

    there = [arm for arm in CYCLIC if (arm, result.plan.first_seed) in result.cyclic]
    series = [seeds_of(result.stretches, [result.cyclic[arm, k] for k in result.plan.all_seeds],
                       ARMS[arm], i) for i, arm in enumerate(there)]
    return draw([Panel("Groups of shifts that come again", "", "error (%)", tuple(series))],
                backend, ax, size=(10, 5.4))


def plot_guards(runs: dict, backend: str = "matplotlib", ax=None):
    """Two panels under each other from {name: ``collapse.study.numbers_of``}: error of the last
    images; probability of collapse."""
    if not runs:
        return draw([Panel("No run", "", "error")], backend, ax)
    one = next(iter(runs.values()))
    marks = tuple(t for n in runs.values() for t, _ in n["actions"])
    errors = (*curves(runs, "error", "path"), *errors_beside(one, 3))
    return draw([Panel("Error", "", f"last {one['recent']} images (%)", errors, marks=marks,
                       height=3.0),
                 risk(curves(runs, "probability", "path"), one["threshold"], marks=marks,
                      height=3.0)], backend, ax, stacked=True)


def plot_lifelong_live(numbers, backend: str = "matplotlib", ax=None):
    """What the panel shows, from ``lifelong.study.live_numbers``, or None before the first run:
    error so far; distance of the weights."""
    def weights(numbers):
        away = Series(numbers["distance"]["step"], numbers["distance"]["distance"], "this run", 0,
                      "path")
        return Panel("Weights: distance from the source", STEP, "share of their length", (away,),
                     percent=True, marks=numbers["marks"])

    return live(numbers, {"this run": 0, "source": 4, "BN-1": 3}, 5, "Distance", weights, backend,
                ax, marks=numbers["borders"] if numbers else ())
