"""Model files and trainer states: tensors on disk, read without running code from them.

A model file is Stable-Baselines3's zip with the run's train_config.json inside, whichever agent
wrote it. A checkpoint is a model file and, beside it under the same name, `.state`: all that the
trainer needs to go on. Knows no algorithm.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import pickletools
import re
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mario_cli import UsageError
from mario_files import BadFile, check_seal, parse_json, read_archive, read_file, sealed
from mario_runs import (
    CONFIG_MEMBER,
    MAX_STEP,
    BadModelFile,
    Holder,
    RunFolder,
    atomic_write,
    write_pair,
)

POLICY_MEMBER = "policy.pth"
OPTIMIZER_MEMBER = "policy.optimizer.pth"
MODEL_MEMBERS = {
    *("data", POLICY_MEMBER, OPTIMIZER_MEMBER, "pytorch_variables.pth"),
    *("_stable_baselines3_version", "system_info.txt", CONFIG_MEMBER),
}
MAX_MODEL_BYTES = 512 * 2**20  # NatureCNN with its optimiser takes 20 MB
MAX_STATE_BYTES = 2 * 2**30  # every environment's observation is in it


def write_model_zip(path: Path, save: Callable[[Any], None], config: dict[str, Any]) -> None:
    """Write SB3's zip (`save` is `model.save`) with the run's config inside, atomically.

    By way of memory, as `tensor_bytes`.
    """
    buffer = io.BytesIO()
    save(buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(CONFIG_MEMBER, json.dumps(config, indent=2))
    atomic_write(path, sealed(buffer.getvalue()))


def refuse_not_finite(weights: dict[str, torch.Tensor]) -> None:
    """Raise FloatingPointError if weights are not finite: no file is written of them."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise FloatingPointError(f"the weights are not finite any more, first {name}: not kept")


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
    refuse_not_finite(weights)

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
    if path.is_dir():
        raise BadModelFile(f"{path} is a folder, not a model file")
    if not path.exists():
        raise BadModelFile(f"there is no model file {path}")
    with as_bad_model():
        content = read_file(path, MAX_MODEL_BYTES)
        check_seal(content, str(path))
        wanted = {CONFIG_MEMBER, POLICY_MEMBER}
        found = read_archive(content, str(path), MODEL_MEMBERS.__contains__, wanted.__contains__)
        if missing := wanted - found.keys():
            raise BadModelFile(f"{path} has no {min(missing)}; not one of this project's")
        config = parse_json(found[CONFIG_MEMBER], f"{path}: its {CONFIG_MEMBER}")
    tensors = parse_tensors(found[POLICY_MEMBER], f"{path}: its {POLICY_MEMBER}")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise BadModelFile(f"{path}: its {POLICY_MEMBER} is of another kind")
        if not torch.isfinite(tensor).all():
            raise BadModelFile(f"{path} holds weights that are not finite")
    return config, tensors


def steps_of_model(path: Path) -> int | None:
    """Return the agent steps that a model file was trained for; None if it does not say.

    Raises:
        BadModelFile: it cannot be read.
    """
    with as_bad_model():
        content = read_file(path, MAX_MODEL_BYTES)
        found = read_archive(content, str(path), MODEL_MEMBERS.__contains__, {"data"}.__contains__)
    # SB3's is JSON of megabytes, full of pickles that nobody needs here.
    steps = re.search(rb'"num_timesteps": *(\d{1,15})\b', found.get("data", b""))
    return int(steps[1]) if steps else None


@contextlib.contextmanager
def as_bad_model() -> Iterator[None]:
    """Within it, a `BadFile` is a `BadModelFile`."""
    try:
        yield
    except BadFile as error:
        raise BadModelFile(str(error)) from error


