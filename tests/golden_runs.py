"""The stored runs of the authors' public code: our recipe for each, how to play it, and what counts as a deviation."""
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from stored import changes as ending
from stored import differences, load, rows
from tiny import GOLDEN, stream, tiny

from tta_lab.components import updates
from tta_lab.components.augment import (
    Augmentation,
    ColorAffine,
    Occlude,
    ShufflePatches,
    ShufflePixels,
)
from tta_lab.components.norms.batch_norm import BatchStatistics, SourceStatistics
from tta_lab.components.penalties import AugmentedAgreement, Diversity
from tta_lab.components.selectors import EntropyThreshold, PLPDFilter
from tta_lab.components.updates import WeightEnsembling
from tta_lab.core.adapter import Adapter, Observer
from tta_lab.core.parts import SlidingWindow, Step
from tta_lab.methods import make

INDEX = rows(GOLDEN / "index.csv")
STOCHASTIC = {run for run, row in INDEX.items() if row["kind"] == "stochastic-error"}


@cache
def stored(run):
    """Everything that is stored of a run, with its settings as a dict."""
    return load(GOLDEN / "expected" / f"{run}.npz")


def first(h, *names, **default):
    """The setting that code bases call by different names; ``default`` is for those that do not store it."""
    found = next((name for name in names if name in h), None)
    return default["default"] if found is None else h[found]


def step(h):
    """The update rule of a run's settings; what a code base does not store is the optimiser's own default."""
    rule = "sgd" if "sgd" in first(h, "optimizer", "OPTIM.METHOD", "optimizer_name").lower() else "adam"
    first_beta, second_beta = h.get("betas", (h.get("OPTIM.BETA", 0.9), 0.999))
    assert second_beta == 0.999 and first(h, "OPTIM.DAMPENING", "dampening", default=0.0) == 0.0, "not to be set here"
    momentum = first(h, "momentum", "OPTIM.MOMENTUM") if rule == "sgd" else first_beta
    return Step(rule=rule, lr=first(h, "lr", "OPTIM.LR"), momentum=momentum, nesterov=first(h, "nesterov", "OPTIM.NESTEROV", default=False),
                weight_decay=first(h, "weight_decay", "OPTIM.WD", default=0.0), repeats=first(h, "steps", "num_steps", default=1))


def share(h, ours, nats):
    """A margin of the entropy as a share of ln C, as which one code base stores it; the others in nats."""
    return h[ours] if ours in h else round(h[nats] / math.log(10), 12)


def batch_norm(h):
    """Of the stored network's layers are eps and momentum."""
    assert (h["eps"], h["momentum"], h["no_stats"], h["reset_stats"]) == (1e-5, 0.1, False, False)
    return make("batch_norm", norm=BatchStatistics(track=True))


def eta(h, name="eta", **options):
    """E0 is set once, and moves filter and weight."""
    settings = {"select.0.fraction": share(h, "EATA.MARGIN_E0", "e_margin"), "margin": first(h, "EATA.D_MARGIN", "d_margin")}
    weight = first(h, "EATA.FISHER_ALPHA", "fisher_alpha", "fishers") or 0.0
    assert (weight > 0) == (name == "eata"), "the Fisher anchor makes EATA of ETA"
    return make(name, **{"update": step(h), **settings, **({"weight": weight} if weight else {}), **options})


PEER = {"norm": SourceStatistics(), "answer": "after"}  # torch-ttt: stored running statistics, and two steps before it answers


def eata(h):
    return eta(h, "eata")


def sar(h, form):
    rho = {"rho": h["rho"]} if "rho" in h else {}  # the port stores none; the radius is the paper's there
    settings = {"update.momentum": first(h, "OPTIM.MOMENTUM", "momentum"), "fraction": share(h, "EATA.MARGIN_E0", "margin_e0"),
                "threshold": first(h, "SAR.RESET_CONSTANT_EM", "reset_constant")}
    return make("sar", form=form, lr=first(h, "OPTIM.LR", "lr"), **rho, **settings)


def occlude(h):
    """The window in the middle of 16 x 16."""
    size, top, left = (first(h, f"DEYO.{name.upper()}", name) for name in ("occlusion_size", "row_start", "column_start"))
    assert top == left == (16 - size) / 2, "Occlude has its window in the middle"
    return Occlude(size / 16)


def deyo(h):
    kind = first(h, "DEYO.AUG_TYPE", "aug_type")
    transform = {"occ": lambda: occlude(h), "patch": lambda: ShufflePatches(h["patch_len"]), "pixel": ShufflePixels}[kind]()
    margin = share(h, "DEYO.MARGIN", "deyo_margin")
    weights = {ours: bool(h[theirs]) for ours, theirs in (("by_certainty", "reweight_ent"), ("by_fall", "reweight_plpd")) if theirs in h}
    return make("deyo", update=step(h), select=(EntropyThreshold(margin), PLPDFilter(
        transform, threshold=first(h, "DEYO.PLPD", "plpd_threshold"), fraction=share(h, "EATA.MARGIN_E0", "margin_e0"), **weights)))


