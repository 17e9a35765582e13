"""The study of streams: the same three methods, the same images, and a different order of arrival
each time.

One plan, one function, plain numbers; notebook 02 and its panel call nothing else. What the papers
say about order, mixing and batch size is written down as signed differences (`ORDERINGS`), and the
sentences about them are computed.
"""
from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass, field, replace

import numpy as np

from ... import plots
from ...analysis import diagnose
from ...core.source_model import SourceModel
from ...core.trace import Trace
from ...data.corruptions import CORRUPTIONS, EXTRA_4, NOTES, STANDARD_15
from ...data.load import load
from ...experiments.published_numbers import models, published
from ...experiments.runner import compare, run, spread
from ...methods import make
from ...models.doctor import check_up
from ...models.embedded import load_model
from ...plots.theme import NEUTRAL
from ...streams import ccc, protocols
from ...streams.images import make_images
from ...streams.orders import Dirichlet
from ...streams.stream import AbstractStream
from .. import base, own
from ..report import aligned, paragraphs, points, with_spread

METHODS = {"source": "source", "batch_norm": "BN-1", "tent": "Tent"}
LABELS = {"reset_each_shift": "reset at each shift", "continual": "continual", "gradual": "gradual",
          "mixed_domains": "mixed domains", "correlated": "correlated", "sorted": "sorted by class",
          "label_shift": "label shift", "batch_of_one": "batch of one", "open_set": "open set",
          "ccc": "two at a time (CCC)", "label_shift, group norm": "label shift, group norm"}
# the same known images under the same shifts
SAME_IMAGES = ("reset_each_shift", "continual", "mixed_domains", "correlated", "sorted", "open_set")
MODEL = own.MODEL
GROUP_NORM = "fashion_resnet_gn"
FOUR = ("gaussian_noise", "motion_blur", "fog", "pixelate")    # one of each group


def clumps(delta: float = 0.1, rule: str = "note") -> Dirichlet:
    """The Dirichlet order for a few hundred images a shift, which do not fill every slot with the
    usual ten."""
    return Dirichlet(delta, rule, least=1)


