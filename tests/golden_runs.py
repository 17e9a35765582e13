"""The stored runs of the authors' public code: our recipe for each, how to play it, and what counts as a deviation."""
import csv
import json
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from tiny import GOLDEN, stream, tiny

from tta_lab import updates
from tta_lab.adapter import Adapter
from tta_lab.augment import Augmentation, ColourAffine, Occlude, ShufflePatches, ShufflePixels
from tta_lab.methods import make
from tta_lab.norms import BatchStatistics, SourceStatistics
from tta_lab.parts import SlidingWindow, Step
from tta_lab.penalties import AugmentedAgreement, Diversity
from tta_lab.selectors import DestroyedObject, LowEntropy
from tta_lab.updates import Anchored

INDEX = {row["run"]: row for row in csv.DictReader((GOLDEN / "index.csv").read_text().splitlines())}
STOCHASTIC = {run for run, row in INDEX.items() if row["kind"] == "stochastic-error"}


@cache
def stored(run):
    """Everything that is stored of a run, with its settings as a dict."""
    with np.load(GOLDEN / "expected" / f"{run}.npz") as f:
        return {k: f[k] for k in f.files if k != "hparams"} | {"hparams": json.loads(str(f["hparams"])) if "hparams" in f.files else {}}


def step(h, **options):
    """The update rule of a run's settings."""
    name = h.get("optimizer", h.get("OPTIM.METHOD", "Adam")).lower()
    return Step(rule="sgd" if "sgd" in name else "adam", lr=h.get("lr", h.get("OPTIM.LR")), **options)


def eta(h, name="eta", **options):
    fraction = h.get("EATA.MARGIN_E0", h.get("e_margin", 0) / math.log(10))
    settings = {"select.0.fraction": round(fraction, 12), "margin": h.get("EATA.D_MARGIN", h.get("d_margin"))}
    return make(name, **{"update": step(h), **settings, **options})


PEER = {"norm": SourceStatistics(), "answer": "after"}  # torch-ttt: stored running statistics, and two steps before it answers


def eata(h):
    return eta(h, "eata", weight=h.get("EATA.FISHER_ALPHA", h.get("fisher_alpha")))


def sar(h, form):
    fraction = h.get("EATA.MARGIN_E0", h.get("margin_e0", 0) / math.log(10))
    settings = {"threshold": h.get("SAR.RESET_CONSTANT_EM", h.get("reset_constant")), "fraction": round(fraction, 12)}
    return make("sar", form=form, lr=h.get("OPTIM.LR", h.get("lr")), **settings)


def deyo(h, transform=None):
    transform = Occlude(0.5) if transform is None else transform
    return make("deyo", update=step(h), select=(LowEntropy(0.5), DestroyedObject(transform, threshold=0.2)))


def lame(h):
    affinity = h.get("affinity", h.get("LAME.AFFINITY")).lower()
    return make("lame", form="reference", affinity=affinity, k=h.get("knn", h.get("LAME.KNN")), symmetric=h.get("force_symmetry", False))


@dataclass(frozen=True)
class FixedViews(Augmentation):
    """The mirror image and rolls by one pixel along height and width: in place of random views."""

    def __call__(self, x, rng):
        one = x[:1]
        return torch.cat([one.flip(3), *(one.roll(s, d) for d in (2, 3) for s in (1, -1))])


def memo(h):
    update = Step(rule="sgd", lr=h["OPTIM.LR"], momentum=h["OPTIM.MOMENTUM"], nesterov=True)
    return make("memo", form="reference", update=update, augment=FixedViews(), views=5, alpha=h["BN.ALPHA"])


@dataclass(frozen=True)
class Roll(Augmentation):
    """A shift by one pixel along the width, in place of random augmentation."""

    def __call__(self, x, rng):
        return x.roll(1, 3)


def cotta(h, augment=None):
    return make("cotta", form="reference", update=step(h), sure=h.get("ap", h.get("COTTA.AP")), follow=h.get("mt_alpha", h.get("M_TEACHER.MOMENTUM")),
                restore=h.get("rst_m", h.get("COTTA.RST")), augment=augment or Roll(),
                views=h.get("TEST.N_AUGMENTATIONS") if augment else 1)  # fixed views are all the same


def roid(h, augment=Roll()):
    penalties = (AugmentedAgreement(augment),) if h.get("ROID.USE_CONSISTENCY", True) else ()
    return make("roid", update=step(h), anchor=Anchored(h["ROID.MOMENTUM_SRC"]), penalties=penalties,
                prior_correction=h.get("ROID.USE_PRIOR_CORRECTION", True))


