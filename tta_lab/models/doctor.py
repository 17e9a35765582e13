"""doctor: do this model and these images belong together? Looked at before an experiment, not
after a week of them.

Wrong tables come more often from a normalisation forgotten, channels in another order or shuffled
class names than from a method. ``check_up`` shows clean images to a copy of the model in several
readings (as given, not normalised, BGR, ...), compares what the labels, the input card and the
batch-norm statistics say, and reports findings with figures and remedies.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.arguments import whole
from ..core.copying import FULL, device_of, precision_of, whole_copy
from ..core.named import model_of
from ..core.norm_layers import first_input
from ..core.step_context import as_logits, undisturbed
from ..data.image_set import class_logits
from ..data.load import images_of
from .cifar_networks import CIFAR10_MEAN, CIFAR10_STD
from .libraries import IMAGENET_MEAN, IMAGENET_STD

# images on which every reading is tried; those that could be better see the rest too
FIRST = 128
# probability below which a difference is not taken for chance, divided by the number of readings
SURE = 1e-4
# how near rows must come to a sum of 1 to be taken for probabilities; half precision rounds by so
# much
EXACT = 5e-3
TELLS = 0.02               # share of ln C nats that predictions must carry about the images
CLEAR = 0.02               # a difference in accuracy that is worth a word
# nats per channel: measured 0.00 to 0.05 where model and clean images fit, 0.13 and more where
# not
FAR = 0.1
NORMALISATIONS = {
    3: {
        "ImageNet mean and std": (IMAGENET_MEAN, IMAGENET_STD),
        "CIFAR-10 mean and std": (CIFAR10_MEAN, CIFAR10_STD),
        "CIFAR-100 mean and std": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "mean 0.5 and std 0.5": ((0.5,) * 3, (0.5,) * 3)
    },
    1: {
        "MNIST mean and std": ((0.1307,), (0.3081,)),
        "Fashion-MNIST mean and std": ((0.286,), (0.353,)),
        "mean 0.5 and std 0.5": ((0.5,), (0.5,))
    },
}
SEVERITIES = ("ok", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``check`` names it, ``severity`` is "ok", "warning" or "error",
    ``what`` one sentence, ``evidence`` the figures behind it, ``remedy`` what to do ("" where all
    is well)."""

    check: str
    severity: str
    what: str
    evidence: dict = field(default_factory=dict)
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """What a check-up found. ``unchecked`` says what could not be looked at, and why."""

    model: str
    data: str
    images: int
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True where nothing is worse than "ok"."""
        return all(f.severity == "ok" for f in self.findings)

    def found(self, severity: str) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(f for f in self.findings if f.severity == severity)

    def rows(self) -> list[dict]:
        """One dict of texts a finding, the worst first: check, severity, what, evidence, remedy."""
        order = sorted(self.findings, key=lambda f: -SEVERITIES.index(f.severity))
        return [{
            "check": f.check, "severity": f.severity, "what": f.what,
            "evidence": ", ".join(f"{k} {_figure(v)}"
                                  for k, v in f.evidence.items()), "remedy": f.remedy
        } for f in order]

    def __str__(self) -> str:
        counts = {s: len(self.found(s)) for s in ("error", "warning")}
        said = (", ".join(f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts.items() if n)
                or "all well")
        lines = [f"{self.model} on {self.data}, {self.images} images: {said}"]
        for row in self.rows():
            lines.append(f"  [{row['severity']}] {row['check']}: {row['what']}" +
                         (f" ({row['evidence']})" if row["evidence"] else ""))
            if row["remedy"]:
                lines.append(f"      -> {row['remedy']}")
        return "\n".join(lines + [f"  [not checked] {text}" for text in self.unchecked])


def _figure(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        is_range = len(value) == 2 and all(isinstance(v, float) for v in value)
        return (" to " if is_range else ", ").join(map(_figure, value))
    return str(value)


# --- statistics ---------------------------------------------------------------------------------

def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), summed exactly in float64."""
    if k <= 0:
        return 1.0
    if p <= 0 or k > n:
        return 0.0
    if p >= 1:
        return 1.0
    log_c = math.lgamma(n + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(log_c - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) +
                     (n - i) * math.log1p(-p)) for i in range(k, n + 1)))


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share (E. B. Wilson, 1927), 95 % by default."""
    if n == 0:
        return 0.0, 1.0
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def better(a: Tensor, b: Tensor) -> float:
    """One-sided exact McNemar test: how likely b's advantage over a, bool (N,) both, would be by
    chance."""
    gains, losses = int((b & ~a).sum()), int((a & ~b).sum())
    return binomial_tail(gains, gains + losses, 0.5)


def match(labels: Tensor, predictions: Tensor, k: int) -> Tensor:
    """A one-to-one map label -> output, int64 (K,), greedily by how often they meet; -1 for labels
    that found none."""
    met = torch.bincount(labels * k + predictions, minlength=k * k)
    mapping = torch.full((k,), -1)
    taken = torch.zeros(k, dtype=torch.bool)
    for cell in met.argsort(descending=True, stable=True).tolist():
        label, output = divmod(cell, k)
        if met[cell] == 0:
            break
        if mapping[label] < 0 and not taken[output]:
            mapping[label], taken[output] = output, True
    return mapping


def matched(labels: Tensor, predictions: Tensor, k: int) -> Tensor:
    """Which predictions are right after the best renaming of the labels, bool (N,); each half is
    judged by the other half's map."""
    right = torch.zeros(len(labels), dtype=torch.bool)
    half = torch.arange(len(labels)) % 2 == 0
    for learn, judge in ((half, ~half), (~half, half)):
        right[judge] = (match(labels[learn], predictions[learn],
                              k)[labels[judge]] == predictions[judge])
    return right


