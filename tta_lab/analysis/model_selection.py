"""Choosing a method and a learning rate without labels: scores of a trace, a ranking of several,
and what the choice cost.

Hyper-parameters that were chosen with the labels of the test stream are the first pitfall of
test-time adaptation (TTAB, arXiv 2306.03536); how far label-free scores replace them was studied
in arXiv 2407.14231. A score here is a pure function of a trace, so it never sees a label.
`definitions` lists them all with formula, direction and source.
"""
from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..core.arguments import WrongKind, number, shown, whole
from ..core.named import model_of
from ..data.load import images_of
from .metrics.inputs import broken, mean, rows_of_logits, whole_log_softmax

WINDOW = 500        # images of one stretch in which predicted classes are counted
PAIRS = 1000        # images at most of a neighbourhood: its cost grows with the square
_ROWS = """
entropy              | mean_i H(p_i) | 0..ln C nats | low | trace | Tent, 2006.10726; compared in 2407.14231
confidence           | mean_i max_k p_ik | 1/C..1 | high | trace | 1610.02136
information          | H(mean_i p_i) - mean_i H(p_i) in each batch, averaged over images | 0..ln C nats | high | trace | SHOT, 2002.08546
window_information   | H(shares of the predicted classes in 500 images) - mean_i H(p_i) | -ln C..ln C nats | high | trace | the same with counts
effective_classes    | exp H(shares of the predicted classes in 500 images), averaged | 1..C | high | trace | collapse indicator
agreement            | share of images that get the class of the frozen source | 0..100 % | high | source | disagreement, 2106.13799
confidence_shift     | abs(mean confidence - mean confidence of the frozen source) | 0..1 | low | source | after DoC, 2107.03315
doc_error            | error on source images + 100 (their mean confidence - mean confidence) | any % | low | reference | DoC, 2107.03315
atc_error            | share of confidences below t, which on source images is their error | 0..100 % | low | reference | ATC, 2201.04234
atc_entropy_error    | the same with entropy above a threshold | 0..100 % | low | reference | ATC-NE, 2201.04234
neighbourhood        | mean_i H(softmax_j(cos(p_i, p_j) / 0.05)), j != i | 0..ln N nats | high | logits | SND, 2108.10860
nuclear_norm         | sum of singular values of P / sqrt(N min(N, C)) | 0..1 | high | logits | 2302.01094
vote                 | share of images that get the class most candidates give | 0..100 % | high | candidates | after EnsV (NeurIPS 2024)
"""  # noqa: E501
COLUMNS = ("name", "formula", "range", "good", "needs", "source")


def definitions() -> list[dict[str, str]]:
    """One row per score: name, formula, range, good ("low" or "high"), needs and source (four
    digits, a dot, five digits: arXiv).

    ``needs``: "trace" alone; "source", a run of the method ``source`` on the same stream (or the
    recorded source); "reference" of `reference`; "logits" of the run; "candidates": the other
    runs, only in `rank`.
    """
    return [
        dict(zip(COLUMNS, map(str.strip, line.split("|")), strict=True))
        for line in _ROWS.strip().splitlines()
    ]


NAMES = tuple(d["name"] for d in definitions())
GOOD = {d["name"]: d["good"] for d in definitions()}
NEEDS = {d["name"]: d["needs"] for d in definitions()}