RECIPES = {  # method of the index -> our recipe from the settings of a run
    "source": lambda h: make("source"),
    "norm-dw": lambda h: make("batch_norm", norm=BatchStatistics(track=True)),
    "bntest-om": lambda h: make("batch_norm"),
    "bnalpha0.1-om": lambda h: make("bn_alpha", alpha=0.1),
    "bnalpha0.5-om": lambda h: make("bn_alpha", alpha=0.5),
    "bnema-om": lambda h: make("bn_ema"),
    "tent-dw": lambda h: make("tent", update=step(h)),
    "tent-dw-sgd": lambda h: make("tent", update=step(h)),
    "tent-dw-steps2": lambda h: make("tent", update=step(h, repeats=2)),
    "tent-dw-episodic": lambda h: make("tent", update=step(h, repeats=3)),
    "tent-dw-collapse": lambda h: make("tent", update=step(h)),
    "tent-om": lambda h: make("tent", update=step(h)),
    "tent-om-nesterov": lambda h: make("tent", update=step(h, nesterov=True)),
    "tent-om-window16": lambda h: make("tent", update=step(h), cadence=SlidingWindow(16)),
    **{f"tent-torchttt-{how}": lambda h: make("tent", update=step(h, repeats=h["num_steps"]), **PEER) for how in ("online", "episodic")},
    **{f"eata-torchttt-{how}": lambda h: eta(h, update=step(h, repeats=h["num_steps"]), **PEER) for how in ("online", "episodic")},
    "tent-sarrepo": lambda h: make("tent", update=step(h)),
    "ostta-unient-repo": lambda h: make("wisdom_of_crowds", penalties=(), lr=5e-3),
    "ostta-unient-repo-diversity": lambda h: make("wisdom_of_crowds", lr=5e-3),
    "tent-unient-repo-diversity": lambda h: make("tent", lr=5e-3).plus(Diversity(0.5)),
    "eta-official": eta, "eta-om": eta, "eta-sarrepo": eta, "eata-official": eata, "eata-om": eata, "eata-sarrepo": eata,
    "rdumb-om": lambda h: eta(h, "rdumb", steps=h["MODEL.RESET_AFTER_NUM_UPDATES"]),
    "rpl-om": lambda h: make("rpl", update=step(h), q=h["RPL.Q"]),
    "sar-official": lambda h: sar(h, "reference"), "sar-official-recovery": lambda h: sar(h, "reference"),
    "sar-om": lambda h: sar(h, "port"), "sar-om-recovery": lambda h: sar(h, "port"),
    "deyo-official-occ": deyo, "deyo-om-occ": deyo, "deyo-official-patch": lambda h: deyo(h, ShufflePatches(4)),
    "deyo-official-pixel": lambda h: deyo(h, ShufflePixels()),
    **{f"lame-{code}": lame for code in ("official-knn", "official-knn-sym", "official-rbf", "official-linear", "om-knn", "om-rbf", "om-linear")},
    "t3a-official-k10": lambda h: make("t3a", keep=10), "t3a-official-all": lambda h: make("t3a", keep=0),
    "t3a-official-kminus1": lambda h: make("t3a", keep=-1), "t3a-stamprepo-k10": lambda h: make("t3a", keep=10),
    "t3a-stamprepo-kall": lambda h: make("t3a", keep=0),
    "memo-om-fixedviews": memo,
    "roid-om-fixaug": roid, "roid-om-noconsist": roid, "roid-om-noconsist-noprior": roid,
    "roid-om": lambda h: roid(h, ColourAffine(blur_and_noise=False, padding="reflect")),
    "cotta-official-fixaug-norestore": cotta, "cotta-official-fixaug-fixedrestore": cotta, "cotta-om-fixaug-norestore": cotta,
    "cotta-om": lambda h: cotta(h, ColourAffine()),
}


def given(run):
    """What the run took from the source domain, as stored."""
    found = {}
    for key, value in stored(run).items():
        if key.startswith("extra/"):
            _, name, *rest = key.split("/")
            found.setdefault(name, {})["/".join(rest) or "value"] = torch.from_numpy(value)
    return {"fisher": found["fisher"]} if "fisher" in found else {}


