"""The panel of the bring-your-own notebook: name a model and a folder, let the doctor look, then
explore.

Opening is `names.open_model` and `tta_lab.load`, looking is `doctor.check_up`, running is
the explorer: all of them work without the panel, and ``to_code()`` says how. What is typed wrongly
gives a sentence with its remedy and is kept in ``incompatibility``; what fails otherwise in
``error``.
"""
from __future__ import annotations

import html
import json

from ..core.arguments import WrongKind, flag, whole
from ..core.source_model import InputError
from ..data.load import load
from ..data.shipped import DataError
from ..models.doctor import check_up
from ..models.names import code_of, open_model, parse, refuse_code
from ..studies.your_model import study
from .controls import dropdown, tick
from .explorer import explorer
from .layout import BESIDE, code_block, column, div, heading
from .run_panel import RunPanel

# of what was typed; anything else is a failure
EXPECTED = (DataError, InputError, ValueError, TypeError, ImportError, OSError)
TRUST = "tick 'I trust this Python file; it will be run' (without a browser: trust=True)"
SHOWN = {  # which fields belong to which source
    "checkpoint": ("checkpoint",), "python": ("checkpoint", "code"),
    "torchvision": ("name", "weights"), "timm": ("name", "weights"),
    "cifar": ("checkpoint", "name"), "embedded": ("name",)}
WEIGHTS = [("the library's own (its cache, or a download)", "DEFAULT"),
           ("random, to try things out", "none"), ("the weights file", "file")]
TEXTS = {  # label, tooltip and example of the fields to type in
    "checkpoint": ("weights file", ".safetensors, or what torch.save wrote: .pt, .pth, .tar; only "
                   "tensors are read", "/path/to/weights.pt"),
    "code": ("Python file", "FILE.py:NAME; the file is run, and NAME() must return the network",
             "/path/to/net.py:MyNet"),
    "mean": ("mean", "one number, or one for each channel", "0.485,0.456,0.406"),
    "std": ("std", "one number, or one for each channel", "0.229,0.224,0.225"),
    "size": ("image size", "side in pixels, or height x width; images are scaled and cut to it",
             "as the weights say, or 224"),
    "classes": ("class names", "in the order of the model's outputs, with commas; or a text file "
                "with one a line", "as the weights say, or cat,dog"),
    "more": ("other options", "outputs=3,0,7 keeps these outputs; channels=1; "
             "normalisation=in_data; joined by &", ""),
    "images": ("image folder", "folder of pictures, or folder:PATH?order=time and other options "
               "of tta_lab.load", "/path/to/folder")}


def your_model(model: str = "", images: str = "", labelled: bool = True, *,
               interactive: bool = True, device="auto", seed: int = 0, n: int = 512,
               trust: bool = False, **settings) -> YourModelPanel:
    """Fields for a model and a folder of images, a button *Check* for the doctor, and then the
    explorer on them.

    ``model`` is a text for `open_model`, ``images`` the path of a folder or a text for `load`; both
    are first values of the fields and may be "". ``labelled``: sub-folders are classes. ``trust``:
    the tick box below the name of a Python file, which is run only when it is ticked. ``n`` images
    are looked at by the doctor. ``settings`` are first values of the explorer's controls.
    ``interactive`` False returns a panel that has checked and run once, in the caller's thread,
    with every callback called from Python. A "python:" text has no fields: it is run so alone, and
    with ``interactive`` a sentence stands in place of the panel.
    """
    for name, value in (("model", model), ("images", images)):
        if not isinstance(value, str):
            raise WrongKind(f"{name} must be a text, such as 'checkpoint:PATH' or the path of a "
                            f"folder, not a {type(value).__name__}; the explorer takes networks "
                            "and image sets as they are")
    labelled = flag("labelled", labelled)
    trust = flag("trust", trust)
    seed = whole("seed", seed, 0, 10**6)
    n = whole("n", n, 1)
    return YourModelPanel(model, images, labelled, interactive, device, seed, n, settings,
                          trust).opened()