def lame(h):
    affinity = first(h, "affinity", "LAME.AFFINITY").lower()
    settings = {ours: h[theirs] for ours, theirs in (("strength", "bound_lambda"), ("steps", "max_steps")) if theirs in h}  # the port stores neither
    return make("lame", form="reference", affinity=affinity, k=first(h, "knn", "LAME.KNN"), symmetric=h.get("force_symmetry", False), **settings)


def t3a(h):
    """-1 keeps all in the STAMP repository's copy, and all but one in the authors' code."""
    keep = first(h, "filter_K", "filter_k")
    assert h.get("temperature", 1) == 1, "ours has no temperature"
    return make("t3a", keep=0 if keep == -1 and "filter_k" in h else keep)


def crowds(h, name="wisdom_of_crowds"):
    return make(name, update=step(h), penalties=(Diversity(h["lambda_max"]),) if h["lambda_max"] else ())


@dataclass(frozen=True)
class FixedViews(Augmentation):
    """The mirror image and rolls by one pixel along height and width: in place of random views."""

    def __call__(self, x, rng):
        one = x[:1]
        return torch.cat([one.flip(3), *(one.roll(s, d) for d in (2, 3) for s in (1, -1))])


def memo(h):
    """Five views, which no setting stores."""
    assert h.get("MODEL.EPISODIC", True) and h.get("TEST.BATCH_SIZE", 1) == 1, "ours forgets after every image"
    return make("memo", form="reference", update=step(h), augment=FixedViews(), views=5, alpha=h["BN.ALPHA"])


@dataclass(frozen=True)
class Roll(Augmentation):
    """A shift by one pixel along the width, in place of random augmentation."""

    def __call__(self, x, rng):
        return x.roll(1, 3)


def cotta(h, augment=None):
    """Fixed views are all the same: one is looked at in place of the 32 or 2 that are stored."""
    return make("cotta", form="reference", update=step(h), sure=first(h, "ap", "COTTA.AP"), follow=first(h, "mt_alpha", "M_TEACHER.MOMENTUM"),
                restore=first(h, "rst_m", "COTTA.RST"), augment=augment or Roll(), views=h["TEST.N_AUGMENTATIONS"] if augment else 1)


def roid(h, augment=Roll()):
    penalties = (AugmentedAgreement(augment),) if h.get("ROID.USE_CONSISTENCY", True) else ()
    return make("roid", update=step(h), anchor=WeightEnsembling(h["ROID.MOMENTUM_SRC"]), penalties=penalties,
                prior_correction=h.get("ROID.USE_PRIOR_CORRECTION", True))


RECIPES = {  # method of the index -> our recipe from the settings of a run
    "source": lambda h: make("source"),
    "norm-dw": batch_norm,
    "bntest-om": lambda h: make("batch_norm"),
    "bnalpha0.1-om": lambda h: make("bn_alpha", alpha=h["BN.ALPHA"]), "bnalpha0.5-om": lambda h: make("bn_alpha", alpha=h["BN.ALPHA"]),
    "bnema-om": lambda h: make("bn_ema"),  # no setting is stored: the momentum is that of the layers
    **{f"tent-{code}": lambda h: make("tent", update=step(h)) for code in (
        "dw", "dw-sgd", "dw-steps2", "dw-episodic", "dw-collapse", "om", "om-nesterov", "sarrepo")},
    "tent-om-window16": lambda h: make("tent", update=step(h), cadence=SlidingWindow(h["TEST.WINDOW_LENGTH"])),
    **{f"tent-torchttt-{how}": lambda h: make("tent", update=step(h), **PEER) for how in ("online", "episodic")},
    **{f"eata-torchttt-{how}": lambda h: eta(h, **PEER) for how in ("online", "episodic")},
    "ostta-unient-repo": crowds, "ostta-unient-repo-diversity": crowds, "tent-unient-repo-diversity": lambda h: crowds(h, "tent"),
    "eta-official": eta, "eta-om": eta, "eta-sarrepo": eta, "eata-official": eata, "eata-om": eata, "eata-sarrepo": eata,
    "rdumb-om": lambda h: eta(h, "rdumb", steps=h["MODEL.RESET_AFTER_NUM_UPDATES"]),
    "rpl-om": lambda h: make("rpl", update=step(h), q=h["RPL.Q"]),
    "sar-official": lambda h: sar(h, "reference"), "sar-official-recovery": lambda h: sar(h, "reference"),
    "sar-om": lambda h: sar(h, "port"), "sar-om-recovery": lambda h: sar(h, "port"),
    "deyo-official-occ": deyo, "deyo-om-occ": deyo, "deyo-official-patch": deyo, "deyo-official-pixel": deyo,
    **{f"lame-{code}": lame for code in ("official-knn", "official-knn-sym", "official-rbf", "official-linear", "om-knn", "om-rbf", "om-linear")},
    **{f"t3a-{code}": t3a for code in ("official-k10", "official-all", "official-kminus1", "stamprepo-k10", "stamprepo-kall")},
    "memo-om-fixedviews": memo,
    "roid-om-fixaug": roid, "roid-om-noconsist": roid, "roid-om-noconsist-noprior": roid,
    "roid-om": lambda h: roid(h, ColorAffine(blur_and_noise=False, padding="reflect")),
    "cotta-official-fixaug-norestore": cotta, "cotta-official-fixaug-fixedrestore": cotta, "cotta-om-fixaug-norestore": cotta,
    "cotta-om": lambda h: cotta(h, ColorAffine()),
}
SPARED = {  # settings that no recipe takes, and why
    "fisher_batches": "of the Fisher information, which is stored", "fisher_batch_size": "likewise", "SOURCE.NUM_SAMPLES": "likewise",
    "n_augmentations": "fixed views are all the same", "TEST.N_AUGMENTATIONS": "likewise", "TEST.BATCH_SIZE": "of the stream",
    "patch_len": "of shuffled patches, with another transform", "occlusion_size": "of occlusion, with another", "row_start": "likewise",
    "column_start": "likewise", "knn": "of an affinity without neighbours", "LAME.KNN": "likewise",
}