def play(run, recipe=None, seed=0):
    """Run a recipe over the run's stream: outputs (batches, batch, 10), the adapter, how many passed LowEntropy in each step."""
    row = INDEX[run]
    recipe = RECIPES[row["method"]](stored(run)["hparams"]) if recipe is None else recipe
    adapter = Adapter(tiny(row["model"]), recipe, device="cpu", seed=seed, given=given(run))
    uniform = updates.uniform
    if "fixedrestore" in run:
        updates.uniform = lambda shape, rng: torch.arange(math.prod(shape)).remainder(100).div(100).view(shape)
    rewind = adapter.rewind
    adapter.rewind = lambda what: (setattr(adapter, "last", changes(adapter)), rewind(what))
    adapter.memory, adapter.confidence = [], []
    outputs, certain, ask = [], [], LowEntropy.weights

    def spy(self, view, losses, keep, state):
        w = ask(self, view, losses, keep, state)
        if view.look == 0:
            certain[-1] = int((keep & (w > 0)).sum())
        return w

    LowEntropy.weights = spy
    try:
        for x in stream(row["stream"])[0]:
            if "episodic" in run and outputs:
                adapter.reset(keep_trace=True)
            certain.append(-1)
            outputs.append(adapter(x).numpy())
            adapter.confidence.append(adapter.states["method"].get("anchor_confidence"))
            adapter.memory.append(occupancy(adapter.states["method"]))
        if "torchttt-episodic" in run:  # it adapts a copy
            adapter.reset(keep_trace=True)
    finally:
        LowEntropy.weights, updates.uniform = ask, uniform
    return np.stack(outputs), adapter, certain


def occupancy(state):
    """How much a method remembers: supports, or images in a memory."""
    return len(state.get("supports", state.get("classes", ())))


def changes(adapter):
    """Name -> L2 norm of what a tuned parameter or statistic, and a teacher's ("ema:..."), has changed by."""
    teacher = adapter.states["method"].get("teacher", {})
    return {k: (v.detach() - adapter._start[k]).norm().item() for k, v in adapter._owned.items() if v.is_floating_point()} | {
        f"ema:{k}": (v - adapter._start[k]).norm().item() for k, v in teacher.items()}


def deviations(run, outputs, adapter, certain):
    """What differs from the stored run by more than its tolerance; an empty list is agreement."""
    row, wrong, expected = INDEX[run], [], stored(run)
    outputs = np.exp(outputs) if row["kind"] == "probabilities" else outputs
    difference = np.abs(outputs - expected["outputs"])
    if difference[0].max() > float(row["tol_first"]):
        wrong.append(f"first batch {difference[0].max():.1e} > {row['tol_first']}")
    if np.quantile(difference, 0.99) > float(row["tol_p99"]):
        wrong.append(f"99th percentile {np.quantile(difference, 0.99):.1e} > {row['tol_p99']}")
    if difference.max() > float(row["tol_max"]):
        wrong.append(f"maximum {difference.max():.1e} > {row['tol_max']}")
    if row["rtol_param"]:
        names = [name.replace(".layer.", ".") for name in expected["param_names"].tolist()]
        norms = dict(zip(names, expected["param_change_norms"].tolist(), strict=True))
        found = adapter.last if row["method"].startswith("memo") else changes(adapter)
        for name, size in norms.items():
            if max(norms.values()) == 0:
                wrong += [f"{name} is not back at the source"] if found[name] else []
            elif size >= 1e-3 * max(norms.values()):
                relative = abs(found[name] / size - 1)
                if relative > float(row["rtol_param"]):
                    wrong.append(f"change of {name} differs by {relative:.1e} > {row['rtol_param']}")
        theirs = {k for k in norms if not k.endswith(("running_mean", "running_var")) and not k.startswith("ema:")}
        ours = {k for k in adapter.tuned if not k.startswith("extra.")}
        wrong += [f"tuned parameters differ: {theirs ^ ours}"] if theirs != ours else []
    if "info/n_selected" in expected and not np.array_equal(expected["info/n_selected"], adapter.trace.step("n_kept")):
        wrong.append(f"selected {adapter.trace.step('n_kept')} instead of {expected['info/n_selected']}")
    if "info/n_reliable" in expected and not np.array_equal(expected["info/n_reliable"], certain):
        wrong.append(f"certain {certain} instead of {expected['info/n_reliable']}")
    if "info/memory" in expected and not np.array_equal(expected["info/memory"], adapter.memory):
        wrong.append(f"remembered {adapter.memory} instead of {expected['info/memory']}")
    if "info/anchor_confidence" in expected and not np.allclose(expected["info/anchor_confidence"], adapter.confidence, atol=1e-5):
        wrong.append("the source's confidence differs")
    if "info/resets" in expected and not np.array_equal(expected["info/resets"][:-1] > 0, adapter.trace.step("reset")[1:]):
        wrong.append(f"reset before {adapter.trace.step('reset')}, not after {expected['info/resets']}")
    if "info/ema" in expected:
        mean = [state["mean"] for state in adapter.states["controllers"]][0]
        if not np.isclose(np.nan if mean is None else mean, expected["info/ema"][-1], rtol=1e-3, equal_nan=True):
            wrong.append(f"running mean {mean} instead of {expected['info/ema'][-1]}")
    return wrong
