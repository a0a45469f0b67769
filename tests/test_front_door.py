"""The launchers, as a newcomer meets them: a copy of scripts/ with requirements of nothing.

The real requirements are not installed here (minutes, 7 GB, a network); the environment is real.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_powershell

from scripts import front_door

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = REPOSITORY / "scripts"

BASE_PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
posix_only = pytest.mark.skipif(os.name == "nt", reason="runs the shell launcher")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository of the launchers, one command that reports back, and nothing to install."""
    root = tmp_path / "a clone"
    shutil.copytree(SCRIPTS, root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "requirements.txt").write_text("# nothing\n")
    (root / "requirements-dev.txt").write_text("-r requirements.txt\n")
    (root / "train_mario.py").write_text(
        "import json, os, sys\n"
        "print(json.dumps([sys.argv[1:], sys.prefix, os.getcwd(), sys.stdin.read(),\n"
        "                  os.environ['OMP_WAIT_POLICY']]))\n"
        "sys.exit(7)\n"
    )
    return root


def environment(*path: Path | str, **extra: str) -> dict[str, str]:
    """A plain user's environment: no pyenv, no virtual environment, no package index."""
    found = os.pathsep.join(map(str, path or [BASE_PYTHON.parent, "/usr/bin", "/bin"]))
    return {"PATH": found, "HOME": "/nonexistent", "PIP_NO_INDEX": "1", **extra}


def call(
    root: Path, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(root / "scripts" / "run_mario.sh"), *arguments],
        env=env or environment(),
        cwd=cwd or root,
        input="from stdin",
        capture_output=True,
        text=True,
        check=False,
    )


def tools_without_python(folder: Path) -> Path:
    """A folder for PATH that holds what the shell script needs, and no Python."""
    folder.mkdir()
    dirname = shutil.which("dirname")
    assert dirname
    (folder / "dirname").symlink_to(dirname)
    return folder


@posix_only
def test_every_shell_script_parses() -> None:
    scripts = [*SCRIPTS.glob("*.sh"), REPOSITORY / ".ci" / "run"]
    assert len(scripts) >= 2
    for script in scripts:
        subprocess.run(["/bin/bash", "-n", str(script)], check=True)
        assert os.access(script, os.X_OK), f"{script.name} is not executable"


@posix_only
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("xyzzy", "no command 'xyzzy': --help lists what there is"),
        ("trian", "no command 'trian': did you mean train?"),
    ],
)
def test_an_unknown_command_is_one_line_and_installs_nothing(
    clone: Path, word: str, said: str
) -> None:
    done = call(clone, word)
    assert (done.returncode, done.stderr) == (2, f"run_mario: {said}\n")
    assert not (clone / ".venv").exists()


@posix_only
def test_the_help_has_a_line_a_command_and_examples_that_exist(clone: Path) -> None:
    done = call(clone, "--help")
    assert done.returncode == 0
    listed = re.findall(r"^  (\w+)  +\S", done.stdout, re.MULTILINE)
    assert listed == list(front_door.COMMANDS)
    examples = re.findall(r"^  run_mario\.sh (\w+)", done.stdout, re.MULTILINE)
    assert examples and set(examples) <= set(listed)
    assert (call(clone).returncode, call(clone).stderr) == (2, done.stdout)
    for command in front_door.COMMANDS.values():
        script = (command.target.split() or [""])[0]
        assert not script.endswith(".py") or (REPOSITORY / script).is_file()


