"""run: a stream through an adapter. runs: several recipes on several streams and seeds. compare:
the same as a table.

Labels never reach an adapter; they arrive in the trace here.
"""
from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..analysis import diagnose, metrics
from ..components.source.prepare import prepare
from ..core import hashing, run_keys
from ..core.adapter import Adapter
from ..core.arguments import NAMED, WrongKind, choice, flag, path_of, seeds_of, shown
from ..core.named import model_of, recipe_of
from ..core.norm_layers import TestTimeNorm
from ..core.parts import Method, NeedsError
from ..core.source_info import source_info_of
from ..core.trace import Trace
from ..data.load import images_of
from ..methods.serialise import to_json
from ..streams.protocols import stream_of
from ..streams.stream import RESETS, AbstractStream, Stream, hash_of
from .progress import Progress

Key = tuple[str, str, int]  # stream, recipe, seed


def run(adapter: Adapter, stream: AbstractStream, reset: str | None = None,
        progress: bool | Progress = False, stop: Callable[[], bool] | None = None,
        each: Callable[[Trace], None] | None = None, clean: AbstractStream | None = None,
        trace_to: str | Path | None = None) -> Trace:
    """Send every batch of a stream through the adapter and return the annotated trace.

    ``stream`` may also be an image set, or the text that names one: its images are shown in the
    order of their files (`recorded`). An adapter that has seen a stream before goes on: the rows of
    both stand in one trace, which then is that of the streams joined (``a + b``), and a stream
    taken up where it stopped (``stream.cut(k)``) counts as one. What cannot be joined is refused.
    ``reset``: "never", "domain" (to the source at each new shift) or "batch" (before every batch);
    None takes the stream's.
    ``progress`` shows a bar with the time left; ``stop()`` is asked before each batch and ends the
    run when it is true: what was seen stays in the trace. ``each(trace)`` is called after every
    batch. ``clean`` is a stream of unshifted images on which `forgetting` is measured afterwards,
    without learning; the numbers go to ``trace.meta["clean"]``. ``trace_to`` is a folder to which
    the trace is written while the stream runs (`Trace.spill`): memory does not grow with it, and a
    run that breaks off leaves its rows. Raises ValueError for an unknown reset rule, an adapter
    that records nothing, and a stream that cannot be joined to the one before.
    """
    _check_adapter(adapter)
    stream, clean = stream_of(stream), None if clean is None else stream_of(clean, "clean")
    rule = stream.reset if reset is None else choice("reset", reset, RESETS)
    for name, value in (("stop", stop), ("each", each)):
        if value is not None and not callable(value):
            raise WrongKind(f"{name} must be a function, not {value!r}")
    if adapter.record == "off":
        raise ValueError(
            "run() needs a recording adapter; use Adapter(..., record='light') or record='source'")
    bar = progress if isinstance(progress, Progress) else Progress(stream.n_images,
                                                                   flag("progress", progress))
    record = _Record(adapter.trace, stream, rule)
    memory = Memory(adapter.device, adapter.trace.meta.get("peak_memory_bytes", 0))
    adapter.trace.meta.update(
        tta_lab=__version__, trainable_parameters=sum(p.numel() for p in adapter.tuned.values()),
        tuned_length=math.sqrt(sum(float(p.square().sum()) for p in adapter.origin.values())),
        test_statistics=any(isinstance(m, TestTimeNorm) for m in adapter.model.modules()),
        parameters=sum(p.numel() for p in adapter.source.parameters()))
    if trace_to is not None:
        adapter.trace.spill(path_of("trace_to", trace_to))
    try:
        for i, batch in enumerate(stream.batches(adapter.device)):
            if stop is not None and stop():
                break
            if not i:
                check_classes(adapter, stream, batch)
                fresh = record.begin(batch)
            later = i or adapter.steps and not record.within
            if rule == "batch" and later or rule == "domain" and (batch.new_domain if i else fresh):
                adapter.reset(keep_trace=True)
            logits = adapter(batch.x, batch.ids)
            adapter.trace.annotate(label=batch.label, known=batch.known, severity=batch.severity,
                                   round=batch.round, **record.places(batch),
                                   **proper_scores(logits, batch.label, batch.known))
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
        if bar is not progress:
            bar.close()
    return adapter.trace


