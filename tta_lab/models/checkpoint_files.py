"""Reading weights from files without running what is in them."""
from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.arguments import path_of
from ..data.shipped import DataError, refuse_html

# where training scripts put the weights in a larger file
_WRAPS = ("state_dict", "model_state_dict", "model", "net")
# left by DataParallel, torch.compile and wrappers
_PREFIXES = ("module.", "_orig_mod.", "net.", "model.")
_NORMALISERS = ("normalize.mean", "normalize.std", "mu", "sigma")


def _unpickle(path: Path):
    """torch.load with weights_only; NumPy numbers (an accuracy stored beside the weights) are let
    through too, they run no code."""
    import _codecs

    import numpy as np

    def number(core):   # NumPy 2 moved the function; files name either place
        def scalar(*arguments):
            return np.float64(0).__reduce__()[0](*arguments)

        scalar.__module__ = f"numpy.{core}.multiarray"
        scalar.__qualname__ = "scalar"
        return scalar

    harmless = [
        number("core"),
        number("_core"), _codecs.encode, np.dtype,
        *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?"))
    ]
    with torch.serialization.safe_globals(harmless):
        return torch.load(path, map_location="cpu", weights_only=True)


_HARMLESS = ("torch._utils._rebuild_", "torch.storage.", "torch.FloatStorage", "torch.Size",
             "torch.device", "torch._tensor._rebuild_from_type_v2", "collections.OrderedDict",
             "_codecs.encode", "numpy.dtype")


def _names_in(stream, found: dict) -> bool:
    """Enter the names "module.name" of one pickle, and say whether more may follow. What has
    neither a pickle's start nor its end is none."""
    start = stream.tell()
    texts = []
    names = []
    marked, ended = stream.read(1) == b"\x80", False
    stream.seek(start)
    try:
        for code, argument, _ in pickletools.genops(stream):
            if code.name == "GLOBAL":
                names.append(".".join(argument.split(" ", 1)))
            elif code.name == "STACK_GLOBAL" and len(texts) > 1:
                names.append(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
            ended = code.name == "STOP"
    finally:
        if marked or ended:
            found |= dict.fromkeys(names)
    return stream.tell() < len(stream.getbuffer())


def _objects_in(path: Path) -> list[str]:
    """What a pickle would import or call when it is loaded, tensors' own functions left out:
    ["posix.system"]; read without running any of it."""
    import _compat_pickle

    found: dict[str, None] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any("/code/" in n for n in archive.namelist()):
                    return ["a TorchScript program"]
                streams = [
                    io.BytesIO(archive.read(n)) for n in archive.namelist() if n.endswith(".pkl")
                ]
        else:
            streams = [io.BytesIO(path.read_bytes())]
        for stream in streams:
            while _names_in(stream, found):  # older files are several pickles, one behind the other
                pass
    except (ValueError, OSError, zipfile.BadZipFile, UnicodeError, IndexError, NotImplementedError,
            RuntimeError):
        pass  # the numbers behind the pickles, or a damaged file: what was found up to there counts
    names = []
    for text in found:
        module, _, name = text.rpartition(".")
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        names.append(f"{module}.{name}")
    return [
        n for n in names
        if not n.startswith(_HARMLESS) and not (n.startswith("torch.") and n.endswith("Storage"))
    ]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, on the CPU: .safetensors, or what torch.save wrote
    (.pt, .pth, .th, .tar).

    Weights nested under "state_dict", "model_state_dict", "model" or "net" are taken out, and the
    prefixes "module.", "_orig_mod.", "net." and "model." that all names share are dropped. Nothing
    in the file is run (``weights_only=True``). Raises DataError, naming the file and the remedy:
    not there, empty, a web page, truncated, not only tensors.
    """
    path = path_of("path", path)
    if not path.is_file():
        raise DataError(f"there is no checkpoint file {path}; check the path" +
                        (": this is a "
                         "folder" if path.is_dir() else ""))
    with path.open("rb") as file:
        head = file.read(512)
    refuse_html(head, path)
    if not head or head.startswith(b"version https://git-lfs"):
        what = "is empty" if not head else "is a Git LFS pointer, not the file itself"
        raise DataError(f"the checkpoint {path} {what}; download it again")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own advice
                content = _unpickle(path)
    except Exception as why:
        called = _objects_in(path)
        if called:
            raise DataError(f"the checkpoint {path} holds code or Python objects besides tensors "
                            f"({listed(called, 4)}); loading them could run "
                            "foreign code, so nothing of it was loaded. Where it was made, save "
                            "the weights alone: "
                            # torch's message recommends to load it
                            # all the same
                            "torch.save(model.state_dict(), path)") from None
        text = str(why).split("WeightsUnpickler error:")[-1].strip()
        reason = text.splitlines()[0] if text else type(why).__name__
        if "weights_only" in reason or "torch.load" in reason:
            reason = type(why).__name__
        raise DataError(f"the checkpoint {path} cannot be read ({path.stat().st_size} bytes; "
                        f"{reason[:200]}): it is truncated, damaged or "
                        "no checkpoint; download it again and compare its size") from None
    for _ in range(3):
        inside = next(
            (k for k in _WRAPS if isinstance(content, dict) and isinstance(content.get(k), dict)),
            None)
        if inside is None:
            break
        content = content[inside]
    if not isinstance(content, dict) or not content or not all(
            isinstance(v, Tensor) for v in content.values()):
        found = (type(content).__name__ if not isinstance(content, dict) else f"a dict with "
                 f"{', '.join(map(str, list(content)[:8])) or 'nothing'}")
        raise DataError(f"the checkpoint {path} holds {found}, not a state dict of named tensors; "
                        f"save model.state_dict()")
    return _strip(content)


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        names = [k for k in state if k not in _NORMALISERS]
        prefix = next((p for p in _PREFIXES if names and all(k.startswith(p) for k in names)), None)
        if prefix is None:
            return dict(state)
        state = {k if k in _NORMALISERS else k.removeprefix(prefix): v for k, v in state.items()}


def listed(names, many: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:many]) + (f" and {len(names) - many} more" if len(names) > many else "")


def fill(net: nn.Module, state: dict[str, Tensor], path: str | Path, name: str,
         remedy: str) -> nn.Module:
    """Load a state dict into a network in float32, strictly except for batch-norm's batch counters.

    Raises DataError naming the file, the keys that are missing, unexpected or of another shape,
    and the remedy.
    """
    wanted = net.state_dict()
    counters = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = [k for k in wanted if k not in state and k not in counters]
    unexpected = [k for k in state if k not in wanted]
    shapes = [f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}" for k, v in wanted.items()
              if k in state and state[k].shape != v.shape]
    wrong = [
        f"{len(keys)} {what}: {listed(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape",
                                                                              shapes)) if keys
    ]
    if wrong:
        raise DataError(f"the checkpoint {path} does not fit {name}: {'; '.join(wrong)}. {remedy}")
    given = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    broken = [k for k, v in given.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise DataError(f"the checkpoint {path} holds NaN or Inf in {listed(broken)}; take an "
                        f"earlier one of the same training")
    net.load_state_dict(
        {k: given[k] if k in given else torch.zeros_like(v) for k, v in wanted.items()})
    return net