@torch.no_grad()
def reference(model, images, batch: int = 200, limit: int = 5000, device="cpu") -> dict[str, float]:
    """What the frozen source says of labelled images of its own domain: the anchor of
    ``doc_error`` and ``atc_error``.

    ``images`` is an image set, or (x, y); the first ``limit`` labelled ones count. Returns
    ``error`` (%), ``confidence`` and ``entropy`` (means), ``images``, and the thresholds
    ``atc_confidence`` and ``atc_entropy``: as large a share of these images lies below (above)
    them as is wrong. Take images that the model was not trained on where there are any: on
    training images its error is too small and its confidence too high, and both estimates come out
    too good. Raises ValueError without a labelled image.
    """
    from ..core.scores import confidence, entropy
    from ..core.step_context import as_logits

    model = model_of(model)
    batch = whole("batch", batch, 1)
    limit = whole("limit", limit, 1)
    if isinstance(
            images,
            tuple) and not (len(images) == 2 and all(isinstance(v, torch.Tensor) for v in images)):
        raise WrongKind(f"images must be an image set, or (x, y) as two tensors, not a tuple of "
                        f"{len(images)}")
    if not isinstance(images, tuple) and not (hasattr(images, "images") and hasattr(images, "y")):
        images = images_of(images)
    labels = images[1] if isinstance(images, tuple) else images.y
    rows = (labels >= 0).nonzero().flatten()[:limit]
    if not len(rows):
        raise ValueError("the reference needs labelled images of the source domain, and there is "
                         "none; give others or leave out the "
                         "scores doc_error and atc_error")
    was = model.training
    model.eval()
    sure = []
    unsure = []
    wrong = []
    try:
        for part in rows.split(batch):
            x = images[0][part] if isinstance(images, tuple) else images.images(part)
            logits = as_logits(model(x.to(device)), model).float().cpu()
            sure.append(confidence(logits))
            unsure.append(entropy(logits))
            wrong.append(logits.argmax(1) != labels[part])
    finally:
        model.train(was)
    sure, unsure, wrong = (torch.cat(v).double().numpy() for v in (sure, unsure, wrong))
    share = float(wrong.mean())
    return {
        "error": 100 * share, "confidence": mean(sure), "entropy": mean(unsure),
        "images": len(sure), "atc_confidence": threshold(sure, share),
        "atc_entropy": -threshold(-unsure, share)
    }


def threshold(values, share: float) -> float:
    """The t for which round(share N) of the values lie strictly below t, up to ties.  (N,) ->
                                                                                       number; -inf
                                                                                       for a share
                                                                                       of 0.

    It lies half-way between two neighbouring values, so that rounding errors move no image over it.
    """
    values = np.sort(np.asarray(values, np.float64))
    share = number("share", share, 0, 1)
    below = round(share * len(values))
    if not below:
        return -math.inf
    return math.inf if below >= len(values) else float(values[below - 1] + values[below]) / 2


def scores(trace, reference: Mapping | None = None, logits=None, source=None) -> dict[str, float]:
    """All label-free scores of one run; what cannot be worked out is NaN (see `definitions`).

    ``trace``      of run(adapter, stream)
    ``source``     trace of the method ``source`` on the same stream, for ``agreement`` and
                   ``confidence_shift``; without it what the trace recorded of the source counts,
                   which is under ``trace.meta["source_statistics"]``: batch statistics, as a rule
    ``reference``  of `reference`, for ``doc_error``, ``atc_error`` and ``atc_entropy_error``
    ``logits``     (N, C) of the run, for ``neighbourhood`` and ``nuclear_norm``; they are not part
                   of a trace

    All images of the run count, unknown ones too: without labels nobody knows which they are. A
    broken row (NaN) counts as confidence 1 / C and entropy ln C, so that breaking is never an
    advantage; ``vote`` is made by `rank`.
    """
    _check(trace), source is None or _check(source, "source")
    wanted = {"error", "confidence", "atc_confidence", "atc_entropy"}
    if reference is not None and not (isinstance(reference, Mapping)
                                      and wanted <= reference.keys()):
        raise WrongKind(f"reference must be what model_selection.reference(model, images) hands "
                        f"back, not {shown(reference)}")
    classes = _classes(trace)
    sure = np.asarray(trace["confidence"], np.float64)
    unsure = np.asarray(trace["entropy"], np.float64)
    sure = np.where(np.isnan(sure), 1 / classes, sure)
    unsure = np.where(np.isnan(unsure), math.log(classes), unsure)
    said = np.where(np.isnan(np.asarray(trace["entropy"], np.float64)), -1, trace["prediction"])
    spread = _window_entropies(said, WINDOW)
    out = dict.fromkeys(NAMES, math.nan)
    out |= {
        "entropy": mean(unsure), "confidence": mean(sure),
        "information": _information(trace, unsure),
        "window_information": mean(spread) - mean(unsure), "effective_classes": mean(np.exp(spread))
    }
    if source is not None:
        _same_images("the run", trace, "the source's run", source)
        out |= {
            "agreement": 100 * mean(said == source["prediction"]),
            "confidence_shift": abs(mean(sure) - mean(source["confidence"]))
        }
    elif "source_prediction" in trace:
        out["agreement"] = 100 * mean(said == trace["source_prediction"])
        out["confidence_shift"] = abs(mean(sure) - mean(trace["source_confidence"]))
    if reference is not None:
        out["doc_error"] = reference["error"] + 100 * (reference["confidence"] - mean(sure))
        out["atc_error"] = 100 * mean(sure < reference["atc_confidence"])
        out["atc_entropy_error"] = 100 * mean(unsure > reference["atc_entropy"])
    if logits is not None:
        if len(logits) != len(said):
            raise ValueError(f"the trace has {len(said)} images, but there are logits of "
                             f"{len(logits)}; give those of the same run, all of them")
        out |= {"neighbourhood": neighbourhood(logits), "nuclear_norm": nuclear_norm(logits)}
    return out