def given(run):
    """What the run took from the source domain, as stored."""
    fisher = {key.split("/", 2)[2]: torch.from_numpy(stored(run)[key]) for key in stored(run) if key.startswith("extra/fisher/")}
    return {"fisher": fisher} if fisher else {}


class Seen(Observer):
    """How many passed EntropyThreshold in each step, what had changed before the last rewind, and
    what was seen after the batches."""

    def __init__(self):
        self.certain, self.before_rewind, self.glances = [], {}, {}

    def selected(self, ctx, selector, kept):
        if isinstance(selector, EntropyThreshold) and ctx.evaluation == 0:
            self.certain[-1] = int(kept.sum())

    def rewinding(self, adapter, what):
        self.before_rewind = changes(adapter)


def play(run, recipe=None, seed=0):
    """Run a recipe over the run's stream: outputs (batches, batch, 10), the adapter, how many passed EntropyThreshold in each step."""
    row, h = INDEX[run], stored(run)["hparams"]
    recipe = RECIPES[row["method"]](h) if recipe is None else recipe
    adapter = Adapter(tiny(row["model"]), recipe, device="cpu", seed=seed, source_info=given(run))
    uniform = updates.uniform
    if "fixedrestore" in run:
        updates.uniform = lambda shape, rng: torch.arange(math.prod(shape)).remainder(100).div(100).view(shape)
    adapter.observer = Seen()
    outputs, certain = [], adapter.observer.certain
    fresh = h.get("episodic", h.get("copy_model", False))  # every batch begins at the source
    try:
        for x in stream(row["stream"])[0]:
            if fresh and outputs:
                adapter.reset(keep_trace=True)
            certain.append(-1)
            outputs.append(adapter(x).numpy())
            for key, value in glance(adapter).items():
                adapter.observer.glances.setdefault(key, []).append(value)
        if fresh and "copy_model" in h:  # it adapts a copy
            adapter.reset(keep_trace=True)
    finally:
        updates.uniform = uniform
    return np.stack(outputs), adapter, certain


def glance(adapter):
    """What is seen of an adapter after a batch, by the key under which it is stored."""
    state, step = adapter.states["method"], {name: adapter.trace.step(name)[-1] for name in ("n", "n_kept", "loss", "forwards")}
    found = {"info/n_selected": step["n_kept"], "info/loss": step["loss"], "info/resets": int(adapter.was_reset)}
    if "supports" in state:
        sizes = state["classes"].bincount(minlength=10)
        found |= {"info/memory": len(state["supports"]), "info/supports": len(state["classes"]), "info/memory_smallest_class": sizes.min().item()}
    if "anchor_confidence" in state:  # student, teacher and source look once; the views come on top
        found |= {"info/anchor_confidence": state["anchor_confidence"], "info/averaged": int(step["forwards"] > 3 * step["n"]),
                  "info/n_at_initial": sum((p == adapter.origin[k]).sum().item() for k, p in adapter.tuned.items())}
    for controller in adapter.states["controllers"]:
        if "mean" in controller:
            found["info/ema"] = np.nan if controller["mean"] is None else controller["mean"]
    return found


def changes(adapter):
    """Name -> L2 norm of what a tuned parameter or statistic, and a teacher's ("ema:..."), has changed by."""
    now = tensors(adapter)
    return {k: (v.detach() - adapter.state.start[k.removeprefix("ema:")]).norm().item() for k, v in now.items() if v.is_floating_point()}


def tensors(adapter):
    """Name -> tuned parameters and statistics now, and a teacher's ("ema:...")."""
    return adapter.state.tensors | {f"ema:{k}": v for k, v in adapter.states["method"].get("teacher", {}).items()}


def deviations(run, outputs, adapter, certain):
    """What differs from the stored run by more than its tolerance; an empty list is agreement."""
    row, expected = INDEX[run], stored(run)
    seen = adapter.observer.glances | {"info/n_reliable": certain}
    found = adapter.observer.before_rewind if row["method"].startswith("memo") else None
    return (differences(row, expected, outputs, stream(row["stream"])[1].numpy(), seen)
            + ending(row, expected, tensors(adapter), adapter.state.start, adapter.tuned, found))
