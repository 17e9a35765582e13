"""What a trace does not hold: a light recorder of layers, gradients of single images, features
before and after adapting.

Nothing here changes a result: the recorder reads weights and inputs of layers through hooks, the
other functions put back whatever a forward changed. Names of layers are those of the modules,
without the prefix that all share.
"""
from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core import scores
from ..core.norm_layers import BATCH_NORM
from ..core.step_context import StepContext

FORMAT = "tta_lab layers 1"


class LayerWatch:
    """Records, while a stream runs, how far each layer has moved and what its batch-norm layers
    normalise with.

    ``run(adapter, stream, each=LayerWatch(adapter))`` looks at every step, ``every=10`` at each
    tenth. At most ``limit`` rows are kept: when they are full, every second one goes and ``every``
    doubles. Besides the rows it holds one copy of the tuned parameters, and one of the anchor with
    ``window``: after so many steps the accumulated displacement of the alignment starts anew (0: it
    counts from the source). Statistics are those of the step's first forward through the adapted
    network (of a norm with two passes, the second: the first is thrown away); a call of
    ``adapter.predict`` between two steps would be taken for it. ``close()`` removes the hooks.
    Raises ValueError for every or limit below their least values 1 and 2.
    """

    def __init__(self, adapter, every: int = 1, limit: int = 2000, window: int = 0):
        if every < 1 or limit < 2 or window < 0:
            raise ValueError(f"every must be at least 1, limit 2 and window 0, got {every}, "
                             f"{limit} and {window}")
        self.adapter, self.every, self.limit, self.window = (
            adapter,
            int(every),
            int(limit),
            int(window),
        )
        self.groups: dict[str, list[str]] = {}
        for name in adapter.tuned:
            self.groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
        before = dict(adapter.source.named_modules())
        kept = {id(m): name for name, m in adapter.model.named_modules()}
        self.norms = [
            name
            for name in kept.values()
            if isinstance(before.get(name), BATCH_NORM) and before[name].running_mean is not None
        ]
        self.sizes = _norms({name: p for name, p in adapter.origin.items()}, self.groups)
        self._source = {
            name: (
                before[name].running_mean.float(),
                before[name].running_var.float() + before[name].eps,
            )
            for name in self.norms
        }
        self._two_pass = getattr(adapter.recipe.norm, "passes", 1) == 2
        self._rows: list[dict] = []
        self._found: dict[str, tuple] = {}
        self._before: tuple[int, dict] | None = None
        self._anchor: dict | None = None
        modules = dict(adapter.model.named_modules())
        self._handles = [adapter.model.register_forward_pre_hook(self._begin)]
        self._handles += [
            modules[name].register_forward_hook(self._hook(name)) for name in self.norms
        ]

    # --- while it runs ---

    def _due(self, step: int) -> bool:
        return step % self.every == 0

    def _begin(self, module, args) -> None:
        """Before the first forward of a step: where the weights start from."""
        adapter = self.adapter
        step = adapter.steps
        if self._before is not None and self._before[0] == step:
            return
        anchored = self.window and (
            adapter.was_reset or self._anchor is None or step % self.window == 0
        )
        if not (self._due(step) or anchored):
            return
        weights = {name: p.detach().clone() for name, p in adapter.tuned.items()}
        if anchored:
            self._anchor = weights
        self._before = step, weights

    def _hook(self, name: str):
        def look(module, args, output):
            if (
                name in self._found
                or not self._due(self.adapter.steps)
                or (self._two_pass and getattr(module, "commit", False))
            ):
                return
            with torch.no_grad():
                self._found[name] = _statistics(module, args[0], output)
        return look

    @torch.no_grad()
    def __call__(self, trace) -> None:
        """One row for the step just made."""
        adapter, found, self._found = self.adapter, self._found, {}
        step = adapter.steps - 1
        if not self._due(step):
            return
        moved = {name: p.detach() - adapter.origin[name] for name, p in adapter.tuned.items()}
        row = {
            "step": step,
            "distance": _norms(moved, self.groups),
            "alignment": self._alignment(step),
        }
        nothing = torch.full((2,), torch.nan, device=adapter.device)
        row["drift"] = (
            torch.stack(
                [_drifts(found[n], self._source[n]) if n in found else nothing for n in self.norms]
            )
            if self.norms
            else None
        )
        self._rows.append(row)
        if len(self._rows) > self.limit:
            self._rows, self.every = (
                [r for r in self._rows if r["step"] % (2 * self.every) == 0],
                2 * self.every,
            )

    def _alignment(self, step: int) -> Tensor:
        """cos(u, u + TD) of each layer; NaN without a move, and where a reset came after the
        step."""
        adapter = self.adapter
        if self._before is None or self._before[0] != step or adapter.was_reset:
            return torch.full((len(self.groups),), torch.nan, device=adapter.device)
        start, anchor = self._before[1], self._anchor if self.window else adapter.origin
        u = {name: p.detach() - start[name] for name, p in adapter.tuned.items()}
        total = {name: p.detach() - anchor[name] for name, p in adapter.tuned.items()}
        dots = (
            torch.stack(
                [
                    sum((u[n].double() * total[n].double()).sum() for n in names)
                    for names in self.groups.values()
                ]
            )
            if self.groups
            else torch.zeros(0)
        )
        cosines = dots / (_norms(u, self.groups) * _norms(total, self.groups))  # 0 / 0 is NaN
        return cosines.clamp(-1, 1).float()

    def close(self) -> None:
        """Remove the hooks; what was recorded stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> LayerWatch:
        return self

    def __exit__(self, *what) -> None:
        self.close()

    # --- afterwards ---

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """What was recorded: step (T,), layers (L,), size (L,) norms of the source's parameters,
        distance and alignment (T, L), norms (M,), in_use and batch (T, M), in nats."""
        def table(name, width):
            rows = [r[name].float().reshape(-1) for r in self._rows]
            return (
                torch.stack(rows).cpu().numpy()
                if rows and width
                else np.full((len(self._rows), width), np.nan, np.float32)
            )

        layers, norms = len(self.groups), len(self.norms)
        drift = (
            torch.stack([r["drift"] for r in self._rows]).cpu().numpy()
            if norms and self._rows
            else np.full((len(self._rows), norms, 2), np.nan)
        )
        return {
            "step": np.array([r["step"] for r in self._rows], np.int64),
            "layers": np.array(short_names(self.groups), str),
            "size": self.sizes.cpu().numpy(),
            "distance": table("distance", layers),
            "alignment": table("alignment", layers),
            "norms": np.array(short_names(self.norms), str),
            "in_use": drift[..., 0],
            "batch": drift[..., 1],
        }

    def save(self, path: str | Path) -> Path:
        """Write the columns to one ``.npz`` file; an interrupted write leaves no half file."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        with open(part, "wb") as f:
            np.savez_compressed(f, format=np.array(FORMAT), **self.columns)
        os.replace(part, path)
        return path

    @staticmethod
    def load(path: str | Path) -> dict[str, np.ndarray]:
        """The columns written by ``save``; the views below take them like the recorder itself.
        ValueError for another file."""
        with np.load(path, allow_pickle=False) as f:
            if "format" not in f or str(f["format"]) != FORMAT:
                raise ValueError(f"{path} holds no record of layers; write one with "
                                 f"LayerWatch.save")
            return {name: f[name] for name in f.files if name != "format"}