def _check_adapter(adapter) -> None:
    names = ("trace", "record", "tuned", "predict_source")
    if isinstance(adapter, type) or not all(hasattr(adapter, name) for name in names):
        raise WrongKind(
            "adapter must be an Adapter around a model, such as Adapter(model, make('tent')), "
            f"not {shown(adapter)}")


class _Record:
    """What a trace says of the streams that its rows come from: ``domains``, ``segments`` and
    ``stream`` of ``meta`` are those of all that was shown, joined. ``meta["parts"]`` are their
    records where there are several; of the last, ``meta["shown"]`` of ``meta["batches"]`` came."""

    def __init__(self, trace: Trace, stream: AbstractStream, rule: str):
        self.trace = trace
        self.stream = stream
        self.news = None
        meta = trace.meta
        unknown = stream.unknown_set
        images = {
            "known": stream.known_set.fingerprint(),
            "unknown": None if unknown is None else unknown.fingerprint()
        }
        # a trace of an older version counts no batches: all its rows are of one stream
        self.shown = meta.get("shown",
                              len(trace.step("step")) if "stream" in meta and len(trace) else 0)
        # more of the very stream that is written down
        self.within = bool(self.shown) and getattr(stream, "goes_on", False)
        self.where, self.first = torch.arange(len(stream.domains)), 0
        if not self.shown:
            meta.update(domains=list(stream.domains), segments=list(stream.shifts),
                        stream=stream.to_dict(), reset=rule, images=images,
                        classes=len(stream.classes), batches=len(stream), shown=0)
        had = {
            "reset rule": meta["reset"], "number of classes": meta["classes"],
            **meta.get("images", images)
        }
        has = {"reset rule": rule, "number of classes": len(stream.classes), **images}
        for what in had:
            if had[what] != has[what] and not (what == "unknown" and
                                               None in (had[what], has[what])):
                kind = f"{what} set" if what in images else what
                raise ValueError(
                    f"this adapter has seen {len(trace)} images of a stream with another {kind}, "
                    "so the rows of this one "
                    "cannot join them in one trace: adapter.reset() goes back to the source and "
                    "begins a new trace, "
                    "or take a new Adapter")
        meta.update(
            complete=False, images={
                **images, "unknown": images["unknown"] or meta.get("images", images)["unknown"]
            })

    def begin(self, batch) -> bool:
        """Find the place of the stream, whose first batch this is, behind what was shown before; is
        a new domain reached?"""
        if not self.shown or self.within:
            return False
        meta = self.trace.meta
        stream = self.stream
        record = self.stream.to_dict()
        parts = meta.get("parts") or [meta["stream"]]
        before, now = _span(parts[-1], self.shown), _span(record, len(stream))
        goes_on = before[0]["hash"] == now[0]["hash"] and before[2] == now[1]
        domains, segments = meta["domains"], meta["segments"]
        if goes_on:  # the same stream, taken up where it stopped
            in_full = (before[1], now[2]) == (0, len(stream.whole))
            parts = [
                *parts[:-1], before[0] if in_full else _cut_record(before[0], before[1], now[2])
            ]
            self.news = {"batches": self.shown + len(stream)}
        else:
            last = parts[-1] if self.shown >= meta.get("batches", self.shown) else _cut_record(
                *before)
            parts, segments = [*parts[:-1], last, record], [*segments, *stream.shifts]
            domains = list(dict.fromkeys([*domains, *stream.domains]))
            self.news = {"batches": len(stream), "shown": 0}
        joined = {"kind": "joined", "parts": parts, "hash": hash_of([p["hash"] for p in parts])}
        self.news |= {"stream": joined, "parts": parts} if len(parts) > 1 else {"stream": parts[0]}
        self.news |= {"domains": domains, "segments": segments}
        self.first = len(segments) - len(stream.shifts)
        self.where = torch.tensor([domains.index(name) for name in stream.domains])
        other = bool((self.trace["domain"][-1:] != int(self.where[batch.domain[0]])).all())
        return batch.new_domain and (goes_on or other)

    def places(self, batch) -> dict[str, Tensor]:
        """Domain and segment of a batch that was answered, as the trace counts them."""
        meta = self.trace.meta
        if self.news:
            meta.update(self.news)
            self.news = None
        meta["shown"] = meta.get("shown", self.shown) + 1
        return {"domain": self.where[batch.domain], "segment": batch.segment + self.first}


