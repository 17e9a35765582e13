"""One progress bar for notebook and terminal: tqdm where it is installed (a widget in Jupyter),
else one plain line."""
from __future__ import annotations

import importlib.util
import sys
import time


class Progress:
    """Images done and the time left, in one line; silent when ``on`` is false. It ends by itself
    when ``total`` is reached, else with ``close``."""

    def __init__(self, total: int, on: bool = True, every: float = 0.5):
        self.total, self.on, self.done = total, bool(on), 0
        self._bar = _bar(total, every) if self.on and total else None

    def step(self, images: int, note: str = "") -> None:
        """So many images more are done; ``note`` says what is under way."""
        self.done += images
        if self._bar is None:
            return
        if note:
            self._bar.set_description(f"{note:.40}", refresh=False)
        self._bar.update(images)
        if self.done >= self.total:
            self.close()

    def skip(self, images: int) -> None:
        """These images needed no work: they are done, and do not count for the time left."""
        if self._bar is not None:
            self._bar.initial += images
        self.step(images)

    def close(self) -> None:
        """End the line where it stands."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class _Line:
    """What is needed of tqdm's bar, where tqdm is not installed."""

    def __init__(self, total: int, every: float):
        self.total = total
        self.every = every
        self.n = 0
        self.initial = 0
        self.note = ""
        self.started, self.shown = time.perf_counter(), -every
        self.file = _file()

    def set_description(self, note: str, refresh: bool = True) -> None:
        self.note = note

    def update(self, images: int, last: bool = False) -> None:
        self.n += images
        now = time.perf_counter() - self.started
        if last or now - self.shown >= self.every:
            self.shown = now
            left = now * (self.total - self.n) / max(self.n - self.initial, 1)
            print(f"\r{100 * self.n / self.total:5.1f} %  {now:.0f} s, {left:.0f} s left  "
                  f"{self.note:<40}", end="", file=self.file, flush=True)

    def close(self) -> None:
        self.update(0, last=True)
        print(file=self.file, flush=True)


def _bar(total: int, every: float):
    try:
        if _in_kernel() and importlib.util.find_spec("ipywidgets"):
            from tqdm.notebook import tqdm
        else:
            from tqdm.std import tqdm
    except ImportError:
        return _Line(total, every)
    return tqdm(total=total, unit=" images", mininterval=every, miniters=1, smoothing=0,
                dynamic_ncols=True, file=_file())


def _file():
    """Where a line goes: a notebook would show it on stderr as an error."""
    return sys.stdout if _in_kernel() else sys.stderr


def _in_kernel() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
