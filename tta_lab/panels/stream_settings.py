"""What the controls of a stream say: which have a meaning for which protocol, what was set by hand,
the call that makes the stream and what it is called. Nothing here needs a widget.
"""
from __future__ import annotations

import inspect

from ..core import arguments
from ..core.knobs import Knob, own_knobs
from ..data.corruptions import EXTRA_4, STANDARD_15
from ..methods import make
from ..streams import protocols
from ..streams.orders import ClassImbalance, Dirichlet, LabelShift
from ..streams.stream import MIXING
from ..studies.streams.study import FAST, clumps
from .controls import check_option, find, narrow, three_digits

SHIFTS = (*STANDARD_15, *EXTRA_4, "none")
FIRST = ("gaussian_noise", "motion_blur", "fog", "pixelate")  # one of each group
TIMES = {"recurring": "visits", "cyclic": "cycles"}  # what other protocols call rounds
ON_CHOICE = {  # what shows what the protocol is about
    "open_set": ("unknown_ratio", 1.0), "long_term": ("rounds", 3), "recurring": ("rounds", 3)}
NO_BORDERS = (  # that a batch could reach over
    "mixed_domains", "mixed_correlated", "reset_each_shift", "label_shift", "batch_of_one")
CLUMPED = ("correlated", "mixed_correlated", "recurring")


class ByHand:
    """What the controls of a stream say when a protocol is chosen: the protocol's own values, and
    what was set by hand where that has a meaning.

    A value of `ON_CHOICE`, which belongs to what the protocol is about, stays with that protocol
    when set there, and comes back with it. ``settings`` are first values, which count as set by
    hand; ``defaults`` the values of a fresh panel where they are other than those of
    `stream_knobs`.
    """

    def __init__(self, settings: dict, defaults: dict | None = None):
        self.defaults = {k.name: k.default for k, _ in stream_knobs({})
                         if k.name not in ("protocol", "lr")} | (defaults or {})
        self.protocol = settings.get("protocol", "continual")
        self._set, self._own = {}, {}
        for name in self.defaults.keys() & settings.keys():
            self.note(name, settings[name])

    def note(self, name: str, value) -> None:
        """A control was set by hand while this protocol was chosen."""
        if ON_CHOICE.get(self.protocol, ("",))[0] == name:
            self._own[self.protocol, name] = value
        elif value == self.defaults[name]:
            self._set.pop(name, None)
        else:
            self._set[name] = value

    def value(self, name: str):
        """What a control says under the protocol chosen last."""
        if not means(self.protocol, name):
            return self.defaults[name]
        own, value = ON_CHOICE.get(self.protocol, ("", None))
        usual = self._set.get(name, value if name == own else self.defaults[name])
        return self._own.get((self.protocol, name), usual)

    def follow(self, name: str, value) -> dict:
        """Note what was set by hand; what other controls say now that a protocol was chosen."""
        if name == "protocol":
            self.protocol = value
            return {other: self.value(other) for other in self.defaults}
        if name in self.defaults:
            self.note(name, value)
        return {}


def means(protocol: str, name: str) -> bool:
    """Whether a value that was set under another protocol may stand under this one: it has a
    meaning there, or is neither shown nor used."""
    return name != "straddle" or protocol not in NO_BORDERS


def applies(protocol: str, name: str) -> bool:
    """Whether a control has a meaning for a protocol: arguments that it does not take are not
    offered."""
    if name in ("delta", "ratio", "exponent"):
        return name in inspect.signature(protocols.PROTOCOLS[protocol]).parameters
    if name == "batch":
        return protocol != "batch_of_one"
    return not (name in ("unknown_ratio", "unknown_mode") and protocol == "closed_set")


def protocol_call(c: dict, seed: int, unknown: str = "digits") -> tuple[str, dict]:
    """The name of a protocol and the arguments that the controls' values ``c`` stand for;
    ``unknown`` is the set of the unknown images."""
    name = c["protocol"]
    found: dict = {"severity": c["severity"], "per_shift": int(c["per_shift"]), "seed": seed}
    shifts = tuple(s for s in SHIFTS if s in c["shifts"])
    if name == "cyclic":
        found["groups"] = _grouped(shifts)
    else:
        found["shifts"] = shifts
    for knob in ("ratio", "exponent", "batch"):
        if applies(name, knob):
            found[knob] = three_digits(c[knob])
    if name in CLUMPED:
        kind = "rotta" if name == "recurring" else "note"
        found["order"] = clumps(three_digits(c["delta"]), kind)
    found[TIMES.get(name, "rounds")] = int(c["rounds"])
    if c["straddle"]:
        found["straddle"] = True
    if applies(name, "unknown_ratio") and (c["unknown_ratio"] or name == "open_set"):
        found["unknown"] = unknown
        found["unknown_ratio"] = c["unknown_ratio"]
        found["unknown_mode"] = c["unknown_mode"]
    return name, found


