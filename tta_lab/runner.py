"""run: a stream through an adapter. runs: several recipes on several streams and seeds. compare: the same as a table.

Labels never reach an adapter; they arrive in the trace here.
"""
from __future__ import annotations

import ast
import hashlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import __version__, diagnose, metrics, source
from .adapter import Adapter
from .datasets import load
from .methods import make, to_json
from .norms import TestTimeNorm
from .parts import Method, needs_of
from .streams import Arrivals, Stream
from .trace import Trace

Key = tuple[str, str, int]  # stream, recipe, seed


class Progress:
    """One line on stderr with the time left, counted in images; silent when ``on`` is false."""

    def __init__(self, total: int, on: bool, every: float = 1.0):
        self.total, self.on, self.every = total, on, every
        self.done, self.started, self.shown = 0, time.perf_counter(), 0.0

    def step(self, images: int, note: str = "") -> None:
        self.done += images
        now = time.perf_counter()
        if self.on and (now - self.shown > self.every or self.done >= self.total):
            self.shown, spent = now, now - self.started
            left = spent * (self.total - self.done) / max(self.done, 1)
            end = "\n" if self.done >= self.total else ""
            done = 100 * self.done / max(self.total, 1)
            print(f"\r{done:5.1f} %  {spent:.0f} s, {left:.0f} s left  {note:<40}", end=end, file=sys.stderr, flush=True)

    def skip(self, images: int) -> None:
        """These images need no work: they do not count for the time left."""
        self.total -= images


def run(adapter: Adapter, stream: Arrivals, reset: str | None = None, progress: bool | Progress = False,
        stop: Callable[[], bool] | None = None, each: Callable[[Trace], None] | None = None, clean: Arrivals | None = None,
        trace_to: str | Path | None = None) -> Trace:
    """Send every batch of a stream through the adapter and return the annotated trace.

    ``reset``: "never", "domain" (to the source at each new shift) or "batch" (before every batch); None takes the stream's.
    ``progress`` shows a line with the time left; ``stop()`` is asked before each batch and ends the run when it is true:
    what was seen stays in the trace. ``each(trace)`` is called after every batch. ``clean`` is a stream of unshifted images on
    which `forgetting` is measured afterwards, without learning; the numbers go to ``trace.meta["clean"]``. ``trace_to`` is a folder to
    which the trace is written while the stream runs (`Trace.spill`): memory does not grow with it, and a run that breaks off leaves its rows.
    Raises ValueError for an unknown reset rule or an adapter that records nothing.
    """
    rule = reset or stream.reset
    if rule not in ("never", "domain", "batch"):
        raise ValueError(f"reset must be 'never', 'domain' or 'batch', not {rule!r}")
    if adapter.record == "off":
        raise ValueError("run() needs a recording adapter; use Adapter(..., record='light') or record='source'")
    memory = Memory(adapter.device)
    adapter.trace.meta.update(
        domains=list(stream.domains), segments=list(stream.shifts), stream=stream.to_dict(), reset=rule, classes=len(stream.classes),
        tta_lab=__version__, trainable_parameters=sum(p.numel() for p in adapter.tuned.values()),
        tuned_length=math.sqrt(sum(float(p.square().sum()) for p in adapter.origin.values())),
        test_statistics=any(isinstance(m, TestTimeNorm) for m in adapter.model.modules()),
        parameters=sum(p.numel() for p in adapter.source.parameters()), complete=False)
    bar = progress if isinstance(progress, Progress) else Progress(stream.n_images, progress)
    if trace_to is not None:
        adapter.trace.spill(trace_to)
    try:
        for i, batch in enumerate(stream.batches(adapter.device)):
            if stop is not None and stop():
                break
            if not i:
                _check_classes(adapter, stream, batch)
            if i and (rule == "batch" or rule == "domain" and batch.new_domain):
                adapter.reset(keep_trace=True)
            logits = adapter(batch.x, batch.ids)
            adapter.trace.annotate(label=batch.label, known=batch.known, domain=batch.domain, segment=batch.segment, severity=batch.severity,
                                   round=batch.round, **proper_scores(logits, batch.label, batch.known))
            memory.look()
            bar.step(len(batch))
            if each is not None:
                each(adapter.trace)
        else:
            adapter.trace.meta["complete"] = True
        adapter.trace.meta["peak_memory_bytes"] = memory.peak
        if clean is not None:
            adapter.trace.meta["clean"] = forgetting(adapter, clean)
    finally:
        adapter.trace.flush()
    return adapter.trace