def _span(record: dict, batches: int) -> tuple[dict, int, int]:
    """The whole stream of a record, and where its first batches lie in it, from and to
    (exclusive)."""
    start = 0
    while record["kind"] == "cut":
        record, start = record["stream"], start + record["start"]
    return record, start, start + batches


def _cut_record(record: dict, start: int, stop: int) -> dict:
    """The record of some batches of a recorded stream, as `Stream.cut` writes it."""
    return {
        "kind": "cut", "stream": record, "start": start, "stop": stop,
        "hash": hash_of([record["hash"], start, stop])
    }


def check_classes(adapter: Adapter, stream: AbstractStream, batch) -> None:
    """Raise ValueError when the model does not answer in the classes that the labels are counted
    in; images without any label have none."""
    check_outputs(adapter, stream.known_set, batch.x[:1])


def check_outputs(adapter: Adapter, images, x) -> None:
    """`check_classes` for an image set and one of its images, (1, C, H, W)."""
    try:
        logits = adapter.predict_source(x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as why:
        shape = " x ".join(map(str, x.shape[1:]))
        raise ValueError(
            f"the model cannot take the images of {images.name}, {shape} (channels, height, "
            f"width): {why}; "
            "check_up(model, images) says what does not fit") from why
    if not (images.y >= 0).any():
        return
    if logits.ndim == 2 and logits.shape[1] != len(images.classes):
        mapped = getattr(images, "model_classes", None) is not None
        raise ValueError(
            f"the model has {logits.shape[1]} outputs, the images of {images.name} have "
            f"{len(images.classes)} classes; "
            +
            ("wrap the model: models.with_classes(model, images.model_classes)" if mapped else
             "take a model of these classes, or choose the outputs that belong to them with "
             "models.with_classes(model, outputs)"
             ))


def proper_scores(logits: Tensor, label: Tensor, known: Tensor) -> dict[str, Tensor]:
    """-ln p_y (nats) and sum_k (p_k - [k = y])^2 for each known image with a label, NaN for the
    others; nothing for segmentation.

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
    return {
        "nll": torch.where(scored, nll, torch.nan), "brier": torch.where(scored, brier, torch.nan)
    }


class Memory:
    """Peak memory of a run in bytes beyond what was in use at its start: allocated on CUDA,
    resident (rough) elsewhere."""

    def __init__(self, device: torch.device, peak: int = 0):
        self.device, self.peak = torch.device(device), peak
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


def forgetting(adapter: Adapter, clean: AbstractStream) -> dict:
    """What is left of the source's ability: error on clean images of the frozen source and of the
    adapter as it now is, in per cent.

    Nothing is learned and the adapter is left as it was. ``forgotten`` = error - source_error, in
    points (EATA, arXiv 2204.02610, measures it so).
    """
    _check_adapter(adapter)
    clean, wrong, wrong_source, n = stream_of(clean, "clean"), 0, 0, 0
    for batch in clean.batches(adapter.device):
        if not n:
            check_classes(adapter, clean, batch)
        rows = batch.known & (batch.label >= 0)
        missed = [
            int((logits.argmax(1).cpu() != batch.label)[rows].sum())
            for logits in (adapter.predict(batch.x, batch.ids), adapter.predict_source(batch.x))
        ]
        wrong = wrong + missed[0]
        wrong_source = wrong_source + missed[1]
        n = n + int(rows.sum())
    if not n:
        raise ValueError(
            "the clean stream has no labelled image of a known class, so nothing can be called "
            "forgotten"
        )
    now, source = 100 * wrong / n, 100 * wrong_source / n
    return {
        "error": now, "source_error": source, "forgotten": now - source, "n": n, "hash": clean.hash
    }


# --- several runs -------------------------------------------------------------------------------

def _recipes(recipes) -> dict[str, Method | Callable]:
    """name -> method, or function of the traces made before; every name stands for one recipe and
    every recipe of a list has one name."""
    if isinstance(recipes, (str, Method)):
        recipes = [recipes]
    if isinstance(recipes, Mapping):
        found = {}
        for name, recipe in recipes.items():
            _check_name("recipes", name)
            is_function = callable(recipe) and not isinstance(recipe, (type, Method))
            found[name] = recipe if is_function else recipe_of(recipe, f"recipes[{name!r}]")
    elif isinstance(recipes, Iterable) and not isinstance(recipes, type):
        given = list(recipes)
        made = [recipe_of(r, f"recipes[{i}]") for i, r in enumerate(given)]
        texts = [to_json(r) for r in made]
        for i, text in enumerate(texts):
            if text in texts[:i]:
                raise ValueError(
                    f"recipes[{texts.index(text)}] and recipes[{i}] are the same method, "
                    f"{made[i]!r}: the same run "
                    "twice; leave one out, or give both names: {'first': ..., 'second': ...}")
        names = [r if isinstance(r, str) else type(r).__name__ for r in given]
        names = [
            name if names.count(name) == 1 else repr(r)
            for name, r in zip(names, made, strict=True)
        ]
        names = [
            name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})"
            for i, name in enumerate(names)
        ]
        found = dict(zip(names, made, strict=True))
    else:
        raise WrongKind(
            "recipes must list methods or their names, such as ['source', make('tent')], or be "
            "name -> method, "
            f"not {shown(recipes)}")
    if not found:
        raise ValueError("recipes is empty; name at least one method, such as ['source', 'tent']")
    return found


def _check_name(what: str, name) -> None:
    if not isinstance(name, str) or not name:
        raise WrongKind(f"the names in {what} must be texts, not {name!r}")


def _streams(streams, seeds) -> dict[tuple[str, int], AbstractStream]:
    if not isinstance(streams, Mapping):
        if isinstance(streams, (list, tuple)) and streams and all(
                isinstance(s, AbstractStream) for s in streams):
            raise WrongKind("several streams need names: streams={'first': ..., 'second': ...}")
        streams = {"stream": streams}
    if not streams:
        raise ValueError("streams is empty; give at least one, such as {'continual': continual()}")
    built = {}
    for name, given in streams.items():
        _check_name("streams", name)
        what = f"streams[{name!r}]" if len(streams) > 1 or name != "stream" else "streams"
        is_function = callable(given) and not isinstance(given,
                                                         (AbstractStream, type, torch.nn.Module))
        given = given if is_function else stream_of(given, what)
        for seed in seeds:
            if isinstance(given, Stream):
                built[name, seed] = replace(given, seed=given.seed + seed)
            elif is_function:
                built[name, seed] = stream_of(given(seed), f"{what}({seed})")
            else:
                if len(seeds) > 1:
                    raise ValueError(
                        f"the stream {name!r} is joined, cut or cached, so it cannot be seeded "
                        "anew; give a function of the seed"
                    )
                built[name, seed] = given
    return built


class _Runs:
    """What `runs` goes through, checked in full before the first run: arguments, and what every
    recipe needs."""

    def __init__(self, recipes, streams, model, seeds, cache, progress, device, channels_last,
                 clean, source_images):
        self.seeds, self.recipes = seeds_of(seeds), _recipes(recipes)
        self.model = model_of(model)
        self.device = device
        self.channels_last = flag("channels_last", channels_last)
        self.images = None if source_images is None else images_of(source_images, "source_images")
        self.folder = None if cache is None else path_of("cache", cache)
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                f"cache must be a folder, and {self.folder} is a file; name another one")
        self.progress = flag("progress", progress)
        self.streams = _streams(streams, self.seeds)
        is_function = callable(clean) and not isinstance(clean, AbstractStream)
        self.clean = clean if clean is None or is_function else stream_of(clean, "clean")
        self.source_info = {
            name: self._fit(name, r) for name, r in self.recipes.items() if isinstance(r, Method)
        }

    def __len__(self) -> int:
        return len(self.recipes) * len(self.streams)

    def _fit(self, name: str, recipe: Method) -> dict | None:
        """What the recipe takes of the source domain; NeedsError, which names the recipe, when it
        cannot run with this model."""
        try:
            wanted = list(source_info_of(recipe).values())
            if wanted and self.images is None:
                raise NeedsError(
                    f"{type(recipe).__name__} needs {wanted[0].what}, made of images that must be "
                    "given here: "
                    "source_images=, an image set of the source domain such as "
                    "'fashion_mnist_train_slice'"
                )
            source_info = prepare(self.model, recipe, self.images,
                                   device=self.device) if wanted else None
            Adapter(self.model, recipe, device=self.device, source_info=source_info)
        except NeedsError as why:
            raise NeedsError(f"recipe {name!r}: {why}") from why
        return source_info

    def __iter__(self) -> Iterator[tuple[Key, Trace]]:
        bar = Progress(
            sum(s.n_images for s in self.streams.values()) * len(self.recipes), self.progress)
        try:
            for (stream_name, seed), stream in self.streams.items():
                shared: dict = {}
                earlier: dict[str, Trace] = {}
                clean = stream_of(self.clean(seed), f"clean({seed})") if callable(
                    self.clean) else self.clean
                for name, recipe in self.recipes.items():
                    if isinstance(recipe, Method):
                        source_info = self.source_info[name]
                    else:
                        recipe = recipe_of(recipe(earlier),
                                           f"what recipes[{name!r}] makes of the traces")
                        source_info = self._fit(name, recipe)
                    adapter = Adapter(self.model, recipe, seed=seed, device=self.device,
                                      record="source", channels_last=self.channels_last,
                                      source_info=source_info)
                    adapter.shared_source = shared
                    path = None
                    if self.folder is not None:
                        key = _key(adapter, stream, self.channels_last, clean)
                        path = self.folder / f"{key}.npz"
                    if path is not None and path.exists():
                        trace = _kept(path, adapter, stream)
                        bar.skip(stream.n_images)
                    else:
                        bar.step(0, f"{stream_name}, {name}, seed {seed}")
                        trace = run(adapter, stream, progress=bar, clean=clean)
                        if path is not None:
                            trace.save(path)
                    earlier[name] = trace
                    yield (stream_name, name, seed), trace
        finally:
            bar.close()


# columns that `row` reads
NEEDED = ("prediction", "confidence", "energy", "source_prediction", "label", "known", "domain")


def _kept(path: Path, adapter: Adapter, stream: AbstractStream) -> Trace:
    """The finished run in a file of the cache; ValueError, which names it, for one that is damaged
    or holds another run."""
    remedy = f"delete {path}, and the run is made anew"
    try:
        trace = Trace.load(path)
    except (ValueError, OSError) as why:
        raise ValueError(f"the cache holds a damaged run ({why}); {remedy}") from None
    lacking = [name for name in NEEDED if name not in trace or trace[name].dtype.kind not in "biuf"]
    lacking += ["steps"] if not trace.names("steps") else []
    if lacking:
        raise ValueError(
            f"the cache holds a damaged run ({path} lacks the numbers {', '.join(lacking)}); "
            f"{remedy}"
        )
    mine = {
        "recipe": repr(adapter.recipe), "seed": adapter.seed, "weights": adapter.fingerprint,
        "complete": True
    }
    wrong = [name for name, value in mine.items() if trace.meta.get(name) != value]
    wrong += ["stream"] if trace.meta.get("stream", {}).get("hash") != stream.hash else []
    wrong += ["number of images"] if len(trace) != stream.n_images else []
    if wrong:
        raise ValueError(
            f"{path} is not the run that the cache should hold there: another {', '.join(wrong)}; "
            f"{remedy}"
        )
    return trace


def runs(recipes, streams, model, seeds: Sequence[int] = (0, ), *, cache: str | Path | None = None,
         progress: bool = False, device="auto", channels_last: bool = False,
         clean: Callable[[int], AbstractStream] | AbstractStream | None = None,
         source_images=None) -> Iterator[tuple[Key, Trace]]:
    """Run every recipe on every stream with every seed, one after another: yields ((stream, recipe,
    seed), Trace), with the frozen source recorded.

    recipes   list of methods or their names, or name -> Method (or its name); or name -> function
              of the traces made before on the same stream and seed, {name: Trace} -> Method, for
              controls that need to know what another method did
    streams   a stream, or name -> stream; a stream is seeded anew for each seed (its own seed +
              seed); or a function of the seed. An image set, or its name, is shown in the order of
              its files
    model     a network, or the text that names one
    seeds     whole numbers, each once
    cache     folder where each finished run is written at once: an interrupted comparison goes on
              where it stopped
    clean     stream of unshifted images (or a function of the seed) for `forgetting`
    source_images   image set of the source domain (or its name), for recipes that need something of
                    it (`tta_lab.prepare`): Fisher information, prototypes, ...; a recipe that needs
                    none never sees it
    channels_last   memory format of the networks

    The outputs of the frozen source on a stream are computed once and shared by all recipes; their
    cost counts for each. All arguments, and what every recipe needs of the model and the source
    domain, are checked before the first run: raises ValueError or NeedsError.
    """
    return iter(
        _Runs(recipes, streams, model, seeds, cache, progress, device, channels_last, clean,
              source_images))


def compare(recipes, streams, model, seeds: Sequence[int] = (0, ), *,
            cache: str | Path | None = None, progress: bool = False, device="auto",
            channels_last: bool = False, clean=None, source_images=None,
            each: Callable[[Key, Trace], None] | None = None):
    """The numbers of every recipe on every stream with every seed, as a pandas frame with one row
    for each run (see `row`).

    Arguments as for `runs`; ``each(key, trace)`` is called with every finished run. An interrupt
    (Ctrl-C, the notebook's stop) hands back the rows that are finished and says so; with ``cache``
    the next call goes on from there. `spread` gives mean and deviation over seeds.
    """
    try:
        import pandas
    except ImportError as why:
        raise ImportError(
            "compare() returns a pandas frame: pip install 'tta-lab[notebooks]'; runs() yields "
            "the traces without pandas"
        ) from why
    if each is not None and not callable(each):
        raise WrongKind(f"each must be a function, not {each!r}")
    rows = []
    wanted = _Runs(recipes, streams, model, seeds, cache, progress, device, channels_last, clean,
                   source_images)
    try:
        for key, trace in wanted:
            rows.append({"stream": key[0], "recipe": key[1], "seed": key[2], **row(trace)})
            if each is not None:
                each(key, trace)
    except KeyboardInterrupt:
        if not rows:
            raise
        warnings.warn(
            f"interrupted: {len(rows)} of {len(wanted)} runs are finished and in the table; " +
            (f"the same call goes on from {cache}"
             if cache else "with cache=FOLDER the same call would go on from here"), stacklevel=2)
    return pandas.DataFrame(rows)


def row(trace: Trace) -> dict:
    """The numbers of one run: a pure function of its trace.

    ``error`` (%, mean over domains), ``error_weighted`` (over images), ``error:NAME`` of each
    domain, ``ece``, ``nll``, ``brier``; with unknown images ``auroc``, ``fpr95``, ``oscr``,
    ``h_auc`` (known positive, score: energy, or confidence where log-probabilities are answered);
    ``agreement`` (%) with the frozen source under ``source_statistics``. Cost (`metrics.cost`):
    ``forwards``, ``backwards``, ``learned_from``,
    ``ms_per_image``, ``trainable_parameters``, ``peak_memory_bytes``. Forgetting: ``clean_error``,
    ``clean_source_error``, ``forgotten``. Stamps: ``images``, ``scored``, ``batches``, ``resets``,
    ``reset``, ``answer``, ``stream_hash``, ``weights``, ``device``, ``torch``,
    ``tta_lab``, ``settings``, ``complete``. Without labels the errors are NaN.
    """
    if not isinstance(trace, Trace):
        raise WrongKind(f"row needs the trace of a run, not {shown(trace)}")
    missing = [
        name for name in ("reset", "answer", "stream", "weights", "recipe", "complete")
        if name not in trace.meta
    ]
    if missing:
        raise ValueError(
            f"the trace does not say its {', '.join(missing)}: let run(adapter, stream) make it")
    meta, masks = trace.meta, diagnose.groups(trace)
    scored = masks["correct"] | masks["wrong"]
    per_domain = diagnose.error_per_domain(trace) if scored.any() else None
    values: dict = {
        "error": per_domain["mean"] if per_domain else math.nan,
        "error_weighted": 100 * float(masks["wrong"].sum()) /
                          max(int(scored.sum()), 1) if scored.any() else math.nan,
        "ece": metrics.ece(trace["confidence"][scored], masks["correct"][scored])
               if scored.any() else math.nan,
        "nll": float(np.mean(
            trace["nll"][scored])) if scored.any() and "nll" in trace else math.nan, "brier": float(
                np.mean(trace["brier"][scored])) if scored.any() and "brier" in trace else math.nan,
        "agreement": 100 * float((trace["prediction"] == trace["source_prediction"]).mean())
                     if "source_prediction" in trace else math.nan
    }
    if masks["unknown"].any() and scored.any():
        known = ~masks["unknown"]
        some = scored | masks["unknown"]
        # the energy of log-probabilities is 0 for every image: there the largest probability tells
        # known from unknown
        score = trace["confidence" if meta.get("kind") == "log_probabilities" else "energy"]
        opened = metrics.open_set(score[some], known[some], masks["correct"][some])
        values |= {name: opened[name] for name in ("auroc", "fpr95", "oscr", "h_auc")}
    spent = metrics.cost(trace)
    values |= {
        name: spent[name] for name in ("forwards", "backwards", "learned_from", "ms_per_image",
                                      "trainable_parameters", "peak_memory_bytes")
    }
    if "clean" in meta:
        clean = meta["clean"]
        values |= {
            "clean_error": clean["error"], "clean_source_error": clean["source_error"],
            "forgotten": clean["forgotten"]
        }
    values |= {
        "images": len(trace), "scored": int(scored.sum()), "batches": spent["steps"],
        "resets": int(np.sum(trace.step("reset").astype(bool))) - 1, "reset": meta["reset"],
        "answer": meta["answer"], "stream_hash": meta["stream"]["hash"], "weights": meta["weights"],
        "source_statistics": meta["source_statistics"], "device": meta["device"],
        "torch": meta["torch"], "tta_lab": meta["tta_lab"], "settings": meta["recipe"],
        "complete": meta["complete"]
    }
    if per_domain and len(per_domain["domain"]) > 1:
        values |= {
            f"error:{name}": float(e)
            for name, e in zip(per_domain["domain"], per_domain["error"], strict=True)
        }
    return values


# columns of `row` that tell runs of one name apart
SAYS = {"stream_hash": "stream", "settings": "recipe", "weights": "model"}


def spread(table, what: Sequence[str] = ("error",)):
    """Mean and standard deviation (ddof = 1) over the seeds of each stream and recipe: columns
    NAME, NAME_sd and ``seeds``, in the order of the table. ``what``: a column of numbers, or
    several. Raises ValueError for a table that `compare` did not make, a column that it lacks, a
    run that stands in it twice, and several runs of one name."""
    if not all(name in getattr(table, "columns", ()) for name in ("stream", "recipe", "seed")):
        raise WrongKind(
            "spread needs the table that compare() makes, with the columns stream, recipe and "
            f"seed, not {shown(table)}"
        )
    what = [what] if isinstance(what, str) else list(what)
    for name in what:
        if name not in table.columns or table[name].dtype.kind not in "bif":
            numeric = [c for c in table.columns if table[c].dtype.kind in "bif" and c != "seed"]
            raise ValueError(
                f"there is no column of numbers {name!r}; there are: {', '.join(numeric)}")
    key_of = ("stream", "recipe", "seed")
    twice = table[table.duplicated(list(key_of))]
    if len(twice):
        key = ", ".join(str(twice.iloc[0][name]) for name in key_of)
        same = (table[list(key_of)] == twice.iloc[0][list(key_of)]).all(axis=1)
        other = [
            what for name, what in SAYS.items()
            if name in table.columns and table.loc[same, name].nunique() > 1
        ]
        if other:
            raise ValueError(
                f"({key}) names several runs in the table, with another "
                f"{', another '.join(other)}; give each a name of its "
                "own, as in compare({'tent, my model': 'tent'}, {'continual': stream}, ...)")
        raise ValueError(
            f"the run ({key}) stands in the table more than once and would count as several "
            "seeds; drop it: "
            "table.drop_duplicates(['stream', 'recipe', 'seed'])")
    grouped = table.astype(dict.fromkeys(what, float)).groupby(["stream", "recipe"], sort=False)
    # a seed without a number is not left out unasked
    out = grouped[what].agg(lambda values: values.mean(skipna=False))
    for name in what:
        out[f"{name}_sd"] = grouped[name].agg(lambda values: values.std(ddof=1, skipna=False))
    out["seeds"] = grouped["seed"].nunique()
    return out.reset_index()


READS = {  # turn a finished run into words and numbers
    "analysis.columns", "analysis.diagnose", "analysis.metrics", "experiments.catalogue",
    "experiments.progress",
}


@lru_cache
def code_digest(root: Path = run_keys.ROOT) -> str:
    """First 12 hex digits of the sha256 of the code that makes a run: the runner and what it
    imports, directly or not.

    Modules count under their full name in the package, wherever the package lies. Comments,
    docstrings and layout do not count, nor do modules that only read or show a finished run
    (`READS`)."""
    return hash_of(covered(root))


def covered(root: Path = run_keys.ROOT) -> dict[str, str]:
    """Name in the package -> digest of the code, of the modules that make a run."""
    late = (place.partition(":")[0].partition(".")[2] for place in NAMED.values())
    return run_keys.own(["experiments.runner", *late], READS, root)


def _key(adapter: Adapter, stream, channels_last: bool, clean=None) -> str:
    """A name for one run that changes with anything that its numbers depend on."""
    device = [
        adapter.device.type,
        torch.cuda.get_device_name(adapter.device) if adapter.device.type == "cuda" else ""
    ]
    facts = [
        to_json(adapter.recipe),
        hashing.digest(adapter.source_info),
        stream.to_dict(),
        run_keys.described(adapter.source), adapter.seed,
        run_keys.precision(), device, channels_last,
        code_digest(), None if clean is None else clean.hash,
        str(adapter.amp),
        run_keys.foreign(adapter.recipe),
        run_keys.foreign_orders(stream)
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