def tensor_bytes(content: Any) -> bytes:
    """Return what torch.save writes of content, with its checksum (`mario_files.sealed`).

    In memory first: on a full disk, torch's writer raises a RuntimeError that does not say why,
    where writing bytes raises an OSError that does.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return sealed(buffer.getvalue())


def load_tensors(file: io.BytesIO | Path, name: str) -> dict[str, Any]:
    """Return what `torch.save` wrote to a file called name, as `parse_tensors`."""
    with as_bad_model():
        content = read_file(file, MAX_STATE_BYTES) if isinstance(file, Path) else file.read()
        check_seal(content, name)
    return parse_tensors(content, name)


# What a pickle of tensors, numbers, texts, lists and dicts names; the module comes first.
KNOWN_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"} | {
    f"torch {kind}Storage"
    for kind in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()
}
MAX_DEPTH = 12  # of lists and dicts in each other
TORCH_MEMBER = re.compile(r"[^/]+/(data\.pkl|byteorder|version|\.[\w/]+|data/\d+)")


def parse_tensors(content: bytes, name: str) -> dict[str, Any]:
    """Return what `torch.save` wrote, if it is tensors, numbers, texts, lists and dicts only.

    The archive in it must be stored, as torch writes it, and no tensor larger than its part of it:
    what is loaded takes no more memory than the file.

    Args:
        content: the file.
        name: its name, for errors.

    Raises:
        BadModelFile: it is torn, would run code, or holds something else.
    """
    with as_bad_model():
        members = read_archive(
            content, name, lambda one: bool(TORCH_MEMBER.fullmatch(one)), lambda one: True
        )
    if sum(map(len, members.values())) > len(content):
        raise BadModelFile(f"{name} is packed, which torch does not do")
    pickles = [data for member, data in members.items() if member.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BadModelFile(f"{name} does not load as plain tensors (no data.pkl)")
    try:
        check_pickle(pickles[0])
        # Shapes alone first: a tensor may claim more than the file holds.
        check_plain(torch.load(io.BytesIO(content), map_location="meta", weights_only=True))
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (
        *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError),
        *(KeyError, IndexError, AttributeError, AssertionError, OverflowError, RecursionError),
        *(MemoryError, UnicodeDecodeError),  # torch's and pickle's, on broken files
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise BadModelFile(f"{name} does not load as plain tensors ({reason})") from error
    if not isinstance(found, dict):
        raise BadModelFile(f"{name} holds a {type(found).__name__}, not a dict of tensors")
    return found


def check_pickle(content: bytes) -> None:
    """Raise ValueError if a pickle names anything but plain tensors; it is only read."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("GLOBAL", "INST") and argument not in KNOWN_NAMES:
            raise ValueError(f"it names {str(argument)[:60]}")
        if opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX"):
            raise ValueError(f"it has a {opcode.name}, which torch does not write")


def check_plain(content: Any) -> None:
    """Raise ValueError unless content is plain: dense tensors within their storage, small numbers.

    Lists and dicts are each looked at once, however often they are referred to.
    """
    seen: set[int] = set()
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, torch.Tensor):
            _check_tensor(value)
        elif isinstance(value, dict | list | tuple):
            if depth > MAX_DEPTH:
                raise ValueError("it is too deep")
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, dict) and not all(isinstance(key, str | int) for key in value):
                raise ValueError("a key is neither a text nor a number")
            items = value.values() if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in items]
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise ValueError("a number is too large")
        elif value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(f"it holds a {type(value).__name__}")


def _check_tensor(tensor: torch.Tensor) -> None:
    """Raise ValueError if a tensor reaches beyond its storage, or repeats what is there."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise ValueError("a tensor is not a plain one")
    if any(stride < 0 for stride in tensor.stride()):
        raise ValueError("a tensor runs backwards")
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps)
    available = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() and (last >= available or tensor.numel() > available):
        raise ValueError("a tensor is larger than its data")


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
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} has no place in the trainer's state")


def check_weights(saved: dict[str, Any], own: dict[str, torch.Tensor]) -> None:
    """Raise BadModelFile unless saved tensors have the names, shapes and types of one's own."""
    for name in sorted(own.keys() | saved.keys()):
        tensor, mine = saved.get(name), own.get(name)
        if tensor is None or mine is None or tensor.shape != mine.shape:
            raise BadModelFile(f"weights of another network, first {name}")
        if tensor.dtype != mine.dtype or not tensor.isfinite().all():
            raise BadModelFile(f"{name} is {tensor.dtype}, not {mine.dtype}, or not finite")


ADAM_STATE = frozenset({"step", "exp_avg", "exp_avg_sq"})


def load_optimizer(
    optimizer: torch.optim.Optimizer, saved: dict[str, Any], names: Collection[str] = ADAM_STATE
) -> None:
    """Go on with an optimizer's saved state; its compiled steps trust shapes, so they are compared.

    Args:
        optimizer: of the same parameters.
        saved: what its `state_dict` returned.
        names: what it keeps of each parameter.

    Raises:
        BadModelFile: it is of other parameters, or holds what is not finite.
    """
    groups, states = saved["param_groups"], saved["state"]
    if len(groups) != len(optimizer.param_groups):
        raise BadModelFile(f"the optimizer has {len(groups)} groups of parameters")
    kept = []
    for group, now in zip(groups, optimizer.param_groups, strict=True):
        numbers = group["params"]
        if len(numbers) != len(now["params"]):
            raise BadModelFile(f"the optimizer has {len(numbers)} parameters, not these")
        for number, parameter in zip(numbers, now["params"], strict=True):
            if number in states:
                _check_moments(states[number], parameter, names)
        rest = {key: value for key, value in now.items() if key != "params"}
        known = {key: group[key] for key in rest if _is_alike(group.get(key), rest[key])}
        step = {"step": group["step"]} if _is_alike(group.get("step"), 0) else {}
        kept.append(rest | known | step | {"params": numbers})
    optimizer.load_state_dict({"state": states, "param_groups": kept})