def _check_classes(adapter: Adapter, stream: Arrivals, batch) -> None:
    """Raise ValueError when the model does not answer in the classes that the labels are counted in; images without any label have none."""
    logits, images = adapter.predict_source(batch.x[:1]), stream.known_set
    if not (images.y >= 0).any():
        return
    if logits.ndim == 2 and logits.shape[1] != len(stream.classes):
        mapped = getattr(images, "model_classes", None) is not None
        raise ValueError(f"the model has {logits.shape[1]} outputs, the images of {images.name} have {len(stream.classes)} classes; "
                         + ("wrap the model: models.with_classes(model, images.model_classes)" if mapped else
                            "take a model of these classes, or choose the outputs that belong to them with models.with_classes(model, outputs)"))


def proper_scores(logits: Tensor, label: Tensor, known: Tensor) -> dict[str, Tensor]:
    """-ln p_y (nats) and sum_k (p_k - [k = y])^2 for each known image with a label, NaN for the others; nothing for segmentation.

    A row of broken logits counts as `metrics` says: infinity and 2.
    """
    if logits.ndim != 2:
        return {}
    logits = logits.detach()
    scored = (known & (label >= 0)).to(logits.device)
    target = torch.where(scored, label.to(logits.device), 0)[:, None]
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    nll, brier = -log_p.gather(1, target)[:, 0], (p * p).sum(1) - 2 * p.gather(1, target)[:, 0] + 1
    broken = ~torch.isfinite(logits.amax(1))
    nll, brier = torch.where(broken, torch.inf, nll), torch.where(broken, 2.0, brier)
    return {"nll": torch.where(scored, nll, torch.nan), "brier": torch.where(scored, brier, torch.nan)}


class Memory:
    """Peak memory of a run in bytes beyond what was in use at its start: allocated on CUDA, resident (rough) elsewhere."""

    def __init__(self, device: torch.device):
        self.device, self.peak = torch.device(device), 0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.start = self._now()

    def _now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except (OSError, ValueError):
            return 0
        import resource
        return pages * resource.getpagesize()

    def look(self) -> None:
        self.peak = max(self.peak, self._now() - self.start)


def forgetting(adapter: Adapter, clean: Arrivals) -> dict:
    """What is left of the source's ability: error on clean images of the frozen source and of the adapter as it now is, in per cent.

    Nothing is learned and the adapter is left as it was. ``forgotten`` = error - source_error, in points (EATA, arXiv 2204.02610,
    measures it so).
    """
    wrong, wrong_source, n = 0, 0, 0
    for batch in clean.batches(adapter.device):
        rows = batch.known & (batch.label >= 0)
        missed = [int((logits.argmax(1).cpu() != batch.label)[rows].sum())
                  for logits in (adapter.predict(batch.x, batch.ids), adapter.predict_source(batch.x))]
        wrong, wrong_source, n = wrong + missed[0], wrong_source + missed[1], n + int(rows.sum())
    if not n:
        raise ValueError("the clean stream has no labelled image of a known class, so nothing can be called forgotten")
    now, source = 100 * wrong / n, 100 * wrong_source / n
    return {"error": now, "source_error": source, "forgotten": now - source, "n": n, "hash": clean.hash}


# --- several runs ---------------------------------------------------------------------------------------------------

def _recipes(recipes) -> dict[str, Method | Callable]:
    if isinstance(recipes, (str, Method)):
        recipes = [recipes]
    if not isinstance(recipes, Mapping):
        names = [r if isinstance(r, str) else type(r).__name__ for r in recipes]
        recipes = {name if names.count(name) == 1 else repr(r): r for name, r in zip(names, recipes, strict=True)}
    return {name: make(r) if isinstance(r, str) else r for name, r in recipes.items()}


def _streams(streams, seeds) -> dict[tuple[str, int], Arrivals]:
    if isinstance(streams, Arrivals) or callable(streams):
        streams = {"stream": streams}
    if not isinstance(streams, Mapping):
        raise ValueError(f"streams must be a stream, or name -> stream or function of the seed, got {type(streams).__name__}")
    built = {}
    for name, given in streams.items():
        for seed in seeds:
            if isinstance(given, Stream):
                built[name, seed] = replace(given, seed=given.seed + seed)
            elif isinstance(given, Arrivals):
                if len(seeds) > 1:
                    raise ValueError(f"the stream {name!r} is joined or cut, so it cannot be seeded anew; give a function of the seed")
                built[name, seed] = given
            else:
                built[name, seed] = given(seed)
    return built


