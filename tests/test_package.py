"""The project as a package: what it needs, what its wheel holds, and that it runs without torch."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import test_design as design
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = range(6)  # floors of docs/design.md that are installed; commands stay in the repository
UNDERNEATH = {"nes-py"}  # of gym-super-mario-bros; `EnvConfig.emulator` names it
MOST_BYTES = 320 * 2**20  # of the base install
COMES_ALONG = {"llvmlite"}  # with numba, which says in which version


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(project: dict[str, Any]) -> list[Requirement]:
    """Every requirement of the project and of its extras, the project itself left out."""
    table = project["project"]
    lines = [*table["dependencies"]]
    for extra in table["optional-dependencies"].values():
        lines += extra
    return [found for found in map(Requirement, lines) if found.name != table["name"]]


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements-pins.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_requirement_is_named_once_and_its_pin_is_one_that_it_allows(
    project: dict[str, Any],
) -> None:
    needed = requirements(project)
    names = [canonicalize_name(found.name) for found in needed]
    assert sorted(names) == sorted(pins())
    for found in needed:
        assert found.specifier.contains(pins()[canonicalize_name(found.name)]), found


def test_requirements_files_name_no_package() -> None:
    """They install this project; what that needs stands in pyproject.toml alone."""
    for path in ROOT.glob("requirements*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        if path.name != "requirements-pins.txt":
            assert all(line.startswith(("-e .", "-c ")) for line in lines), path


def test_version_is_one(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == version


def test_the_environment_needs_what_it_imports_and_no_more(project: dict[str, Any]) -> None:
    """What floors 0 to 2 import as they are imported; inside of a function is optional."""
    floors = design.read_floors(design.PAGE.read_text(encoding="utf-8"))
    distributions = importlib.metadata.packages_distributions()
    used = set()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]:
        file = path.relative_to(ROOT).as_posix()
        if design.floor_of(file, floors) in design.ENVIRONMENT:
            used |= {name for name in imported_at_once(path) if name in distributions}
    used -= {"torch", "stable_baselines3"}  # tests/test_design.py says where those may be
    ours = {Path(name).stem for name in floors} | {"fastnes"}
    needed = {canonicalize_name(distributions[name][0]) for name in used - ours}
    base = {
        canonicalize_name(Requirement(line).name) for line in project["project"]["dependencies"]
    }
    assert needed - COMES_ALONG | UNDERNEATH == base


def imported_at_once(path: Path) -> set[str]:
    """Return the top-level packages that a file imports when it is imported."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [
        name
        for node in found
        for candidates in design.names_imported(node, "")
        for name in candidates
    ]
    return {name.partition(".")[0] for name in names}


def test_the_library_is_packaged_and_no_command(project: dict[str, Any]) -> None:
    setuptools = project["tool"]["setuptools"]
    rooms = [
        room
        for room, floor in design.read_floors(design.PAGE.read_text(encoding="utf-8")).items()
        if floor in LIBRARY and (ROOT / room).exists()
    ]
    assert setuptools["py-modules"] == sorted(Path(room).stem for room in rooms if room[-1] != "/")
    folders = {path.parent for room in rooms for path in ROOT.glob(f"{room}**/__init__.py")}
    folders = {folder.relative_to(ROOT) for folder in folders if folder != ROOT}
    assert setuptools["packages"] == sorted(".".join(folder.parts) for folder in folders)


def test_no_module_has_the_name_of_somebody_elses(project: dict[str, Any]) -> None:
    """Every package of all extras lies in site-packages beside ours."""
    setuptools = project["tool"]["setuptools"]
    ours = {*setuptools["py-modules"], *(name.split(".")[0] for name in setuptools["packages"])}
    distributions = importlib.metadata.packages_distributions()
    own = {project["project"]["name"]}
    assert {name for name in ours if set(distributions.get(name, own)) != own} == set()
    assert not ours & set(sys.stdlib_module_names)


# --------------------------------------------------------------------------------------------
# The wheel
# --------------------------------------------------------------------------------------------

STEPS = 10_000  # agent steps, through gym.make_vec
PLAY = """
import importlib.util
import time
import numpy as np
import mario_runtime

config = mario_runtime.EnvConfig(n_envs=4, noop_max=30)
env = mario_runtime.make_vector_env(config)
env.reset(seed=0)
for step in range(1000):
    observations, rewards, terminations, truncations, infos = env.step(np.full(4, step % 5))
assert observations.shape[0] == 4 and observations.any()
env.close()
import gymnasium as gym
import mario_gym
single = gym.make("FastMario-8-4-v0", observation="scene")
single.reset(seed=0)
single.step(1)
many = gym.make_vec("FastMario-v0", num_envs=8, vectorization_mode="vector_entry_point")
assert many.reset(seed=0)[0].shape == (8, 4, 84, 84)
many.action_space.seed(0)
actions = [many.action_space.sample() for _ in range(STEPS // 8)]
started, episodes = time.perf_counter(), 0
for batch in actions:
    observations, rewards, terminations, truncations, infos = many.step(batch)
    episodes += int((terminations | truncations).sum())
rate = STEPS / (time.perf_counter() - started)
assert episodes > 3 and observations.any()
print(f"{STEPS} agent steps, {episodes} episodes in gym.make_vec of 8: {rate:.0f} agent steps/s")
for name in ("torch", "stable_baselines3", "cv2", "scipy", "imageio_ffmpeg"):
    assert importlib.util.find_spec(name) is None, name
print("played", mario_runtime.__file__)
""".replace("STEPS", str(STEPS))


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this repository's modules and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bytes_in(folder: Path) -> int:
    """Return how much the files below a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_the_wheel_plays_in_an_empty_environment_without_torch(tmp_path: Path) -> None:
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in files.splitlines():  # a copy: building leaves folders behind
        if (ROOT / name).is_file() and not name.startswith(("docs/", "results/", "pretrained/")):
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, "./source", cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("tests", "scripts"))]
    assert sum(name.endswith(".npz") for name in names) == 32, "a demo of each stage"
    assert {"fastnes/py.typed", "mario_search/py.typed"} <= set(names)

    pinned = ROOT / "requirements-pins.txt"
    before = bytes_in(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-c", pinned, wheel, cwd=tmp_path)
    size = bytes_in(tmp_path / "venv") - before
    assert size < MOST_BYTES
    played = run(python, "-c", PLAY, cwd=tmp_path)
    print(f"{size / 2**20:.0f} MB installed\n{played}")  # pytest -s shows it; no speed is a test
    assert f"{STEPS} agent steps" in played
    assert f"played {tmp_path / 'venv'}" in played
    assert sys.prefix not in played