# --- readings -----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Reading:
    """One way to read the images: what the network is fed, from images in [0, 1]."""

    name: str
    feed: Callable[[Tensor], Tensor]
    remedy: str


def _affine(mean, std) -> Callable[[Tensor], Tensor]:
    def normalise(x: Tensor) -> Tensor:
        m, s = (torch.tensor(v, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
                for v in (mean, std))
        return (x - m) / s
    return normalise


def _readings(model: nn.Module, shape: tuple[int, int, int]) -> list[Reading]:
    """The reading as given, then the usual mistakes undone or made."""
    card, channels = getattr(model, "card", None), shape[0]
    own = _affine(card.mean, card.std) if card is not None else None
    plain = card is None or (not any(card.mean) and set(card.std) == {1.0})
    in_data = getattr(model, "normalisation", "in_model") == "in_data" or card is None

    def given(x: Tensor) -> Tensor:
        return x if in_data else own(x)

    readings = [Reading("as given", given, "")]
    if not plain and in_data:
        readings.append(Reading("normalised with the card's mean and std", own, "the images do "
                                                                                "not come "
                                                                                "normalised: load "
                                                                                "the model with "
                                "normalisation='in_model'"))
    if not plain and not in_data:
        readings.append(Reading("not normalised", lambda x: x, "the images come normalised "
                                                               "already, or the network wants "
                                                               "them as they are: "
                                "normalisation='in_data', or a card with mean 0 and std 1"))
    if not plain:
        readings.append(Reading("normalised twice", lambda x: own(own(x)), "the network "
                                                                           "normalises once more "
                                                                           "inside: take that out"))
    for name, (mean, std) in NORMALISATIONS.get(channels, {}).items():
        same = not in_data and all(
            abs(a - b) < 0.002 for pair in ((card.mean, mean), (card.std, std))
            for a, b in zip(pair[0] * (channels if len(pair[0]) == 1 else 1), pair[1], strict=True))
        if not same:
            readings.append(Reading(name, _affine(mean, std), f"give the model a card with "
                                                              f"mean={_short(mean)}, "
                                                              f"std={_short(std)}"))
    readings.append(Reading("pixels 0 to 255", lambda x: 255 * x, "the network was trained on "
                                                                  "pixels 0 to 255: a card with "
                                                                  "mean 0 and std 1/255"))
    if channels == 3:
        readings += [
            Reading(
                "channels as BGR", lambda x: given(x.flip(1)), "red and blue are "
                "swapped: flip the "
                "channels when reading "
                "(OpenCV reads BGR), or flip the first layer's weights"),
            Reading("grey", lambda x: given(x.mean(1, keepdim=True).expand(-1, 3, -1, -1)),
                    "the network was trained on grey images")
        ]
    if shape[1] == shape[2]:
        readings.append(
            Reading("height and width swapped", lambda x: given(x.transpose(2, 3)),
                    "the images lie on their side: swap height and "
                    "width when reading the file"))
    readings.append(Reading("inverted", lambda x: given(1 - x), "black and white are swapped: "
                                                                "feed 1 - x"))
    return readings


def _short(values) -> str:
    return f"({', '.join(f'{v:.4g}' for v in values)}{',' if len(values) == 1 else ''})"


class _Refused(Exception):
    """The network fails on these images."""


class _Subject:
    """A copy of the model in eval mode, in at least single precision as an adapter has it, asked
    in different readings."""

    def __init__(self, model: nn.Module, data, x: Tensor, batch: int, device: torch.device):
        self.net = whole_copy(getattr(model, "net", model) if hasattr(model, "card") else model).to(
            device)
        if any(t.is_floating_point() and t.dtype not in FULL
               for t in (*self.net.parameters(), *self.net.buffers())):
            self.net = self.net.float()
        self.precision = precision_of(self.net)
        self.x, self.batch, self.device, self.map = x, batch, device, getattr(
            data, "model_classes", None)
        self.outputs = None

    @torch.no_grad()
    def ask(self, reading: Reading, rows: slice, statistics: bool = False) -> dict:
        """Prediction, information and finite, each (N,); with ``statistics`` also the distances of
        the batch-norm layers.

        information = KL(p_i || mean_j p_j) in nats; its mean is the mutual information of image
        and predicted class, which is large where predictions are sure and yet spread over the
        classes (Bridle, Heading and MacKay, 1991).
        """
        watch = Watch(self.net) if statistics else None
        logits = []
        try:
            for x in self.x[rows].split(self.batch):
                try:
                    answer = self.net(reading.feed(x.to(self.device, self.precision)))
                except Exception as why:
                    raise _Refused(str(why)) from why
                logits.append(as_logits(answer, self.net).cpu())
        finally:
            distances = watch.stop() if watch else {}
        logits = torch.cat(logits)
        if logits.ndim != 2:
            raise ValueError(f"the doctor looks at classifiers; this model returns logits of "
                             f"shape {tuple(logits.shape)}")
        self.outputs, scale = logits.shape[1], _scale(logits)
        logits = class_logits(logits, self.map)
        finite = torch.isfinite(logits.amax(1)) & ~logits.isnan().any(1)
        p = logits.double().nan_to_num(0.0, 1e30, -1e30).softmax(1)
        information = (p *
                       (p.clamp_min(1e-30).log() - p[finite].mean(0).clamp_min(1e-30).log())).sum(1)
        return {
            "prediction": torch.where(finite, p.argmax(1), -1), "information": information,
            "finite": finite, "classes": logits.shape[1], "distances": distances, "scale": scale
        }


def _scale(logits: Tensor) -> str:
    """What rows of numbers (N, K) are that should be logits: "probabilities", "log-probabilities",
    "sigmoids" or "logits"; "" where they are too few to tell."""
    z = logits.double()[torch.isfinite(logits).all(1)]
    if len(z) < 2 or z.shape[1] < 2:
        return ""
    if ((z == 0) | (z == 1)).all() and (z.sum(1) == 1).all():
        return "decisions"
    if z.min() >= 0 and (z.sum(1) - 1).abs().max() < EXACT:
        return "probabilities"
    if z.max() <= EXACT and z.logsumexp(1).abs().max() < EXACT:
        return "log-probabilities"
    return ("sigmoids"
            if z.min() >= 0 and z.max() <= 1 and len(z) >= 16 and z.std() > 0.01 else "logits")


class Watch:
    """Collects the mean and variance that reach each batch-norm layer, and compares them with what
    it has stored.

    distance of a layer = mean over channels of KL(N(m, v) || N(M, V)) = (v/V + (m - M)^2 / V - 1 -
    ln(v/V)) / 2 nats, with (m, v) of these images and (M, V) stored.
    """

    def __init__(self, net: nn.Module):
        self.layers = {
            n: m for n, m in net.named_modules()
            if isinstance(m, _BatchNorm) and m.running_mean is not None
        }
        self.sums = {name: [0, 0.0, 0.0] for name in self.layers}
        self.handles = [
            m.register_forward_pre_hook(self._hook(name), with_kwargs=True)
            for name, m in self.layers.items()
        ]

    def _hook(self, name):
        def look(module, args, kwargs):
            x = first_input(args, kwargs).double().transpose(0, 1).flatten(1)
            total = self.sums[name]
            total[0], total[1], total[2] = total[0] + x.shape[1], total[1] + x.sum(1), total[2] + (
                x * x).sum(1)
        return look

    def stop(self) -> dict[str, float]:
        """Remove the hooks and return the distance of each layer that was reached."""
        for handle in self.handles:
            handle.remove()
        out = {}
        for name, (count, first, second) in self.sums.items():
            if not count:
                continue
            mean = first / count
            stored = self.layers[name].running_mean.double()
            spread = self.layers[name].running_var.double().clamp_min(1e-12)
            ratio = (second / count - mean**2).clamp_min(1e-12) / spread
            out[name] = float((ratio + (mean - stored) ** 2 / spread - 1 - ratio.log()).mean() / 2)
        return out


# --- the check-up -------------------------------------------------------------------------------


@undisturbed
def check_up(model: nn.Module | str, data, n: int = 512, batch: int = 128, device="auto",
             seed: int = 0) -> Report:
    """Look at a model and clean images of an image set together, and say what does not fit.

    model   a classifier, best one with an input card, or the text that names one
            (`tta_lab.models.names.open_model`); a copy of it is asked
    data    an image set, or the text that names one (``tta_lab.load``), whose images are *clean*
            and, best, labelled; ``n`` of them are
            drawn with ``seed``
    device  "auto" (the model's accelerator, else CUDA if there is one, else CPU) or a device

    Looked at: pixels, shape and channels against the card and the network, repeated and constant
    images, labels and number of outputs, layers left in train mode, batch norm that cannot adapt,
    broken logits, probabilities in place of logits, one class taking all, how the images are to be
    read (exact McNemar tests between readings, Bonferroni-corrected), batch-norm statistics, class
    names and their order, accuracy against chance and the one on the card. On images that are not
    clean the doctor may take a shift in brightness or contrast for a wrong normalisation. Without
    labels the readings are compared by batch-norm statistics, then by the mutual information of
    image and predicted class. Raises ValueError for an empty set, n < 1, or a model that is no
    classifier or cannot be copied; TypeError, which is a ValueError, for arguments of another
    kind.
    """
    model = model_of(model)
    if not all(hasattr(data, name) for name in ("images", "y", "classes")):
        data = images_of(data, "data")
    n = whole("n", n)
    batch = whole("batch", batch, 1)
    seed = whole("seed", seed)
    device = device_of(model, device)
    if n < 1 or not len(data):
        raise ValueError(f"the doctor needs at least one image, got n={n} and a set of {len(data)}")
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:n].sort()[0]
    x, y = data.images(rows).cpu(), data.y[rows].long()
    findings, unchecked = [], []
    info = getattr(model, "info", {})
    name = info.get("name") or info.get("architecture") or type(model).__name__

    def add(check, severity, what, remedy="", **evidence):
        findings.append(
            Finding(check, severity, what, {k.replace("_", " "): v for k, v in evidence.items()},
                    remedy))

    def report():
        return Report(str(name), str(getattr(data, "name", "images")), len(x), tuple(findings),
                      tuple(unchecked))

    subject = _Subject(model, data, x, batch, device)
    _modes(model, add)
    _batch_norms(model, add)
    fits, x = _pixels(model, x, add)
    if not fits:
        unchecked.append("everything that needs the network: the images have the wrong shape for "
                         "it")
        return report()
    subject.x = x
    readings = _readings(model, tuple(x.shape[1:]))
    try:
        as_given = subject.ask(readings[0], slice(None), statistics=True)
    except _Refused as why:
        findings[:] = [f for f in findings if f.check != "shape"]
        _refused(subject.net, tuple(x.shape[1:]), str(why), add)
        unchecked.append("everything that needs the network: it does not take these images")
        return report()
    _finite(as_given, subject, add)
    labelled = _labels(y, data, as_given["classes"], subject.outputs, add, unchecked)
    _scores(as_given["scale"], add, unchecked)
    if not as_given["finite"].any():
        unchecked.append("readings, class order and accuracy: no prediction is usable")
        return report()
    _collapse(as_given, y if labelled else None, add)
    _names(data, info, as_given["classes"], add, unchecked)
    if labelled:
        _readings_with_labels(subject, readings, as_given, y, data, info, add, unchecked)
    else:
        _readings_without_labels(subject, readings, as_given, add, unchecked)
    _statistics(as_given, labelled, add, unchecked)
    return report()


