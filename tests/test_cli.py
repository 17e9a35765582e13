"""The command line: which interpreter is chosen, what is installed when, and notebooks run without a browser."""
import http.cookiejar
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tta_lab import __main__ as cli
from tta_lab.cli import bootstrap, headless
from tta_lab.cli.bootstrap import Interpreter, Problem

ROOT = Path(__file__).resolve().parents[1]
BARE = Interpreter("/usr/bin/python3", "/usr", "", "3.11")
FOREIGN = Interpreter("/home/a/env/bin/python", "/home/a/env", "virtual environment", "3.11")
CONDA = Interpreter("/opt/conda/envs/x/bin/python", "/opt/conda/envs/x", "conda environment", "3.12")


@pytest.fixture
def root(tmp_path):
    """A checkout with a pyproject.toml and nothing else."""
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2.6"]\n')
    return str(tmp_path)


def installer(root, fail_at=None):
    """A stand-in for ``bootstrap.call`` that makes the files a real installation makes, and the commands it was given."""
    commands = []

    def run(command, cwd=None, quiet=False):
        kind = command[2] if command[2] != "pip" else f"pip {command[3]}"
        commands.append(kind)
        if kind == fail_at:
            return 1
        if kind == "venv":
            python = Path(bootstrap.venv_python(root))
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
            (Path(root) / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
        return 0

    return run, commands


# --- which interpreter --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("here, lacks, is_ready, action", [
    (BARE, ["torch>=2.6"], False, "install"),
    (BARE, ["torch>=2.6"], True, "switch"),
    (BARE, [], False, "here"),
    (FOREIGN, [], False, "here"),
    (FOREIGN, ["torch>=2.6"], True, "refuse"),
    (CONDA, [], True, "here"),
    (CONDA, ["torch>=2.6"], False, "refuse"),
])
def test_choice_of_the_interpreter(root, here, lacks, is_ready, action):
    decision = bootstrap.decide(here, root, lacks, is_ready, "notebooks")
    assert decision.action == action
    expected = bootstrap.venv_python(root) if action in ("install", "switch") else here.executable
    assert decision.python == expected


@pytest.mark.parametrize("lacks, is_ready, action", [([], True, "here"), (["ruff"], True, "here"), ([], False, "install")])
def test_inside_the_own_environment_the_stamp_decides(root, lacks, is_ready, action):
    own = Interpreter(bootstrap.venv_python(root), os.path.join(root, ".venv"), "virtual environment", "3.11")
    assert bootstrap.decide(own, root, lacks, is_ready).action == action


def test_refusal_names_what_is_missing_and_the_exact_command(root):
    message = bootstrap.decide(FOREIGN, root, ["torch>=2.6", "plotly>=6.0 (found 5.1)"], False, "notebooks").message
    assert "virtual environment /home/a/env lacks torch>=2.6, plotly>=6.0 (found 5.1)" in message
    assert message.endswith(f'"/home/a/env/bin/python" -m pip install -e "{root}[notebooks]"')


def test_installed_wheel_never_makes_an_environment():
    decision = bootstrap.decide(BARE, None, ["papermill>=2.6"], False, "notebooks")
    assert decision.action == "refuse" and decision.message.endswith('pip install "tta-lab[notebooks]"')


def test_missing_and_outdated_packages():
    there = {"torch": "2.10.1+cu130", "numpy": "1.25.9", "plotly": "6.0.0rc1"}
    assert bootstrap.lacking(["torch>=2.6", "numpy>=1.26", "plotly>=6.0", "pandas>=2.2"], there.get) == \
        ["numpy>=1.26 (found 1.25.9)", "pandas>=2.2"]


def test_groups_that_name_groups_are_resolved():
    table = {"": ["torch>=2.6"], "notebooks": ["plotly>=6"], "test": ["tta-lab[notebooks]", "pytest>=8"], "dev": ["tta-lab[test]", "ruff"]}
    assert bootstrap.requirements(table, "") == ["torch>=2.6"]
    assert bootstrap.requirements(table, "dev") == ["torch>=2.6", "plotly>=6", "pytest>=8", "ruff"]


