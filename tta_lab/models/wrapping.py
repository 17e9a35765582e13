"""Source models: small networks with separable ``features`` and ``head``, and the input card they
carry.

Users feed images in [0, 1]; the normalisation belongs to the model. A model of any other origin
works too: an ``nn.Module`` from images to logits (B, C, *S) is all that the adapter asks for, and
``with_input_card`` gives it a card. ``from_torchvision`` and ``from_timm`` read the card from the
weights, ``cifar_networks.load_cifar`` opens the checkpoints of the CIFAR benchmarks,
``with_classes`` keeps some of a model's classes.
"""
from __future__ import annotations

import copy
import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..core.arguments import WrongKind, choice, shown, whole
from ..core.copying import unwrapped
from ..core.named import model_of
from ..core.source_model import InputCard, SourceModel, check_normalisation
from ..data.image_set import class_logits


def with_input_card(net: nn.Module, *, channels: int = 3, size=None, mean=0.0, std=1.0,
                    normalisation: str = "in_model", num_classes: int | None = None,
                    classes: Iterable[str] | None = None) -> SourceModel:
    """Give any classifier an input card, so that it takes images in [0, 1] and refuses everything
    else.

    net           a network from images to logits (B, K), compiled and parallel ones without their
                  wrapping. One without ``features`` and
                  ``head`` (with logits = head(features(x))) is cut in front of its classifier, the
                  last linear layer of K outputs, as `from_torchvision` does, where that changes no
                  answer, bit for bit
    channels, size, mean, std   of the `InputCard`; size: one side, (height, width) or None for any
    num_classes   K, checked against the network's; ``classes``: the names of the K outputs

    Raises ValueError, or TypeError for something of another kind, for arguments that cannot be
    meant and for another number of classes.
    """
    if isinstance(net, str | os.PathLike):
        raise WrongKind(
            f"net must be a network (nn.Module), not {net!r}; tta_lab.models.names.open_model "
            f"opens models by text, with mean=, std= and size= "
            "in it")
    card = InputCard(channels, size, mean, std)
    names = names_of(classes)
    count = None if num_classes is None else whole("num_classes", num_classes, 1)
    check_normalisation(normalisation)
    if isinstance(net, SourceModel):
        raise ValueError("net has an input card already; give the network inside, model.net, "
                         "where you want another one")
    net, _, found = split(unwrapped(SourceModel(net, card).net), card)
    for name, wanted in (("num_classes", count), ("classes", names and len(names))):
        if wanted is not None and found is not None and wanted != found:
            raise ValueError(f"{name} says {wanted} classes, but the network answers in {found}; "
                             f"models.with_classes(model, ...) keeps some of them")
    if count is not None and names is not None and count != len(names):
        raise ValueError(f"num_classes is {count}, but there are {len(names)} names in classes")
    known = found or count
    info = {"architecture": type(net.body if isinstance(net, Cut) else net).__name__}
    info |= ({"classes": names} if names else {}) | ({"num_classes": known} if known else {})
    return SourceModel(net, card, normalisation, info).eval()


def names_of(classes) -> list[str] | None:
    """Names of classes as a list of texts."""
    if classes is None:
        return None
    if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
        raise WrongKind(f"classes must list the names of the outputs, such as ('cat', 'dog'), not "
                        f"{shown(classes)}")
    names = list(classes)
    wrong = next((n for n in names if not isinstance(n, str)), None)
    if wrong is not None or not names:
        raise WrongKind(f"classes must list the names of the outputs as texts, not "
                        f"{shown(wrong if names else names)}")
    return names


class Cut(nn.Module):
    """A classifier cut in front of its last layer: ``features`` gives that layer's input (B, D),
    ``head`` is the layer.

    head(features(x)) is net(x), bit for bit. ``net`` is left whole; the parameters are shared with
    it.
    """

    def __init__(self, net: nn.Module, path: str):
        super().__init__()
        self.body = body = copy.copy(net)
        *way, last = path.split(".")
        # only the modules on the way to the head are copied, and only shallowly
        body._modules = dict(body._modules)
        for name in way:
            body._modules[name] = copy.copy(body._modules[name])
            body = body._modules[name]
            body._modules = dict(body._modules)
        self.head, body._modules[last] = body._modules[last], nn.Identity()

    @property
    def wraps(self) -> nn.Module:
        """The network that this one is made of."""
        return self.body

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def last_linear(net: nn.Module) -> str | None:
    """The path of the last linear layer, which is the classifier in all of torchvision's
    classification networks that have one."""
    paths = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    return paths[-1] if paths else None


@torch.no_grad()
def split(net: nn.Module, card: InputCard) -> tuple[nn.Module, str, int | None]:
    """A network with ``features`` and ``head``, the path of the layer it was cut at ("": it was
    not), and the number of its classes, or None.

    A network whose own ``head(features(x))`` are its logits stays as it is; else it is cut in
    front of the last linear layer (of as many outputs as there are classes) where the logits stay
    the same, bit for bit, on two random images of the card (of 64, 32 and 224 pixels where any
    size will do); else it stays as it is.
    """
    from ..core.step_context import as_logits

    net.eval()
    first = next((p for p in (*net.parameters(), *net.buffers()) if p.is_floating_point()),
                 torch.zeros(()))
    for size in [card.size] if card.size else [(64, 64), (32, 32), (224, 224)]:
        x = torch.rand(2, card.channels, *size,
                       generator=torch.Generator().manual_seed(0)).to(first)
        try:
            logits = as_logits(net(x), net)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError,
                NotImplementedError):
            continue
        if logits.ndim != 2:
            return net, "", None
        paths = [
            p for p, m in net.named_modules()
            if p and isinstance(m, nn.Linear) and m.out_features == logits.shape[1]
        ]
        for way in ("", *reversed(paths)):
            cut = Cut(net, way) if way else net
            try:
                features = cut.features(x)
                if features.ndim == 2 and isinstance(cut.head, nn.Module) and torch.equal(
                        as_logits(cut.head(features), cut), logits):
                    cut.eval()
                    return cut, way, logits.shape[1]
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError,
                NotImplementedError):
                continue
        return net, "", logits.shape[1]
    return net, "", None


