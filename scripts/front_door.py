"""Behind run_mario.sh and run_mario.ps1: make `.venv`, install what is missing, run one command.

The two launchers only find a Python 3.13 and hand everything on, so that both offer the same and
what they do is tested here. Standard library only: this runs before anything is installed.

    run_mario.sh [--torch auto|cpu|cuda] train|eval|smoke|test|... [flags of that command]

All commands: COMMANDS, or --help. `uv` installs where it is there, else pip. torch comes in the
build that fits the machine (`torch_build`), once; `--torch` chooses, and changes it later.

`.venv` holds the state of the installation:
- `installed.json`: which requirements files are installed, with the files that they name, by
  SHA-256, by which Python, and which build of torch. As long as it agrees with the files, a call
  starts at once.
- `installing.json`: an installation is under way. Found at the start of a call, it was cut off
  (Ctrl-C, power): half a package can look whole to pip, so everything is built anew.
- `lock`: held while installing; a second first call waits for the first one.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import venv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple
from urllib.request import urlopen

REPOSITORY = Path(__file__).resolve().parent.parent


class Command(NamedTuple):
    """What a word after run_mario.sh stands for."""

    target: str  # a script of the repository with its first words, or -m; nothing: Python itself
    line: str  # what it does, for the help


COMMANDS = {
    "train": Command("train_mario.py", "train PPO from pixels on a level: 35 to 50 minutes"),
    "teach": Command("teach_mario.py", "a teacher that sees the game's memory, then a student"),
    "dreamer": Command(
        "scripts/train_dreamer.py", "train DreamerV3: demos first, then about 50 minutes"
    ),
    "plan": Command("train_mario_professional.py", "many runs from one plan, here or on a cluster"),
    "eval": Command("evaluate_mario.py", "judge a policy and film it"),
    "watch": Command("watch_mario.py", "a window: a policy plays, or you do"),
    "monitor": Command("auto_update_mario_monitor.py", "the web page of all runs"),
    "render": Command("render_best_checkpoint.py", "film a run's best model"),
    "compare": Command("compare_agents.py", "the curves of several runs side by side"),
    "search": Command("scripts/search_route.py", "search a way through a level"),
    "stop": Command("scripts/stop_run.py", "what trains; let a run save and end"),
    "health": Command("scripts/run_health.py", "is a run alive, and does it learn?"),
    "diagnose": Command("scripts/diagnose_latest.py", "judge a run's newest checkpoint"),
    "backup": Command("scripts/backup_checkpoints.py", "copy checkpoints to another place"),
    "launch": Command("scripts/launch.py", "start a ready-made run apart from this terminal"),
    "push": Command("scripts/share.py push", "share a policy: to Hugging Face's hub or a folder"),
    "pull": Command("scripts/share.py pull", "fetch a policy that somebody shared"),
    "tensorboard": Command("-m tensorboard.main", "TensorBoard: --logdir runs"),
    "install": Command("", "make .venv and no more; with --torch, change torch's build"),
    "smoke": Command("quick_mario_smoke.py", "what works here, in half a minute"),
    "bench": Command("bench_throughput.py", "every speed figure, as ratios"),
    "test": Command("scripts/run_tests.py", "lint, types and tests"),
    "python": Command("", "this project's Python, with whatever follows"),
}
EXAMPLES = (
    "eval --stage 1-2",
    "train --run-dir runs/mine",
    "teach --stages 1-1 --run-dir runs/taught",
    "watch --human",
)
# Flags whose value is a path, whether there is something at it yet or not.
CALLED_AS = "MARIO_CALLED_AS"  # mario_values.CALLED_AS, which is not installed here yet
PATH_FLAGS = {
    *("--run-dir", "--run", "--runs-root", "--model", "--output", "--output-dir", "--html"),
    *("--config", "--demos", "--backward-demos", "--warm-start", "--resume-model", "--teacher"),
    *("--logdir", "--storage", "--json", "--record", "--replay", "--target"),
    *("--ppo", "--dreamerv3", "--runs", "--film", "--from"),
}
PATH_FLAGS_OF = {"pull": {"--to"}, "backup": {"--to"}}  # of one command alone
RUN_REQUIREMENTS = "requirements.txt"
TEST_REQUIREMENTS = "requirements-dev.txt"  # asks for all that the other does, and more
PROJECT = "pyproject.toml"
PINS = "requirements-pins.txt"

TORCH_BUILDS = ("auto", "cpu", "cuda")
# PyTorch's own wheels, which PyPI has not: without CUDA for Linux, with it for Windows.
TORCH_INDEX = "https://download.pytorch.org/whl"
TORCH_INDEX_VARIABLE = "MARIO_TORCH_INDEX"  # another place, as a mirror, with the same folders
INDEX_OF_BUILD = {"cpu": "cpu", "cuda": "cu130"}
TRY_S = 10.0  # how long `auto` tries to reach that index


class FrontDoorError(Exception):
    """What is wrong and what to do, in one line."""


def say(line: str) -> None:
    """Print a line to stderr: stdout belongs to the command."""
    print(f"run_mario: {line}", file=sys.stderr, flush=True)


class TorchBuild(NamedTuple):
    """Which build of torch to install, and from where."""

    name: str  # "cpu", "cuda", or "pypi": what PyPI has for this system
    wheels: str | None  # an index's address; None is PyPI
    must: bool  # a person asked for it: no other will do


def torch_build(asked: str) -> TorchBuild:
    """Return the build of torch that fits this machine, or the one that a person asks for.

    PyPI's is CUDA's on Linux (over 4 GB more than the CPU's) and the CPU's on Windows.
    """
    has_card = shutil.which("nvidia-smi") is not None
    if asked == "auto":
        asked = "cuda" if has_card else "cpu"
        must = False
    else:
        must = True
    is_pypis = {"linux": "cuda", "win32": "cpu", "darwin": "cpu"}.get(sys.platform) == asked
    if is_pypis:
        return TorchBuild("pypi", None, must)
    index = os.environ.get(TORCH_INDEX_VARIABLE, TORCH_INDEX)
    return TorchBuild(asked, f"{index.rstrip('/')}/{INDEX_OF_BUILD[asked]}", must)


def answers(url: str, seconds: float) -> bool:
    """Return whether a web server answers within a time, whatever a name server does meanwhile."""
    found: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError), urlopen(url, timeout=seconds) as answer:
            found.append(answer.status == 200)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return found == [True]


class Environment:
    """The repository's `.venv`."""

    def __init__(self, repository: Path, torch: str = "") -> None:
        """Take a repository, and the build of torch that was asked for; "" is the one there."""
        self.repository = repository
        self.torch = torch
        self.folder = repository / ".venv"
        self.stamp = self.folder / "installed.json"
        self.marker = self.folder / "installing.json"
        self.python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def wanted(self, requirements: str) -> dict[str, str]:
        """Return what `installed.json` must hold for a requirements file: file -> SHA-256."""
        names = {RUN_REQUIREMENTS, requirements}
        names |= {other for name in names for other in self._named_in(name)}
        return {
            name: hashlib.sha256(
                self._project_to_install() if name == PROJECT else self._bytes_of(name)
            ).hexdigest()
            for name in sorted(names)
        }

    def _bytes_of(self, name: str) -> bytes:
        return (self.repository / name).read_bytes()

    def _named_in(self, requirements: str) -> Iterator[str]:
        """Yield the files that a requirements file pulls in: by -r, -c, or -e, this project."""
        for line in self._bytes_of(requirements).decode().splitlines():
            match line.split():
                case ["-r" | "-c", name, *_]:
                    yield name
                    yield from self._named_in(name)
                case ["-e", *_]:
                    yield PROJECT

    def _project_to_install(self) -> bytes:
        """Return what of pyproject.toml says what is installed; the rest are settings of tools."""
        project = tomllib.loads(self._bytes_of(PROJECT).decode())
        tables = [project.get("build-system"), project.get("project")]
        tables.append(project.get("tool", {}).get("setuptools"))
        return json.dumps(tables, sort_keys=True).encode()

    def is_ready(self, requirements: str) -> bool:
        """Return whether everything in a requirements file is installed and Python is there."""
        try:
            installed = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        wanted = self.wanted(requirements)
        if self.torch and self._torch_pin():
            wanted["torch"] = torch_build(self.torch).name
        return wanted.items() <= installed.items() and self.python.exists()

    def _torch_pin(self) -> str:
        """Return "torch==<version>" as it is pinned; "" if it is not."""
        try:
            pins = self._bytes_of(PINS).decode().splitlines()
        except OSError:
            return ""
        return next((line.split()[0] for line in pins if line.startswith("torch==")), "")

    def ensure(self, requirements: str) -> None:
        """Make the environment and install, unless that is done already.

        Raises:
            FrontDoorError: it cannot be made, or the installation failed.
        """
        if self.is_ready(requirements):
            return
        self.folder.mkdir(exist_ok=True)
        with self._lock():
            if self.is_ready(requirements):  # another call did it while this one waited
                return
            if self.marker.exists():
                say("an earlier installation was cut off: starting over")
                self._build()
            elif not self._works():
                self._build()
            self._install(requirements)

    def _works(self) -> bool:
        """Return whether `.venv` has a Python 3.13 that starts, with pip."""
        probe = "import sys, pip; sys.exit(sys.version_info[:2] != (3, 13))"
        try:
            done = subprocess.run([self.python, "-c", probe], capture_output=True, check=False)
        except OSError:
            return False
        return done.returncode == 0

    def _build(self) -> None:
        if self.python.is_relative_to(sys.prefix):
            raise FrontDoorError(
                "this Python is that of the .venv, which has to be built anew: delete .venv"
            )
        say(f"making .venv with Python {sys.version.split()[0]}")
        for entry in self.folder.iterdir():
            if entry.name == "lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.marker.write_text("{}\n", encoding="utf-8")
        try:
            venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(self.folder)
        except subprocess.CalledProcessError as error:
            raise FrontDoorError(
                "this Python cannot make a virtual environment (on Debian: "
                "apt-get install python3.13-venv)"
            ) from error

    def _install(self, requirements: str) -> None:
        wanted = self.wanted(requirements) | {"python": sys.version}
        before = self.build()
        size = "1.6 GB" if torch_build(self.torch or "auto").name == "cpu" else "7 GB"
        say(f"installing {requirements}; the first time this takes minutes and about {size}")
        if self.stamp.exists():
            # There is something to lose: see first whether it can be replaced (network, versions).
            self._pip(requirements, "--dry-run", "--quiet")
        self.stamp.unlink(missing_ok=True)
        self.marker.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        if self._torch_pin() and (self.torch or not before):
            wanted["torch"] = self._install_torch(before)
        elif before:
            wanted["torch"] = before
        self._pip(requirements, *([] if sys.stderr.isatty() else ["--quiet"]))
        self._compile()
        self.marker.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        os.replace(self.marker, self.stamp)

    def build(self) -> str:
        """Return the build of torch that is installed, as `installed.json` says; "" if none is."""
        try:
            installed = json.loads(self.stamp.read_text(encoding="utf-8"))
            return str(installed.get("torch", "pypi"))  # all that there was, once
        except (OSError, ValueError):
            return ""

    def _install_torch(self, before: str) -> str:
        """Install torch in the build that fits, before all else; return which one it is.

        What needs it finds it there then. From PyPI it comes with everything else.

        Raises:
            FrontDoorError: a build that a person asked for cannot be had.
        """
        build, pin = torch_build(self.torch or "auto"), self._torch_pin()
        flags = ["--quiet", "--no-deps", *(["--force-reinstall"] if before else [])]
        if build.wheels is None:
            if before not in ("", "pypi") and self._run_pip(*flags, pin):
                raise FrontDoorError(f"{pin} could not be installed, its reason is above")
            return build.name
        say(f"torch for {build.name} from {build.wheels}")
        if (build.must or answers(f"{build.wheels}/torch/", TRY_S)) and not self._run_pip(
            *flags, "--index-url", build.wheels, pin
        ):
            return build.name
        if build.must:
            raise FrontDoorError(f"no {pin} from {build.wheels}: --torch auto takes what there is")
        say(f"{build.wheels} does not answer: torch comes from PyPI, in the build that it has")
        return "pypi"

    def _compile(self) -> None:
        """Compile the emulator now, half a minute once, so that every command starts at once.

        A failure is left to the command: it says what is wrong.
        """
        if (self.repository / "fastnes").is_dir():
            command = [str(self.python), "-c", "import fastnes; fastnes.warm_up()"]
            subprocess.run(command, cwd=self.repository, stdout=sys.stderr, check=False)

    def _pip(self, requirements: str, *flags: str) -> None:
        code = self._run_pip(*flags, "-r", str(self.repository / requirements))
        if code:
            raise FrontDoorError(
                f"{self._installer()[0]} could not install {requirements} (exit code {code}, its "
                "reason is above): check the network and the disk, then call again"
            )

    def _installer(self) -> tuple[str, list[str | Path]]:
        """Return the name of what installs, and its command: uv, several times as fast, or pip."""
        if uv := shutil.which("uv"):
            return "uv", [uv, "pip", "install", "--python", self.python]
        return "pip", [self.python, "-m", "pip", "install", "--disable-pip-version-check"]

    def _run_pip(self, *words: str) -> int:
        """Install, with pip's words, and return its exit code."""
        name, command = self._installer()
        if name == "uv":  # its index for one package is another word
            words = tuple({"--force-reinstall": "--reinstall"}.get(word, word) for word in words)
        # What it says is no part of the command's output.
        done = subprocess.run(
            [*command, *words], cwd=self.repository, stdout=sys.stderr, check=False
        )
        return done.returncode

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold `.venv/lock`; the system gives it back however the process ends."""
        with (self.folder / "lock").open("a+b") as file:
            told = False
            while not _try_lock(file):
                if not told:
                    say("another call is installing: waiting for it")
                    told = True
                time.sleep(0.2)
            yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def help_text() -> str:
    """Return what there is, a line a command, and examples."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: run_mario.sh [--torch auto|cpu|cuda] COMMAND [flags]   (Windows: .ps1)",
            "",
            *(f"  {name:{width}}  {command.line}" for name, command in COMMANDS.items()),
            "",
            "examples:",
            *(f"  run_mario.sh {example}" for example in EXAMPLES),
            "",
            "COMMAND --help says what its flags are. Paths are those of the folder you are in.",
        ]
    )


