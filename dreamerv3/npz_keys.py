"""What a file of data holds: keys, types, shapes, ranges of an .npz, a .rows file or a replay.

    python dreamerv3/npz_keys.py demos/1-1.npz runs/dreamer/replay

Runs no code from a file.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from dreamerv3.replay import are_whole, read_index
from mario_cli import UsageError, exit_code
from mario_files import parse_npy, read_archive, read_file
from mario_values import Checked, parse_flags

SHOWN_ROWS = 1024
MAX_NPZ_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class KeysFlags(Checked):
    """What to look into."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Files and folders."""


def describe(name: str, array: np.ndarray) -> str:
    """Return a line on an array."""
    spread = ""
    if array.size and array.dtype.kind in "biuf":
        spread = f"  {array.min()} .. {array.max()}"
    return f"  {name:14s} {array.dtype.str:5s} {list(array.shape)!s:20s}{spread}"


def describe_npz(path: Path) -> list[str]:
    """Return a line a member of an npz.

    Raises:
        UsageError: it is not one, or holds Python objects.
    """
    files = read_archive(
        read_file(path, MAX_NPZ_BYTES), str(path), lambda name: name.endswith(".npy"), bool
    )
    names = {name.removesuffix(".npy"): content for name, content in files.items()}
    return [describe(name, parse_npy(names[name], f"{path}: {name}")) for name in names]


def describe_replay(folder: Path) -> list[str]:
    """Return what a replay's index says, and the fields of its newest rows."""
    index = read_index(folder / "replay.json")
    fields = [(name, kind, tuple(shape)) for name, kind, *[shape] in with_shapes(index["row"])]
    row = np.dtype(fields)
    lines = [f"  {key}: {value}" for key, value in index.items() if key != "row"]
    files = sorted((folder / str(index["generation"])).glob("*/*.rows"))
    rows = sum(path.stat().st_size for path in files) // row.itemsize
    lines.append(f"  {rows:,} rows of {row.itemsize} bytes in {len(files)} files; the newest:")
    if files:
        newest = np.fromfile(files[-1], row)[-SHOWN_ROWS:]
        lines += [describe(name, newest[name]) for name in row.names or ()]
        lines.append(f"  checksums {'agree' if are_whole(newest).all() else 'DO NOT AGREE'}")
    return lines


def with_shapes(fields: list[list]) -> list[list]:
    """Return a dtype's description with a shape in every field."""
    return [[*field, []] if len(field) == 2 else field for field in fields]


def show(flags: KeysFlags) -> None:
    """Print all paths."""
    if not flags.paths:
        raise UsageError("name at least one file or folder")
    for path in flags.paths:
        if not path.exists():
            raise UsageError(f"there is no {path}")
        print(path)
        lines = describe_replay(path) if path.is_dir() else describe_npz(path)
        print("\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and print."""
    return exit_code(lambda: show(parse_flags(KeysFlags, arguments, __doc__.split("\n\n")[0])))


if __name__ == "__main__":
    sys.exit(main())