# --- installing -----------------------------------------------------------------------------------------------------

def test_first_call_installs_and_second_does_nothing(root):
    run, commands = installer(root)
    assert not bootstrap.ready(root, "3.11")
    bootstrap.install(root, BARE, run)
    assert commands == ["venv", "pip install"] and bootstrap.ready(root, "3.11")
    bootstrap.install(root, BARE, run)
    assert commands == ["venv", "pip install"]


def test_interrupted_installation_is_taken_up_again(root):
    run, commands = installer(root, fail_at="pip install")
    with pytest.raises(Problem, match="give the same command again"):
        bootstrap.install(root, BARE, run)
    assert not bootstrap.ready(root, "3.11")
    run, commands = installer(root)
    bootstrap.install(root, BARE, run)
    assert commands == ["pip --version", "pip install"] and bootstrap.ready(root, "3.11")  # the environment itself was kept


def test_environment_without_pip_is_made_anew(root):
    run, _ = installer(root)
    run(["python", "-m", "venv"])
    run, commands = installer(root, fail_at="pip --version")
    bootstrap.install(root, BARE, run)
    assert commands == ["pip --version", "venv", "pip install"]


def test_changed_requirements_python_or_place_ask_for_a_new_installation(root, tmp_path):
    run, commands = installer(root)
    bootstrap.install(root, BARE, run)
    assert not bootstrap.ready(root, "3.12")
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    assert not bootstrap.ready(root, "3.11")
    bootstrap.install(root, BARE._replace(version="3.12"), run)
    assert commands == ["venv", "pip install"] * 2  # another Python: from the start, not on top
    moved = tmp_path.parent / (tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert not bootstrap.ready(str(moved), "3.12")


def test_failing_venv_says_which_package_is_needed(root):
    run, commands = installer(root, fail_at="venv")
    with pytest.raises(Problem, match="python3-venv"):
        bootstrap.install(root, BARE, run)
    assert commands == ["venv"]


def test_call_returns_the_exit_code_and_reports_while_waiting(capfd):
    assert bootstrap.call([sys.executable, "-c", "import time; time.sleep(0.5); raise SystemExit(3)"], every=0.2) == 3
    assert "still at work after 0.2 s" in capfd.readouterr().err


def test_child_processes_wait_passively_and_find_the_package(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    env = bootstrap.child_environment("/here")
    assert env["OMP_WAIT_POLICY"] == "PASSIVE" and env["PYTHONPATH"] == os.pathsep.join(["/here", "/elsewhere"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert bootstrap.child_environment("/here")["OMP_WAIT_POLICY"] == "ACTIVE"


# --- the command line -----------------------------------------------------------------------------------------------

def test_old_python_is_named():
    with pytest.raises(Problem, match=r"this is Python 3\.8\.10 \(/usr/bin/python3\), but TTA Lab needs Python 3\.11 or newer"):
        bootstrap.check_python((3, 8, 10, "final", 0), "/usr/bin/python3")
    assert bootstrap.check_python((3, 11, 0)) is None


@pytest.mark.parametrize("name", ["__init__", "__main__", "cli/bootstrap", "cli/__init__"])
def test_what_runs_first_can_be_read_by_python_3_8(name):
    import ast

    source = (ROOT / "tta_lab" / f"{name}.py").read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    outside = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    outside |= {(node.module or "").split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert outside <= set(sys.stdlib_module_names) | {"tta_lab"}


def test_refusal_ends_with_code_2_and_one_message(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "this_interpreter", lambda: FOREIGN)
    monkeypatch.setattr(bootstrap, "installed_version", lambda name: None)
    assert cli.main(["train", "fashion_resnet_bn"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tta_lab: the virtual environment /home/a/env lacks torch>=2.6") and "Traceback" not in error


def test_unknown_notebook_and_bad_setting(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "ensure", lambda *a, **k: None)
    assert cli.main(["run", "--notebook", "no_such_notebook"]) == 2
    assert "there is no notebook 'no_such_notebook'" in capsys.readouterr().err
    assert cli.main(["run", "--set", "seed"]) == 2
    assert "--set expects NAME=VALUE" in capsys.readouterr().err


def test_pytest_and_jupyter_arguments_are_passed_on(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(bootstrap, "ensure", lambda *a, **k: None)
    monkeypatch.setattr(bootstrap, "hand_over", lambda command, env, cwd=None: calls.append((command, env, cwd)))
    cli.main(["test", "-k", "adapter", "-x"])
    cli.main(["test", "--all", "-q"])
    cli.main(["test", "--all", "tests/test_cli.py"])
    cli.main(["lab", "--no-browser"])
    cli.main(["test", "--browser", "-x"])
    cli.main(["app", "04_collapse", "--port=8899"])
    cli.main(["app"])
    cli.main(["app", "--token=mine"])
    cli.main(["app", "--no-token"])
    assert calls[0][0] == [sys.executable, "-m", "pytest", "-k", "adapter", "-x"] and calls[0][2] == str(ROOT)
    assert calls[1][0][3:6] == ["-m", "", "--nbval-lax"] and calls[1][0][-3:] == ["tests", "notebooks", "-q"]
    assert calls[2][0][-1] == "tests/test_cli.py" and "notebooks" not in calls[2][0]
    assert calls[3][0] == [sys.executable, "-m", "jupyterlab", str(ROOT / "notebooks"), "--no-browser"]
    assert calls[3][1]["JUPYTER_PREFER_ENV_PATH"] == "1"
    assert calls[4][0] == [sys.executable, "-m", "pytest", "-m", "browser", "-x"]
    assert calls[5][0] == [sys.executable, "-m", "tta_lab.cli.app", str(ROOT / "notebooks" / "04_collapse.ipynb"), "--template=offline",
                           "--Voila.auto_token=True", "--VoilaConfiguration.file_denylist=.*", "--port=8899"]
    assert os.path.isfile(os.path.join(calls[5][1]["JUPYTER_PATH"].split(os.pathsep)[0], "voila", "templates", "offline", "index.html.j2"))
    assert calls[6][0][3].endswith("explorer.ipynb") and os.path.isfile(calls[6][0][3])
    assert "--Voila.auto_token=True" in calls[6][0] and calls[7][0][-1] == "--token=mine" and not any("token" in a for a in calls[7][0][:-1])
    assert not any("oken" in a for a in calls[8][0]) and "whoever reaches this port" in capsys.readouterr().err
    assert cli.main(["app", "no_such_notebook"]) == 2 and cli.main(["test", "--all", "--browser"]) == 2


def test_handing_over_keeps_exit_code_folder_and_environment(tmp_path):
    code = ("import os, sys; from tta_lab.cli import bootstrap\n"
            "bootstrap.hand_over([sys.executable, '-c', 'import os; print(os.getcwd(), os.environ[\"X\"]); raise SystemExit(7)'],"
            f" dict(os.environ, X='1'), {str(tmp_path)!r})")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7 and done.stdout.split() == [os.path.realpath(tmp_path), "1"]


@pytest.mark.parametrize("action, started", [("switch", []), ("install", ["install"])])
def test_ensure_continues_in_the_other_interpreter_with_the_same_arguments(root, monkeypatch, action, started):
    done = []
    monkeypatch.setattr(bootstrap, "checkout", lambda: str(ROOT))
    monkeypatch.setattr(bootstrap, "decide", lambda *a: bootstrap.Decision(action, "/x/python", ""))
    monkeypatch.setattr(bootstrap, "install", lambda *a: done.append("install"))
    monkeypatch.setattr(bootstrap, "hand_over", lambda command, env, cwd=None: done.append(command))
    bootstrap.ensure("notebooks", ["run", "--full"])
    assert done == started + [["/x/python", "-m", "tta_lab", "run", "--full"]]
    done.clear()
    bootstrap.ensure("notebooks", ["info"], may_install=False)  # info looks, and never installs
    assert ("install" in done) is False and len(done) == (action == "switch")


# --- the app ----------------------------------------------------------------------------------------------------------

PAGE = """import ipywidgets
print("a page")
ipywidgets.IntSlider()"""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments):
        return None


@pytest.mark.parametrize("given", [[], ["--token=of-my-own"]], ids=["by default", "given"])
def test_the_app_answers_nobody_without_its_token(given, tmp_path):
    pytest.importorskip("voila")
    from tta_lab.cli import app

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(PAGE)], metadata=kernel), tmp_path / "page.ipynb")
    (tmp_path / "private.png").write_bytes(b"private")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = dict(app.environment(), PYTHONPATH=str(ROOT), JUPYTER_RUNTIME_DIR=str(tmp_path / "runtime"), JUPYTER_CONFIG_DIR=str(tmp_path / "config"),
               IPYTHONDIR=str(tmp_path / "ipython"))
    env.pop("JUPYTER_TOKEN", None)
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(app.command(tmp_path / "page.ipynb", ["--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}", *given]), env=env,
                                  stdout=log, stderr=log)
    jar = http.cookiejar.CookieJar()
    anybody, known = (urllib.request.build_opener(_NoRedirect, *more) for more in ([], [urllib.request.HTTPCookieProcessor(jar)]))

    def ask(path, who=anybody, **headers):
        try:
            with who.open(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers), timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as why:
            return why.code, ""

    try:
        deadline, token = time.monotonic() + 60, None
        while not token:
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
            token = re.search(rf"http://127.0.0.1:{port}/\?token=(\S+)", (tmp_path / "log").read_text())
        token = given[0].partition("=")[2] if given else token[1]                        # the address in the terminal holds a new one
        assert len(token) > 8
        assert ask("/")[0] in (302, 403) and ask("/?token=guessed")[0] in (302, 403)
        status, page = ask(f"/?token={token}", known)
        assert status == 200 and "a page" in page
        kernel = re.search(r'"kernelId":\s*"([^"]+)"', page)[1]
        socket_ = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        assert ask(f"/api/kernels/{kernel}")[0] == 403 and ask(f"/api/kernels/{kernel}", known)[0] == 200
        assert ask(f"/api/kernels/{kernel}/channels", **socket_)[0] == 403
        assert ask(f"/voila/api/shutdown/{kernel}")[0] in (302, 403) and ask("/voila/files/private.png")[0] == 403
    finally:
        server.terminate()
        server.wait(20)


# --- notebooks without a browser --------------------------------------------------------------------------------------

PARAMETERS = """\
seed: int = 0            # random seed, e.g. seed=3
fast: bool = True        # small data
rate: float | None = None
shifts: list = ["fog"]
interactive: bool = True
out_json: str = ""       # where the numbers go"""
LAST = """\
import json, os, sys
if seed == 13:
    raise ValueError("unlucky seed")
facts = dict(seed=seed, fast=fast, rate=rate, shifts=shifts, interactive=interactive, python=sys.executable, folder=os.getcwd())
with open(out_json, "w") as f:
    json.dump(facts, f)
print("seed", seed)"""


def write(path, *cells):
    notebook = new_notebook(cells=[new_markdown_cell("# A notebook"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
                                   *map(new_code_cell, cells)])
    nbformat.write(notebook, path)
    return path


def quiet(*args, **kwargs):
    pass


@pytest.mark.parametrize("name, given, value", [
    ("seed", "3", 3), ("seed", 3, 3), ("rate", "1e-3", 1e-3), ("rate", "2", 2.0), ("rate", "None", None), ("fast", "false", False),
    ("shifts", "['fog', 'snow']", ["fog", "snow"]), ("out_json", "17", "17"), ("out_json", "01", "01"), ("out_json", "None", "None"),
    ("out_json", " a ", " a "), ("seed", "01", 1), ("seed", " 3", 3), ("seed", "1e3", 1000), ("rate", "-2", -2.0), ("rate", "inf", float("inf")),
    ("seed", np.arange(4)[3], 3), ("seed", np.uint8(3), 3), ("seed", np.array(3), 3), ("seed", torch.tensor(3), 3), ("seed", 3.0, 3),
    ("rate", np.float32(0.5), 0.5), ("rate", np.logspace(-2, 0, 3)[0], 0.01), ("rate", np.int64(2), 2.0), ("rate", torch.tensor(0.5), 0.5),
    ("fast", np.bool_(False), False), ("fast", torch.tensor(True), True), ("out_json", Path("a") / "b", str(Path("a/b"))),
    ("out_json", np.str_("x"), "x"), ("shifts", ("fog", 2), ["fog", 2]), ("shifts", np.array([1, 2]), [1, 2]), ("shifts", range(2), [0, 1]),
    ("shifts", [np.float64(0.5), Path("x")], [0.5, "x"]),
])
def test_texts_become_values_of_the_declared_type(name, given, value):
    known = headless.parameters_of(new_notebook(cells=[new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]))
    found = known[name].value(given)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("name, given", [("seed", "1.5"), ("seed", "True"), ("seed", "abc"), ("fast", "1"), ("rate", "fast"),
                                         ("shifts", "fog"), ("out_json", 17), ("seed", np.float64(1.5)), ("seed", np.bool_(True)),
                                         ("rate", np.array([0.1])), ("fast", np.int64(1)), ("seed", "9" * 5000)])
def test_wrong_types_are_refused_with_the_declaration(name, given):
    known = headless.parameters_of(new_notebook(cells=[new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]))
    with pytest.raises(headless.NotebookError, match=f"the parameter {name} must be .*the notebook says: {name}: "):
        known[name].value(given)


def test_unknown_parameter_lists_those_of_the_notebook(tmp_path):
    path = write(tmp_path / "a.ipynb", LAST)
    with pytest.raises(headless.NotebookError, match=r"no parameter sede; it has:\n  seed: int = 0 .*\n  fast: bool") as why:
        headless.execute(path, {"sede": 3}, out=tmp_path / "runs", say=quiet)
    assert "out_json" in str(why.value) and not (tmp_path / "runs").exists()


def test_full_needs_a_notebook_that_has_fast():
    with pytest.raises(headless.NotebookError, match="no parameter fast .which --full sets.; it has: none"):
        headless.settled({}, {}, full=True)


def test_run_injects_parameters_and_a_failing_run_keeps_the_earlier_results(tmp_path, capsys):
    path = write(tmp_path / "tiny.ipynb", LAST)
    result = headless.execute(path, {"seed": "3", "rate": "0.5"}, full=True, out=tmp_path / "runs")
    folder = tmp_path / "runs" / "tiny-full"
    assert result.notebook == folder / "tiny.ipynb" and result.json == folder / "tiny.json"
    assert json.loads(result.json.read_text()) == {
        "seed": 3, "fast": False, "rate": 0.5, "shifts": ["fog"], "interactive": False, "python": sys.executable, "folder": os.getcwd()}
    assert result.printed == "seed 3\n" and "A notebook" in result.html.read_text()
    assert "[ 3/3] import json, os, sys" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == ["tiny.html", "tiny.ipynb", "tiny.json"]
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    with pytest.raises(headless.NotebookFailed, match=r"code cell 3 of 3: ValueError: unlucky seed") as why:
        headless.execute(path, {"seed": 13}, full=True, out=tmp_path / "runs")
    assert str(folder / "tiny.failed.ipynb") in str(why.value) and "\x1b" not in str(why.value)
    assert "unlucky seed" in (folder / "tiny.failed.ipynb").read_text()
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "tiny.failed.ipynb"} == before


NASTY = ["it's", '"quoted"', "back\\slash\\", "C:\\new\\table", "two\nlines", "tab\t", "{braces} {0}", "a=b=c", "#no comment", "%magic", "!ls", "x?",
         "[0-9]*?", "é \u2028 \udcff \x00", "$HOME `ls`", "'" * 3, '"' * 3, "", " ", "None", "folder:a?b=c&d=%20"]


def test_texts_arrive_in_the_notebook_as_they_were_given(tmp_path):
    path = tmp_path / "texts {x}.ipynb"
    cells = [new_code_cell("\n".join(f't{i}: str = ""' for i in range(len(NASTY))) + '\nmore: list = []\nx: float = 0.0\nout_json: str = ""',
                           metadata={"tags": ["parameters"]}),
             new_code_cell(f"import json\nopen(out_json, 'w').write(json.dumps([[{', '.join(f't{i}' for i in range(len(NASTY)))}], more, repr(x)]))")]
    nbformat.write(new_notebook(cells=cells), path)
    given = {f"t{i}": text for i, text in enumerate(NASTY)} | {"more": [*NASTY, 1.5, None, True, [2]], "x": float("-inf")}
    result = headless.execute(path, given, out=tmp_path / "out {y} 'z'", say=quiet)
    assert json.loads(result.json.read_text()) == [NASTY, [*NASTY, 1.5, None, True, [2]], "-inf"]
    assert [c.metadata.tags for c in nbformat.read(result.notebook, 4).cells] == [["parameters"], ["injected-parameters"], []]


def test_settings_are_split_at_the_first_equals_sign_and_named_once():
    assert headless.split_settings(["a=b=c", "d=", "e='x'"]) == {"a": "b=c", "d": "", "e": "'x'"}
    for wrong, said in ((["a"], "NAME=VALUE"), (["=1"], "NAME=VALUE"), (["a b=1"], "NAME=VALUE"), (["if=1"], "NAME=VALUE"),
                        (["seed=1", "seed=2"], "names seed twice, as '1' and as '2'")):
        with pytest.raises(headless.NotebookError, match=said):
            headless.split_settings(wrong)


def test_relative_paths_mean_the_folder_of_the_command_and_modules_beside_the_notebook_are_found(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "there" / "helper_of_mine.py").write_text("NUMBER = 7\n")
    (tmp_path / "here" / "photos" / "a.txt").write_text("text")
    nbformat.write(new_notebook(cells=[new_code_cell('place: str = ""', metadata={"tags": ["parameters"]}), new_code_cell(
        "import os, helper_of_mine\nprint(os.listdir(place), helper_of_mine.NUMBER)")]), tmp_path / "there" / "n.ipynb")
    done = subprocess.run([sys.executable, "-m", "tta_lab", "run", "../there/n.ipynb", "--set", "place=photos", "--out", "results"],
                          cwd=tmp_path / "here", env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=120)
    assert "['a.txt'] 7" in done.stdout, done.stderr
    assert (tmp_path / "here" / "results" / "n-fast" / "n.html").is_file()


def test_numbers_of_an_earlier_run_do_not_stay_beside_a_later_one(tmp_path):
    path = write(tmp_path / "tiny.ipynb", LAST)
    first = headless.execute(path, out=tmp_path / "runs", say=quiet)
    assert first.json.is_file()
    second = headless.execute(path, {"out_json": str(tmp_path / "mine.json")}, out=tmp_path / "runs", say=quiet)
    assert second.json is None and (tmp_path / "mine.json").is_file() and not first.json.exists()


def test_a_folder_that_cannot_be_made_is_refused_with_the_remedy(tmp_path):
    path = write(tmp_path / "tiny.ipynb", LAST)
    with pytest.raises(headless.NotebookError, match=r"no folder for results can be made at .*tiny.ipynb.*--out"):
        headless.execute(path, out=path, say=quiet)
    with pytest.raises(headless.NotebookError, match=r"notebooks\. There are: 00_explorer"):
        headless.find("qqqq")


def test_a_folder_of_results_has_one_run_at_a_time_and_a_dead_one_leaves_no_lock(tmp_path):
    path = write(tmp_path / "tiny.ipynb", LAST)
    folder = tmp_path / "runs" / "tiny-fast"
    with headless.alone(folder):
        with pytest.raises(headless.NotebookError, match=r"another run is writing to .*tiny-fast at this moment.*--out OTHER"):
            headless.execute(path, out=tmp_path / "runs", say=quiet)
        other = headless.execute(path, {"seed": 2}, out=tmp_path / "others", say=quiet)
    assert json.loads(other.json.read_text())["seed"] == 2 and not folder.exists()
    code = f"import os\nfrom pathlib import Path\nfrom tta_lab.cli import headless\nheadless.alone(Path({str(folder)!r})).__enter__()\nos._exit(1)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ, PYTHONPATH=str(ROOT)), timeout=60).returncode == 1
    for seed in (4, 5):                                                          # one after another replace each other
        assert json.loads(headless.execute(path, {"seed": seed}, out=tmp_path / "runs", say=quiet).json.read_text())["seed"] == seed
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["tiny-fast"]


def test_two_runs_at_once_each_get_their_own_results_or_a_refusal(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path, code = write(tmp_path / "tiny.ipynb", LAST), "import sys\nfrom tta_lab import __main__ as m\nsys.exit(m.main(sys.argv[1:]))"

    def start(seed):
        return subprocess.run([sys.executable, "-c", code, "run", str(path), "--set", f"seed={seed}", "--out", "runs"], cwd=tmp_path,
                              env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=120)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(start, (1, 2)))
    fine = [seed for seed, d in zip((1, 2), done, strict=True) if d.returncode == 0]
    assert fine and all("another run is writing" in d.stderr for d in done if d.returncode)
    assert json.loads((tmp_path / "runs" / "tiny-fast" / "tiny.json").read_text())["seed"] in fine


DAMAGED = {"empty": (b"", "the file is empty"), "no json": (b"{ not json", "no notebook, or a damaged one"), "a list": (b"[1, 2]", "damaged"),
           "bytes": (b"\xff\xfe\x00", "not text in UTF-8"), "no cells": (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "damaged"),
           "version": (b'{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}', "damaged")}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_notebooks_name_the_file(case, tmp_path):
    content, said = DAMAGED[case]
    (tmp_path / "x.ipynb").write_bytes(content)
    with pytest.raises(headless.NotebookError, match=f"x.ipynb is no notebook.*{said}|x.ipynb.*{said}"):
        headless.execute(tmp_path / "x.ipynb", out=tmp_path / "runs", say=quiet)
    assert not (tmp_path / "runs").exists()


def test_notebooks_without_parameters_or_of_an_old_format_run_and_broken_cells_are_named(tmp_path):
    bare = new_notebook(cells=[new_code_cell("print('fine')")])
    nbformat.write(bare, tmp_path / "bare.ipynb")
    assert headless.execute(tmp_path / "bare.ipynb", out=tmp_path / "runs", say=quiet).printed == "fine\n"
    with pytest.raises(headless.NotebookError, match=r"bare.ipynb: this .* has no parameter seed; it has: none"):
        headless.execute(tmp_path / "bare.ipynb", {"seed": 1}, out=tmp_path / "runs", say=quiet)
    cell = {"cell_type": "code", "collapsed": False, "input": "print('old')", "language": "python", "metadata": {}, "outputs": []}
    (tmp_path / "old.ipynb").write_text(json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""},
                                                    "worksheets": [{"metadata": {}, "cells": [cell]}]}))
    assert headless.execute(tmp_path / "old.ipynb", out=tmp_path / "runs", say=quiet).printed == "old\n"
    for source, said in (("seed: int = ", "cell is not Python: .* in line 1: seed: int ="), ("seed = f()", "must be a literal: seed = f"),
                         ("import os", "may hold only lines")):
        nbformat.write(new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]})]), tmp_path / "broken.ipynb")
        with pytest.raises(headless.NotebookError, match=f"broken.ipynb: .*{said}"):
            headless.execute(tmp_path / "broken.ipynb", out=tmp_path / "runs", say=quiet)


