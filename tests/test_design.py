"""The house: who imports whom, against the floors of docs/design.md; sizes and search paths.

All of it is read from the sources; nothing is imported.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "design.md"
ROW = re.compile(r"^\| (\d) \| (.+?) \|", re.MULTILINE)
SEARCH_PATH = "sys" + ".path"
LONGEST = 700  # lines
WRITTEN_BY_A_PROGRAM = ("fastnes/cpu.py",)
ENVIRONMENT = range(3)  # floors that work without torch
MAY_IMPORT_TORCH = ("mario_sb3.py", "precision.py")
TORCH = ("torch", "stable_baselines3")
COMMANDS = range(6, 8)  # floors that nothing imports


class Broken(NamedTuple):
    """A file that breaks a rule, and how."""

    file: str
    how: str


Sources = Mapping[str, str]  # path from the root -> text
Floors = Mapping[str, int]  # room: a file, or a folder with its slash -> floor


# What stands otherwise today. Each line goes with the change that puts it right.
NOT_YET: set[Broken] = set()


# --------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------


def read_floors(page: str) -> dict[str, int]:
    """Return the floor of each room that the page's table names."""
    return {
        room: int(number)
        for number, rooms in ROW.findall(page)
        for room in re.findall(r"`([^`]+)`", rooms)
    }


def floor_of(file: str, floors: Floors) -> int | None:
    """Return a file's floor: its own, or that of the innermost folder with one."""
    rooms = [file, *(f"{folder}/" for folder in Path(file).parents if folder.name)]
    return next((floors[room] for room in rooms if room in floors), None)


def is_type_checking(test: ast.expr) -> bool:
    """Whether `if test:` is for type checkers alone."""
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def names_imported(tree: ast.AST, package: str) -> Iterator[tuple[str, ...]]:
    """Yield what a file imports, anywhere in it but for type checkers.

    Each as candidates, the longest dotted name first: `from a import b` is a.b, or a. `package` is
    the dotted folder of the file, of which relative imports are.
    """
    if isinstance(tree, ast.If) and is_type_checking(tree.test):
        for otherwise in tree.orelse:
            yield from names_imported(otherwise, package)
        return
    if isinstance(tree, ast.Import):
        for alias in tree.names:
            yield (alias.name,)
    elif isinstance(tree, ast.ImportFrom):
        above = package.split(".")[: -tree.level + 1 or None] if tree.level else []
        module = ".".join([*above, *([tree.module] if tree.module else [])])
        for alias in tree.names:
            yield (f"{module}.{alias.name}", module)
    elif isinstance(tree, ast.Call) and ast.unparse(tree.func).endswith("import_module"):
        yield from ((str(name.value),) for name in tree.args[:1] if isinstance(name, ast.Constant))
    for node in ast.iter_child_nodes(tree):
        yield from names_imported(node, package)


def file_of(name: str, sources: Sources) -> str | None:
    """Return the file of ours that a dotted name means; scripts/ may be left out of it."""
    path = name.replace(".", "/")
    places = (f"{path}.py", f"{path}/__init__.py", f"scripts/{path}.py")
    return next((place for place in places if place in sources), None)