@posix_only
def test_it_starts_by_a_link_under_cdpath_and_from_another_shell(
    clone: Path, tmp_path: Path
) -> None:
    link = tmp_path / "mario"
    link.symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(os.path.relpath(clone / "scripts" / "run_mario.sh", tmp_path))
    script = clone / "scripts" / "run_mario.sh"
    told = environment() | {"CDPATH": f"{tmp_path}:{clone}"}
    for words in ([link], ["sh", script], ["sh", "run_mario.sh"]):
        done = subprocess.run(
            [*words, "trian"],
            cwd=clone / "scripts",
            env=told,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "run_mario: no command 'trian': did you mean train?\n"


def test_flags_as_powershell_spells_them_become_those_of_the_commands() -> None:
    given = "-EveryS 5 -Loop -Run:runs/x --seed -1 -MaxSteps 1200 -h a-B"
    wanted = "--every-s 5 --loop --run runs/x --seed -1 --max-steps 1200 -h a-B"
    assert list(front_door.with_unix_flags(given.split())) == wanted.split()


def test_paths_are_those_of_the_callers_folder(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").touch()
    (tmp_path / "1-1").mkdir()
    given = "plan.yaml other --stages 1-1 --model x.zip --run-dir=new --ppo a b --html /tmp/y"
    wanted = (
        f"{tmp_path}/plan.yaml other --stages 1-1 --model {tmp_path}/x.zip "
        f"--run-dir={tmp_path}/new --ppo {tmp_path}/a {tmp_path}/b --html /tmp/y"
    )
    assert front_door.with_own_paths(given.split(), tmp_path) == wanted.split()
    for command, path in {"pull": f"{tmp_path}/there", "push": "there"}.items():
        found = front_door.with_own_paths(["you/it", "--to", "there"], tmp_path, command)
        assert found == ["you/it", "--to", path]
    overlays = ["--config", "taught", "my.yaml", "--config=scratch", "--seed", "1"]
    words = front_door.with_own_paths(overlays, tmp_path, "dreamer")
    assert words == [*overlays[:2], f"{tmp_path}/my.yaml", *overlays[3:]], "an overlay is no file"


@posix_only
def test_a_command_of_a_later_issue_says_so_and_installs_nothing(clone: Path) -> None:
    done = call(clone, "watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "run_mario: watch needs watch_mario.py, which is not here yet\n"
    assert not (clone / ".venv").exists()


@posix_only
def test_first_call_installs_second_starts_at_once_and_new_requirements_are_installed(
    clone: Path, tmp_path: Path
) -> None:
    first = call(clone, "train", "--stage", "2", "a b", cwd=tmp_path)
    assert first.returncode == 7, first.stderr
    flags, prefix, cwd, stdin, waiting = json.loads(first.stdout)
    assert flags == ["--stage", "2", "a b"]
    assert Path(prefix).samefile(clone / ".venv")
    assert Path(cwd).samefile(clone)
    assert (stdin, waiting) == ("from stdin", "passive")
    assert "installing requirements.txt" in first.stderr

    # The environment serves by itself now, even where no other Python can be found.
    alone = environment(tools_without_python(tmp_path / "bin"))
    second = call(clone, "train", env=alone)
    assert (second.returncode, second.stderr) == (7, "")

    # Other requirements: installed again, into the same environment.
    kept = clone / ".venv" / "kept"
    kept.touch()
    (clone / "requirements.txt").write_text("# still nothing\n")
    assert "installing" in call(clone, "train", env=alone).stderr
    assert call(clone, "train", env=alone).stderr == ""
    assert kept.exists()

    # Requirements that cannot be had: one line, and what was there is left alone.
    (clone / "requirements.txt").write_text("no-such-package-as-this==1\n")
    failed = call(clone, "train", env=alone)
    assert failed.returncode == 1
    assert "run_mario: pip could not install requirements.txt" in failed.stderr
    assert "Traceback" not in failed.stderr
    (clone / "requirements.txt").write_text("# still nothing\n")
    assert call(clone, "train", env=alone).stderr == ""


def test_what_requirements_name_is_installed_again_when_it_changes(clone: Path) -> None:
    """The pins, and what pyproject.toml says of the project; not its settings of tools."""
    for name in ("pyproject.toml", "requirements-pins.txt", "requirements.txt"):
        shutil.copy(REPOSITORY / name, clone)
    environment = front_door.Environment(clone)
    first = environment.wanted("requirements-dev.txt")
    assert list(first) == [
        "pyproject.toml",
        "requirements-dev.txt",
        "requirements-pins.txt",
        "requirements.txt",
    ]

    def changes(name: str, old: str, new: str) -> set[str]:
        """Return the files of which `installed.json` must say something else."""
        text = (clone / name).read_text(encoding="utf-8")
        assert old in text
        (clone / name).write_text(text.replace(old, new), encoding="utf-8")
        now = environment.wanted("requirements-dev.txt")
        (clone / name).write_text(text, encoding="utf-8")
        return {name for name, _ in now.items() ^ first.items()}

    assert changes("pyproject.toml", '"numba>=', '"other>=') == {"pyproject.toml"}
    assert changes("pyproject.toml", "line-length = 100", "line-length = 99") == set()
    assert changes("requirements-pins.txt", "torch==", "torch==0.") == {"requirements-pins.txt"}


@posix_only
def test_a_killed_first_call_is_repeated_and_two_at_once_make_one_environment(clone: Path) -> None:
    command = ["/bin/bash", str(clone / "scripts" / "run_mario.sh"), "train"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    killed = start()
    deadline = time.monotonic() + 60
    while not (clone / ".venv" / "bin").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    half_made = clone / ".venv" / "bin" / "half made"
    half_made.touch()
    assert not (clone / ".venv" / "installed.json").exists()

    calls = [start(), start()]
    errors = [running.communicate(timeout=300)[1] for running in calls]
    assert [running.returncode for running in calls] == [7, 7], errors
    assert sum("was cut off: starting over" in error for error in errors) == 1
    assert sum("making .venv" in error for error in errors) == 1
    assert not half_made.exists()


@posix_only
def test_python_is_found_behind_a_broken_shim(clone: Path, tmp_path: Path) -> None:
    tools = tools_without_python(tmp_path / "bin")
    for name in ("python3.13", "python3"):
        shim = tools / name
        shim.write_text("#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
        shim.chmod(0o755)
    home = tmp_path / "home"
    nothing = call(clone, "dance", env=environment(tools, HOME=str(home)))
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("run_mario: no Python 3.13 found: install it")
    assert nothing.stderr.count("\n") == 1

    installed = home / ".pyenv" / "versions" / "3.13.9" / "bin"
    installed.mkdir(parents=True)
    (installed / "python3.13").symlink_to(BASE_PYTHON)
    found = call(clone, "dance", env=environment(tools, HOME=str(home)))
    assert found.stderr.startswith("run_mario: no command 'dance'")
    named = call(clone, "dance", env=environment(tools, PYTHON=str(BASE_PYTHON)))
    assert named.stderr == found.stderr


def wheel(folder: Path, version: str) -> None:
    """A stub of torch that knows its version."""
    folder.mkdir(parents=True)
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("torch/__init__.py", f"__version__ = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[str]:
    """A server of PyPI's and of PyTorch's wheels, both stubs; its address."""
    root = tmp_path / "indexes"
    wheel(root / "pypi" / "torch", "2.13.0")
    wheel(root / "whl" / "cpu" / "torch", "2.13.0+cpu")
    wheel(root / "whl" / "cu130" / "torch", "2.13.0+cu130")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@posix_only
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PyPI's torch is another elsewhere")
def test_torch_comes_in_the_build_that_fits_and_can_be_changed(clone: Path, indexes: str) -> None:
    (clone / "requirements.txt").write_text("torch\n-c requirements-pins.txt\n")
    (clone / "requirements-pins.txt").write_text("torch==2.13.0\n")
    (clone / "train_mario.py").write_text("import torch\nprint(torch.__version__)\n")
    reached = environment(PIP_INDEX_URL=f"{indexes}/pypi", MARIO_TORCH_INDEX=f"{indexes}/whl")
    del reached["PIP_NO_INDEX"]
    nowhere = reached | {"MARIO_TORCH_INDEX": "http://127.0.0.1:9/whl"}

    done = call(clone, "train", env=nowhere)
    assert (done.returncode, done.stdout) == (0, "2.13.0\n"), done.stderr
    fallen = [line for line in done.stderr.splitlines() if "does not answer" in line]
    assert fallen == [
        "run_mario: http://127.0.0.1:9/whl/cpu does not answer: torch comes from PyPI, in the "
        "build that it has"
    ]
    asked = call(clone, "--torch", "cpu", "train", env=reached)
    assert (asked.returncode, asked.stdout) == (0, "2.13.0+cpu\n"), asked.stderr
    again = call(clone, "--torch=cpu", "train", env=nowhere)
    assert (again.stdout, again.stderr) == ("2.13.0+cpu\n", ""), "it is there already"
    assert call(clone, "train", env=nowhere).stderr == "", "what is there stays"
    back = call(clone, "install", "--torch", "cuda", env=reached)
    assert back.returncode == 0 and back.stderr.endswith("torch is of the build pypi\n")
    assert call(clone, "train", env=nowhere).stdout == "2.13.0\n"
    failed = call(clone, "-Torch", "cpu", "train", env=nowhere)
    assert failed.returncode == 1
    assert "no torch==2.13.0 from http://127.0.0.1:9/whl/cpu: --torch auto" in failed.stderr
    wrong = call(clone, "--torch", "rocm", "train", env=reached)
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "run_mario: --torch takes auto, cpu, cuda, not 'rocm'\n",
    )


@pytest.mark.parametrize(
    ("system", "has_card", "asked", "name", "index"),
    [
        ("linux", False, "auto", "cpu", "cpu"),
        ("linux", True, "auto", "pypi", None),
        ("linux", True, "cpu", "cpu", "cpu"),
        ("win32", False, "auto", "pypi", None),
        ("win32", True, "auto", "cuda", "cu130"),
        ("darwin", False, "auto", "pypi", None),
    ],
)
def test_the_build_of_torch_goes_by_system_and_card(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    has_card: bool,
    asked: str,
    name: str,
    index: str | None,
) -> None:
    monkeypatch.delenv(front_door.TORCH_INDEX_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(shutil, "which", lambda tool: "/bin/nvidia-smi" if has_card else None)
    build = front_door.torch_build(asked)
    assert (build.name, build.must) == (name, asked != "auto")
    assert build.wheels == (index and f"https://download.pytorch.org/whl/{index}")


def test_the_wait_for_an_index_ends_whatever_it_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/whl/cpu/torch/"
        assert not front_door.answers(address, 0.2)


@posix_only
def test_uv_installs_where_it_is_there(clone: Path, tmp_path: Path) -> None:
    tools = tools_without_python(tmp_path / "bin")
    uv = tools / "uv"
    uv.write_text('#!/bin/sh\necho "uv $*" >&2\n')
    uv.chmod(0o755)
    done = call(clone, "train", env=environment(tools, BASE_PYTHON.parent, "/bin"))
    assert done.returncode == 7, done.stderr
    python = clone / ".venv" / "bin" / "python"
    line = f"uv pip install --python {python} --quiet -r {clone / 'requirements.txt'}"
    assert line in done.stderr.splitlines()


def errors_of(node: tree_sitter.Node) -> list[str]:
    here = [f"line {node.start_point.row + 1}"] if node.is_error or node.is_missing else []
    return here + [line for child in node.children for line in errors_of(child)]


def test_the_powershell_launcher_parses() -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    scripts = list(SCRIPTS.glob("*.ps1"))
    assert scripts
    for script in scripts:
        source = script.read_bytes()
        source.decode("ascii")  # Windows PowerShell 5.1 reads anything else in the local code page
        assert errors_of(parser.parse(source).root_node) == []
    assert errors_of(parser.parse(b"foreach ($x in {").root_node), (
        "the parser sees no errors at all"
    )


def test_both_launchers_offer_the_same_commands() -> None:
    for name in ("run_mario.sh", "run_mario.ps1"):
        text = (SCRIPTS / name).read_text(encoding="ascii")
        usage = re.search(r"# usage: \S+ (\S+) ", text)
        assert usage
        assert usage[1].split("|") == list(front_door.COMMANDS)
        # Neither decides anything itself: all arguments go to the same Python file.
        assert re.search(r"front_door\.py.*(\"\$@\"|@args)", text)


def test_ci_runs_the_test_command() -> None:
    assert 'run_mario.sh" test' in (REPOSITORY / ".ci" / "run").read_text(encoding="ascii")
    assert front_door.COMMANDS["test"].target == "scripts/run_tests.py"


@pytest.mark.parametrize("code", [0, 1])
def test_the_test_command_runs_every_check_and_fails_if_one_does(tmp_path: Path, code: int) -> None:
    fake = "import sys\nprint(__name__, sys.argv[1:])\nsys.exit({code})\n"
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "run_tests.py", tmp_path / "scripts")
    for module in ("ruff", "mypy", "pytest"):
        (tmp_path / f"{module}.py").write_text(fake.format(code=code * (module == "mypy")))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts" / "run_tests.py"), "-m", "slow"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stdout.count("__main__") == 4
    assert "__main__ ['-n', 'auto', '-m', 'slow']" in done.stdout
    assert ("FAILED (1)" in done.stdout) == bool(code)