def runs(recipes, streams, model, seeds: Sequence[int] = (0,), *, cache: str | Path | None = None, progress: bool = False, device="auto",
         channels_last: bool = False, clean: Callable[[int], Arrivals] | Arrivals | None = None,
         source_images=None) -> Iterator[tuple[Key, Trace]]:
    """Run every recipe on every stream with every seed, one after another: yields ((stream, recipe, seed), Trace), with the frozen
    source recorded.

    recipes   name -> Method (or its name); or name -> function of the traces made before on the same stream and seed,
              {name: Trace} -> Method, for controls that need to know what another method did
    streams   a stream, or name -> stream; a stream is seeded anew for each seed (its own seed + seed); or a function of the seed
    cache     folder where each finished run is written at once: an interrupted comparison goes on where it stopped
    clean     stream of unshifted images (or a function of the seed) for `forgetting`
    source_images   image set of the source domain (or its name), for recipes that need something of it (`source.prepare`): Fisher
              information, prototypes, ...; a recipe that needs none never sees it
    channels_last   memory format of the networks

    The outputs of the frozen source on a stream are computed once and shared by all recipes; their cost counts for each.
    """
    recipes, built = _recipes(recipes), _streams(streams, seeds)
    bar = Progress(sum(s.n_images for s in built.values()) * len(recipes), progress)
    folder = None if cache is None else Path(cache)
    for (stream_name, seed), stream in built.items():
        shared: dict = {}
        earlier: dict[str, Trace] = {}
        unshifted = clean if clean is None or isinstance(clean, Arrivals) else clean(seed)
        for name, recipe in recipes.items():
            recipe = recipe if isinstance(recipe, Method) else recipe(earlier)
            adapter = Adapter(model, recipe, seed=seed, device=device, record="source", channels_last=channels_last,
                              given=_given(model, recipe, source_images, device))
            adapter.shared_source = shared
            path = None if folder is None else folder / f"{_key(adapter, stream, channels_last, unshifted)}.npz"
            if path is not None and path.is_file():
                trace = Trace.load(path)
                bar.skip(stream.n_images)
            else:
                bar.step(0, f"{stream_name}, {name}, seed {seed}")
                trace = run(adapter, stream, progress=bar, clean=unshifted)
                if path is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                    trace.save(path)
            earlier[name] = trace
            yield (stream_name, name, seed), trace


def compare(recipes, streams, model, seeds: Sequence[int] = (0,), *, cache: str | Path | None = None, progress: bool = False,
            device="auto", channels_last: bool = False, clean=None, source_images=None, each: Callable[[Key, Trace], None] | None = None):
    """The numbers of every recipe on every stream with every seed, as a pandas frame with one row for each run (see `row`).

    Arguments as for `runs`; ``each(key, trace)`` is called with every finished run. An interrupt (Ctrl-C, the notebook's stop) hands back
    the rows that are finished and says so; with ``cache`` the next call goes on from there. `spread` gives mean and deviation
    over seeds.
    """
    try:
        import pandas
    except ImportError as why:
        raise ImportError("compare() returns a pandas frame: pip install 'tta-lab[notebooks]'; runs() yields the traces without pandas") from why
    rows, wanted = [], len(_recipes(recipes)) * len(_streams(streams, seeds))
    try:
        for key, trace in runs(recipes, streams, model, seeds, cache=cache, progress=progress, device=device, channels_last=channels_last,
                               clean=clean, source_images=source_images):
            rows.append({"stream": key[0], "recipe": key[1], "seed": key[2], **row(trace)})
            if each is not None:
                each(key, trace)
    except KeyboardInterrupt:
        if not rows:
            raise
        warnings.warn(f"interrupted: {len(rows)} of {wanted} runs are finished and in the table; "
                      + (f"the same call goes on from {cache}" if cache else "with cache=FOLDER the same call would go on from here"), stacklevel=2)
    return pandas.DataFrame(rows)


