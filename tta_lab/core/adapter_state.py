"""AdapterState: all that changes in an adapter between batches, kept in one place."""
from __future__ import annotations

from collections.abc import Container, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import whole
from .parts import SCOPES, Method

PARTS = ("method", "norm", "train", "update", "cadence", "select", "penalties", "controllers")
LEARNED = ("weights", "statistics", "optimizer", "states")  # neither generator nor counters
EVERYTHING = (*SCOPES, "counters")
# what was learned: the cadence holds what came, controllers what they saw
LEARNING_PARTS = tuple(name for name in PARTS if name not in ("cadence", "controllers"))
COUNTERS = {"seen": int, "steps": int, "was_reset": bool, "cost": dict}


class AdapterState:
    """Weights, statistics, optimiser, states of the parts, generator and counters of one adapter.

    ``tensors`` name -> tuned parameter or buffer, changed in place, and ``start`` what each was at
    the start; ``parts`` name in PARTS -> state, a list of states for a chain; ``seen`` images and
    ``steps`` so far, ``was_reset`` since the last step; ``cost`` images through the networks.
    """

    def __init__(self, recipe: Method, model: nn.Module, source: nn.Module,
                 tuned: dict[str, nn.Parameter], buffers: dict[str, Tensor], rng: torch.Generator,
                 seed: int):
        self.recipe = recipe
        self.model = model
        self.source = source
        self.tuned = tuned
        self.tensors: dict[str, Tensor] = {**tuned, **buffers}
        self.start = {name: t.detach().clone() for name, t in self.tensors.items()}
        self.optimizer: torch.optim.Optimizer | None = None
        if tuned:
            self.optimizer = recipe.update.build(list(tuned.values()))
            for group in self.optimizer.param_groups:
                group["scale"] = 1.0  # see Adapter.scale_rate; own schedules multiply by it
            self._groups = [{k: v for k, v in group.items() if k != "params"}
                            for group in self.optimizer.param_groups]
        self.rng = rng
        self.seed = seed
        self.parts: dict[str, Any] = {}
        self.count_from_zero()

    def count_from_zero(self) -> None:
        """Counters and cost as before the first batch."""
        self.seen = 0
        self.steps = 0
        self.was_reset = True
        self.cost = {"forwards": 0, "backwards": 0}

    def of(self, scopes: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of "weights" and of "statistics", those that ``scopes`` names."""
        return {name: t for name, t in self.tensors.items()
                if ("weights" if name in self.tuned else "statistics") in scopes}

    def seat_of(self, state: dict | str) -> tuple | str:
        """Where a part's state stands, such as ("select", 0): a key for what is kept beside it; a
        name stays as it is. Raises ValueError for a state that is none of this adapter's."""
        if isinstance(state, str):
            return state
        waiting: list[tuple[tuple, Any]] = [((), self.parts)]
        for seat, value in waiting:  # which grows: what is inside comes after what is beside
            if value is state:
                return seat
            inside = (value.items() if isinstance(value, dict) else
                      enumerate(value) if isinstance(value, list) else ())
            waiting += [((*seat, key), v) for key, v in inside if isinstance(v, dict | list)]
        raise ValueError("this state is none of the adapter's: hand over the one that the part was "
                         "called with, or a name")

    def take(self, scopes: Iterable[str] = EVERYTHING, parts: Iterable[str] = PARTS) -> dict:
        """Copies of what these scopes hold, of "states" those of these parts, as tensors, numbers,
        strings, lists and dicts."""
        taken: dict[str, Any] = {
            "tensors": {name: t.detach().clone() for name, t in self.of(scopes).items()}}
        if "optimizer" in scopes:
            taken["optimizer"] = deepcopy(self.optimizer.state_dict()) if self.optimizer else {}
        if "states" in scopes:
            taken["states"] = deepcopy({n: s for n, s in self.parts.items() if n in parts})
        if "generator" in scopes:
            taken["rng"] = self.rng.get_state()
        if "counters" in scopes:
            taken |= {name: getattr(self, name) for name in COUNTERS} | {"cost": dict(self.cost)}
        return taken

    def put(self, taken: dict, scopes: Iterable[str] = EVERYTHING) -> None:
        """Put back what ``take`` gave for these scopes, values in place; parts that it did not
        take stay. Raises ValueError for tensors of another adapter, before anything moves."""
        mine = self.of(scopes)
        tensors = {name: t for name, t in taken["tensors"].items()
                   if name in self.tensors or not name.endswith("num_batches_tracked")}
        other = (mine.keys() - tensors.keys()) | (tensors.keys() - self.tensors.keys())
        if other:
            raise ValueError(f"the state holds other tensors than this adapter: "
                             f"{sorted(other)[:5]}")
        for name, tensor in mine.items():
            if tensors[name].shape != tensor.shape:
                raise ValueError(f"the state holds {name!r} of shape "
                                 f"{tuple(tensors[name].shape)}, this adapter "
                                 f"{tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(tensors[name])
        if "optimizer" in scopes and self.optimizer is not None:
            self.optimizer.load_state_dict(deepcopy(taken["optimizer"]))
        if "states" in scopes:
            self.parts = {**self.parts, **to_device(deepcopy(taken["states"]), self.rng.device)}
        if "generator" in scopes:
            self.rng.set_state(taken["rng"].cpu())
        if "counters" in scopes:
            for name in COUNTERS:
                setattr(self, name, taken[name])
            self.cost = dict(taken["cost"])

    def rewind(self, scopes: Iterable[str] = SCOPES, parts: Iterable[str] = PARTS) -> None:
        """Put these scopes back to the start, values in place; of "states" those of these
        parts."""
        with torch.no_grad():
            for name, tensor in self.of(scopes).items():
                tensor.copy_(self.start[name])
        if self.optimizer is not None and "optimizer" in scopes:
            self.optimizer.state.clear()
            self.optimizer.zero_grad(set_to_none=True)
            for group, start in zip(self.optimizer.param_groups, self._groups, strict=True):
                group.update(start)  # step sizes that follow a schedule
        if "states" in scopes:
            self.parts = {**self.parts, **{name: self._init(name) for name in parts}}
        if "generator" in scopes:
            self.rng.manual_seed(self.seed)

    def _init(self, name: str) -> Any:
        here = self.recipe if name == "method" else getattr(self.recipe, name)
        if isinstance(here, tuple):
            return [part.init(self.model, self.source) for part in here]
        return here.init(self.model, self.source)

    def check(self, taken: dict) -> None:
        """Raise ValueError for what ``take`` cannot have given, as from a damaged file; compared
        with the states of the parts as they are now, which should be those of the start."""
        for name, kind in COUNTERS.items():
            if not isinstance(taken[name], kind):
                raise ValueError(f"{name} must be of the type {kind.__name__}, not "
                                 f"{type(taken[name]).__name__}")
        if taken["cost"].keys() != self.cost.keys():
            raise ValueError(f"it counts {sorted(taken['cost'])}, not {sorted(self.cost)}")
        for name in ("seen", "steps"):
            whole(name, taken[name], 0)
        _check_alike("cost", self.cost, taken["cost"])
        self._check_optimizer(taken["optimizer"])
        _check_alike("states", self.parts, taken["states"], self.tensors)

    def _check_optimizer(self, state: dict) -> None:
        """Raise ValueError where running averages have other shapes than the parameters they
        belong to."""
        params = list(self.tuned.values())
        for i, averages in state.get("state", {}).items():
            for name, value in averages.items():
                if (isinstance(value, Tensor) and value.ndim
                        and (i >= len(params) or value.shape != params[i].shape)):
                    raise ValueError(f"the optimiser's {name!r} of parameter {i} has shape "
                                     f"{tuple(value.shape)}, which no parameter here has")


def to_device(value: Any, device: torch.device, precision: torch.dtype | None = None) -> Any:
    """Tensors in dicts and lists on a device, those of floating numbers in a precision (None:
    their own)."""
    if isinstance(value, Tensor):
        return value.to(device, precision if value.is_floating_point() else None)
    if isinstance(value, dict):
        return {k: to_device(v, device, precision) for k, v in value.items()}
    return [to_device(v, device, precision) for v in value] if isinstance(value, list) else value


def _check_alike(where: str, start: Any, found: Any, fixed: Container = (),
                 name: object = None) -> None:
    """Raise ValueError where a state is not one that can have come of this start: another kind,
    keys or shape. What starts as None, as an empty dict or in a list may become anything, and rows
    may be added to tensors, but not to those called as in ``fixed``."""
    if start is None or start == {}:
        return
    if isinstance(start, dict):
        if not isinstance(found, dict) or start.keys() - found.keys():
            raise ValueError(f"its {where} should hold {', '.join(map(str, start))}")
        for key, value in start.items():
            _check_alike(f"{where} {key}", value, found[key], fixed, key)
    elif isinstance(start, Tensor):
        grown = (isinstance(found, Tensor) and start.ndim == found.ndim > 0
                 and start.shape[1:] == found.shape[1:] and len(found) >= len(start)
                 and name not in fixed)
        if not isinstance(found, Tensor) or start.shape != found.shape and not grown:
            got = tuple(found.shape) if isinstance(found, Tensor) else repr(found)
            raise ValueError(f"its {where} should be of shape {tuple(start.shape)}, not {got}")
    elif isinstance(start, list):
        if not isinstance(found, list) or len(start) > len(found):
            raise ValueError(f"its {where} should be a list of at least {len(start)}, not "
                             f"{found!r}")
        for i, value in enumerate(start):
            _check_alike(f"{where} {i}", value, found[i], fixed)
    elif (isinstance(start, str) != isinstance(found, str)
          or not isinstance(found, str | int | float | Tensor)):
        raise ValueError(f"its {where} should be like {start!r}, not {found!r}")