def neighbourhood(logits, temperature: float = 0.05, most: int = PAIRS) -> float:
    """Soft neighbourhood density of the predictions, in nats: high when images lie in dense
    groups.  (N, C) -> number

    mean_i H(q_i), q_ij = softmax over j != i of cos(p_i, p_j) / temperature, p the softmax of the
    logits (Saito et al., arXiv 2108.10860). Of more than ``most`` images every k-th counts. NaN
    for fewer than two images.
    """
    p = _probabilities(logits)
    p = p[np.linspace(0, len(p) - 1, most).astype(int)] if len(p) > most else p
    if len(p) < 2:
        return math.nan
    p = torch.from_numpy(p / np.linalg.norm(p, axis=1, keepdims=True))
    close = (p @ p.T / temperature).fill_diagonal_(-torch.inf)
    q = close.log_softmax(1)
    return float(-(q.exp() * q.nan_to_num(neginf=0.0)).sum(1).mean())


def nuclear_norm(logits) -> float:
    """Confidence and spread in one: ||P||_* / sqrt(N min(N, C)), P (N, C) the predicted
    probabilities; 1 is sure and even.

    Deng et al., arXiv 2302.01094; the factor makes the largest possible value 1.
    """
    p = _probabilities(logits)
    return (float(np.linalg.svd(p, compute_uv=False).sum() /
                  math.sqrt(len(p) * min(p.shape))) if len(p) else math.nan)


def votes(predictions: Mapping[str, Sequence]) -> dict[str, float]:
    """Share of images, in per cent, on which each candidate says what most candidates say; each
    (N,) class indices.

    Ties go to the class that the earlier candidate gives. Every candidate has one vote, also on
    itself. After EnsV (NeurIPS 2024), which averages probabilities where this counts classes: a
    trace holds no probabilities, and one collapsed run that is sure of all it says has no more
    weight than another. Raises ValueError for candidates that saw different numbers of images.
    """
    lengths = {name: len(p) for name, p in predictions.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the candidates saw different numbers of images: {lengths}; run all on "
                         f"the same stream")
    # (M, N)
    table = np.array([np.asarray(p, np.int64) for p in predictions.values()])
    if not table.size:
        return dict.fromkeys(predictions, math.nan)
    # (M, N): votes for what each says
    agreeing = (table[:, None] == table[None]).sum(1)
    winner = np.take_along_axis(table, agreeing.argmax(0)[None], 0)[0]
    return {name: 100 * mean(row == winner) for name, row in zip(predictions, table, strict=True)}


def rank(traces: Mapping, by: str = "vote", reference: Mapping | None = None,
         logits: Mapping | None = None, source=None) -> list[tuple[str, float]]:
    """The candidates with their score, the best first; those whose score is NaN come last.

    ``traces`` name -> Trace of the same images in the same order; ``by`` a name of `definitions`;
    ``reference``, ``logits`` (name -> (N, C)) and ``source`` as for `scores`. Equal scores keep
    the given order, so put the candidate that shall win a tie first. Raises ValueError for an
    unknown score, one whose needs are not given, no candidate, or runs over different images.
    """
    if not isinstance(by, str) or by not in GOOD:
        near = difflib.get_close_matches(str(by), NAMES, 1)
        raise ValueError(f"there is no score {by!r}; there are: "
                         f"{', '.join(NAMES)}{f'; did you mean {near[0]!r}?' if near else ''}")
    if not isinstance(traces, Mapping):
        raise WrongKind(f"traces must be a dict, name -> Trace, not {shown(traces)}")
    for name, trace in traces.items():
        _check(trace, f"traces[{name!r}]")
    if not traces:
        raise ValueError("there is no candidate to rank; give at least one trace")
    if NEEDS[by] == "reference" and reference is None or NEEDS[by] == "logits" and logits is None:
        remedy = ("model_selection.reference(model, images)"
                  if NEEDS[by] == "reference" else "name -> (N, C) of every run")
        raise ValueError(f"the score {by!r} needs {NEEDS[by]}=...: {remedy}")
    first_name, first = next(iter(traces.items()))
    for name, trace in traces.items():
        _same_images(repr(name), trace, repr(first_name), first)
    if by == "vote":
        values = votes({name: t["prediction"] for name, t in traces.items()})
    else:
        values = {
            name: scores(t, reference, None if logits is None else logits[name], source)[by]
            for name, t in traces.items()
        }
    return ordered(values, GOOD[by])


