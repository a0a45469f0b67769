"""Say what a checkpoint is, without running it: steps, stage, recipe, sizes, hash.

    python scripts/inspect_checkpoint.py runs/mine/models/mario_final.zip

Reads JSON and tensors only. A folder stands for the model in it that evaluate_mario.py would take.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import sys
import textwrap
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from mario_checkpoints import find_model, read_model_zip, steps_of_model
from mario_cli import exit_code
from mario_game import with_stages_field
from mario_values import Checked, parse_flags


@dataclasses.dataclass(frozen=True)
class InspectFlags(Checked):
    """Which checkpoint."""

    model: tyro.conf.Positional[Path]
    """A model zip, a run folder or a shipped policy's folder."""


def flag_values(group: dict[str, Any]) -> str:
    """Return a group of flags as "name value, name value", nested groups inside."""
    flat = {**group, **group.get("reward", {})}
    flat.pop("reward", None)
    return ", ".join(
        f"{name} {value}" for name, value in flat.items() if value not in (None, [], "")
    )


def describe(path: Path) -> Iterator[str]:
    """Yield the lines that say what a model file is.

    Raises:
        BadModelFile: it is none.
    """
    path = find_model(path)
    config, tensors = read_model_zip(path)
    content = path.read_bytes()  # its members were looked at by now
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member.file_size for member in archive.infolist()}
    # Stable-Baselines3 names one extractor three times.
    apart = {tensor.data_ptr(): name for name, tensor in reversed(tensors.items())}
    parameters = sum(tensors[name].numel() for name in apart.values())
    state = path.with_suffix(".state")
    provenance = config.get("provenance", {})
    env = config.get("env", {})
    yield f"file       {path}"
    yield f"sha256     {hashlib.sha256(path.read_bytes()).hexdigest()}"
    yield f"size       {path.stat().st_size:,} bytes, {sum(members.values()):,} unpacked"
    yield f"agent      {config.get('agent')}"
    in_name = re.search(r"(\d+)_steps", path.stem)
    yield f"steps      {steps_of_model(path) or (in_name[1] if in_name else 'unknown')}"
    yield f"stage      {with_stages_field(env).get('stages', '?')}"
    yield f"weights    {parameters:,} numbers in {len(tensors)} tensors"
    for name in sorted(apart.values(), key=lambda name: -tensors[name].numel())[:3]:
        tensor = tensors[name]
        yield f"           {name} {str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    resumable = f"yes, with {state.name}" if state.is_file() else "no, weights only"
    yield f"resumable  {resumable}"
    yield f"reward     signature {config.get('reward_signature')}"
    for group, flags in config.items():
        if isinstance(flags, dict) and group not in ("run", "provenance"):
            lines = textwrap.wrap(flag_values(flags), 100) or [""]
            yield f"{group:<10} {lines[0]}"
            yield from (f"{'':<10} {line}" for line in lines[1:])
    yield f"command    {' '.join(provenance.get('command', []))}"
    yield f"commit     {provenance.get('git_commit')}, started {provenance.get('started')}"
    versions = provenance.get("versions", {})
    yield "versions   " + ", ".join(f"{name} {version}" for name, version in versions.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and print."""
    return exit_code(
        lambda: print("\n".join(describe(parse_flags(InspectFlags, arguments, __doc__).model)))
    )


if __name__ == "__main__":
    sys.exit(main())