def stream_label(name: str, call: dict, known: str = "fashion_mnist",
                 unknown: str = "digits") -> str:
    """A stream of `protocol_call` by its protocol and by what differs from a fresh panel's:
    "continual, severity 3, 50 a shift". ``known`` and ``unknown`` are the names of its sets."""
    fresh_values = ByHand({"protocol": name})
    values = {n: fresh_values.value(n) for n in fresh_values.defaults}
    _, fresh = protocol_call(values | {"protocol": name, "shifts": FIRST}, 0)
    times = TIMES.get(name, "rounds")
    forms = {
        "severity": "severity {}", "per_shift": "{} a shift", "batch": "batches of {}",
        times: f"{{}} {times}", "ratio": "ratio {}", "exponent": "exponent {}", "order": "{}",
        "straddle": "batches over borders", "unknown_ratio": "{} unknown a known",
        "unknown_mode": "unknown in a {}", "seed": "seed {}", "shifts": "{}", "groups": "{}"}
    parts = [name] + [known] * (known != "fashion_mnist")
    parts += [f"unknown {unknown}"] * ("unknown" in call and unknown != "digits")
    parts += [forms[key].format(_value_text(key, value)) for key, value in call.items()
              if key in forms and value != fresh.get(key)]
    return ", ".join(parts)


def _value_text(key: str, value) -> str:
    """An argument of a protocol as `stream_label` writes it."""
    if hasattr(value, "delta"):
        return f"delta {value.delta:g}"
    if key == "order":
        return type(value).__name__
    if isinstance(value, float):
        return f"{value:g}"
    if key not in ("shifts", "groups") or not value:
        return str(value)
    flat = [s for v in value for s in ([v] if isinstance(v, str) else v)]
    return "+".join(flat) if len(flat) < 4 else f"{len(flat)} shifts"


def some_shifts(given) -> tuple[str, ...]:
    """First values of the list of shifts. Raises ValueError for one that it does not have."""
    names = given.split(",") if isinstance(given, str) else given
    names = tuple(s.strip() for s in names if s.strip()) if isinstance(given, str) else tuple(names)
    for name in names:
        if name not in SHIFTS:
            raise ValueError(f"shifts must be of {', '.join(SHIFTS)}, not {name!r}"
                             f"{arguments.nearest(name, SHIFTS)}")
    return names


def stream_knobs(settings: dict):
    """(knob, label) of every control but the shifts; ``settings`` loses what is used as a first
    value."""
    def checked(name, default, choices=None):
        if name not in settings:
            return default
        value = settings.pop(name)
        if choices is not None:
            check_option(name, value, choices)
            return value
        if isinstance(default, bool):
            return arguments.flag(name, value)
        kind = arguments.whole if isinstance(default, int) else arguments.number
        return kind(name, value)

    def knob(name, default, why, low=None, high=None, choices=None, unit="", paper=""):
        value = checked(name, default, choices)
        return Knob(name, value, default, low, high, False, choices, why, paper, unit)

    def of_order(part, name, low=None, high=None):
        found = narrow(next(k for k in own_knobs(part) if k.name == name), low, high)
        return Knob(**{**vars(found), "value": checked(name, float(found.value))})

    yield knob("protocol", "continual", "which images come when, and when the model is reset",
               choices=tuple(protocols.PROTOCOLS)), "protocol"
    yield knob("severity", 5.0, "of every shift", 0.0, 5.0,
               paper="1903.12261: 1 to 5"), "severity"
    yield knob("per_shift", 100, "known images of each shift", 10, 300,
               unit="images"), "images per shift"
    yield knob("batch", 25, "images that arrive together", 1, 200, unit="images"), "batch size"
    yield knob("rounds", 1, "how often the stream goes over all shifts", 1, 10,
               unit="rounds"), "rounds"
    yield of_order(Dirichlet(), "delta", 1e-2, 1e2), "delta (correlation)"
    yield of_order(LabelShift(), "ratio", 1.0, 1e6), "ratio (label shift)"
    yield of_order(ClassImbalance(), "exponent"), "exponent (Zipf)"
    yield knob("unknown_ratio", 0.0, "unknown images for each known one; handwritten digits, which "
               "are no class of the model", 0.0, 2.0,
               unit="unknown per known image"), "unknown / known"
    yield knob("unknown_mode", "batch", "unknown images after the known ones of every batch, "
               "shuffled in, or in one burst", choices=MIXING), "unknown come"
    yield knob("straddle", False,
               "batches may reach over the border of two shifts"), "batches reach over borders"
    step = narrow(find(make("tent", lr=settings.pop("lr", FAST.lr)), "lr"), 1e-4, 1e-1)
    yield Knob(**{**vars(step), "name": "lr"}), "learning rate"


def _grouped(shifts) -> tuple[tuple[str, ...], ...]:
    """The chosen shifts by group (noise, blur, weather, digital), the others as a group of their
    own."""
    groups = [tuple(s for s in shifts if s in members) for members in protocols.GROUPS.values()]
    rest = tuple(s for s in shifts if not any(s in group for group in protocols.GROUPS.values()))
    return tuple(group for group in (*groups, rest) if group)