doctor = check_up


def _modes(model, add):
    left = [
        f"{n or 'the model'} ({type(m).__name__})" for n, m in model.named_modules()
        if m.training and not any(True for _ in m.children())
    ]
    if not left:
        return add("mode", "ok", "all layers are in eval mode")
    add("mode", "error", f"{len(left)} layers are in train mode: dropout and batch statistics "
                         f"make predictions depend on chance and on the batch",
        "call model.eval(); the checks below did so on a copy", layers=", ".join(left[:4]))


def _batch_norms(model, add):
    """Batch-norm layers on which methods that set statistics anew, or tune scale and shift, have
    no hold: named, with what they lack."""
    kinds: dict[str, list] = {"frozen": [], "without statistics": [], "without scale and shift": []}
    for name, layer in model.named_modules():
        said = f"{name or 'the model'} ({type(layer).__name__})"
        if not isinstance(layer, _BatchNorm):
            if {"running_mean", "running_var"
                } <= layer._buffers.keys() and ("Frozen" in type(layer).__name__
                                                or "weight" in layer._buffers):
                kinds["frozen"].append(said)
            continue
        if layer.running_mean is None:
            kinds["without statistics"].append(said)
        if layer.weight is None:
            kinds["without scale and shift"].append(said)
    found = {kind: layers for kind, layers in kinds.items() if layers}
    if not found:
        return
    what = {"frozen": "are frozen: statistics, scale and shift are constants, so no method adapts "
                      "them",
            "without statistics": "keep no statistics (track_running_stats=False): also the "
                                  "frozen source uses those of each batch",
            "without scale and shift": "have no scale and shift (affine=False): methods that tune "
                                       "them, such as tent, leave these layers as they are"}
    remedy = {"frozen": "build the network with nn.BatchNorm2d in their place, "
                        "norm_layer=nn.BatchNorm2d in torchvision, and load the same weights",
              "without statistics": "make them with track_running_stats=True and collect "
                                    "statistics on training images, or compare with BN-1 in mind",
              "without scale and shift": "make them with affine=True, which starts at scale 1 and "
                                         "shift 0 and changes no answer"}
    add(
        "batch norm", "warning", "; ".join(f"{len(layers)} batch-norm "
                                           f"layer{'s' * (len(layers) > 1)} {what[kind]}"
                                           for kind, layers in found.items()),
        "; ".join(remedy[kind] for kind in found), **{
            kind: ", ".join(layers[:4]) + (", ..." if len(layers) > 4 else "")
            for kind, layers in found.items()
        })


