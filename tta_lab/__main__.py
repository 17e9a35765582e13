"""``python -m tta_lab run | test | lab | app | report | train | workshop | info``"""
import argparse
import os
import sys

from tta_lab import __version__
from tta_lab.cli import bootstrap

FIRST = "01_wisdom_of_crowds"


def parser():
    top = argparse.ArgumentParser(prog="python -m tta_lab", description="TTA Lab: a laboratory "
                                                                        "for test-time adaptation",
                                  allow_abbrev=False)
    commands = top.add_subparsers(dest="command", metavar="run | test | lab | app | report | "
                                                          "train | workshop | info")
    commands.required = True

    run = commands.add_parser("run", allow_abbrev=False, help="run a notebook without a browser; "
                                                              "writes notebook, HTML page and JSON")
    run.add_argument("name", nargs="?", metavar="notebook", help=f"name or path, by default "
                                                                 f"{FIRST}")
    run.add_argument("--notebook", help="the same as an option")
    run.add_argument("--full", action="store_true", help="the full experiment instead of the fast "
                                                         "one")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                     help="values of the notebook's parameters")
    run.add_argument("--out", default="runs", help="folder of the results, by default %(default)s")
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="longest time for one cell; "
                                                                      "by default no limit")

    add_with(run)

    test = commands.add_parser("test", allow_abbrev=False, help="run the tests; other arguments "
                                                                "go to pytest")
    test.add_argument("--all", action="store_true", help="also the slow tests, and every cell of "
                                                         "every notebook")

    test.add_argument("--browser", action="store_true", help="only those that drive the notebooks "
                                                             "and the app in Chromium")

    add_with(commands.add_parser("lab", allow_abbrev=False,
                                 help="open JupyterLab on the notebooks; other arguments go to "
                                      "JupyterLab"))

    app = commands.add_parser("app", allow_abbrev=False, help="a notebook as a page without code "
                                                              "(voila); other arguments go to "
                                                              "voila")
    app.add_argument("name", nargs="?", metavar="notebook", help="name or path, by default the "
                                                                 "explorer alone")
    app.add_argument("--no-token", action="store_true", help="let whoever reaches the port use "
                                                             "the page; by default its address "
                                                             "holds a token")
    app.add_argument("--slides", action="store_true", help="one screen at a time, for the "
                                                           "notebooks of the workshop; arrow keys "
                                                           "turn")
    add_with(app)

    report = commands.add_parser("report", allow_abbrev=False, help="one HTML page about saved "
                                                                    "runs, for readers without "
                                                                    "Jupyter")
    report.add_argument("runs", nargs="+", metavar="RUN", help="a saved run, NAME.run.json, or a "
                                                               "folder of them")
    report.add_argument("-o", "--out", default="report.html", metavar="FILE",
                        help="where to write it, by default %(default)s")
    add_with(report)

    train = commands.add_parser("train", allow_abbrev=False, help="train one of the embedded "
                                                                  "source models anew")
    train.add_argument("name", help="for example fashion_resnet_bn")
    train.add_argument("--data", help="folder of the original Fashion-MNIST files")
    train.add_argument("--seed", type=int, help="by default the one of the embedded model")
    train.add_argument("--epochs", type=int)
    train.add_argument("--out", help="data folder to write to; by default the embedded one")

    from tta_lab.workshop import day as workshop_day

    workshop_day.add_arguments(
        commands.add_parser("workshop", allow_abbrev=False,
                            help="for instructors: students | check | wheels | slides"))

    commands.add_parser("info", allow_abbrev=False, help="versions, device, and a check of the "
                                                         "embedded data")
    return top


def add_with(command):
    command.add_argument("--with", dest="parts", action="append", default=[], metavar="FILE.py",
                         help="a Python file with methods, selectors or other parts of your own, "
                              "which will be in all lists; it is run, here and in every kernel, "
                              "so name only what you trust; may be repeated")


def use_parts(options):
    """Run the files that were named and leave them to the processes that are started from here."""
    from tta_lab.core import own_parts

    try:
        own_parts.complete()
        for file in options.parts:
            print(f"{file}: {', '.join(own_parts.use(file))}", file=sys.stderr)
    except own_parts.PartError as why:
        raise bootstrap.Problem(str(why)) from why


def run_notebook(options):
    from tta_lab.cli import headless

    if options.name and options.notebook and options.name != options.notebook:
        raise bootstrap.Problem(f"two notebooks are named, {options.name} and {options.notebook}; "
                                f"run one after the other")
    try:
        settings = headless.split_settings(options.set)
        notebook = headless.find(options.name or options.notebook or FIRST)
        result = headless.execute(notebook, settings, full=options.full, out=options.out,
                                  timeout=options.timeout)
    except headless.NotebookFailed as why:
        print(f"\n{why}", file=sys.stderr)
        return 1
    except (headless.NotebookError, OSError) as why:
        raise bootstrap.Problem(str(why)) from why
    print(f"\n{result.printed.rstrip()}\n\nThe page to look at: {result.html}\nThe notebook:      "
          f"  {result.notebook}")
    if result.json:
        print(f"The numbers:         {result.json}")
    return 0


def run_tests(options, rest):
    root = bootstrap.checkout()
    if root is None:
        raise bootstrap.Problem("the tests are not part of the installed package; run them in a "
                                "checkout of the repository")
    extra = ["-m", "browser"] if options.browser else []
    if options.all and options.browser:
        raise bootstrap.Problem("--all runs the browser tests too; name one of --all and --browser")
    if options.all:
        extra = ["-m", "", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "600"]
        if not any(os.path.exists(os.path.join(root, a.split("::")[0])) for a in rest):
            extra += ["tests", "notebooks"]
    bootstrap.hand_over([sys.executable, "-m", "pytest", *extra, *rest], dict(os.environ), root)