def ordered(values: Mapping[str, float], good: str) -> list[tuple[str, float]]:
    """(name, value) with the best first: the largest for good = "high", the smallest for "low";
    NaN last, ties as given."""
    if good not in ("high", "low"):
        raise ValueError(f"good must be 'high' or 'low', not {good!r}")
    sign = -1 if good == "high" else 1
    return sorted(
        values.items(), key=lambda item: (math.isnan(item[1]), 0.0
                                          if math.isnan(item[1]) else sign * item[1]))


def regret(errors: Mapping[str, float], chosen: str) -> dict[str, float]:
    """What a choice costs, in points of error: ``regret`` = error of the chosen - least error of
    the candidates (the oracle).

    ``errors`` name -> error in per cent. Beside it ``error``, ``oracle``, ``random`` (mean regret
    of drawing a candidate blindly) and ``worst`` (regret of the worst candidate). Raises
    ValueError for a choice that is no candidate.
    """
    if chosen not in errors:
        raise ValueError(f"{chosen!r} is none of the candidates {', '.join(errors)}")
    best = min(errors.values())
    values = np.array(list(errors.values()), np.float64)
    return {
        "regret": errors[chosen] - best, "error": errors[chosen], "oracle": best,
        "random": float(values.mean() - best), "worst": float(values.max() - best)
    }


def _check(trace, name: str = "trace") -> None:
    from ..core.trace import Trace

    if not isinstance(trace, Trace):
        raise WrongKind(f"{name} must be the Trace of a run, as run(adapter, stream) hands it "
                        f"back, not {shown(trace)}")


def _same_images(name, trace, other_name, other) -> None:
    if not np.array_equal(trace["id"], other["id"]):
        raise ValueError(f"{name} saw other images, or in another order, than {other_name}; "
                         f"compare runs over one stream")


def _classes(trace) -> int:
    if "classes" not in trace.meta:
        raise ValueError("the trace does not say how many classes there are: run(adapter, stream) "
                         "writes it, or set trace.meta['classes']")
    return max(int(trace.meta["classes"]), 2)


def _window_entropies(said: np.ndarray, size: int) -> np.ndarray:
    """Entropy of the predicted classes' shares in stretches of about ``size`` images, in nats;
    broken rows (-1) are no class."""
    pieces = np.array_split(said, max(1, round(len(said) / size)))
    out = []
    for piece in pieces:
        n = np.unique(piece[piece >= 0], return_counts=True)[1]
        shares = n / max(n.sum(), 1)
        out.append(float(-(shares * np.log(shares)).sum()))
    return np.array(out)


def _information(trace, unsure: np.ndarray) -> float:
    """Batches of one image tell nothing (H of a mean over one is its own entropy) and are left
    out; NaN when there is no other."""
    step, n = trace["step"], np.asarray(trace.step("n"), np.float64)
    if not len(n) or "marginal_entropy" not in trace.columns("steps"):
        return math.nan
    where = np.searchsorted(trace.step("step"), step)
    inside = np.bincount(where, weights=unsure, minlength=len(n)) / n
    spread = np.asarray(trace.step("marginal_entropy"), np.float64)
    use = (n > 1) & np.isfinite(spread)
    return float(((spread - inside) * n)[use].sum() / n[use].sum()) if use.any() else math.nan


def _probabilities(logits) -> np.ndarray:
    values = rows_of_logits(logits.detach().cpu() if isinstance(logits, torch.Tensor) else logits)
    return np.exp(whole_log_softmax(values, broken(values)))
