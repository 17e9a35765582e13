"""run: a stream through an adapter. The runner scores; labels never reach the adapter."""
from __future__ import annotations

import sys
import time

from .adapter import Adapter
from .trace import Trace


def run(adapter: Adapter, stream, reset: str | None = None, progress: bool = False, stop=None) -> Trace:
    """Send every batch of a stream through the adapter and return the annotated trace.

    ``reset``: "never", "domain" (to the source at each new shift) or "batch" (before every batch); None takes the stream's.
    ``progress`` prints a line with the time left; ``stop()`` is asked before each batch and ends the run when it is true:
    what was seen stays in the trace. Raises ValueError for an unknown reset rule.
    """
    rule = reset or stream.reset
    if rule not in ("never", "domain", "batch"):
        raise ValueError(f"reset must be 'never', 'domain' or 'batch', not {rule!r}")
    if adapter.record == "off":
        raise ValueError("run() needs a recording adapter; use Adapter(..., record='light') or record='source'")
    describe = getattr(stream, "describe", lambda: {"repr": repr(stream)})
    adapter.trace.meta.update(domains=list(stream.shifts), stream=describe(), reset=rule, classes=stream.classes)
    started, total = time.perf_counter(), len(stream)
    for i, batch in enumerate(stream.batches(adapter.device)):
        if stop is not None and stop():
            break
        if i and (rule == "batch" or rule == "domain" and batch.new_domain):
            adapter.reset(keep_trace=True)
        adapter(batch.x, batch.ids)
        adapter.trace.annotate(label=batch.label.cpu(), known=batch.known.cpu(), domain=batch.domain_index, round=batch.round)
        if progress and (i % 10 == 9 or i + 1 == total):
            spent = time.perf_counter() - started
            end = "\n" if i + 1 == total else ""
            print(f"\r{i + 1}/{total} batches, {spent:.0f} s, {spent * (total - i - 1) / (i + 1):.0f} s left ", end=end, file=sys.stderr, flush=True)
    return adapter.trace