def row(trace: Trace) -> dict:
    """The numbers of one run: a pure function of its trace.

    ``error`` (%, mean over domains), ``error_weighted`` (over images), ``error:NAME`` of each domain, ``ece``, ``nll``, ``brier``; with unknown
    images ``auroc``, ``fpr95``, ``oscr``, ``h_auc`` (known positive, score: energy, or confidence where log-probabilities are answered);
    ``agreement`` (%) with the frozen source under ``source_statistics``. Cost (`metrics.cost`): ``forwards``, ``backwards``, ``learned_from``,
    ``ms_per_image``, ``trainable_parameters``, ``peak_memory_bytes``. Forgetting: ``clean_error``, ``clean_source_error``, ``forgotten``.
    Stamps: ``images``, ``scored``, ``batches``, ``resets``, ``reset``, ``answer``, ``stream_hash``, ``weights``, ``device``, ``torch``,
    ``tta_lab``, ``settings``, ``complete``. Without labels the errors are NaN.
    """
    meta, masks = trace.meta, diagnose.groups(trace)
    scored = masks["correct"] | masks["wrong"]
    per_domain = diagnose.error_per_domain(trace) if scored.any() else None
    values: dict = {
        "error": per_domain["mean"] if per_domain else math.nan,
        "error_weighted": 100 * float(masks["wrong"].sum()) / max(int(scored.sum()), 1) if scored.any() else math.nan,
        "ece": metrics.ece(trace["confidence"][scored], masks["correct"][scored]) if scored.any() else math.nan,
        "nll": float(np.mean(trace["nll"][scored])) if scored.any() and "nll" in trace else math.nan,
        "brier": float(np.mean(trace["brier"][scored])) if scored.any() and "brier" in trace else math.nan,
        "agreement": 100 * float((trace["prediction"] == trace["source_prediction"]).mean()) if "source_prediction" in trace else math.nan}
    if masks["unknown"].any() and scored.any():
        known = ~masks["unknown"]
        some = scored | masks["unknown"]
        # the energy of log-probabilities is 0 for every image: there the largest probability tells known from unknown
        score = trace["confidence" if meta.get("kind") == "log_probabilities" else "energy"]
        opened = metrics.open_set(score[some], known[some], masks["correct"][some])
        values |= {name: opened[name] for name in ("auroc", "fpr95", "oscr", "h_auc")}
    spent = metrics.cost(trace)
    values |= {name: spent[name] for name in ("forwards", "backwards", "learned_from", "ms_per_image", "trainable_parameters", "peak_memory_bytes")}
    if "clean" in meta:
        clean = meta["clean"]
        values |= {"clean_error": clean["error"], "clean_source_error": clean["source_error"], "forgotten": clean["forgotten"]}
    values |= {"images": len(trace), "scored": int(scored.sum()), "batches": spent["steps"],
               "resets": int(np.sum(trace.step("reset").astype(bool))) - 1,
               "reset": meta["reset"], "answer": meta["answer"], "stream_hash": meta["stream"]["hash"], "weights": meta["weights"],
               "source_statistics": meta["source_statistics"],
               "device": meta["device"], "torch": meta["torch"], "tta_lab": meta["tta_lab"], "settings": meta["recipe"], "complete": meta["complete"]}
    if per_domain and len(per_domain["domain"]) > 1:
        values |= {f"error:{name}": float(e) for name, e in zip(per_domain["domain"], per_domain["error"], strict=True)}
    return values


def spread(table, what: Sequence[str] = ("error",)):
    """Mean and standard deviation (ddof = 1) over the seeds of each stream and recipe: columns NAME, NAME_sd and ``seeds``, in the
    order of the table."""
    grouped = table.groupby(["stream", "recipe"], sort=False)
    out = grouped[list(what)].mean()
    for name in what:
        out[f"{name}_sd"] = grouped[name].std(ddof=1)
    out["seeds"] = grouped["seed"].nunique()
    return out.reset_index()


def _given(model, recipe: Method, images, device) -> dict | None:
    """What the recipe declares to need of the source domain, made from the source images."""
    if images is None or not needs_of(recipe) & source.GIVEN.keys():
        return None
    return source.prepare(model, recipe, load(images) if isinstance(images, str) else images, device=device)


READS = {"diagnose", "metrics", "method_table"}  # modules that turn a finished run into words and numbers


@lru_cache
def code_digest(here: Path = Path(__file__).parent) -> str:
    """First 12 hex digits of the sha256 of the code that makes a run: this module and what it imports, directly or not. Comments, docstrings
    and layout do not count, nor do modules that only read or show a finished run."""
    digest, found = hashlib.sha256(), {}
    waiting = [here / "runner.py"]
    while waiting:
        path = waiting.pop()
        if path in found or path.stem in READS:
            continue
        found[path] = tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "__init__.py":  # a folder finds its files by itself
            waiting += path.parent.rglob("*.py")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split(".")) if node.module else path.parents[node.level - 1]
                for place in [base, *(base / name.name for name in node.names)]:
                    waiting += [p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file() and p != here / "__init__.py"]
            first = getattr(node, "body", None)
            if isinstance(first, list) and first and isinstance(first[0], ast.Expr) and isinstance(first[0].value, ast.Constant):
                node.body = first[1:]
    for path in sorted(found):
        digest.update(path.relative_to(here).as_posix().encode() + ast.dump(found[path]).encode())
    return digest.hexdigest()[:12]


def _key(adapter: Adapter, stream, channels_last: bool, clean=None) -> str:
    """A name for one run that changes with anything that its numbers depend on."""
    facts = [to_json(adapter.recipe), source.digest(adapter.given), stream.to_dict(), source.described(adapter.source), adapter.seed,
             adapter.trace.meta["torch"], str(adapter.device.type), channels_last, code_digest(), None if clean is None else clean.hash]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