@dataclass(frozen=True)
class Plan(base.Plan):
    """The protocols' size, and the rate of Tent."""

    per_shift: int = 600
    batch: int = 50
    lr: float = 1e-3
    alone: int = 100       # images of each shift where they come one at a time, which costs most
    severity: float = 5.0
    shifts: tuple = STANDARD_15
    unknown: str = "digits"    # "": no open set
    without: tuple = ()        # protocols that these images cannot make

    fast = {"per_shift": 100, "batch": 20, "lr": 2.5e-3, "seeds": 1, "alone": 12}

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"the study needs at least 1 seed, got {self.seeds}")

    def on(self, pair: own.Pair) -> Plan:
        """The same plan with the shifts, protocols and numbers of images that a pair allows."""
        shifts, per_shift, notes = own.allowed(pair, STANDARD_15, self.per_shift, self.severity)
        plan = replace(self, shifts=shifts, per_shift=per_shift)
        why = own.refusals(plan._makers(self.first_seed))
        notes += [f"The protocol '{LABELS[name]}' is left out: {text}."
                  for name, text in why.items()]
        return replace(plan, without=tuple(why), notes=tuple(notes))

    @property
    def norms(self) -> str:
        """The model with group norm beside that with batch norm; "" where there is none of the same
        images."""
        return GROUP_NORM if self.embedded else ""

    def streams(self, seed: int) -> dict[str, AbstractStream]:
        """The protocols compared, on all shifts each; they show the same images where their rules
        allow it."""
        return {name: make_it() for name, make_it in self._makers(seed).items()
                if name not in self.without}

    def _makers(self, seed: int) -> dict:
        images = self.images
        shifts = self.shifts
        common = {"shifts": shifts, "per_shift": self.per_shift, "batch": self.batch,
                 "severity": self.severity, "seed": seed}
        step = max(1, math.ceil(self.per_shift / len(protocols.RAMP)))
        return {"reset_each_shift": lambda: protocols.reset_each_shift(images, **common),
                "continual": lambda: protocols.continual(images, **common),
                "gradual": lambda: protocols.gradual(images, **common
                                                     | {"per_shift": step, "straddle": True}),
                "mixed_domains": lambda: protocols.mixed_domains(images, **common),
                "correlated": lambda: protocols.correlated(images, order=clumps(), **common),
                "sorted": lambda: protocols.correlated(images, delta=0, **common),
                "label_shift": lambda: protocols.label_shift(images, **common),
                "batch_of_one": lambda: protocols.batch_of_one(
                    images, **common | {"per_shift": min(self.alone, self.per_shift), "batch": 1}),
                "open_set": lambda: protocols.open_set(images, self.unknown, **common),
                "ccc": lambda: self._two_at_a_time(seed),}

    def _two_at_a_time(self, seed: int) -> AbstractStream:
        if not self.embedded:
            raise ValueError("its severities were calibrated on the embedded model and images; "
                             "ccc.calibrate makes a calibration of yours")
        return ccc.continually_changing(self.images, images=15 * self.per_shift, speed=self.batch,
                                        batch=self.batch, seed=seed)

    def describe(self) -> str:
        """The plan in words."""
        streams = self.streams(self.first_seed)
        total = sum(s.n_images for s in streams.values()) + streams["label_shift"].n_images
        beside = f"; for '{LABELS['label_shift']}' also {self.norms}" if self.norms else ""
        steps = len(self.shifts) * math.ceil(self.per_shift / self.batch)
        larger = [f"The learning rate is larger than the {FULL.lr:g} of the full plan, because the "
                  f"stream is shorter: Tent takes {steps} steps here. Numbers made with different "
                  "learning rates must not be compared."]
        return self.described({
            "Known images": f"{self.images}, {self.per_shift} of each of {len(self.shifts)} "
                            f"shifts, severity {self.severity:g}",
            "Unknown images": f"{self.unknown}, 1 for each known one, in the protocol "
                              f"'{LABELS['open_set']}' only" if "open_set" in streams else "",
            "Batches": f"{self.batch} images; 1 in '{LABELS['batch_of_one']}', which shows "
                       f"{min(self.alone, self.per_shift)} of each shift",
            "Methods": f"{', '.join(METHODS.values())}; Tent with Adam, learning rate {self.lr:g}",
            "Model": self.model + beside,
            "Protocols": f"{len(streams)}, together {total} images for each method and seed; "
                         f"{self.seed_words}"}, 16, larger if self.lr > FULL.lr else ())


FULL = Plan()
FAST = Plan(**Plan.fast)


# --- running

@dataclass
class Study(base.Study):
    """``table``: one row for each run, as ``runner.compare`` makes it. ``wrong``: (protocol,
    method, seed) -> True where a known image was called by a wrong name, in order of arrival.
    ``statistics``: what each order was really like, first seed. ``domains``: error per domain of
    the first seed."""

    table: object = None
    wrong: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)
    domains: dict[tuple[str, str], dict] = field(default_factory=dict)
    statistics: dict[str, dict] = field(default_factory=dict)

    @property
    def protocols(self) -> list[str]:
        """Names of the protocols, in order."""
        return list(dict.fromkeys(self.table["stream"]))

    def values(self, protocol: str, method: str, what: str = "error") -> np.ndarray:
        """One number for each seed."""
        t = self.table
        return t[(t["stream"] == protocol) & (t["recipe"] == method)][what].to_numpy(np.float64)

    def error(self, protocol: str, method: str) -> float:
        """Mean over the seeds, in per cent."""
        return float(self.values(protocol, method).mean())

    def at(self, protocol: str, method: str, seed: int) -> float:
        """The error of one run in per cent."""
        t = self.table
        return float(t[(t["stream"] == protocol) & (t["recipe"] == method) & (t["seed"] == seed)][
                         "error"].iloc[0])

    def made(self) -> dict:
        """The devices that runs were made on."""
        return {"device": sorted(set(self.table["device"]))}

    def to_dict(self) -> dict:
        """Everything a regression test or a later reader needs, as plain values."""
        columns = ["stream", "recipe", "seed", "error", "error_weighted", "ece", "nll", "auroc",
                   "images", "scored", "batches", "resets", "stream_hash", "weights"]
        return {**super().to_dict(),
                "runs": self.table[[c for c in columns if c in self.table]].to_dict("records"),
                "statistics": self.statistics, "orderings": orderings(self)}


