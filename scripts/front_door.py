"""Behind run_mario.sh and run_mario.ps1: make `.venv`, install what is missing, run one command.

The two launchers only find a Python 3.13 and hand everything on, so that both offer the same and
what they do is tested here. Standard library only: this runs before anything is installed.

    run_mario.sh train|eval|smoke|test|... [flags of that command]    (all: COMMANDS, or --help)

`.venv` holds the state of the installation:
- `installed.json`: which requirements files are installed, with the files that they name, by
  SHA-256, and by which Python. As long as it agrees with the files, a call starts at once.
- `installing.json`: an installation is under way. Found at the start of a call, it was cut off
  (Ctrl-C, power): half a package can look whole to pip, so everything is built anew.
- `lock`: held while installing; a second first call waits for the first one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parent.parent
COMMANDS = {
    "train": "train_mario.py",
    "eval": "evaluate_mario.py",
    "smoke": "quick_mario_smoke.py",
    "test": "scripts/run_tests.py",
    "watch": "watch_mario.py",
    "monitor": "auto_update_mario_monitor.py",
    "render": "render_best_checkpoint.py",
    "health": "scripts/run_health.py",
    "diagnose": "scripts/diagnose_latest.py",
    "backup": "scripts/backup_checkpoints.py",
    "launch": "scripts/launch.py",
    "stop": "scripts/stop_run.py",
    "bench": "bench_throughput.py",
    "compare": "compare_agents.py",
}
USAGE = f"usage: run_mario.sh {'|'.join(COMMANDS)} [flags of that command]"
RUN_REQUIREMENTS = "requirements.txt"
TEST_REQUIREMENTS = "requirements-dev.txt"  # asks for all that the other does, and more
PROJECT = "pyproject.toml"


class FrontDoorError(Exception):
    """What is wrong and what to do, in one line."""


def say(line: str) -> None:
    """Print a line to stderr: stdout belongs to the command."""
    print(f"run_mario: {line}", file=sys.stderr, flush=True)


class Environment:
    """The repository's `.venv`."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
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
        return self.wanted(requirements).items() <= installed.items() and self.python.exists()

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
        say(f"installing {requirements}; the first time this takes minutes and about 7 GB")
        if self.stamp.exists():
            # There is something to lose: see first whether it can be replaced (network, versions).
            self._pip(requirements, "--dry-run", "--quiet")
        self.stamp.unlink(missing_ok=True)
        self.marker.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        self._pip(requirements, *([] if sys.stderr.isatty() else ["--quiet"]))
        self._compile()
        os.replace(self.marker, self.stamp)
        if sys.platform == "win32" and shutil.which("nvidia-smi"):
            say(
                "an NVIDIA card is here, but pip installs torch for the CPU on Windows: "
                "pytorch.org/get-started gives the pip command for CUDA; run it with "
                f"{self.python} -m pip, for the version in requirements-pins.txt"
            )

    def _compile(self) -> None:
        """Compile the emulator now, half a minute once, so that every command starts at once.

        A failure is left to the command: it says what is wrong.
        """
        if (self.repository / "fastnes").is_dir():
            command = [str(self.python), "-c", "import fastnes; fastnes.warm_up()"]
            subprocess.run(command, cwd=self.repository, stdout=sys.stderr, check=False)

    def _pip(self, requirements: str, *flags: str) -> None:
        command: list[str | Path] = [self.python, "-m", "pip", "install", *flags]
        command += ["--disable-pip-version-check", "-r", self.repository / requirements]
        # pip's own output is no part of the command's.
        done = subprocess.run(command, cwd=self.repository, stdout=sys.stderr, check=False)
        code = done.returncode
        if code:
            raise FrontDoorError(
                f"pip could not install {requirements} (exit code {code}, its reason is above): "
                "check the network and the disk, then call again"
            )

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


def run(python: Path, script: Path, flags: list[str]) -> int:
    """Run a script of the repository, from its root, and return the exit code.

    Where the system can, this process becomes the command, so that signals reach it directly.
    """
    # Two torch processes whose idle threads spin slow each other down twentyfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    command = [str(python), str(script), *flags]
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
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        print(USAGE)
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        print(USAGE, file=sys.stderr)
        return 2
    command, *flags = arguments
    script = REPOSITORY / COMMANDS[command]
    if not script.is_file():
        say(f"{command} needs {COMMANDS[command]}, which is not here yet")
        return 2
    os.chdir(REPOSITORY)
    environment = Environment(REPOSITORY)
    try:
        environment.ensure(TEST_REQUIREMENTS if command == "test" else RUN_REQUIREMENTS)
    except FrontDoorError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"cannot make .venv: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped while installing: the next call starts over")
        return 130
    return run(environment.python, script, flags)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
