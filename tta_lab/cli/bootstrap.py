"""Choosing or making the Python environment in which ``python -m tta_lab`` works.

Standard library only, and readable by old Pythons (no annotations, no newer syntax), because this
is what runs first.
"""
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import import_module

OLDEST = (3, 11)
OWN = "tta-lab"

# kind: "virtual environment", "conda environment" or ""
Interpreter = namedtuple("Interpreter", "executable prefix kind version")
# action: "here", "switch", "install" or "refuse"
Decision = namedtuple("Decision", "action python message")


class Problem(Exception):
    """Something the reader has to put right; the message says what and how."""


def check_python(version=None, executable=None):
    """Raise Problem when this Python is too old."""
    version = tuple(version or sys.version_info)[:3]
    if version[:2] < OLDEST:
        raise Problem("this is Python {} ({}), but TTA Lab needs Python {}.{} or newer; install "
                      "one and name it, for example: "
                      "make run PYTHON=python3.12   or: python3.12 -m tta_lab run"
                      .format(".".join(map(str, version)), executable or sys.executable, *OLDEST))


def checkout():
    """The folder of the checkout this package lies in, or None when it was installed as a wheel."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return root if os.path.isfile(os.path.join(root, "pyproject.toml")) else None


def this_interpreter():
    """The running interpreter. conda's ``base`` does not count as an environment: it is there
    whether one wants it or not."""
    kind = ""
    if sys.prefix != sys.base_prefix:
        kind = "virtual environment"
    elif os.path.isdir(os.path.join(
            sys.prefix, "conda-meta")) and not os.path.isdir(os.path.join(sys.prefix, "condabin")):
        kind = "conda environment"
    return Interpreter(sys.executable, sys.prefix, kind, "{}.{}".format(*sys.version_info[:2]))


def requirement_groups(root):
    """Group name -> requirements; the core is the group "". Read from pyproject.toml, or from the
    installed wheel."""
    if root is not None:
        with open(os.path.join(root, "pyproject.toml"), "rb") as f:
            project = import_module("tomllib").load(f)["project"]
        return {"": project["dependencies"], **project["optional-dependencies"]}
    table = {"": []}
    for line in import_module("importlib.metadata").requires(OWN) or []:
        requirement, _, marker = line.partition(";")
        group = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", marker)
        table.setdefault(group.group(1) if group else "", []).append(requirement.strip())
    return table


def requirements(table, group):
    """The core's requirements and those of a group, with ``tta-lab[other]`` replaced by the other
    group's."""
    found = list(table[""])
    for requirement in table[group] if group else ():
        other = re.match(OWN + r"\[([\w-]+)\]", requirement)
        found += requirements(table, other.group(1)) if other else [requirement]
    return list(dict.fromkeys(found))


def _numbers(version):
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def lacking(wanted, version_of=None):
    """Those of the requirements (``name>=version``) that are absent or too old.
    ``version_of(name)`` gives a version or None."""
    version_of = version_of or installed_version
    missing = []
    for requirement in wanted:
        name, _, least = requirement.partition(">=")
        found = version_of(name)
        if found is None or _numbers(found) < _numbers(least):
            missing.append(requirement if found is None else f"{requirement} (found {found})")
    return missing