@pytest.mark.parametrize("wrong, said", [({"full": 1}, "full must be True or False"), ({"timeout": "5"}, "timeout must be a number"),
                                         ({"timeout": 0}, "timeout must be more than 0"), ({"timeout": -1}, "timeout must be a number of"),
                                         ({"out": 3}, "out must be a path"), ({"parameters": ["seed=1"]}, "parameters must be"),
                                         ({"notebook": 3}, "notebook must be a path"),
                                         ({"notebook": "01_wisdom_of_crowd"}, "mean 01_wisdom_of_crowds")])
def test_arguments_of_a_run_are_checked_before_it(wrong, said, tmp_path):
    with pytest.raises(headless.NotebookError, match=said):
        headless.execute(**{"notebook": "01_wisdom_of_crowds", "out": tmp_path / "runs", **wrong})
    assert not (tmp_path / "runs").exists()


def test_numbers_promised_but_not_written_are_a_failure(tmp_path):
    path = write(tmp_path / "silent.ipynb", "x = 1")
    with pytest.raises(headless.NotebookFailed, match="out_json but wrote nothing there"):
        headless.execute(path, out=tmp_path / "runs", say=quiet)
    assert [p.name for p in (tmp_path / "runs" / "silent-fast").iterdir()] == ["silent.failed.ipynb"]