class YourModelPanel(RunPanel):
    """What ``your_model`` makes.

    ``texts`` (model, images) as they were checked last, ``network`` and ``data`` what they opened,
    ``report`` the doctor's, ``explorer`` the explorer's panel on them (None before);
    ``incompatibility`` says why nothing was opened, or is "". ``error`` is the exception that
    ended the last check, or the explorer's; None when there was none.
    """

    def __init__(self, model, images, labelled, interactive, device, seed, n, settings,
                 trust=False):
        import ipywidgets as W

        kind, name, _ = parse(model) if model.strip() else ("", "", {})
        self._without_fields = model if kind == "python" else ""
        self.device = device
        self.seed = seed
        self.n = n
        self.settings = settings
        self.texts = ("", "")
        self.incompatibility = ""
        self.notes = []
        self.network = self.data = self.report = self.explorer = self._failed = None
        fields = _fields("" if self._without_fields else model, images, labelled, trust)
        super().__init__(fields, interactive,
                         "Open both, and let the doctor look whether they belong together", 110,
                         395)
        self.run_button.description = "Check"
        self.run_button.layout.width = "128px"
        self.table = W.HTML()
        self.code = W.HTML()
        self.opened_box = W.HTML()
        self.place = W.VBox()
        self._file = self._runs() or self.controls["code"].value
        self._arrange()
        self._say(study.NO_FIELDS.format(model, name) if self._without_fields else
                  "Name a model and a folder of images, then press Check.")

    # --- what the fields say

    @property
    def error(self):
        """The exception that ended the last check, or the explorer's; None when there was none."""
        return self._failed or (None if self.explorer is None else self.explorer.error)

    @error.setter
    def error(self, error):
        self._failed = error

    @property
    def fields(self) -> dict:
        """What the fields for the model say."""
        found = {name: self.controls[name].value for name in study.EMPTY}
        shown = SHOWN[found["source"]]
        file = "checkpoint" in shown or "weights" in shown and found["weights"] == "file"
        found["name"] = found["name"] or "" if "name" in shown else ""
        found["checkpoint"] = found["checkpoint"] if file else ""
        if found["preset"] == "own":
            found["preset"] = None
        else:
            found["mean"] = found["std"] = ""
        return found

    @property
    def model_text(self) -> str:
        """The text for `open_model`. Raises ValueError where a field is empty or wrong."""
        return self._without_fields or study.text_of(self.fields)

    def put(self, model: str, images: str, labelled: bool = True) -> None:
        """Fill the fields from texts, as ``your_model`` does. Raises ValueError for a text that
        has no fields."""
        fields = study.fields_of(model)
        c = self.controls
        self._without_fields = ""
        c["source"].value = fields["source"]
        for name, value in fields.items():
            if name not in ("source", "preset") and (name != "name" or c["name"].options):
                c[name].value = value
        c["preset"].value = "own" if fields["mean"] else None
        c["images"].value = images
        c["labelled"].value = labelled

    def _arrange(self):
        """Show the fields that have a meaning now."""
        c = self.controls
        source = self.controls["source"].value
        shown = SHOWN[source]
        for name in ("name", "weights", "checkpoint", "code"):
            there = (name in shown or name == "checkpoint" and "weights" in shown
                     and c["weights"].value == "file")
            c[name].layout.display = None if there else "none"
        c["trust"].layout.display = None if "code" in shown or self._runs() else "none"
        for name in ("mean", "std"):
            c[name].layout.display = None if c["preset"].value == "own" else "none"

    def _runs(self) -> str:
        """The Python file that the model of these fields would run, or ""."""
        try:
            return code_of(self.model_text)
        except (ValueError, ImportError):
            return ""

    def _on_change(self, name, value):
        c = self.controls
        file = self._runs() or c["code"].value
        if name != "trust" and file != self._file:  # trust is of one file
            c["trust"].value = False
        self._file = file
        if name == "source":
            names = study.names_of(value)
            first = [n for n in ("resnet18", "fashion_resnet_bn") if n in names] + names[:1]
            c["name"].options = _name_options(names)
            c["name"].value = first[0] if first else None
        self._arrange()
        if self.report is not None or self.incompatibility:
            self._say("The fields were changed: press Check."
                      + (" The explorer below still has "
                         "what was checked last." if self.explorer else ""))

    def run_headless(self) -> None:
        """Every callback once, a check, and the explorer's own."""
        fields = self.values
        fields["trust"] = fields.pop("trust")  # last: it is taken back whenever the file changes
        for source in [value for _, value in self.controls["source"].options if value != "timm"]:
            self.controls["source"].value = source
        self.controls["preset"].value = "own"
        for name in ("source", *fields):
            self.controls[name].value = fields[name]
        self.run_button.click()

    # --- the work

    def _refused(self) -> str:
        try:
            self.incompatibility = ""
            text = self.model_text
            refuse_code(text, self.controls["trust"].value, TRUST)
            if not self.controls["images"].value.strip():
                self.incompatibility = ("no folder of images is named: type its path into the "
                                        "field 'image folder'.")
        except (ValueError, ImportError) as error:
            self.incompatibility = str(error)
        return f"Nothing was checked: {self.incompatibility}" if self.incompatibility else ""

    def _begin(self):
        if self.explorer is not None:
            self.explorer.stop_button.click()
        self.network = self.data = self.report = self.explorer = None
        self.table.value = self.opened_box.value = self.code.value = ""
        self.place.children = ()
        c = self.values
        return self.model_text, c["images"], bool(c["labelled"]), bool(c["trust"])

    def _run(self, text, images, labelled, trust):
        self.progress.max, self.progress.value = 3, 0
        try:
            self._look(text, images, labelled)
            self._show()
            self._explore(*self.texts, trust)
        except EXPECTED as error:
            self._refuse(error)
            return
        self._say(self.finding())

    def _look(self, text, images, labelled):
        """Open both, and ask the doctor."""
        self._say("Opening the model.")
        self.network = open_model(text)
        self.progress.value = 1
        self._say("Opening the images.")
        found, self.notes = study.images_text(images, self.network, labelled)
        self.data = load(found)
        self.texts = (text, found)
        self._labelled = labelled
        self.data.images(slice(0, 1))
        self.progress.value = 2
        self._say("The doctor looks at both, in several readings of the images. On a processor and "
                  "with large images this takes minutes.")
        self.report = check_up(self.network, self.data, n=self.n, device=self.device,
                               seed=self.seed)
        self.progress.value = 3
        if labelled and not (self.data.y >= 0).any():
            self.notes.append("The images have no labels: the folder has no sub-folders.")

    def _show(self):
        """What was opened, what the doctor says, and the code."""
        size = f"{len(self.data)} images of {len(self.data.classes)} classes."
        lines = [*study.say_model(self.network), size, *self.notes]
        self.opened_box.value = div("<br>".join(html.escape(text) for text in lines))
        self.table.value = study.report_html(self.report, BESIDE)
        self.code.value = div(code_block("The same without the panel:", self.to_code()))

    def _refuse(self, error):
        self.incompatibility = str(error)
        what = "Nothing was checked" if self.report is None else "The explorer cannot be opened"
        self._say(f"{what}: {self.incompatibility.rstrip('.')}.")

    def _explore(self, model, images, trust):
        labelled = bool((self.data.y >= 0).any())
        first = {"protocol": "continual" if labelled else "recorded", "shifts": ("none",),
                 "per_shift": min(len(self.data), 300)}
        self.explorer = explorer(model=model, images=images, interactive=self.interactive,
                                 device=self.device, seed=self.seed, trust=trust,
                                 **(first | self.settings))
        if self.interactive:
            self.place.children = (self.explorer.widget,)

    # --- words

    def finding(self) -> str:
        """What the check has found."""
        wrong = [f for f in self.report.findings if f.severity != "ok"]
        found = f"{len(wrong)} thing{'s' * (len(wrong) > 1)} to put right, see the table" \
            if wrong else "nothing wrong"
        text = f"Checked {self.report.images} images: {found}. The explorer is below"
        if self.explorer.incompatibility:
            return f"{text}, but with these settings it cannot run: {self.explorer.incompatibility}"
        broken = any(f.severity == "error" for f in wrong)
        return text + ("; its numbers mean little before that." if broken else ".")

    def to_code(self) -> str:
        """A cell that opens and checks the same, and makes the explorer's run, without a panel."""
        if self.report is None:
            return "# Nothing was checked yet."
        model, images = self.texts
        code = "\n".join(["from tta_lab import check_up, load",
                          "from tta_lab.models.names import open_model", "",
                          f"model = open_model({model!r})", f"images = load({images!r})",
                          f"print(check_up(model, images, n={self.n}, seed={self.seed}))"])
        ran = self.explorer is not None and self.explorer.ran is not None
        return f"{code}\n\n{self.explorer.to_code()}" if ran else code

    def to_parameters(self) -> str:
        """The same as YAML text, parameters for this notebook."""
        if self.report is None:
            return "# Nothing was checked yet.\n"
        model, images = self.texts
        values = {"model": model, "images": images, "labelled": self._labelled,
                  "seed": self.seed}
        values |= {"trust": True} if code_of(model) else {}
        return "".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items())

    # --- layout

    @property
    def widget(self):
        """Everything in one box."""
        if self._without_fields:
            return column(self.status)
        c = self.controls
        names = ("source", "name", "weights", "checkpoint", "code", "trust", "images", "labelled")
        left = [c[name] for name in names]
        card = [c[name] for name in ("preset", "mean", "std", "size", "classes", "more")]
        bench = self.bench([*left, heading("Input card"), *card], (),
                           [self.opened_box, self.table, self.code])
        bench.add_class("tta-short")  # the explorer is below
        return column(bench, self.place)

    def summary(self):
        lines, figures = ([], []) if self.explorer is None else self.explorer.summary()
        report = [] if self.report is None else study.say_report(self.report)
        return [self.message, *report, *lines], figures