def read_imports(sources: Sources) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return of each file the files of ours that it imports, and the packages of others."""
    ours: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    for file, text in sources.items():
        ours[file], others[file] = set(), set()
        package = ".".join(Path(file).parent.parts)
        for candidates in names_imported(ast.parse(text), package):
            found = next(filter(None, (file_of(name, sources) for name in candidates)), None)
            if found is None:
                others[file].add(candidates[-1].partition(".")[0])
            elif found != file:
                ours[file].add(found)
    return ours, others


def packages_above(file: str, sources: Sources) -> set[str]:
    """Return the `__init__.py` files that run before a file is imported."""
    inits = (f"{folder.as_posix()}/__init__.py" for folder in Path(file).parents if folder.name)
    return {init for init in inits if init in sources}


# --------------------------------------------------------------------------------------------
# Rules
# --------------------------------------------------------------------------------------------


def rooms_that_differ(sources: Sources, floors: Floors) -> Iterator[Broken]:
    """Every file stands on a floor, and every room of the table is there."""
    for file in sources:
        if floor_of(file, floors) is None:
            yield Broken(file, "stands on no floor")
    for room in floors:
        if room not in sources and not any(file.startswith(room) for file in sources):
            yield Broken(room, "is not there")


def imports_upward(sources: Sources, floors: Floors) -> Iterator[Broken]:
    """Nothing imports from a higher floor."""
    for file, imported in read_imports(sources)[0].items():
        for other in imported:
            here, there = floor_of(file, floors), floor_of(other, floors)
            if here is not None and there is not None and there > here:
                yield Broken(file, f"imports {other} from a higher floor")


def imports_of_commands(sources: Sources, floors: Floors) -> Iterator[Broken]:
    """Nothing imports a command."""
    for file, imported in read_imports(sources)[0].items():
        for other in imported:
            if floor_of(other, floors) in COMMANDS:
                yield Broken(file, f"imports the command {other}")


def reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    """Return all that can be come to from `start` over at least one edge."""
    found: set[str] = set()
    todo = [start]
    while todo:
        new = edges.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def room_of(file: str, floors: Floors) -> str:
    """Return the room that a file belongs to, itself where it has none."""
    rooms = [file, *(f"{folder}/" for folder in Path(file).parents if folder.name)]
    return next((room for room in rooms if room in floors and room != "scripts/"), file)


def circles(sources: Sources, floors: Floors) -> Iterator[Broken]:
    """Nothing imports itself through others: no file, and no room."""
    ours, _ = read_imports(sources)
    rooms: dict[str, set[str]] = {}
    for file, imported in ours.items():
        room = room_of(file, floors)
        rooms.setdefault(room, set()).update(
            {room_of(other, floors) for other in imported} - {room}
        )
    for edges in (ours, rooms):
        for start in edges:
            if start in reached(start, edges):
                yield Broken(start, "imports itself in a circle")


def imports_of_torch(sources: Sources, floors: Floors) -> Iterator[Broken]:
    """The environment imports no torch, directly or through others."""
    ours, others = read_imports(sources)
    runs = {file: imported | packages_above(file, sources) for file, imported in ours.items()}
    environment = {file for file in ours if floor_of(file, floors) in ENVIRONMENT}
    environment -= set(MAY_IMPORT_TORCH)
    for file in environment.union(*(reached(start, runs) for start in environment)):
        for library in others[file] & set(TORCH):
            yield Broken(file, f"imports {library}, and the environment imports it")


def search_paths(sources: Sources, floors: Floors) -> Iterator[Broken]:
    """Nothing edits where Python looks for modules."""
    del floors
    for file, text in sources.items():
        if SEARCH_PATH in text:
            yield Broken(file, f"names {SEARCH_PATH}")


def long_files(sources: Sources, floors: Floors) -> Iterator[Broken]:
    """No file that people write is too long to read."""
    del floors
    for file, text in sources.items():
        if text.count("\n") > LONGEST and file not in WRITTEN_BY_A_PROGRAM:
            yield Broken(file, f"has more than {LONGEST} lines")


OF_THE_HOUSE = (
    rooms_that_differ,
    imports_upward,
    imports_of_commands,
    circles,
    imports_of_torch,
)
OF_ALL = (search_paths, long_files)  # tests too


# --------------------------------------------------------------------------------------------
# The repository
# --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Every Python file of the repository."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [file for file in done.stdout.splitlines() if (ROOT / file).exists()]
    return {file: (ROOT / file).read_text(encoding="utf-8") for file in files}


def broken_in(sources: Sources) -> set[Broken]:
    """Return every break of every rule."""
    floors = read_floors(PAGE.read_text(encoding="utf-8"))
    house = {file: text for file, text in sources.items() if not file.startswith("tests/")}
    found = {broken for rule in OF_THE_HOUSE for broken in rule(house, floors)}
    return found | {broken for rule in OF_ALL for broken in rule(sources, floors)}


def test_the_house_stands_as_its_page_says(sources: Sources) -> None:
    assert sorted(broken_in(sources) - NOT_YET) == []


def test_what_is_listed_as_not_yet_right_is_still_wrong(sources: Sources) -> None:
    assert sorted(NOT_YET - broken_in(sources)) == [], "put right: take it off the list"


# --------------------------------------------------------------------------------------------
# The rules themselves, on houses of a few lines
# --------------------------------------------------------------------------------------------

TOY_FLOORS = {"tool.py": 6, "scripts/": 6, "trainer.py": 4, "env.py": 1, "machine/": 0}


@pytest.mark.parametrize(
    ("rule", "sources", "expected"),
    [
        (imports_upward, {"env.py": "import trainer", "trainer.py": ""}, ["env.py"]),
        (imports_upward, {"env.py": "", "trainer.py": "import env"}, []),
        (
            imports_upward,
            {"env.py": "def f():\n    from trainer import g", "trainer.py": ""},
            ["env.py"],
        ),
        (
            imports_upward,
            {
                "env.py": "import typing\nif typing.TYPE_CHECKING:\n    import trainer",
                "trainer.py": "",
            },
            [],
        ),
        (
            imports_upward,
            {"machine/cpu.py": "import importlib\nimportlib.import_module('env')", "env.py": ""},
            ["machine/cpu.py"],
        ),
        (imports_of_commands, {"scripts/a.py": "import b", "scripts/b.py": ""}, ["scripts/a.py"]),
        (imports_of_commands, {"scripts/a.py": "import tool", "tool.py": ""}, ["scripts/a.py"]),
        (
            circles,
            {"machine/cpu.py": "from machine import bus", "machine/bus.py": "from . import cpu"},
            ["machine/bus.py", "machine/cpu.py"],
        ),
        (
            circles,
            {
                "machine/__init__.py": "from machine.cpu import run",
                "machine/cpu.py": "from machine import bus",
                "machine/bus.py": "",
            },
            [],
        ),
        (
            circles,
            {"machine/cpu.py": "import env", "machine/bus.py": "", "env.py": "import machine.bus"},
            ["env.py", "machine/"],
        ),
        (
            imports_of_torch,
            {"env.py": "import trainer", "trainer.py": "import torch"},
            ["trainer.py"],
        ),
        (imports_of_torch, {"env.py": "", "trainer.py": "import torch"}, []),
        (
            imports_of_torch,
            {
                "env.py": "import machine.cpu",
                "machine/__init__.py": "import torch.nn",
                "machine/cpu.py": "",
            },
            ["machine/__init__.py"],
        ),
        (search_paths, {"env.py": f"import sys\n{SEARCH_PATH}.append('.')"}, ["env.py"]),
        (long_files, {"env.py": "\n" * 701, "trainer.py": "\n" * 700}, ["env.py"]),
        (
            rooms_that_differ,
            {"env.py": "", "new.py": "", "tool.py": "", "scripts/a.py": "", "machine/cpu.py": ""},
            ["new.py", "trainer.py"],
        ),
    ],
)
def test_the_rules_find_what_breaks_them(
    rule: Callable[[Sources, Floors], Iterator[Broken]], sources: Sources, expected: list[str]
) -> None:
    assert sorted({broken.file for broken in rule(sources, TOY_FLOORS)}) == expected


def test_floors_are_read_from_the_page() -> None:
    floors = read_floors(PAGE.read_text(encoding="utf-8"))
    assert floors["mario_runtime.py"] == 1
    assert floor_of("fastnes/cpu.py", floors) == 0
    assert floor_of("dreamerv3/envs/mario.py", floors) == 4
    assert floor_of("dreamerv3/diagnose.py", floors) == 6, "a file's own row counts more"
    assert set(floors.values()) == set(range(8))