def test_page_carries_plotly_once_and_asks_nothing_of_the_network():
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    def shown(figure):
        output = nbformat.v4.new_output("display_data", {headless.PLOTLY: json.loads(figure.to_json()), "text/plain": "Figure"})
        return new_code_cell("fig", outputs=[output])

    curve, bars = go.Figure(go.Scatter(y=[1, 2], name="first curve")), go.Figure(go.Bar(y=[3], name="bars"))
    notebook = new_notebook(cells=[shown(curve), shown(bars)],
                            metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}}})
    page = headless.to_offline_html(notebook, "two figures")
    assert page.count(get_plotlyjs()) == 1
    rest = page.replace(get_plotlyjs(), "")
    assert rest.count("Plotly.newPlot(") == 2 and "first curve" in rest and "bars" in rest
    assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=", rest)
    assert not re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", rest)
    assert headless.PLOTLY in notebook.cells[0].outputs[0].data and "widgets" in notebook.metadata  # the notebook itself is untouched


def test_kernel_is_this_interpreter_whatever_is_registered(tmp_path, monkeypatch):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    spec = headless.kernel_manager()(kernel_name="python3").kernel_spec
    assert spec.argv[0] == sys.executable and str(ROOT) in spec.env["PYTHONPATH"].split(os.pathsep)


def test_info_names_versions_and_tells_of_a_damaged_data_file(tmp_path, monkeypatch, capsys):
    from importlib.metadata import version

    monkeypatch.setattr(bootstrap, "ensure", lambda *a, **k: None)
    assert cli.main(["info"]) == 0
    told = capsys.readouterr().out
    assert f"torch       {version('torch')}" in told and "are as recorded" in told
    (tmp_path / "x.bin").write_bytes(b"changed")
    (tmp_path / "index.json").write_text(json.dumps({"x.bin": {"sha256": "0" * 64, "bytes": 7, "rebuild": "make x"}}))
    monkeypatch.setenv("TTA_LAB_DATA", str(tmp_path))
    assert cli.main(["info"]) == 1
    assert "x.bin is damaged" in capsys.readouterr().out
    for content in ("", "[1]", "{"):
        (tmp_path / "index.json").write_text(content)
        assert cli.main(["info"]) == 1
        assert f"{tmp_path / 'index.json'} is not there or damaged" in capsys.readouterr().out