def _refused(net, shape, why, add):
    """The finding on a network that fails on images of this shape (C, H, W)."""
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    said = "x".join(map(str, shape))
    takes = None if first is None else first.in_channels
    if takes is not None and takes != shape[0]:
        remedy = {(1, 3): "show the grey images in three equal channels: mode=RGB of a folder "
                          "set, or x.expand(-1, 3, -1, -1)",
                  (3, 1): "show the images in grey: mode=L of a folder set, or x.mean(1, "
                          "keepdim=True)"}.get(
            (shape[0], takes), f"read the images with {takes} channels, or take a model for "
                               f"{shape[0]}")
        return add("shape", "error", f"the images have {shape[0]} channel{'s' * (shape[0] > 1)}, "
                                     f"the model's first convolution takes {takes}", remedy,
                   images=said, model=f"{takes} channels")
    reason = (why.splitlines() or [""])[0][:200]
    add("shape", "error", f"the network fails on images of {said}: {reason}", "resize the images "
                                                                              "when reading "
                                                                              "(size= of a folder "
                                                                              "set), or say "
        "the size it takes in its input card (with_input_card(net, size=...))", images=said)


def _scores(scale, add, unchecked):
    if not scale:
        return unchecked.append("scores: too few images to tell logits from probabilities")
    if scale == "logits":
        return add("scores", "ok", "the outputs are logits, not probabilities")
    what = {"probabilities": ("error", "the model ends in softmax: its outputs are probabilities, "
                                       "each row sums to 1; methods take softmax of them "
                              "once more, so entropies and confidences would be those of nearly "
                              "even predictions"),
            "log-probabilities": ("warning", "the model ends in log_softmax: its outputs are "
                                             "logarithms of probabilities; entropies are right, "
                                             "but "
                                  "energies and the size of logits are lost"),
            "decisions": ("error", "each row of the outputs is 0 but for one 1: these are "
                                   "decisions, not logits, and tell nothing of how sure the "
                          "model is"),
            "sigmoids": ("warning", "all outputs lie within 0 and 1, as behind a sigmoid: softmax "
                                    "of them is nearly even, so entropies and "
                         "confidences say little")}
    severity, text = what[scale]
    layer = {"probabilities": "softmax", "log-probabilities": "log_softmax", "sigmoids": "sigmoid",
             "decisions": "argmax"}[scale]
    remedy = (f"return what the network hands to its last {layer}: nn.Identity() in place of that "
              f"layer, or leave the call out")
    if scale == "decisions":
        remedy += ("; where there is none, its logits are so large that softmax has no other "
                   "values: look at their scale")
    add("scores", severity, text, remedy, outputs=scale)