class ClassPick(nn.Module):
    """Logits of K classes from those of L outputs, see `image_set.class_logits`."""

    def __init__(self, members: Tensor):
        super().__init__()
        self.register_buffer("members", members)

    def forward(self, logits: Tensor) -> Tensor:
        return class_logits(logits, self.members)


class PickedNet(nn.Module):
    """A network whose logits are those of chosen or grouped classes; its features are unchanged."""

    def __init__(self, net: nn.Module, members: Tensor):
        super().__init__()
        self.net, self.pick = net, ClassPick(members)

    @property
    def wraps(self) -> nn.Module:
        """The network that this one is made of."""
        return self.net

    @property
    def picks(self) -> int:
        """The number of classes."""
        return len(self.pick.members)

    def features(self, x: Tensor) -> Tensor:
        return self.net.features(x)

    @property
    def head(self) -> nn.Module:
        return nn.Sequential(self.net.head, self.pick)

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.net(x))


def _outputs(model: SourceModel) -> int:
    known = model.known_classes()
    if known is not None:
        return known
    layers = [
        m for m in getattr(model.net, "head", model.net).modules() if isinstance(m, nn.Linear)
    ]
    if not layers:
        raise ValueError(f"the number of outputs of {type(model.net).__name__} is not known; say "
                         f"outputs=")
    return layers[-1].out_features


def with_classes(model: SourceModel, classes, kind: str | None = None, outputs: int | None = None,
                 names=None) -> SourceModel:
    """The same model with logits of K chosen or grouped classes instead of its L outputs
    (ImageNet-A and -R keep 200 of 1000).

    classes  "outputs", int64 (K,) or (K, M) padded with -1: the output, or several, that stand for
             each class;
             "groups", int64 (L,): the class of each output, -1 for an output that is not used.
             Where several outputs stand for one class, it takes the largest of their logits, so
             that it wins exactly where one of them does
    kind     "outputs" or "groups"; None: "groups" where ``classes`` has L entries that are not
             just L different outputs
    outputs  L, where the last layer does not tell
    names    names of the K classes

    Raises ValueError for indices out of range, outputs named twice, classes without an output, an
    unclear ``kind``.
    """
    model = model_of(model)
    if not isinstance(model, SourceModel):
        raise WrongKind(f"with_classes needs a model with an input card, not a bare "
                        f"{type(model).__name__}; make one with with_input_card(net, ...)")
    kind = None if kind is None else choice("kind", kind, ("outputs", "groups"))
    outputs = None if outputs is None else whole("outputs", outputs, 1)
    names = names_of(names)
    try:
        chosen = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError) as why:
        raise WrongKind(f"classes must be numbers of outputs, such as [3, 0, 7], not "
                        f"{shown(classes)}") from why
    if chosen.is_floating_point() or chosen.dtype == torch.bool or chosen.ndim not in (
            1, 2) or not chosen.numel():
        raise ValueError(f"classes must be int64 (K,), (K, M) or (L,), got {chosen.dtype} "
                         f"{tuple(chosen.shape)}")
    chosen, total = chosen.long(), outputs or _outputs(model)
    if kind is None:
        kind = "groups" if chosen.ndim == 1 and len(chosen) == total else "outputs"
        if kind == "groups" and chosen.unique().numel() == total and int(chosen.min()) >= 0:
            raise ValueError(f"{total} different numbers for {total} outputs can be read in two "
                             f"ways; say kind='outputs' (the output of each "
                             "class) or kind='groups' (the class of each output)")
    if kind == "groups":
        if chosen.shape != (total,):
            raise ValueError(f"kind='groups' needs one class for each of the {total} outputs, got "
                             f"{tuple(chosen.shape)}")
        members = [(chosen == k).nonzero()[:, 0] for k in range(int(chosen.max()) + 1)]
        chosen = nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=-1)
    table = chosen.view(len(chosen), -1)
    used = table[table >= 0]
    if int(chosen.min()) < -1 or int(chosen.max()) >= total:
        raise ValueError(f"outputs run from 0 to {total - 1}, got {int(chosen.min())} to "
                         f"{int(chosen.max())}")
    empty = (table < 0).all(1).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"these classes have no output: {empty[:10]}")
    if used.unique().numel() < used.numel():
        twice = used[used.bincount()[used] > 1].unique().tolist()
        raise ValueError(f"these outputs stand for more than one class: {twice[:10]}")
    if names is not None and len(names) != len(chosen):
        raise ValueError(f"{len(names)} names for {len(chosen)} classes")
    known = model.info.get("classes")
    if names is None and known and len(known) == total:
        names = [" / ".join(known[i] for i in row if i >= 0) for row in table.tolist()]
    info = ({k: v for k, v in model.info.items() if k not in ("classes", "test_accuracy")} |
            ({"classes": list(names)} if names else {}))
    picked = SourceModel(
        PickedNet(model.net, chosen[:, 0] if chosen.ndim == 2 and chosen.shape[1] == 1 else chosen),
        model.card, model.normalisation, info)
    return picked.to(model.input_mean.device).train(model.training)