def open_lab(options, rest):
    root = bootstrap.checkout()
    folder = os.path.join(root, "notebooks") if root else copied_notebooks()
    # this environment's kernel, not one of the same name in the home folder
    env = dict(os.environ, JUPYTER_PREFER_ENV_PATH="1")
    bootstrap.hand_over([sys.executable, "-m", "jupyterlab", folder, *rest], env)


def open_app(options, rest):
    from tta_lab.cli import app, headless

    try:
        app.serve(options.name, rest, options.slides, not options.no_token)
    except headless.NotebookError as why:
        raise bootstrap.Problem(str(why)) from why


def copied_notebooks(folder="tta-lab-notebooks"):
    """Installed notebooks should not be edited in place: copy those that are not there yet into a
    folder here."""
    import shutil

    from tta_lab.core.files import written

    packaged = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_notebooks")
    for place, _, names in os.walk(packaged):
        target = os.path.normpath(os.path.join(folder, os.path.relpath(place, packaged)))
        os.makedirs(target, exist_ok=True)
        for name in names:
            if not os.path.exists(os.path.join(target, name)):
                with written(os.path.join(target, name)) as part:
                    shutil.copyfile(os.path.join(place, name), part)
    return os.path.abspath(folder)


def report_runs(options):
    from tta_lab.experiments.kept_runs import KeptRuns
    from tta_lab.studies.explorer.page import write_report

    runs, chosen = KeptRuns(), {}
    try:
        for place in options.runs:
            chosen |= dict.fromkeys(runs.load(place))
        path = write_report([runs[number] for number in chosen], options.out)
    except (ValueError, OSError) as why:
        raise bootstrap.Problem(str(why)) from why
    count = f"{len(chosen)} run{'' if len(chosen) == 1 else 's'}"
    print(f"The page about {count}: {path.resolve()}")
    return 0


def train_model(options):
    from tta_lab.data import embedded, shipped
    from tta_lab.models import training

    try:
        training.train(options.name, options.data or embedded.DEBIAN_FASHION, options.out,
                       options.seed, options.epochs)
    except (ValueError, shipped.DataError) as why:
        raise bootstrap.Problem(str(why)) from why
    return 0


def info(options):
    """Print versions, device and the state of the data; exit code 1 when a data file is damaged."""
    import platform

    root, here = bootstrap.checkout(), bootstrap.this_interpreter()
    print(f"tta_lab     {__version__} in {root or os.path.dirname(os.path.abspath(__file__))}")
    print("Python      {} at {}{}".format(platform.python_version(), here.executable, here.kind
                                          and f" ({here.kind})"))
    print(f"system      {platform.platform()}, {os.cpu_count()} cores")
    if root:
        state = ("installed" if bootstrap.ready(root, here.version) else "not installed (run, "
                                                                         "test and lab install it)")
        print(f"own .venv   {state}")
    for requirement in bootstrap.requirements(bootstrap.requirement_groups(root), "notebooks"):
        name = requirement.partition(">=")[0]
        old = bootstrap.lacking([requirement]) and f" (too old, {requirement} is needed)"
        version = bootstrap.installed_version(name)
        print(f"{name:<11} {version + (old or '') if version else 'not here'}")
    if bootstrap.lacking(bootstrap.requirements(bootstrap.requirement_groups(root), "")):
        print("device      unknown, torch is not here\ndata        not checked, torch is not here")
        return 0
    import json

    import torch

    from tta_lab.data import shipped

    print("device      {}".format("cuda: " + torch.cuda.get_device_name() if torch.cuda.
                                  is_available() else f"cpu, {torch.get_num_threads()} threads"))
    try:
        folder = shipped.data_root()
        try:
            names = dict(json.loads((folder / "index.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as why:
            raise ValueError(f"{folder / 'index.json'} is not there or damaged ({why}); restore "
                             f"it: git checkout -- data/index.json") from why
        for name in names:
            shipped.checked_bytes(name)
    except (shipped.DataError, ValueError) as why:
        print(f"data        {why}")
        return 1
    print(f"data        {len(names)} files in {folder} are as recorded")
    return 0


def workshop(options):
    from tta_lab.workshop import day as workshop_day

    return workshop_day.main(options)


# command -> what does it, the packages it needs, whether it takes further arguments
COMMANDS = {
    "run": (run_notebook, "notebooks", False), "test": (run_tests, "test", True),
    "lab": (open_lab, "notebooks", True), "app": (open_app, "app", True),
    "report": (report_runs, "notebooks", False),
    "train": (train_model, "", False), "workshop": (workshop, "notebooks", False),
    "info": (info, "", False)
}


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        bootstrap.check_python()
        top = parser()
        options, rest = top.parse_known_args(arguments)
        action, group, open_ended = COMMANDS[options.command]
        if rest and not open_ended:
            top.error("unknown argument: {}".format(" ".join(rest)))
        group = "browser" if getattr(options, "browser", False) else group
        parts = getattr(options, "parts", ())
        for file in parts:
            if not os.path.isfile(file):  # before anything is installed
                raise bootstrap.Problem(f"--with: there is no file {file}")
        bootstrap.ensure(group, arguments, may_install=options.command not in ("info", "workshop"))
        if parts:
            use_parts(options)
        return action(options, rest) if open_ended else action(options)
    except bootstrap.Problem as why:
        print(f"tta_lab: {why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntta_lab: interrupted; the same command starts again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