def _pixels(model, x, add):
    """Findings on type, range, shape, sameness. Returns whether the network can be fed, and the
    images it is to be fed."""
    low, high = (float(v) for v in x.nan_to_num(0.0, 0.0, 0.0).aminmax())
    card = getattr(model, "card", None)
    shape = "x".join(map(str, x.shape[1:]))
    in_data = getattr(model, "normalisation", "in_model") == "in_data"
    broken = int((~torch.isfinite(x.flatten(1)).all(1)).sum())
    evidence = {"range": (low, high), "type": str(x.dtype).removeprefix("torch.")}
    if broken:
        add("pixels", "error", f"{broken} of {len(x)} images hold NaN or Inf", "repair or remove "
                                                                               "them", **evidence)
        x = x.nan_to_num(0.0, 0.0, 0.0)
    elif not in_data and high > 2 and low >= 0:
        add("pixels", "error", "the images are in 0 to 255, not in 0 to 1", "divide by 255 when "
            "reading; the checks "
            "below did so", **evidence)
        x = x / 255
    elif not in_data and low < 0:
        add("pixels", "error", "the images have negative values: they come normalised",
            "undo it when reading, or say normalisation='in_data'", **evidence)
    elif high <= 2 / 255 and high > 0:
        add("pixels", "error", "the images are almost black: divided by 255 once too often",
            "divide once; the checks below multiplied by 255", **evidence)
        x = x * 255
    elif not in_data and high > 1:
        add("pixels", "error", "the images exceed 1", "scale them to 0 to 1 when reading",
            **evidence)
    else:
        add("pixels", "ok", "type and range of the pixels are as they should be", **evidence)
    fits = (card is None or (x.shape[1] == card.channels and
                             (card.size is None or tuple(x.shape[2:]) == card.size)))
    if fits:
        add(
            "shape", "ok", "channels and size are those of the card" if card else "the model has "
            "no card to "
            "compare with", images=shape)
    else:
        wanted = (f"{card.channels}x" +
                  ("any size" if card.size is None else "x".join(map(str, card.size))))
        turn = (" The channels seem to be last: permute(0, 3, 1, 2)."
                if x.shape[-1] == card.channels != x.shape[1] else "")
        add("shape", "error", f"the images are {shape}, the model wants {wanted}",
            f"resize and convert when reading, for instance with size= and mode= of the folder "
            f"set.{turn}", images=shape, card=wanted)
    pixels = (x * 255).round().flatten(1)
    constant = int((pixels.amax(1) - pixels.amin(1) < 1).sum())
    repeated = (len(x) -
                len({row.numpy().tobytes() for row in pixels.clamp(-32768, 32767).to(torch.int16)}))
    worst = max(constant, repeated) / len(x)
    if worst > 0.01 and max(constant, repeated) > 1:
        add(
            "content", "error" if worst > 0.5 else "warning", f"{constant} of {len(x)} images are "
            f"of one colour, {repeated} repeat "
            f"another one", "look at some of them; files may be damaged, or read in a wrong layout",
            constant=constant, repeated=repeated)
    else:
        add("content", "ok", "the images differ from one another", constant=constant,
            repeated=repeated)
    return fits, x