def with_unix_flags(words: Iterable[str]) -> Iterator[str]:
    """Yield words with PowerShell's flags spelt as the commands know them.

    `-EveryS 5` becomes `--every-s 5`, `-Run:mine` becomes `--run mine`, `-Loop` `--loop`.
    """
    for word in words:
        match = re.fullmatch(r"-([A-Z][A-Za-z0-9]*)(?::(.*))?", word)
        if match is None:
            yield word
            continue
        yield "-" + re.sub(r"(?<![A-Z])([A-Z])", r"-\1", match[1]).lower()
        if match[2]:
            yield match[2]


def with_own_paths(words: Sequence[str], folder: Path, command: str = "") -> list[str]:
    """Return words with the paths of the caller's folder as whole ones.

    A path is what follows one of `PATH_FLAGS` or of the command's own, and what stands before every
    flag and is in that folder. The commands run in the repository.
    """
    whole = []
    flag = ""
    path_flags = PATH_FLAGS | PATH_FLAGS_OF.get(command, set())

    def is_path(value: str) -> bool:
        is_overlay = flag == "--config" and not value.endswith((".yaml", ".yml"))
        return bool(value) and flag in path_flags and not is_overlay

    for word in words:
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            whole.append(f"{flag}={folder / value}" if equals and is_path(value) else word)
        elif is_path(word) or (word and not flag and (folder / word).exists()):
            whole.append(str(folder / word))
        else:
            whole.append(word)
    return whole


