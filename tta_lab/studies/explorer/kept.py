"""What is said of several kept runs: their curves in one chart, and two of them paired."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...core.trace import Trace
from . import study as E


def chosen(runs: Mapping, numbers: Iterable[int]) -> dict:
    """number -> run, of those that have seen images. Raises ValueError for a number that no run
    has."""
    numbers = list(dict.fromkeys(numbers))
    for number in numbers:
        if number not in runs:
            raise ValueError(f"there is no run {number!r}; there are: "
                             f"{', '.join(map(str, runs)) or 'none'}")
    return {number: runs[number] for number in numbers if len(runs[number].trace)}


def chart_of(run) -> tuple:
    """What runs of one chart have in common: the stream, and the model, whose source and BN-1 are
    drawn beside them; a network without a name is itself, and no other."""
    stream = run.trace.meta.get("stream", {}).get("hash", "")
    if run.choice is None:
        return stream, run.facts.get("model")
    model = run.choice.model
    return stream or run.choice.stream.hash, model if isinstance(model, str) else id(model)


def traces(runs: Mapping, numbers: Iterable[int]) -> dict[str, Trace]:
    """name -> Trace: the first of ``numbers``, source and BN-1 beside it as far as it has come, and
    the other runs; those of another stream or model are left out: their curves mean other images,
    or belong beside another source."""
    found = list(chosen(runs, numbers).values())
    if not found:
        return {}
    first = found[0]
    beside = {name: t.head(len(first.trace)) for name, t in first.references.items() if len(t)}
    return {first.name: first.trace} | beside | {
        run.name: run.trace for run in found[1:] if chart_of(run) == chart_of(first)}


def left_out(runs: Mapping, numbers: Iterable[int]) -> list[int]:
    """Numbers of the runs that have another stream or model than the first one."""
    found = chosen(runs, numbers)
    charts = {number: chart_of(run) for number, run in found.items()}
    return [n for n, chart in charts.items() if chart != next(iter(charts.values()))]


def curves(runs: Mapping, numbers: Iterable[int]) -> dict:
    """Numbers of one chart: `study.so_far` of the chosen runs beside source and BN-1 of the first
    one; ``left_out`` (numbers) have another stream or model, ``why`` says so or why there is
    nothing.

    Without labels the agreement of the first run with source and BN-1 is drawn, and that of each
    other run with the source, under its name.
    """
    numbers = list(numbers)
    some = traces(runs, numbers)
    found = E.so_far(some)
    if some and not found["labelled"]:
        first, *others = [run for run in chosen(runs, numbers).values() if run.name in some]
        for run in others:
            pair = {run.name: run.trace} | {n: some[n] for n in ("source",) if n in some}
            lines = E.so_far(pair)["lines"]
            if "like source" in lines:
                found["lines"][f"{run.name} like source"] = lines["like source"]
        found["last"] = {k: float(y[-1]) for k, (_, y) in found["lines"].items() if len(y)}
    out = left_out(runs, numbers)
    words = ""
    if out:
        names = ", ".join(runs[n].name for n in out)
        words = f"Not drawn, of another stream or model than {next(iter(some))}: {names}."
    return found | {"left_out": out, "why": " ".join(filter(None, (found["why"], words)))}


def paired_of(runs: Mapping, a: int, b: int) -> dict:
    """`study.paired` of two kept runs with ``words``, the sentence about it; only ``words`` where
    the two cannot be paired. Raises ValueError for a number that no run has."""
    first, second = (runs[n] for n in (a, b) if n in runs) if a in runs and b in runs else (
        chosen(runs, (a, b)).values())
    try:
        found = E.paired(first.trace, second.trace)
    except (ValueError, KeyError):
        return {"words": f"{first.name} and {second.name} were not shown the same images in the "
                         "same order, so they cannot be paired: choose two runs of one stream."}
    return found | {"words": E.say_paired(found, first.name, second.name)}
