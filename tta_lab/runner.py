"""run: a stream through an adapter. compare: several recipes on several streams and seeds. Labels never reach an adapter."""
from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import __version__
from .adapter import Adapter
from .methods import to_json
from .parts import Method
from .trace import Trace


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


def run(adapter: Adapter, stream, reset: str | None = None, progress: bool | Progress = False, stop: Callable[[], bool] | None = None,
        each: Callable[[Trace], None] | None = None) -> Trace:
    """Send every batch of a stream through the adapter and return the annotated trace.

    ``reset``: "never", "domain" (to the source at each new shift) or "batch" (before every batch); None takes the stream's.
    ``progress`` shows a line with the time left; ``stop()`` is asked before each batch and ends the run when it is true:
    what was seen stays in the trace. ``each(trace)`` is called after every batch.
    Raises ValueError for an unknown reset rule or an adapter that records nothing.
    """
    rule = reset or stream.reset
    if rule not in ("never", "domain", "batch"):
        raise ValueError(f"reset must be 'never', 'domain' or 'batch', not {rule!r}")
    if adapter.record == "off":
        raise ValueError("run() needs a recording adapter; use Adapter(..., record='light') or record='source'")
    adapter.trace.meta.update(domains=list(stream.shifts), stream=stream.to_dict(), reset=rule, classes=len(stream.classes))
    bar = progress if isinstance(progress, Progress) else Progress(stream.n_images, progress)
    for i, batch in enumerate(stream.batches(adapter.device)):
        if stop is not None and stop():
            break
        if i and (rule == "batch" or rule == "domain" and batch.new_domain):
            adapter.reset(keep_trace=True)
        adapter(batch.x, batch.ids)
        adapter.trace.annotate(label=batch.label, known=batch.known, domain=batch.domain_index, round=batch.round)
        bar.step(len(batch))
        if each is not None:
            each(adapter.trace)
    return adapter.trace


def compare(recipes: Mapping[str, Method | Callable], streams: Mapping[str, Callable], model, seeds: Sequence[int] = (0,), *,
            cache: str | Path | None = None, progress: bool = False, device="auto",
            each: Callable[[tuple[str, str, int], Trace], None] | None = None, keep: bool = True,
            channels_last: bool = False) -> dict[tuple[str, str, int], Trace]:
    """Run every recipe on every stream with every seed: (stream, recipe, seed) -> Trace, with the frozen source recorded.

    recipes   name -> Method; or name -> function of the traces made before on the same stream and seed, {name: Trace} -> Method,
              for controls that need to know what another method did
    streams   name -> function of the seed that makes the Stream
    cache     folder where each finished run is written at once: an interrupted comparison goes on where it stopped
    each      called with every finished run
    channels_last   memory format of the networks
    keep      False returns an empty dict: for long comparisons that only ``each`` looks at

    The outputs of the frozen source on a stream are computed once and shared by all recipes; their cost counts for each.
    """
    built = {(name, seed): make_stream(seed) for name, make_stream in streams.items() for seed in seeds}
    bar = Progress(sum(s.n_images for s in built.values()) * len(recipes), progress)
    folder = None if cache is None else Path(cache)
    done: dict[tuple[str, str, int], Trace] = {}
    for (stream_name, seed), stream in built.items():
        shared: dict = {}
        earlier: dict[str, Trace] = {}
        for name, recipe in recipes.items():
            recipe = recipe if isinstance(recipe, Method) else recipe(earlier)
            adapter = Adapter(model, recipe, seed=seed, device=device, record="source", channels_last=channels_last)
            adapter.shared_source = shared
            path = None if folder is None else folder / f"{_key(adapter, stream, channels_last)}.npz"
            if path is not None and path.is_file():
                trace = Trace.load(path)
                bar.skip(stream.n_images)
            else:
                bar.step(0, f"{stream_name}, {name}, seed {seed}")
                trace = run(adapter, stream, progress=bar)
                if path is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                    trace.save(path)
            earlier[name] = trace
            if keep:
                done[stream_name, name, seed] = trace
            if each is not None:
                each((stream_name, name, seed), trace)
    return done


def _key(adapter: Adapter, stream, channels_last: bool) -> str:
    """A name for one run that changes with anything that its numbers depend on."""
    facts = [to_json(adapter.recipe), stream.to_dict(), adapter.fingerprint, adapter.seed, adapter.trace.meta["torch"],
             str(adapter.device.type), channels_last, __version__]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
