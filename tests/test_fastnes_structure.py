"""fastnes as a package: what imports what, and that the game's memory has one list of names."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import fastnes
from fastnes import ram, start_snapshot
from fastnes.ram import BUTTON_A, BUTTON_B, BUTTON_RIGHT

FOLDER = Path(fastnes.__file__).parent
OF_NO_ADDRESS = re.compile("^BUTTON_|_IS_|_EXPLODES$|^OAM_SPRITES$|_BYTES$|_PX$")
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.py")}


def imported(node: ast.AST) -> set[str]:
    """The names of fastnes's files that an import statement names; "__init__" is the package."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return {parts[1] if parts[1:] else "__init__" for parts in names if parts[0] == "fastnes"}
    assert isinstance(node, ast.ImportFrom)
    assert node.level == 0, "imports name fastnes"
    parts = (node.module or "").split(".")
    if parts[0] != "fastnes":
        return set()
    if parts[1:]:
        return {parts[1]}
    return {alias.name if alias.name in MODULES else "__init__" for alias in node.names}


def imports_of(tree: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


def only_for_types(tree: ast.Module) -> list[ast.stmt]:
    """What stands in a file's `if TYPE_CHECKING`."""
    return [
        node
        for branch in tree.body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
    ]


def test_the_files_import_each_other_in_one_direction() -> None:
    graph = {
        name: set().union(*(imported(node) for node in imports_of(tree)))
        for name, tree in MODULES.items()
    }
    assert "step" in graph["batch"], "the imports are read"
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_of_fastnes_stand_at_the_top_of_a_file(name: str) -> None:
    tree = MODULES[name]
    at_top = [*tree.body, *only_for_types(tree)]
    hidden = [node.lineno for node in imports_of(tree) if node not in at_top and imported(node)]
    assert not hidden, f"{name}.py imports fastnes within something at lines {hidden}"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"cpu"}))
def test_no_function_takes_more_than_six_arguments(name: str) -> None:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.FunctionDef):
            names = [a.arg for a in [*node.args.posonlyargs, *node.args.args]]
            given = [a for a in names if a != "self"] + [a.arg for a in node.args.kwonlyargs]
            assert len(given) <= 6, f"{name}.{node.name}{given}"


def test_ram_is_a_list_of_integers_without_two_names_for_an_address() -> None:
    assert not imports_of(MODULES["ram"])
    names = {name: value for name, value in vars(ram).items() if name.isupper()}
    buttons = names.pop("BUTTON_BITS")
    assert all(type(value) is int for value in [*names.values(), *buttons.values()])
    # What a slot's byte means by kind is said by the byte's own name: ENEMY_TURNS = ENEMY_Y_SPEED.
    written = {
        target.id
        for node in MODULES["ram"].body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    # Kinds and states are numbered from 0 to 0x35; what is above is an address, a bit or a count.
    addresses = [
        value
        for name, value in names.items()
        if name in written and value > ram.ENEMY_RETAINER and not OF_NO_ADDRESS.search(name)
    ]
    assert len(addresses) == len(set(addresses)) > 60
    assert max(addresses) < 0x800


def test_the_names_mean_what_the_game_does() -> None:
    machine = fastnes.Machine()
    machine.restore(start_snapshot(1, 1))
    read = machine.ram.__getitem__

    def x() -> int:
        return 256 * int(read(ram.PLAYER_X_PAGE)) + int(read(ram.PLAYER_X))

    def left() -> int:
        return 256 * int(read(ram.SCREEN_LEFT_PAGE)) + int(read(ram.SCREEN_LEFT_X))

    assert (x(), read(ram.PLAYER_STATE), read(ram.LIVES)) == (40, ram.PLAYER_NORMAL, 2)
    assert (read(ram.WORLD), read(ram.STAGE), read(ram.AREA_NUMBER)) == (0, 0, 0)
    machine.step(BUTTON_RIGHT | BUTTON_B, frames=60)
    assert read(ram.PLAYER_X_SPEED) == 48  # 3 px a frame
    assert x() - left() == read(ram.PLAYER_X_ON_SCREEN)
    assert read(ram.PLAYER_FLOAT_STATE) == ram.FLOAT_ON_GROUND
    assert (read(ram.ENEMY_ACTIVE), read(ram.ENEMY_TYPE)) == (1, ram.ENEMY_GOOMBA)
    ground = [read(ram.TILE_MAP + 16 * row) for row in range(ram.TILE_ROWS)]
    assert ground[-2] and ground[-1] and not any(ground[:10])
    before = int(read(ram.PLAYER_Y))
    machine.step(BUTTON_RIGHT | BUTTON_A | BUTTON_B, frames=10)
    assert read(ram.PLAYER_FLOAT_STATE) == ram.FLOAT_JUMPS
    assert read(ram.PLAYER_Y) == read(ram.PLAYER_Y_ON_SCREEN) < before
    assert np.int8(read(ram.PLAYER_Y_SPEED)) < 0 < read(ram.JUMP_TIMER)
    assert read(ram.HELD_A_B) == 0xC0