def _finite(answer, subject, add):
    bad = int((~answer["finite"]).sum())
    weights = [
        n for n, t in subject.net.state_dict().items()
        if isinstance(t, Tensor) and t.is_floating_point() and not torch.isfinite(t).all()
    ]
    if bad or weights:
        add(
            "logits", "error", f"{bad} of {len(answer['finite'])} images give NaN or infinite "
            f"logits", "load the checkpoint again" +
            (f"; NaN or Inf in {', '.join(weights[:3])}" if weights else "; the inputs may be far "
             "too large"), broken=bad, weights=len(weights))
    else:
        add("logits", "ok", "all logits are finite")


def _labels(y, data, classes, outputs, add, unchecked) -> bool:
    """Findings on labels and the number of outputs; whether labels can be used."""
    known, count = y[y >= 0], len(data.classes)
    if classes != count:
        add(
            "outputs", "error", f"the model has {outputs} outputs, the set {count} classes",
            "choose the model trained on these classes, or "
            "with_classes(model, ...) for some of a larger model's", outputs=outputs, classes=count)
    else:
        add("outputs", "ok", "as many outputs as classes", outputs=outputs, classes=count)
    if not len(known):
        unchecked.append("accuracy and class order: no image has a label")
        return False
    low, high = int(y.min()), int(y.max())
    if low < -1 or high >= count:
        remedy = ("subtract 1: they start at 1" if low == 1 and high == count else "labels are 0 "
                                                                                   "to K - 1, or "
                                                                                   "-1 where none "
                                                                                   "is known")
        add("labels", "error", f"labels run from {low} to {high}, for {count} classes", remedy,
            lowest=low, highest=high)
        return False
    share = float(known.bincount(minlength=count).max()) / len(known)
    if share == 1 and count > 1 and len(known) > 1:
        add("labels", "warning", "all images drawn have the same label", "is the list of labels "
                                                                         "read rightly, and not "
                                                                         "one folder of many?",
            label=int(known[0]))
    else:
        add("labels", "ok", "labels are within the classes", labelled=len(known),
            seen=int(known.unique().numel()))
    return classes == count


def _collapse(answer, y, add):
    predicted = answer["prediction"][answer["finite"]]
    counts = predicted.bincount(minlength=answer["classes"])
    top = int(counts.argmax())
    share = float(counts.max()) / len(predicted)
    fair = (1 / answer["classes"] if y is None else float(
        (y == top).sum()) / max(1, int((y >= 0).sum())))
    evidence = {
        "top_class": top, "share_of_predictions": share,
        "share_of_labels" if y is not None else "share_if_even": fair
    }
    if answer["classes"] > 1 and share > 0.5 and share > 2 * fair:
        add("collapse", "error" if share > 0.9 else "warning", f"the model says class {top} for "
                                                               f"{share:.0%} of the images",
            "the normalisation or the checkpoint is wrong, or the statistics of normalisation "
            "layers are lost", **evidence)
    else:
        add("collapse", "ok", "predictions are spread over the classes", **evidence)


def _names(data, info, classes, add, unchecked):
    theirs = info.get("classes")
    ours = [str(c).strip().lower() for c in data.classes]
    if not theirs or len(theirs) != classes:
        return
    theirs = [str(c).strip().lower() for c in theirs]
    if theirs == ours:
        return add("class names", "ok", "the model's class names are the set's, in the same order")
    if sorted(theirs) != sorted(ours):
        unchecked.append("class names: the model's and the set's are different words")
        return
    moved = [(i, theirs.index(c)) for i, c in enumerate(ours) if theirs[i] != c]
    add("class names", "error", f"{len(moved)} classes stand in another order in the model than "
        f"in the set", "reorder the labels, or "
        "with_classes(model, ...) with the outputs in the set's order",
        order=", ".join(f"{ours[i]} {i} -> {j}" for i, j in moved[:8]))