def some_shifts(plan: Plan, wanted=FOUR) -> tuple[tuple[str, ...], int]:
    """The wanted shifts, or what the images of a plan have in place of them, and how many images of
    each are shown, 100 at most."""
    data = own.images_of(plan.images)
    shifts = own.shifts_of(data, wanted)[0]
    return shifts, own.per_shift_of(data, shifts, 100)[0]


def calm_shifts(plan: Plan) -> tuple[str, ...]:
    """Clean images and light fog, or what the images of a plan have of them."""
    for wanted in (("none", "fog:2.5"), ("none", "fog:2"), ("fog:2",), (f"{plan.shifts[0]}:1",)):
        if (not own.refusal(lambda w=wanted: own.shifts_of(own.images_of(plan.images), w))
            and not own.shifts_of(own.images_of(plan.images), wanted)[1]):
            return wanted
    return plan.shifts[:1]


def panel_settings(plan: Plan) -> dict:
    """What the panel begins with: for a model and images of your own these, with shifts and numbers
    of images that they allow."""
    if plan.embedded:
        return {}
    shifts, n = some_shifts(plan)
    first = {"shifts": shifts} if set(shifts) <= {*STANDARD_15, *EXTRA_4} else {}
    return {"known": plan.images, "model": plan.model, "per_shift": max(n, 10), **first}


def recipes(lr: float) -> dict:
    """The three methods compared."""
    return {"source": make("source"), "batch_norm": make("batch_norm"), "tent": make("tent", lr=lr)}


def study(plan: Plan, cache=None, progress: bool = False, device="auto") -> Study:
    """Run the three methods on every protocol with every seed; and source and Tent on a model with
    group norm under label shift, which has no batch statistics for BN-1 to take. With ``cache`` an
    interrupted study goes on where it stopped."""
    import pandas

    result = Study(plan)
    seeds = plan.all_seeds
    streams = {seed: plan.streams(seed) for seed in seeds}
    result.statistics = {name: stream.statistics()
                         for name, stream in streams[plan.first_seed].items()}

    def each(suffix=""):
        def keep(key, trace):
            masks = diagnose.groups(trace)
            result.wrong[key[0] + suffix, key[1], key[2]] = masks["wrong"][~masks["unknown"]]
            if key[2] == plan.first_seed:
                result.domains[key[0] + suffix, key[1]] = diagnose.error_per_domain(trace)
        return keep

    methods = recipes(plan.lr) | {"batch_norm": own.batch_statistics(plan.model)}
    settings = {"seeds": seeds, "cache": cache, "progress": progress, "device": device,
                "channels_last": True}
    functions = {name: lambda seed, name=name: streams[seed][name] for name in result.statistics}
    tables = [compare(methods, functions, own.network(plan.model), each=each(), **settings)]
    del methods["batch_norm"]
    if plan.norms:
        other = compare(methods, {"label_shift": functions["label_shift"]}, load_model(plan.norms),
                        each=each(", group norm"), **settings)
        tables.append(other.assign(stream=other["stream"] + ", group norm"))
    result.table = pandas.concat(tables, ignore_index=True)
    return result