def _norms(tensors: dict[str, Tensor], groups: dict[str, list[str]]) -> Tensor:
    """L2 norm of each group of tensors, (L,) float64."""
    if not groups:
        return torch.zeros(0, dtype=torch.float64)
    return torch.stack(
        [
            torch.stack([tensors[n].detach().double().norm() for n in names]).norm()
            for names in groups.values()
        ]
    )


def _statistics(layer, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance + eps per channel that a batch-norm layer used, read off its input and
    output, and those of the input.  4 x (C,)

    The layer computes y = w (x - m) / s + b, so the line through (x, y) of a channel has slope w /
    s and passes (m, b). The least-squares line is exact where one m and s serve all places, a mean
    over images where each image has its own. NaN for a channel of constant input or weight 0, which
    shows nothing.
    """
    dims = [d for d in range(x.ndim) if d != 1]
    x, y, eps = x.detach().double(), y.detach().double(), layer.eps
    weight = (
        torch.ones_like(x[0].flatten(1)[:, 0] if x.ndim > 2 else x[0])
        if layer.weight is None
        else layer.weight.detach().double()
    )
    bias = torch.zeros_like(weight) if layer.bias is None else layer.bias.detach().double()
    var, mean = torch.var_mean(x, dims, correction=0)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    middle = y.mean(dims)
    slope = ((x - mean.reshape(shape)) * (y - middle.reshape(shape))).mean(dims) / var
    deviation = weight / slope
    clear = (var > 1e-12) & (weight.abs() > 1e-6) & torch.isfinite(deviation)
    used = torch.where(clear, mean - (middle - bias) * deviation / weight, torch.nan)
    return used, torch.where(clear, deviation.square(), torch.nan), mean, var + eps


def _drifts(found, source) -> Tensor:
    """Symmetric KL of the statistics in use and of the batch from the source's, (2,), each a mean
    over the channels that show it."""
    mean, var = (t.double() for t in source)
    return torch.stack(
        [symmetric_kl(m, v, mean, var).nanmean() for m, v in (found[:2], found[2:])]
    ).float()


def symmetric_kl(mean_a: Tensor, var_a: Tensor, mean_b: Tensor, var_b: Tensor) -> Tensor:
    """KL(a || b) + KL(b || a) of Gaussians, element by element, in nats: 1/2 [(v_a + d^2) / v_b +
    (v_b + d^2) / v_a] - 1, d = m_a - m_b."""
    d = (mean_a - mean_b).square()
    return 0.5 * ((var_a + d) / var_b + (var_b + d) / var_a) - 1


def short_names(names) -> list[str]:
    """Dotted names without the leading parts that all of them share, but with two parts at
    least."""
    split = [name.split(".") for name in names]
    shared = 0
    while (
        len(split) > 1
        and all(len(s) > shared + 2 for s in split)
        and len({s[shared] for s in split}) == 1
    ):
        shared += 1
    return [".".join(s[shared:]) for s in split]


# --- views of the record

def _record(record) -> dict[str, np.ndarray]:
    return record.columns if isinstance(record, LayerWatch) else record


def layer_distance(record) -> dict:
    """How far each layer is from the source over time: ||theta_l - source_l||_2 / ||source_l||_2.

    ``step`` (T,), ``layers`` (L names, input first), ``relative`` (T, L), ``distance`` (T, L)
    without the division; ``why``. NaN where a layer's source parameters are all 0. ``record`` is a
    `LayerWatch` or what ``LayerWatch.load`` returns.
    """
    r = _record(record)
    size = np.where(r["size"] > 0, r["size"], math.nan)
    why = "" if len(r["layers"]) else "This method tunes no parameter, so no layer moves."
    return {
        "step": r["step"],
        "layers": list(map(str, r["layers"])),
        "distance": r["distance"],
        "relative": r["distance"] / size,
        "why": why,
    }


def norm_drift(record) -> dict:
    """How far the statistics of each batch-norm layer are from the source's: symmetric KL of
    Gaussians, mean over channels, in nats.

    1/C sum_c 1/2 [(v_c + d_c^2) / s_c + (s_c + d_c^2) / v_c] - 1 with d the difference of the
    means, v and s the two variances + eps. ``in_use`` (T, M): of the statistics that the layer
    normalised with, read off its input and output; ``batch`` (T, M): of those of its input;
    ``step`` (T,), ``layers`` (M names), ``why``.
    """
    r = _record(record)
    why = "" if len(r["norms"]) else "This model has no batch-norm layer with stored statistics."
    return {
        "step": r["step"],
        "layers": list(map(str, r["norms"])),
        "in_use": r["in_use"],
        "batch": r["batch"],
        "why": why,
    }


def layer_alignment(record) -> dict:
    """Whether a step moves each layer onwards or back: c_l = cos(u_l, u_l + TD_l) (GALA, arXiv
    2404.03784).

    u_l is the step's change of the layer's tuned parameters (after the optimiser), TD_l the
    displacement before it, from the source or from the start of the window. ``step`` (T,),
    ``layers`` (L), ``alignment`` (T, L) in -1..1: 1 straight on, 0 at a right angle, below 0 back;
    NaN for a layer that did not move; ``why``.
    """
    r = _record(record)
    why = (
        ""
        if np.isfinite(r["alignment"]).any()
        else "No layer of this run moved, so no step has a direction."
    )
    return {
        "step": r["step"],
        "layers": list(map(str, r["layers"])),
        "alignment": r["alignment"],
        "why": why,
    }


# --- gradients and features of images

def _group_names(known, label, prediction) -> np.ndarray:
    """correct, wrong, unknown or unlabelled, for each image."""
    known, label, prediction = (np.asarray(v) for v in (known, label, prediction))
    return np.where(
        ~known.astype(bool),
        "unknown",
        np.where(label < 0, "unlabelled", np.where(prediction == label, "correct", "wrong")),
    )


@torch.inference_mode(False)
def sample_gradients(adapter, batches, loss: str = "entropy", limit: int = 500) -> dict:
    """Norm of the gradient that each image alone would give, beside its entropy, at the adapter's
    present weights.

    g_i = ||d L_i / d theta||_2 over all tuned parameters, L_i the entropy of the image's prediction
    (``loss="entropy"``) or the method's own loss (``"method"``), in the batch that it came in: with
    batch statistics an image's loss depends on its neighbours too. Images of high entropy were
    found to have large and noisy gradients (SAR, arXiv 2302.12400). ``batches`` are those of a
    stream (``stream.cut(0, 5)``), up to ``limit`` images; one backward for each. Nothing is
    learned, the adapter is left as it was. Returns ``entropy`` (nats), ``norm``, ``group`` (names),
    ``id``, each (n,), ``loss``, ``why``. Raises ValueError for another loss, and for "method" where
    the method has no loss.
    """
    if loss not in ("entropy", "method"):
        raise ValueError(f"loss must be 'entropy' or 'method', not {loss!r}")
    if loss == "method" and not (adapter.recipe.learns and adapter.recipe.has_sample_losses):
        raise ValueError(f"{type(adapter.recipe).__name__} has no loss of single images; use "
                         f"loss='entropy'")
    parameters, rows, n = list(adapter.tuned.values()), [], 0
    for batch in batches if parameters else ():
        with adapter.isolated(), torch.enable_grad():
            ctx = StepContext(
                adapter, batch.x.detach().clone().to(adapter.device), batch.ids.to(adapter.device)
            )
            losses = (
                scores.entropy(ctx.logits)
                if loss == "entropy"
                else adapter.recipe.losses(ctx, adapter.states["method"])
            )
            if losses.ndim != 1:
                raise ValueError("sample_gradients takes classifiers; this model gives a loss for "
                                 "every place of an image")
            take = min(len(losses), limit - n)
            norms = [_gradient_norm(losses[i], parameters) for i in range(take)]
            entropy, prediction = (
                scores.entropy(ctx.logits.detach())[:take].cpu(),
                ctx.logits.detach().argmax(1)[:take].cpu(),
            )
        if take:
            rows.append(
                (
                    entropy.numpy(),
                    torch.stack(norms).cpu().numpy(),
                    _group_names(batch.known[:take], batch.label[:take], prediction),
                    batch.ids[:take].cpu().numpy(),
                )
            )
        n += take
        if n >= limit:
            break
    columns = (
        [np.concatenate(c) for c in zip(*rows, strict=True)]
        if rows
        else [np.zeros(0), np.zeros(0), np.zeros(0, str), np.zeros(0, np.int64)]
    )
    why = (
        ""
        if rows
        else "This method tunes no parameter, so there is no gradient."
        if not parameters
        else "There are no images."
    )
    return {
        **dict(zip(("entropy", "norm", "group", "id"), columns, strict=True)),
        "loss": loss,
        "why": why,
    }


def _gradient_norm(loss: Tensor, parameters) -> Tensor:
    grads = (
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        if loss.requires_grad
        else ()
    )
    grads = [g for g in grads if g is not None]
    return (
        torch.stack(torch._foreach_norm(grads)).norm()
        if grads
        else torch.zeros((), device=loss.device)
    )


@torch.inference_mode(False)
@torch.no_grad()
def feature_space(adapter, batches, statistics: str = "running", limit: int = 1000) -> dict:
    """Features of the frozen source and of the adapted network in the plane where the source's vary
    most.

    Features are the inputs of the head, (n, D); the axes are the first two principal components of
    the source's, and both are centred at the source's mean and projected on them. ``statistics`` is
    what the source's batch-norm layers use, "running" or "batch". Nothing is learned, the adapter
    is left as it was. Returns ``source`` and ``adapted`` (n, 2), ``explained`` {"source",
    "adapted"} (2,): share of each one's variance along the axes, ``label``, ``prediction``,
    ``source_prediction``, ``group`` and ``source_group`` (n,), ``why``. Raises NeedsError for a
    model without a head, ValueError for less than three images.
    """
    features: dict[str, list] = {"source": [], "adapted": []}
    facts: dict[str, list] = {"label": [], "known": [], "prediction": [], "source_prediction": []}
    n = 0
    for batch in batches:
        with adapter.isolated():
            ctx = StepContext(
                adapter, batch.x.detach().to(adapter.device), batch.ids.to(adapter.device)
            )
            source = ctx.source_features(statistics)
            adapted, logits = ctx.forward_features()
        for name, values, guess in (
            ("source", source, ctx.source_logits(statistics)),
            ("adapted", adapted, logits),
        ):
            features[name].append(values.double().cpu())
            facts["source_prediction" if name == "source" else "prediction"].append(
                guess.argmax(1).cpu()
            )
        facts["label"].append(batch.label)
        facts["known"].append(batch.known)
        n += len(batch)
        if n >= limit:
            break
    if n < 3:
        raise ValueError(f"principal components need at least 3 images, got {n}; give more batches")
    source, adapted = (torch.cat(v)[:limit] for v in (features["source"], features["adapted"]))
    label, known, prediction, source_prediction = (
        torch.cat(v)[:limit].numpy() for v in facts.values()
    )
    points, shares, axes = project(source, adapted)
    finite = np.isfinite(points["source"]).all() and np.isfinite(points["adapted"]).any()
    return {
        **points,
        "explained": shares,
        "axes": axes,
        "label": label,
        "known": known,
        "prediction": prediction,
        "source_prediction": source_prediction,
        "group": _group_names(known, label, prediction),
        "source_group": _group_names(known, label, source_prediction),
        "why": "" if finite else "The features are not finite.",
    }


def project(source: Tensor, adapted: Tensor) -> tuple[dict, dict, np.ndarray]:
    """Both (n, D) on the first two principal components of the source, the shares of variance along
    them, and the components (2, D)."""
    center = source.mean(0)
    if not torch.isfinite(source).all():
        nothing = np.full((len(source), 2), math.nan)
        return (
            {"source": nothing, "adapted": nothing},
            {"source": nothing[0], "adapted": nothing[0]},
            np.full((2, source.shape[1]), math.nan),
        )
    _, _, v = torch.linalg.svd(source - center, full_matrices=False)
    # the sign of a component is free
    largest = v[:2].gather(1, v[:2].abs().argmax(1, keepdim=True))
    axes = v[:2] * torch.where(largest < 0, -1.0, 1.0)
    if len(axes) < 2:
        axes = torch.cat([axes, torch.zeros(2 - len(axes), axes.shape[1], dtype=axes.dtype)])
    points = {"source": (source - center) @ axes.T, "adapted": (adapted - center) @ axes.T}
    shares = {
        name: points[name].var(0) / whole.var(0).sum()
        for name, whole in (("source", source), ("adapted", adapted))
    }
    return (
        {k: t.numpy() for k, t in points.items()},
        {k: t.numpy() for k, t in shares.items()},
        axes.numpy(),
    )