def _fields(model: str, images: str, labelled: bool, trust: bool) -> dict:
    """The controls, filled from the texts of a model and of images."""
    import ipywidgets as W

    fields = study.fields_of(model) if model.strip() else dict(study.EMPTY)
    sources = {k: v for k, v in study.SOURCES.items() if k != "timm" or _has_timm()}
    if fields["source"] not in sources:
        raise ImportError("the package timm is not installed: pip install timm; torchvision's "
                          "networks work without it")
    names = study.names_of(fields["source"])
    weights = list(WEIGHTS)
    if fields["weights"] not in [value for _, value in weights]:
        weights.insert(0, (fields["weights"], fields["weights"]))
    own = [("the numbers below", "own")]
    fields["images"] = images
    typed = {name: W.Text(value=fields[name], description=label, tooltip=tip, placeholder=example,
                          continuous_update=False)
             for name, (label, tip, example) in TEXTS.items()}
    found = {
        "source": dropdown("source", sources, fields["source"], "model from",
                           "where the network comes from"),
        "name": W.Dropdown(options=_name_options(names), value=fields["name"] if names else None,
                           description="network", tooltip="the architecture"),
        "weights": dropdown("weights", weights, fields["weights"], "weights",
                            "which weights the network gets"),
        "checkpoint": typed.pop("checkpoint"), "code": typed.pop("code"),
        "trust": tick(trust, "I trust this Python file; it will be run", "a Python file can do "
                      "whatever you can do: read, write and delete your files"),
        "preset": W.Dropdown(options=[*study.PRESETS.items(), *own], description="mean and std",
                             value="own" if fields["mean"] else None, tooltip="how the network "
                             "wants its images: (x - mean) / std, x from 0 to 1")}
    labels = tick(labelled, "sub-folders are classes; else no labels", "without labels agreement, "
                  "entropy, rise and fall are shown in place of errors")
    return found | typed | {"labelled": labels}


def _name_options(names) -> list[tuple[str, str]]:
    return [(name or "read from the file", name) for name in names]


def _has_timm() -> bool:
    from importlib.util import find_spec
    return find_spec("timm") is not None