def one_run(stream: AbstractStream, method: str = "tent", lr: float = FAST.lr, stop=None, each=None,
            device="auto", model: str = MODEL) -> Trace:
    """One of the three methods on a stream: what the panel calls, and you may too.

    ``stop()`` is asked before each batch and ends the run, ``each(trace)`` is called after each.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    recipe = own.batch_statistics(model) if method == "batch_norm" else recipes(lr)[method]
    adapter = base.adapter_for(own.network(model), recipe, device=device, record="light")
    return run(adapter, stream, stop=stop, each=each)


# --- what papers say about the order of the two sides, and what is seen here

@dataclass(frozen=True)
class Ordering:
    """A published order of methods or protocols: the sum of ``terms`` (sign, protocol, method) is
    said to be above 0.

    ``theirs``: two rows of the published tables, as arguments of ``published``, the larger error
    first; or four, of which the difference of the first two is larger than that of the others; or
    () with ``note``.
    """

    text: str
    terms: tuple[tuple[int, str, str], ...]
    theirs: tuple[dict, ...] = ()
    note: str = ""


def _row(table, method, data="cifar10_c", model="Standard"):
    return {"data": data, "model": model, "method": method, "table": table}


_NOTE = {"data": "cifar10_c", "table": "note_correlated"}
ORDERINGS = (Ordering("BN-1 errs less than the source where one shift follows another and classes "
                      "are mixed", ((1, "continual", "source"), (-1, "continual", "batch_norm")),
                      (_row("benchmark_continual", "Source"), _row("benchmark_continual", "BN-1"))),
             Ordering("Tent errs less than BN-1 where it is reset at each shift",
                      ((1, "reset_each_shift", "batch_norm"), (-1, "reset_each_shift", "tent")),
                      (_row("tent_reset", "BN"), _row("tent_reset", "Tent"))),
             Ordering("Tent without reset errs more than with reset at each shift",
                      ((1, "continual", "tent"), (-1, "reset_each_shift", "tent")),
                      (_row("benchmark_continual", "Tent"), _row("tent_reset", "Tent"))), Ordering(
                 "BN-1 errs more where shifts are mixed in a batch than where they come one after "
                 "another", ((1, "mixed_domains", "batch_norm"), (-1, "continual", "batch_norm")),
                 (_row("benchmark_mixed", "BN-1"), _row("benchmark_continual", "BN-1"))),
             Ordering("Tent errs more than BN-1 where shifts are mixed in a batch",
                      ((1, "mixed_domains", "tent"), (-1, "mixed_domains", "batch_norm")),
                      (_row("benchmark_mixed", "Tent"), _row("benchmark_mixed", "BN-1"))),
             Ordering("BN-1 errs more than the source where neighbours are of one class (Dirichlet "
                      "0.1)", ((1, "correlated", "batch_norm"), (-1, "correlated", "source")),
                      (_NOTE | {"method": "BN Stats"}, _NOTE | {"method": "Source"})),
             Ordering("BN-1 errs more than the source where images are sorted by class",
                      ((1, "sorted", "batch_norm"), (-1, "sorted", "source")),
                      note="the limit of the line above"), Ordering(
                 "Tent errs more than the source where neighbours are of one class (Dirichlet 0.1)",
                 ((1, "correlated", "tent"), (-1, "correlated", "source")),
                 (_NOTE | {"method": "Tent"}, _NOTE | {"method": "Source"})),
             Ordering("Tent errs more than the source where images are sorted by class",
                      ((1, "sorted", "tent"), (-1, "sorted", "source")), (
                          _row("benchmark_correlated", "Tent", model="resnet26_gn"),
                          _row("benchmark_correlated", "Source", model="resnet26_gn"))),
             Ordering("Tent errs more than the source under label shift, with batch norm",
                      ((1, "label_shift", "tent"), (-1, "label_shift", "source")),
                      (_row("sar_label_shift", "Tent", "imagenet_c", "resnet50_v1"),
                       _row("sar_label_shift", "Source", "imagenet_c", "resnet50_v1"))),
             Ordering("Group norm is safer there: Tent adds less to the error of its source than "
                      "with batch norm", ((1, "label_shift", "tent"), (-1, "label_shift", "source"),
                                          (-1, "label_shift, group norm", "tent"),
                                          (1, "label_shift, group norm", "source")),
                      (_row("sar_label_shift", "Tent", "imagenet_c", "resnet50_v1"),
                       _row("sar_label_shift", "Source", "imagenet_c", "resnet50_v1"),
                       _row("sar_label_shift", "Tent", "imagenet_c", "resnet50_gn"),
                       _row("sar_label_shift", "Source", "imagenet_c", "resnet50_gn"))),
             Ordering("BN-1 errs more than the source on single images",
                      ((1, "batch_of_one", "batch_norm"), (-1, "batch_of_one", "source")),
                      note="said in words by SAR (arXiv 2302.12400)"),)
# in every run of the size of the fast plan or larger so far
ALWAYS_SEEN = tuple(ORDERINGS[i].text for i in (0, 3, 6, 11))
NOT_ASKED = ("Not asked here: LAME on correlated and on mixed classes, since it is not among the "
             "three; long runs without reset, which notebook 01 shows.")


def difference(result: Study, terms) -> tuple[float, float]:
    """The signed sum of errors in points, and its standard error over images.

    Within one stream the errors are paired image by image, streams count as independent; over seeds
    the mean is taken. The standard error speaks of the images drawn, not of how else the run might
    have gone.
    """
    seeds = sorted({key[2] for key in result.wrong})
    points, error = base.points_of(*(
        sum(sign * result.wrong[protocol, method, seed].astype(np.float64)
            for sign, name, method in terms if name == protocol)
        for seed in seeds for protocol in dict.fromkeys(name for _, name, _ in terms)))
    return points / len(seeds), error / len(seeds)


def orderings(result: Study) -> list[dict]:
    """Every published ordering with what is seen here: ``difference`` and ``error`` (points),
    ``seen``: "yes", "reversed", or "unsettled" within two standard errors; ``theirs``: the
    published pair in per cent, the one said to be larger first, with its data and model."""
    rows = []
    for ordering in ORDERINGS:
        if not {name for _, name, _ in ordering.terms} <= {protocol
                                                           for protocol, _, _ in result.wrong}:
            continue
        points, error = difference(result, ordering.terms)
        seen = ("unsettled" if abs(points) <= 2 * error or error == 0 else "yes" if points > 0
                else "reversed")
        rows.append({"text": ordering.text,
                     "protocols": list(dict.fromkeys(name for _, name, _ in ordering.terms)),
                     "difference": points, "error": error, "seen": seen,
                     "theirs": _theirs(ordering), "note": ordering.note})
    return rows


def _theirs(ordering: Ordering) -> dict:
    pair = []
    for wanted in ordering.theirs:
        rows = published(**wanted, unverified=False)
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} published numbers fit {wanted}; name data, model, "
                             "method and table of one")
        pair.append(rows[0])
    if not pair:
        return {}
    values = [row["value"] if row["metric"] == "error" else 100 - row["value"] for row in pair]
    if len(values) == 4:
        values = [values[0] - values[1], values[2] - values[3]]
    return {"values": [round(v, 1) for v in values], "unit": "%" if len(pair) == 2 else "points",
            "data": pair[0]["data"], "models": list(dict.fromkeys(row["model"] for row in pair)),
            "tables": sorted({row["table"] for row in pair})}


DATA = {"cifar10_c": "CIFAR-10-C", "cifar100_c": "CIFAR-100-C", "imagenet_c": "ImageNet-C"}
VERDICTS = {"yes": "SEEN", "reversed": "THE REVERSE IS SEEN", "unsettled": "NOT SEEN"}


def say_orderings(result: Study) -> str:
    """Which of the published orderings are seen here and which are not, each with its numbers."""
    lines = []
    rows = orderings(result)
    for row in rows:
        off = "" if row["seen"] != "unsettled" else ", within two standard errors of 0"
        theirs = row["note"]
        if row["theirs"]:
            values = row["theirs"]["values"]
            names = " and ".join(models()[name]["architecture"] for name in row["theirs"]["models"]
                                 if name)
            model = f", {names}" if names else ""
            theirs = (f"published: {values[0]:.1f} against {values[1]:.1f} "
                      f"{row['theirs']['unit']}, {DATA[row['theirs']['data']]}{model}")
            theirs += ", from two tables" if len(row["theirs"]["tables"]) > 1 else ""
        few = [result.statistics[name]["classes_per_batch"] for name in row["protocols"]
               if name in result.statistics]
        theirs += (f"; here a batch holds {min(few):.1f} of {result.plan.classes} classes"
                   if min(few) < 7 and min(few) > 1 else "")
        digits = 1 if abs(row["difference"]) >= 1 else 2
        lines.append(f"{VERDICTS[row['seen']]}: {row['text']}. Here by "
                     f"{points(row['difference'], digits)} (standard error "
                     f"{row['error']:.{digits}f}{off}); {theirs}.")
    count = {verdict: sum(row["seen"] == verdict for row in rows) for verdict in VERDICTS}
    lines.append(f"Of {len(rows)} orderings {count['yes']} are seen, {count['unsettled']} are not, "
                 f"and of {count['reversed']} the reverse is seen. A different model, smaller "
                 "images and shorter streams than the published ones: the direction may be "
                 "compared, the size may not.")
    return paragraphs([*lines, NOT_ASKED])


def say_errors(result: Study) -> str:
    """What the order of arrival alone does to each method, and where each does best and worst."""
    same = [name for name in SAME_IMAGES if name in result.protocols]
    lines = []
    for method, label in METHODS.items():
        errors = {name: result.error(name, method) for name in same}
        low = min(errors, key=errors.get)
        high = max(errors, key=errors.get)
        moved = f"from {errors[low]:.1f} % ({LABELS[low]}) to {errors[high]:.1f} % ({LABELS[high]})"
        still = f"stays at {errors[low]:.1f} %"
        lines.append(f"{label}: over the {len(same)} protocols that show the same images under the "
                     "same shifts the error " + (f"goes {moved}."
                                                 if round(errors[low], 1) != round(errors[high], 1)
                                                 else still + "."))
    worse = [LABELS[name] for name in result.protocols if len(result.values(name, "batch_norm"))
             and result.error(name, "batch_norm") > result.error(name, "source")]
    lines.append("BN-1 errs more than the source under: " + (", ".join(worse) or "none of them")
                 + ".")
    return paragraphs(lines)


def say_statistics(statistics: dict, classes: int = 10) -> str:
    """What ``stream.statistics()`` holds, in a sentence."""
    s = statistics
    domains = f"{s['domains_per_batch']:.1f} domain" + "s" * (round(s["domains_per_batch"], 1) != 1)
    parts = [f"{s['images']} images in {s['batches']} batch" + "es" * (s["batches"] != 1),
             f"{s['classes_per_batch']:.1f} of {classes} classes and {domains} in a batch",
             f"runs of one class {s['run_length']:.1f} images long"]
    parts += [f"{100 * s['unknown']:.0f} % unknown"] if s["unknown"] else []
    parts += [f"{100 * s['unlabelled']:.0f} % without a label"] if s["unlabelled"] else []
    return "; ".join(parts)


def table(result: Study) -> str:
    """Error in per cent of every method under every protocol, +- one standard deviation over seeds,
    and what the order is like."""
    numbers = spread(result.table).set_index(["stream", "recipe"])
    lines = [("", *METHODS.values(), "classes", "run", "domains")]
    for name in result.protocols:
        cells = ["-"] * len(METHODS)
        for i, method in enumerate(METHODS):
            if (name, method) in numbers.index:
                cells[i] = with_spread(*numbers.loc[(name, method), ["error", "error_sd"]])
        s = result.statistics.get(name.split(",")[0])
        lines.append((LABELS[name], *cells, *(f"{s[what]:.1f}" for what in (
            "classes_per_batch", "run_length", "domains_per_batch"))))
    return (aligned(lines, (-25, 13, 13, 13, 9, 6, 9)) + "\n\nclasses and domains: in a batch, on "
            "average; run: images of one class in a row")


save = base.save


# --- figures

LOOKS = {"source": 3, "batch_norm": 0, "tent": 1}  # of a method in every figure here


def plot_protocols(result: Study, backend: str = "matplotlib"):
    """Bars: the error of every method under every protocol, with one standard deviation over
    seeds."""
    names = [name for name in result.protocols if "," not in name]
    bars = {}
    for method in METHODS:
        values = [result.values(name, method) for name in names]
        sd = np.array([base.deviation(v) for v in values])
        bars[method] = np.array([v.mean() for v in values]), sd if np.isfinite(sd).all() else None
    return _bars([LABELS[name] for name in names], bars, backend)


def plot_domains(result: Study, protocol: str = "continual", backend: str = "matplotlib"):
    """Bars: the error per domain of every method under one protocol, first seed."""
    found = {method: result.domains[protocol, method] for method in METHODS}
    names = [name.replace("_", " ") for name in found["source"]["domain"]]
    return _bars(names, {method: (numbers["error"], None) for method, numbers in found.items()},
                 backend)


def _bars(names, bars: dict, backend: str):
    series = tuple(plots.Series(names, y, METHODS[method], LOOKS[method], "bar", sd)
                   for method, (y, sd) in bars.items())
    return plots.draw([plots.Panel("", "", "error on known images (%)", series)], backend, None)


def sheet(row: int = 0, known: str = "fashion_mnist", names=None, severities=(1, 2, 3, 4, 5),
          seed: int = 0) -> dict:
    """One image, clean (where there are clean ones) and at every severity of every corruption, as
    ``plots.plot_images`` takes it: one corruption a row. A set of corrupted images shows its
    own."""
    import torch

    data = load(known)
    names = own.shifts_of(data, (*STANDARD_15, *EXTRA_4) if names is None else tuple(names))[0]
    ids = torch.tensor([min(row, len(data) - 1)])
    clean = ["none"] if own.has_clean(data) else []
    columns = [*clean, *severities]
    x = [[make_images(data, None, ids, "none" if s == "none" else f"{name}:{s:g}", 5, seed)[0]
          for s in columns] for name in names]
    return {"x": np.stack([np.stack([image.numpy() for image in line]) for line in x]),
            "rows": [name.replace("_", " ") for name in names],
            "columns": [*(["clean"] if clean else []), *map(str, severities)],
            "known": np.ones(len(columns), bool)}


def plot_sheet(numbers: dict):
    """The picture sheet in two columns, so that all of it is seen at once; columns of numbers are
    severities."""
    from matplotlib.figure import Figure

    rows = len(numbers["rows"])
    half = math.ceil(rows / 2)
    figure = Figure(figsize=(11, 0.66 * half + 0.6), layout="constrained", facecolor="none")
    axes = figure.subplots(1, 2, squeeze=False)[0] if rows > 1 else [figure.subplots()]
    for ax, part in zip(axes, (slice(0, half), slice(half, rows)), strict=False):
        plots.plot_images({**numbers, "x": numbers["x"][part], "rows": numbers["rows"][part]},
                          ax=ax)
        height, width = numbers["x"].shape[-2:]
        ax.set_xlim(-0.5, len(numbers["columns"]) * (width + 2) - 2.5)
        ax.set_ylim(half * (height + 2) - 2.5, -0.5)
        ax.set_xlabel("severity", fontsize=plots.FONT, color=NEUTRAL)
        ax.xaxis.set_label_position("top")
    return plots.shown_as(figure, lambda: plots.png(figure), photographs=True)


def say_sheet(numbers: dict) -> str:
    """Which corruptions change the image most and least at the highest severity, in mean absolute
    grey values."""
    x = np.asarray(numbers["x"], np.float64)
    change = np.abs(x[:, -1] - x[:, 0]).mean(axis=(1, 2, 3))
    order = np.argsort(change)
    most, least = ([f"{numbers['rows'][i]} ({255 * change[i]:.0f})" for i in rows]
                   for rows in (order[:-4:-1], order[:3]))
    start = "" if numbers["columns"][0] == "clean" else f" against severity {numbers['columns'][0]}"
    lines = [f"Mean change of a pixel at severity {numbers['columns'][-1]}{start}, of 255 grey "
             f"values: most {', '.join(most)}; least {', '.join(least)}."]
    return paragraphs([*lines, *NOTES.values()])


# --- words about protocols and check-ups

def check(plan: Plan, normalisation: str = "in_model", device="auto"):
    """The doctor's report on model and images of a plan, with this ``normalisation`` of the model;
    None where there are no clean images."""
    model = own.network(plan.model)
    data = own.images_of(plan.images)
    if not own.has_clean(data):
        return None
    told = SourceModel(model.net, model.card,
                       model.normalisation if normalisation == "in_model" else normalisation,
                       model.info)
    return check_up(told.eval(), data, device=device, seed=plan.first_seed)


def say_report(report) -> str:
    """A report of ``doctor.check_up``, no wider than a notebook; None, for images that are not
    clean, is said in a sentence."""
    if report is None:
        return paragraphs(["The doctor looks at clean images, and these are none, so this is left "
                           "out; clean= of the set's text names the clean ones."])
    return "\n".join(textwrap.fill(line, 88,
                                   subsequent_indent=" " * (len(line) - len(line.lstrip()) + 4),
                                   replace_whitespace=False) for line in str(report).splitlines())


def first_sentence(function) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join((function.__doc__ or "").replace("``", "").split())
    return re.split(r"(?<=\.)(?<!e\.g\.)\s", text, maxsplit=1)[0]


def catalogue() -> str:
    """Every protocol and what it is."""
    return "\n".join(textwrap.fill(f"{name}: {first_sentence(f)}", 88, subsequent_indent="    ")
                     for name, f in protocols.PROTOCOLS.items())


assert {*STANDARD_15, *EXTRA_4} == set(CORRUPTIONS), "the picture sheet shows every corruption"