def _readings_with_labels(subject, readings, as_given, y, data, info, add, unchecked):
    keep = y >= 0
    labels, k = y[keep], as_given["classes"]

    def judge(answer, rows):
        part = keep[rows]
        predicted, true = answer["prediction"][part], y[rows][part]
        renamed = torch.zeros(len(true), dtype=torch.bool)
        usable = predicted >= 0
        renamed[usable] = matched(true[usable], predicted[usable], k)
        return predicted == true, renamed

    first, everything = slice(0, _until(keep, FIRST)), slice(None)
    results = {readings[0].name: judge(as_given, everything)}
    start, start_renamed = (
        found.sum() for found in judge({"prediction": as_given["prediction"][first]}, first))
    for reading in readings[1:]:
        right, renamed = judge(subject.ask(reading, first), first)
        # the others cannot be clearly better
        if right.sum() > start or renamed.sum() > start_renamed:
            results[reading.name] = judge(subject.ask(reading, everything), everything)
    own, n = results[readings[0].name][0], len(labels)
    best = max(results, key=lambda r: int(results[r][0].sum()))
    other = max(results, key=lambda r: int(results[r][1].sum()))
    top, renamed = results[best][0], results[other][1]
    share, share_top, share_renamed = (float(r.double().mean()) for r in (own, top, renamed))
    limit, column = SURE / len(readings), 0
    permuted = (share_renamed > max(share_top + 0.05, 0.5) and better(top, renamed) < limit
                and better(results[other][0], renamed) < limit)
    if permuted:   # names are shuffled: compare the readings with the names put right
        predicted = subject.ask(next(r for r in readings if r.name == other),
                                everything)["prediction"][keep]
        mapping = match(labels[predicted >= 0], predicted[predicted >= 0], k)
        moved = [(i, int(j)) for i, j in enumerate(mapping.tolist()) if j not in (i, -1)]
        names = [str(c) for c in data.classes]
        add(
            "class order", "error" if share_renamed > share_top + 0.2 else "warning",
            f"labels and outputs number the classes differently: {share_top:.1%} are right as "
            f"they are, {share_renamed:.1%} after renaming",
            "reorder the labels, or with_classes(model, outputs) with outputs in the set's order",
            accuracy=share_top, accuracy_renamed=share_renamed,
            order=", ".join(f"{names[i]} {i} "
                            f"-> output {j}" for i, j in moved[:12]))
        best = other
        own = results[readings[0].name][1]
        top = renamed
        column = 1
        share = float(own.double().mean())
        share_top = float(top.double().mean())
    else:
        add("class order", "ok", "no renaming of the classes does clearly better", accuracy=share,
            accuracy_renamed=share_renamed)
        if n < 4 * k and share < 0.5:
            unchecked.append(f"class order, surely: {n} labelled images for {k} classes are few; "
                             f"take n={4 * k} or more")
    chance = better(own, top)
    if best != readings[0].name and share_top - share > CLEAR and chance < limit:
        # then a shift that looks like a normalisation is as likely
        short = share_top < 0.85 * (info.get("test_accuracy") or 0) / 100
        remedy = (_remedy(readings, best) + ("; or the images are not clean: this too is far from "
                                             "the card's accuracy" if short else ""))
        add(
            "normalisation", "error" if share_top - share > 0.05 and not short else "warning",
            f"read as '{best}' the images are recognised better than as given: {share_top:.1%} "
            f"against {share:.1%}", remedy, accuracy=share, accuracy_then=share_top, chance=chance,
            **_equals(results, best, column))
    else:
        tried = (f"none of {len(readings) - 1} other readings is clearly better than the images "
                 f"as given")
        add("normalisation", "ok", tried, accuracy=share)
    by_chance = None
    if not permuted:
        predicted = as_given["prediction"][keep]
        shares = [v.bincount(minlength=k).double() / n for v in (labels, predicted[predicted >= 0])]
        by_chance = float(shares[0] @ shares[1]) if labels.unique().numel() > 1 else None
    _accuracy(int(own.sum()), n, k, by_chance, info, add, unchecked)


def _remedy(readings: list[Reading], name: str) -> str:
    return next(r.remedy for r in readings if r.name == name)


def _equals(results: dict, best: str, column: int) -> dict:
    """The readings that these images cannot tell from the best one."""
    same = [
        f"'{name}'" for name, found in results.items()
        if name != best and better(found[column], results[best][column]) > 0.01
    ]
    return {"as_good": ", ".join(same)} if same else {}


def _until(keep: Tensor, many: int) -> int:
    """The first row after ``many`` that are kept."""
    where = keep.nonzero()[:, 0]
    return int(where[min(many, len(where)) - 1]) + 1