def without_torch_flag(arguments: list[str]) -> tuple[list[str], str]:
    """Return a command line without `--torch BUILD`, and the build; "" if none is named.

    It stands before the command, or after `install`.
    """
    words = list(with_unix_flags(arguments))
    first = 1 if words[:1] == ["install"] else 0
    flag, equals, value = (words[first] if len(words) > first else "").partition("=")
    if flag != "--torch":
        return arguments, ""
    if not equals:
        value = words[first + 1] if len(words) > first + 1 else "nothing"
    return arguments[:first] + arguments[first + (1 if equals else 2) :], value


def run(command: list[str]) -> int:
    """Run a command from the repository's root and return its exit code.

    Where the system can, this process becomes the command, so that signals reach it directly.
    """
    # Two torch processes whose idle threads spin slow each other down twentyfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.platform == "win32":
        process = subprocess.Popen(command)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the command got it too and is saving
                continue
    else:
        os.execv(command[0], command)


def main(arguments: list[str]) -> int:
    """Do what the launchers are asked for; 2 is a usage error, 1 a failed installation."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    arguments, torch = without_torch_flag(arguments)
    if torch and torch not in TORCH_BUILDS:
        say(f"--torch takes {', '.join(TORCH_BUILDS)}, not {torch!r}")
        return 2
    name, *flags = arguments or ["install"]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {close[0]}?" if close else "--help lists what there is"
        say(f"no command {name!r}: {advice}")
        return 2
    target = COMMANDS[name].target
    script, *first = target.split() or [""]
    if script.endswith(".py") and not (REPOSITORY / script).is_file():
        say(f"{name} needs {script}, which is not here yet")
        return 2
    folder = Path.cwd()
    if folder != REPOSITORY and name != "python":
        flags = with_own_paths(list(with_unix_flags(flags)), folder, name)
    else:
        flags = list(with_unix_flags(flags))
    environment = Environment(REPOSITORY, torch)
    try:
        os.chdir(REPOSITORY)
        environment.ensure(TEST_REQUIREMENTS if name == "test" else RUN_REQUIREMENTS)
    except FrontDoorError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"cannot make .venv: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped while installing: the next call starts over")
        return 130
    if name == "install":
        say(f".venv is ready; torch is of the build {environment.build()}")
        return 0
    words = [str(REPOSITORY / script) if script.endswith(".py") else script, *first]
    if name == "python":
        os.chdir(folder)
    else:
        os.environ[CALLED_AS] = f"run_mario.sh {name}"  # what its --help shows
    return run([str(environment.python), *filter(None, words), *flags])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