def installed_version(name):
    """The version of an installed distribution, or None."""
    metadata = import_module("importlib.metadata")
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def venv_python(root):
    """The interpreter of the checkout's own environment, there or not."""
    return os.path.join(root, ".venv",
                        *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def stamp(root, version):
    """What an installation depends on: pyproject.toml, the Python version, the place of the
    checkout."""
    with open(os.path.join(root, "pyproject.toml"), "rb") as f:
        content = f.read()
    return hashlib.sha256(content + b"\n" + version.encode() + b"\n" +
                          os.path.realpath(root).encode()).hexdigest()


def _stamp_file(root):
    return os.path.join(root, ".venv", "tta-lab.stamp")


def ready(root, version):
    """True when ``.venv`` was installed completely, for this pyproject.toml, Python version and
    place."""
    try:
        with open(_stamp_file(root)) as f:
            written = f.read().strip()
    except OSError:
        return False
    return written == stamp(root, version) and os.path.exists(venv_python(root))


def decide(here, root, lacks, is_ready, group="dev"):
    """Which interpreter to use. ``lacks`` are the missing requirements of ``here``; ``is_ready``
    is the state of ``.venv``.

    Inside the checkout's own .venv its stamp decides; an interpreter that has everything is used
    as it is; somebody's own environment is never changed, only told what it lacks; everybody else
    gets a .venv in the checkout.
    """
    own = (root is not None
           and os.path.realpath(here.prefix) == os.path.realpath(os.path.join(root, ".venv")))
    if is_ready if own else not lacks:
        return Decision("here", here.executable, "")
    if root is None or (here.kind and not own):
        what = f'"{OWN if root is None else root}[{group}]"'
        return Decision(
            "refuse", here.executable, "the {} {} lacks {}; install what is missing "
            "with:\n  \"{}\" -m pip install {}{}".format(here.kind or "Python", here.prefix,
                                                         ", ".join(lacks), here.executable,
                                                         "" if root is None else "-e ", what))
    return Decision("switch" if is_ready else "install", venv_python(root), "")


def child_environment(root):
    """The environment variables of all processes started from here."""
    env = dict(os.environ)
    # busy waiting makes torch processes that share cores slow each other many times over
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if root is not None and root not in env.get("PYTHONPATH", "").split(os.pathsep):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    return env


def call(command, cwd=None, every=60, quiet=False):
    """Run a command to its end and return its exit code; says each minute that it is still at
    work."""
    env = dict(os.environ, PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    sink = subprocess.DEVNULL if quiet else None
    child = subprocess.Popen(command, cwd=cwd, env=env, stdout=sink, stderr=sink)
    waited = 0
    try:
        while True:
            try:
                return child.wait(timeout=every)
            except subprocess.TimeoutExpired:
                waited += every
                say(f"  still at work after {waited} s")
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_at_a_time(root):
    """Let a second installer of the same checkout wait for the first (where the system has file
    locks)."""
    try:
        fcntl = import_module("fcntl")
    except ImportError:
        yield
        return
    with open(os.path.join(root, ".venv.lock"), "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _created_with(venv):
    """The Python version of an environment, "3.11", or None."""
    try:
        with open(os.path.join(venv, "pyvenv.cfg")) as f:
            found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", f.read(), re.M)
    except OSError:
        return None
    return found and found.group(1)


def install(root, here, run=call):
    """Create or repair ``.venv`` and install the checkout into it. The stamp is written last, so
    that an interrupted installation is taken up again by the next call. Raises Problem when a step
    fails."""
    venv, python = os.path.join(root, ".venv"), venv_python(root)
    with one_at_a_time(root):
        if ready(root, here.version):  # somebody else did it while this process waited
            return
        with contextlib.suppress(OSError):
            os.remove(_stamp_file(root))
        usable = (os.path.exists(python) and _created_with(venv) == here.version
                  and run([python, "-m", "pip", "--version"], quiet=True) == 0)
        if usable:
            say(f"Bringing the environment {venv} up to date ...")
        else:
            free = shutil.disk_usage(root).free / 1e9
            say("Installing into {} (only once: it takes some minutes, and about 6 GB of disk, "
                "mostly PyTorch{}) ...".format(
                venv, "" if free > 8 else f"; only {free:.1f} GB are free here"))
            base = getattr(sys, "_base_executable", None) or here.executable
            if run([base, "-m", "venv", "--clear", venv]):
                raise Problem(f"creating {venv} failed (see above); on Debian and Ubuntu the "
                              f"package python3-venv is needed: "
                              "sudo apt install python3-venv")
        if run([python, "-m", "pip", "install", "-qq", "-e", ".[dev]"], cwd=root):
            raise Problem(f"installing the packages into {venv} failed (see above); nothing is "
                          f"marked as finished: put the cause right, "
                          "usually the network or the disk, and give the same command again")
        with open(_stamp_file(root), "w") as f:
            f.write(stamp(root, here.version) + "\n")
        say("Installed.")


def hand_over(command, env, cwd=None):
    """Become another program, or where the system cannot do that run it and end with its exit
    code; does not come back.

    A parent that merely waited would kill JupyterLab or pytest at the first Ctrl-C, before they
    could ask or summarise.
    """
    if os.name != "posix":
        sys.exit(subprocess.call(command, env=env, cwd=cwd))
    sys.stdout.flush()
    if cwd is not None:
        os.chdir(cwd)
    os.execve(command[0], command, env)


def ensure(group, arguments, may_install=True):
    """Come back only in an interpreter that has the core and this group of packages; otherwise
    switch, install or raise Problem."""
    root, here = checkout(), this_interpreter()
    is_ready = root is not None and ready(root, here.version)
    decision = decide(here, root, lacking(requirements(requirement_groups(root), group)), is_ready,
                      group)
    if decision.action == "here":
        os.environ.update(child_environment(root))
        return
    if not may_install and decision.action != "switch":
        return
    if decision.action == "refuse":
        raise Problem(decision.message)
    if decision.action == "install":
        install(root, here)
    hand_over([decision.python, "-m", "tta_lab", *arguments], child_environment(root))