def _check_moments(
    moments: dict[str, Any], parameter: torch.Tensor, names: Collection[str]
) -> None:
    """Raise BadModelFile if what an optimizer keeps of a parameter does not fit it."""
    if set(moments) != set(names):
        raise BadModelFile(f"the optimizer keeps {', '.join(map(str, moments))} of a parameter")
    for name, value in moments.items():
        tensor = torch.as_tensor(value)
        shape = torch.Size() if name == "step" else parameter.shape
        if tensor.shape != shape or not tensor.is_floating_point() or not tensor.isfinite().all():
            raise BadModelFile(
                f"the optimizer's {name} is {list(tensor.shape)}, or not finite, of a parameter of "
                f"{list(shape)}"
            )


def _is_alike(saved: Any, now: Any) -> bool:
    """Return whether a hyperparameter that was saved can stand for one that is set: numbers can."""
    if isinstance(now, tuple):
        return (
            isinstance(saved, list | tuple)
            and len(saved) == len(now)
            and all(map(_is_alike, saved, now))
        )
    is_number = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (saved, now))
    return is_number and math.isfinite(saved) and saved >= 0


@contextlib.contextmanager
def going_on_from(path: Path, advice: str) -> Iterator[None]:
    """Within it a trainer takes over what a `.state` holds; what does not fit is one line.

    Args:
        path: the checkpoint, for errors.
        advice: what to do instead.

    Raises:
        UsageError: it is of another version, or of another run.
    """
    try:
        yield
    except KeyError as error:
        raise UsageError(
            f"{path} is of another version, its state lacks {error}: {advice}"
        ) from error
    except (
        *(UsageError, ValueError, TypeError, IndexError, AttributeError, RuntimeError),
        OverflowError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit this run, its state: {reason}: {advice}") from error


def saved_count(value: Any, name: str) -> int:
    """Return a count as a `.state` has it; name is for errors.

    Raises:
        BadModelFile: it is no whole number from 0 to `MAX_STEP`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_STEP:
        raise BadModelFile(f"{name} is {value!r:.40}, no count")
    return value


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


def newest_checkpoint(run: RunFolder, is_quiet: bool = False) -> Checkpoint | None:
    """Return a run's newest whole checkpoint, None if there is none.

    Args:
        run: the folder.
        is_quiet: do not say which ones are torn.
    """
    for path in run.checkpoints():
        try:
            return read_checkpoint(path)
        except BadModelFile as error:
            if not is_quiet:
                print(f"warning: {error}; using the checkpoint before it", file=sys.stderr)
    return None


def find_model(path: Path) -> Path:
    """Return the model file that path names: itself, or the best one in its folder.

    Raises:
        BadModelFile: there is none.
    """
    if not path.is_dir():
        return path
    run = RunFolder(path)
    candidates = [path / "best_eval.zip", run.best_model, run.final_model, *run.checkpoints()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise BadModelFile(
        f"{path} holds no model (best_eval.zip, {run.final_model.name}, checkpoints)"
    )


def refuse_broken(run: RunFolder, newest: Checkpoint | None) -> None:
    """Raise a UsageError if a run has checkpoints and none is whole: to begin anew loses it."""
    if newest is None and run.checkpoints():
        raise UsageError(f"no checkpoint in {run.checkpoint_dir} is whole: move them away")


def find_checkpoint(path: Path, is_quiet: bool = False) -> Path:
    """Return the zip of the checkpoint that path names: itself, or a run folder's newest whole one.

    Args:
        path: a zip or a folder.
        is_quiet: do not say which ones are torn.

    Raises:
        UsageError: there is none.
    """
    if path.is_dir():
        found = newest_checkpoint(RunFolder(path), is_quiet)
        if found is None:
            holder = Holder.of_folder(path)
            if holder and holder.is_alive:
                raise UsageError(
                    f"{path} holds no checkpoint yet: the trainer with pid {holder.pid} is at work"
                )
            refuse_broken(RunFolder(path), found)
            raise UsageError(f"{path} holds no checkpoint to resume")
        return found.path
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}")
    if path.suffix != ".zip":
        raise UsageError(f"{path} is no checkpoint: name a run folder, or a .zip in it")
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
