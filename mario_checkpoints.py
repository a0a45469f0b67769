"""Model files and trainer states: tensors on disk, read without running code from them.

A model file is Stable-Baselines3's zip with the run's train_config.json inside, whichever agent
wrote it. A checkpoint is a model file and, beside it under the same name, `.state`: all that the
trainer needs to go on. Knows no algorithm.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mario_cli import UsageError
from mario_runs import CONFIG_MEMBER, BadModelFile, Holder, RunFolder, atomic_write, write_pair

POLICY_MEMBER = "policy.pth"
OPTIMIZER_MEMBER = "policy.optimizer.pth"
MODEL_MEMBERS = {
    *("data", POLICY_MEMBER, OPTIMIZER_MEMBER, "pytorch_variables.pth"),
    *("_stable_baselines3_version", "system_info.txt", CONFIG_MEMBER),
}
MAX_MODEL_BYTES = 512 * 2**20  # unpacked; NatureCNN with its optimiser takes 20 MB


def write_model_zip(path: Path, save: Callable[[Any], None], config: dict[str, Any]) -> None:
    """Write SB3's zip (`save` is `model.save`) with the run's config inside, atomically.

    By way of memory, as `tensor_bytes`.
    """
    buffer = io.BytesIO()
    save(buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(CONFIG_MEMBER, json.dumps(config, indent=2))
    atomic_write(path, buffer.getvalue())


def write_weights(
    path: Path, weights: dict[str, torch.Tensor], step: int, config: dict[str, Any]
) -> None:
    """Write the model file of an agent that is not SB3's, atomically.

    Args:
        path: the file.
        weights: the network's tensors by name.
        step: agent steps done.
        config: train_config.json's content.
    """

    def save(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(POLICY_MEMBER, tensor_bytes(weights))
            # In the member and under the name that SB3 has it.
            archive.writestr("data", json.dumps({"num_timesteps": step}))

    write_model_zip(path, save, config)


def read_model_zip(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the config and the policy's tensors of a model zip. Runs no code from the file.

    Only JSON and tensors (`weights_only=True`) are read; SB3's `data` member, which holds pickles
    and which `PPO.load` would execute, is left alone.

    Raises:
        BadModelFile: what is wrong, in one line.
    """
    path = Path(path)
    if not path.is_file():
        raise BadModelFile(f"there is no model file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
            strange = sorted(set(members) - MODEL_MEMBERS)
            if strange:
                raise BadModelFile(f"{path} holds {strange[0]!r}, which no model file has; refused")
            if sum(members.values()) > MAX_MODEL_BYTES:
                raise BadModelFile(
                    f"{path} unpacks to over {MAX_MODEL_BYTES >> 20} MiB; not one of this project's"
                )
            missing = {CONFIG_MEMBER, POLICY_MEMBER} - set(members)
            if missing:
                raise BadModelFile(f"{path} has no {min(missing)}; not one of this project's")
            config = json.loads(archive.read(CONFIG_MEMBER))
            tensors = load_tensors(io.BytesIO(archive.read(POLICY_MEMBER)), str(path))
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise BadModelFile(f"{path} is not a whole zip file ({error})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadModelFile(f"{path}: its {CONFIG_MEMBER} is not JSON ({error})") from error
    if not isinstance(config, dict) or not all(
        isinstance(t, torch.Tensor) for t in tensors.values()
    ):
        raise BadModelFile(f"{path}: its {CONFIG_MEMBER} or {POLICY_MEMBER} is of another kind")
    return config, tensors


def tensor_bytes(content: Any) -> bytes:
    """Return what torch.save writes of content.

    In memory first: on a full disk, torch's writer raises a RuntimeError that does not say why,
    where writing bytes raises an OSError that does.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_tensors(file: io.BytesIO | Path, name: str) -> dict[str, Any]:
    """Return what `torch.save` wrote, if it is tensors, numbers, strings, lists and dicts only.

    Raises:
        BadModelFile: it is torn, or would run code.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadModelFile(f"{name} does not load as plain tensors ({reason})") from error
    if not isinstance(content, dict):
        raise BadModelFile(f"{name} holds a {type(content).__name__}, not a dict of tensors")
    return content


def plain(value: Any) -> Any:
    """NumPy to tensors and numbers, so that `torch.load(weights_only=True)` reads it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor):
        return value
    raise TypeError(f"a {type(value).__name__} has no place in the trainer's state")


class Checkpoint(NamedTuple):
    """A checkpoint as it was read."""

    path: Path
    config: dict[str, Any]  # the content of train_config.json
    weights: dict[str, torch.Tensor]
    state: dict[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint, by its zip.

    Raises:
        BadModelFile: one of its two files is missing, torn or hostile.
    """
    config, weights = read_model_zip(path)
    state_path = path.with_suffix(".state")
    return Checkpoint(path, config, weights, load_tensors(state_path, str(state_path)))


def newest_checkpoint(run: RunFolder) -> Checkpoint | None:
    """Return a run's newest whole checkpoint, None if there is none; a torn one is said."""
    for path in run.checkpoints():
        try:
            return read_checkpoint(path)
        except BadModelFile as error:
            print(f"warning: {error}; using the checkpoint before it", file=sys.stderr)
    return None


def refuse_broken(run: RunFolder, newest: Checkpoint | None) -> None:
    """Raise a UsageError if a run has checkpoints and none is whole: to begin anew loses it."""
    if newest is None and run.checkpoints():
        raise UsageError(f"no checkpoint in {run.checkpoint_dir} is whole: move them away")


def find_checkpoint(path: Path) -> Path:
    """Return the zip of the checkpoint that path names: itself, or a run folder's newest whole one.

    Raises:
        UsageError: there is none.
    """
    if path.is_dir():
        found = newest_checkpoint(RunFolder(path))
        if found is None:
            holder = Holder.of_folder(path)
            if holder and holder.is_alive:
                raise UsageError(
                    f"{path} holds no checkpoint yet: the trainer with pid {holder.pid} is at work"
                )
            raise UsageError(f"{path} holds no checkpoint to resume")
        return found.path
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}")
    if not path.with_suffix(".state").is_file():
        raise UsageError(
            f"{path} has no {path.stem}.state beside it; --warm-start takes its weights"
        )
    return path


def save_checkpoint(
    run: RunFolder, step: int, write_model: Callable[[Path], None], state: dict[str, Any]
) -> Path:
    """Write a run's checkpoint of a step and return its zip; older ones make room.

    Args:
        run: the folder.
        step: agent steps done.
        write_model: writes the model file to the path it is given.
        state: tensors, numbers, strings, lists and dicts of them.

    Raises:
        OSError: it could not be written; earlier checkpoints are untouched.
    """
    return run.save_checkpoint(step, write_model, tensor_bytes(state))


def write_with_state(
    path: Path, write_model: Callable[[Path], None], state: dict[str, Any]
) -> None:
    """Write a model file that can be resumed: its `.state` stands beside it.

    Raises:
        OSError: it could not be written.
    """
    write_pair(path, write_model, tensor_bytes(state))