def _accuracy(right, n, k, by_chance, info, add, unchecked):
    """``by_chance``: the share that would be right if labels were dealt out anew, sum_c P(label c)
    P(prediction c); None where it tells nothing."""
    share = right / n
    interval = wilson(right, n)
    stated = info.get("test_accuracy")
    evidence = {"accuracy": share, "interval": interval, "images": n}
    if by_chance is not None and n >= 30 and binomial_tail(right, n, by_chance) > 0.01:
        return add(
            "accuracy", "error", f"the frozen model is at chance: {share:.1%} of {n} "
            f"images are right, and {by_chance:.1%} would be if its "
            "answers had nothing to do with the images", "see the other findings; else the "
            "weights were not loaded, or are "
            "of "
            "another task; adapting such a model tells nothing", **evidence, by_chance=by_chance)
    if stated is None:
        if interval[0] <= 1 / k:
            add("accuracy", "error", f"{share:.1%} of {n} images are right, no more than by "
                                     f"guessing among {k}", "see the other findings; else the "
                "checkpoint is not of this task", **evidence)
        else:
            add("accuracy", "ok", f"{share:.1%} of {n} images are right", **evidence)
            unchecked.append("accuracy: the card states none to compare with")
        return
    stated = stated / 100
    evidence["card"] = stated
    below = binomial_tail(n - right, n, 1 - stated)
    above = binomial_tail(right, n, stated)
    if below < 1e-3:
        add("accuracy", "error" if share < 0.75 * stated else "warning", f"{share:.1%} of {n} "
                                                                         f"images are right, the "
                                                                         f"card says {stated:.1%}",
            "see the other findings; else these images are harder than those of the card: "
            "shifted, compressed, or of another set", **evidence)
    elif above < 1e-3:
        add("accuracy", "warning", f"{share:.1%} of {n} images are right, more than the card's "
                                   f"{stated:.1%}",
            "are these the training images?", **evidence)
    else:
        add("accuracy", "ok", f"{share:.1%} of {n} images are right, which agrees with the card's "
                              f"{stated:.1%}", **evidence)


def _readings_without_labels(subject, readings, as_given, add, unchecked):
    """By batch-norm statistics where there are some; then, for what they cannot see, by the
    information in the predictions."""
    unchecked.append("normalisation by accuracy: no labels; judged by batch-norm statistics if "
                     "there are any, and by how much the predictions tell")
    some = slice(0, max(FIRST, 4 * as_given["classes"]))
    given = readings[0].name
    most = math.log(as_given["classes"])
    answers = {r.name: subject.ask(r, some, statistics=True) for r in readings}
    distances = {name: _mean(a["distances"]) for name, a in answers.items() if a["distances"]}
    best = min(distances, key=distances.get, default=given)
    if distances and distances[given] > max(FAR, 3 * distances[best]):
        return add("normalisation", "error" if distances[best] < FAR else "warning",
                   f"read as '{best}' the images fit the batch-norm statistics better than as "
                   f"given", _remedy(readings, best),
                   distance=distances[given], distance_then=distances[best])
    near = max(FAR, distances.get(given, 0))
    usable = [
        name for name, a in answers.items() if a["finite"].all() and distances.get(name, 0) <= near
    ]
    best = max(usable, key=lambda name: float(answers[name]["information"].mean()), default=given)
    own, then = (float(answers[name]["information"].mean()) for name in (given, best))
    gain = answers[best]["information"] - answers[given]["information"]
    sure = len(gain) > 1 and float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(len(gain))
    if sure and then - own > 0.15:
        return add("normalisation", "error" if own < then / 2 and then > 0.7 * most else "warning",
                   f"read as '{best}' the images are told apart better than as given",
                   _remedy(readings, best), information=own, information_then=then)
    add("normalisation", "ok", "read in no other way are the images told apart better",
        information=own, possible=most)
    if most and len(gain) >= 30 and own < TELLS * most:
        add("information", "error", f"the frozen model is as good as at chance: its predictions "
                                    f"carry {own:.2g} of {most:.3g} possible nats about "
            "the images", "see the other findings; else the weights were not loaded, or are of "
                          "another task", information=own, possible=most)


def _mean(distances: dict[str, float]) -> float | None:
    return sum(distances.values()) / len(distances) if distances else None


def _statistics(as_given, labelled, add, unchecked):
    distances = as_given["distances"]
    if not distances:
        unchecked.append("batch-norm statistics: the network has none")
        return
    mean, worst = _mean(distances), max(distances, key=distances.get)
    evidence = {
        "distance": mean, "layers": len(distances), "farthest": worst,
        "its_distance": distances[worst]
    }
    if mean > FAR:
        add(
            "statistics", "warning",
            f"the batch-norm statistics are far from those of these images: {mean:.3g} nats per "
            f"channel, up to {FAR} is usual",
            "wrong normalisation, shifted images, or statistics from elsewhere" +
            ("" if labelled else "; with labels one could tell"), **evidence)
    else:
        add("statistics", "ok", "the batch-norm statistics are those of such images", **evidence)
