"""The check of ``answer_with_resets``: a model that predicts fewer and fewer classes and writes
down what it is asked."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .judging import Wrong, call, kind, two, variants


@dataclass(frozen=True)
class Stream:
    """What a model predicts by its age (batches since the start or the last reset), and when it is
    to be reset."""

    # age -> a class for each place in the batch; the last one goes on
    says: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]  # images of each batch
    least: float
    window: int
    classes: int

    def at(self, age: int, size: int) -> tuple[int, ...]:
        return self.says[min(age, len(self.says) - 1)][:size]

    def batches(self) -> list[Tensor]:
        return [torch.full((size, 2), float(i)) for i, size in enumerate(self.sizes)]


class Fading:
    """A stand-in for an adapter on a `Stream`; writes down each batch that it is asked for, and
    resets."""

    def __init__(self, stream: Stream):
        self.stream = stream
        self.log = []
        self.sizes = []
        self.age = 0
        self.gave: list[Tensor] = []  # logits of each call

    def __call__(self, images: Tensor) -> Tensor:
        self.log.append(int(images[0, 0]) if images.ndim == 2 else int(images[0]))
        self.sizes.append(len(images) if images.ndim == 2 else 1)
        said = torch.tensor(self.stream.at(self.age, len(images)))
        self.age += 1
        self.gave.append(torch.nn.functional.one_hot(said, self.stream.classes).float() * 3 - 1)
        return self.gave[-1].clone()

    def reset(self) -> None:
        self.log.append("reset")
        self.age = 0


def stream(seed: int) -> Stream:
    """A stream that fades, faster or slower, and sometimes recovers, drawn by lot."""
    chance = random.Random(seed)
    classes = chance.choice((4, 5, 6, 7))
    batch = chance.choice((2, 3, 4, 5, 8))
    window = chance.choice(
        (batch, 2 * batch, 3 * batch, 2 * batch + 1, 3 * batch - 1, 4 * batch + 2))
    kinds, says = classes, []
    for _ in range(12):
        says.append(
            tuple((chance.choice(range(kinds)) + classes - kinds) % classes for _ in range(batch)))
        kinds = min(classes, max(1, kinds + chance.choice((0, -1, -1, -2, -3, 2))))
    says.append((classes - 1,) * batch)
    sizes = [batch] * 20
    if chance.random() < 0.5:
        sizes[chance.choice(range(3, 15))] = max(1, batch - 2)  # a batch need not be full
    return Stream(tuple(says), tuple(sizes), round(chance.uniform(1.1, classes - 0.8), 2), window,
                  classes)


SEEDS = (186, 373, 430, 105, 0, 1041, 4)  # few, but they tell all known mistakes apart


@cache
def _effective(counts: tuple[int, ...]) -> float:
    n = sum(counts)
    return math.exp(-sum(c / n * math.log(c / n) for c in counts))


def effective(said: list[int]) -> float:
    """Effective number of classes of a list; infinite for an empty one."""
    return _effective(tuple(sorted(Counter(said).values()))) if said else math.inf


def different(said: list[int]) -> float:
    """Number of classes that appear at all."""
    return len(set(said)) if said else math.inf


def inverse_simpson(said: list[int]) -> float:
    """1 / sum of squared shares."""
    return len(said) ** 2 / sum(n * n for n in Counter(said).values()) if said else math.inf


KNOBS = {
    "measure": [("", effective), ("different_classes", different),
                ("inverse_simpson", inverse_simpson)],
    "low": [
        ("", lambda n, least, c: n < least),
        ("reversed", lambda n, least, c: n >= least),
        ("never", lambda n, least, c: False),
        ("always", lambda n, least, c: True),
        ("no_exponential", lambda n, least, c: n > 0 and math.log(n) < least),
        ("rounded", lambda n, least, c: math.isfinite(n) and round(n) < least),
        ("rounded", lambda n, least, c: math.isfinite(n) and int(n) < least),
        *(("other_least", lambda n, least, c, f=f: n < f * least)
          for f in (0.5, 0.8, 0.9, 1.1, 1.2, 1.5, 2)),
        *(("other_least", lambda n, least, c, d=d: n < least + d)
          for d in (-1, -0.5, -0.1, 0.1, 0.5, 1)),
        ("near", lambda n, least, c: abs(n - least) < 0.5),
    ],
    "part": [  # (recent batches, window) -> predictions that are looked at
        ("", lambda recent, w: _flat(recent)[-w:]),
        ("whole_past", lambda recent, w: _flat(recent)),
        ("last_batch", lambda recent, w: recent[-1] if recent else []),
        ("first_window", lambda recent, w: _flat(recent)[:w]),
        ("window_of_batches", lambda recent, w: _flat(recent[-w:])),
        ("window_off_by_one", lambda recent, w: _flat(recent)[-w - 1:]),
        ("window_off_by_one", lambda recent, w: _flat(recent)[-w + 1:]),
        ("window_off_by_one", lambda recent, w: _flat(recent)[-w:-1]),
        ("skips_window", lambda recent, w: _flat(recent)[w:]),
    ],
    "full": [  # (recent batches, window, batches and images since the start)
        ("", lambda recent, w, all_: len(_flat(recent)) >= w),
        ("too_early", lambda recent, w, all_: True),
        ("more_than_window", lambda recent, w, all_: len(_flat(recent)) > w),
        ("counts_batches", lambda recent, w, all_: len(recent) >= w),
        ("counts_batches", lambda recent, w, all_: len(recent) > w),
        ("only_when_equal", lambda recent, w, all_: len(_flat(recent)) == w),
        ("every_window", lambda recent, w, all_: len(_flat(recent)) % w == 0),
        ("since_start", lambda recent, w, all_: len(_flat(all_)) >= w),
        ("one_short", lambda recent, w, all_: len(_flat(recent)) >= w - 1),
        ("not_yet_full", lambda recent, w, all_: len(_flat(recent)) < w),
        ("not_yet_full", lambda recent, w, all_: len(_flat(recent)) <= w),
        ("two_windows", lambda recent, w, all_: len(_flat(recent)) >= 2 * w),
        ("one_batch", lambda recent, w, all_: bool(recent) and len(recent[-1]) >= w),
    ],
    "forget": [  # recent batches after a reset
        ("", lambda recent, w: []),
        ("keeps_old", lambda recent, w: recent),
        ("keeps_last_batch", lambda recent, w: recent[-1:]),
        ("drops_one", lambda recent, w: recent[:-1]),
        ("drops_one", lambda recent, w: recent[1:]),
    ],
    "when": [("", "after"), ("one_late", "before"), ("resets_first", "first"),
             ("per_image", "image")],
    "trims": [("", ""), ("tumbling", "tumbling")],
    "times": [("", math.inf), ("only_once", 1)],
}


STREAMS = [stream(seed) for seed in SEEDS]
# a mistake is named only if it does the same on these, too
MORE = [stream(seed) for seed in range(2000, 2020)]


def _flat(recent: list) -> list[int]:
    return [c for batch in recent for c in batch]


def simulate(stream: Stream, how: dict) -> list:
    """What a model is asked on a stream: numbers of batches and resets."""
    recent = []
    everything = []
    log = []
    age = 0
    resets = 0
    for i, size in enumerate(stream.sizes):
        looked = None
        if how["when"] == "first":  # looks before it asks the model
            looked, due = True, _due(stream, recent, everything, how)
            if due and resets < how["times"]:
                log.append("reset")
                age = 0
                recent = how["forget"](recent, stream.window)
                resets = resets + 1
        said = list(stream.at(age, size))
        log.append(i)
        age += 1
        if how["when"] == "before":
            due = _due(stream, recent, everything, how)
        if how["when"] == "image":  # looks after each image, and goes on with the rest of the batch
            for one in said:
                recent = [*recent, [one]]
                everything = [*everything, [one]]
                if _due(stream, recent, everything, how) and resets < how["times"]:
                    log.append("reset")
                    age = 0
                    recent = how["forget"](recent, stream.window)
                    resets = resets + 1
            continue
        recent, everything = [*recent, said], [*everything, said]
        if how["when"] == "after":
            due = _due(stream, recent, everything, how)
        full = len(_flat(recent)) >= stream.window
        if not looked and due and resets < how["times"]:
            log.append("reset")
            age = 0
            recent = how["forget"](recent, stream.window)
            resets = resets + 1
        elif how["trims"] == "tumbling" and full:
            recent = []
    return log


def _due(stream: Stream, recent: list, everything: list, how: dict) -> bool:
    if not how["full"](recent, stream.window, everything):
        return False
    part = how["part"](recent, stream.window)
    return bool(how["low"](how["measure"](part), stream.least, stream.classes))


RIGHT = {place: choices[0][1] for place, choices in KNOBS.items()}


def right_answers(stream: Stream) -> tuple[list, list[int]]:
    """(what the model is asked, the classes that it gave)."""
    log = simulate(stream, RIGHT)
    said = []
    age = 0
    for event in log:
        if event == "reset":
            age = 0
        else:
            said += stream.at(age, stream.sizes[event])
            age += 1
    return log, said


def check(fn: Callable) -> None:
    _check_memory(fn)
    logs = []
    results = []
    models = []
    for given in STREAMS:
        models.append(Fading(given))
        results.append(call(fn, models[-1], given.batches(), given.least, given.window))
        logs.append(models[-1].log)
    ours = [right_answers(s) for s in STREAMS]
    _check_asked(models)
    for mistake, picked in (("argmax_axis", lambda z: z.argmax(0)), ("least_class",
                                                                     lambda z: z.argmin(1))):
        wrong = [torch.cat([picked(z) for z in m.gave]) for m in models]
        if all(
                isinstance(r, Tensor) and torch.equal(r.cpu(), w)
                for r, w in zip(results, wrong, strict=True)):
            raise Wrong(mistake)
    if logs != [log for log, _ in ours]:
        _name_resets(fn, logs, [log for log, _ in ours])
    for given, result, (_, said) in zip(STREAMS, results, ours, strict=True):
        _check_result(given, result, said)
    _check_equal(fn)


def _check_memory(fn: Callable) -> None:
    """The same half window, always with a new model: nothing may be left of the calls before."""
    seen = []
    for _ in range(3):
        model = Fading(short := Stream(((0,) * 4,), (4,), 2.0, 8, 3))
        result = call(fn, model, short.batches(), short.least, short.window)
        seen.append((model.log, result.tolist() if isinstance(result, Tensor) else repr(result)))
    if any(other != seen[0] for other in seen):
        raise Wrong("remembers_calls")


def _check_asked(models: list[Fading]) -> None:
    """Each batch is asked for once, whole, in order."""
    for model in models:
        asked = [e for e in model.log if e != "reset"]
        sizes = model.stream.sizes
        single = [n < sizes[i] for i, n in zip(asked, model.sizes, strict=True)]
        if any(single):
            raise Wrong("image_by_image")
        if not asked:
            raise Wrong("never_asked")
        if len(set(asked)) < len(asked):
            twice = next(i for i in asked if asked.count(i) > 1)
            after = model.log[model.log.index(twice) + 1] == "reset"
            raise Wrong("asks_again" if after else "asks_twice", batch=twice)
        if asked != sorted(asked):
            raise Wrong("order")
        if len(asked) < len(sizes):
            raise Wrong("stops_early", asked=len(asked), batches=len(sizes))


def _name_resets(fn: Callable, logs: list, right: list) -> None:
    if not any("reset" in log
               for log in logs) and "reset" in getattr(getattr(fn, "__code__", None), "co_names",
                                                       ()):
        raise Wrong("reset_without_brackets" if not _calls_reset(fn) else "never")
    more = []
    for given in MORE:
        model = Fading(given)
        call(fn, model, given.batches(), given.least, given.window)
        more.append(model.log)
    for names, how in variants(KNOBS):
        if all(simulate(s, how) == log for s, log in zip(STREAMS + MORE, logs + more, strict=True)):
            raise Wrong(*names)
    at = next(i for i, log in enumerate(logs) if log != right[i])
    seen, wanted = (_after(log) for log in (logs[at], right[at]))
    s = STREAMS[at]
    if seen == wanted:
        seen = str(logs[at]).replace("'", "")
        wanted = str(right[at]).replace("'", "")
    raise Wrong(
        "other",
        compare=f"With at least {s.least:g} classes, a window of {s.window} and batches of "
                f"{s.sizes[0]} images, resets "
        f"came after the batches {seen or 'none'}, expected after {wanted or 'none'} (counted "
        f"from 0).",
    )


def _calls_reset(fn: Callable) -> bool:
    """Whether the code of a function calls what it names ``reset``: named only, it is thrown away
    at once."""
    import dis

    steps = [
        s for s in dis.get_instructions(fn)
        if s.opname not in ("CACHE", "PUSH_NULL", "PRECALL", "NOP", "EXTENDED_ARG")
    ]
    used = [
        b.opname for a, b in zip(steps, steps[1:], strict=False)
        if a.argval == "reset" and a.opname.startswith("LOAD")
    ]
    return any(op != "POP_TOP" for op in used)


def _after(log: list) -> list[int]:
    return [log[i - 1] for i, event in enumerate(log) if event == "reset" and i]


def _check_result(stream: Stream, result, said: list[int]) -> None:
    if isinstance(result, list | tuple):
        raise Wrong("not_joined", got=kind(result))
    if not isinstance(result, Tensor):
        raise Wrong("not_a_tensor", got=kind(result))
    if result.ndim == 2:
        if result.shape == (len(said), stream.classes):
            raise Wrong(
                "returns_logits"
                if torch.equal(result.argmax(1), torch.tensor(said)) else "two_axes",
                shape=tuple(result.shape),
            )
        raise Wrong("two_axes", shape=tuple(result.shape))
    if result.shape != (len(said),):
        if result.ndim == 1 and len(result) < len(said):
            raise Wrong("lost_answers", got=len(result), images=len(said))
        raise Wrong(
            "shape",
            shape=tuple(result.shape),
            wanted=f"one class per image, ({len(said)},) for {len(said)} images in all batches,",
        )
    if not torch.equal(result.double(), torch.tensor(said).double()):
        at = int((result.double() != torch.tensor(said)).nonzero()[0])
        seen, wanted = two(result[at], said[at])
        raise Wrong(
            "other",
            compare=f"The resets come when they should, but the class of image {at} is {seen}, "
                    f"expected is {wanted}.",
        )


def _check_equal(fn: Callable) -> None:
    """Exactly ``least`` effective classes are not fewer: one class only, least = 1.

    A student's number may be off by rounding: it then falls below a ``least`` just under 1 too,
    which excuses it.
    """

    def resets(least: float) -> bool:
        model = Fading(same := Stream(((0,) * 4,), (4,) * 6, least, 8, 3))
        call(fn, model, same.batches(), least, 8)
        return "reset" in model.log

    exact = resets(1.0) and not resets(1 - 2**-24)  # the float32 below 1
    # the first is 1 in float32
    if exact and (resets(1 - 2.9e-8) or not resets(math.nextafter(1.0, 0.0))):
        raise Wrong("at_most")
