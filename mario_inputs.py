"""What callers hand to an environment, actions, seeds and options, checked in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from mario_cli import UsageError
from mario_game import StageId, parse_stages


def checked_action(action: Any, n_actions: int) -> int:
    """Return one environment's action as an int.

    Raises:
        UsageError: it is no whole number from 0 to n_actions - 1; a truth value is none.
    """
    number = np.asarray(action)
    if number.dtype.kind not in "iu" or number.shape != ():
        raise UsageError(f"an action is one whole number, not {action!r:.60}")
    if not 0 <= number < n_actions:
        raise UsageError(f"action {number} is not in 0..{n_actions - 1}")
    return int(number)


def checked_actions(actions: Any, n: int, n_actions: int) -> np.ndarray:
    """Return the actions of n environments, int64[n].

    Raises:
        UsageError: they are not n whole numbers from 0 to n_actions - 1.
    """
    try:
        numbers = np.asarray(actions)
    except ValueError:  # rows of different lengths
        numbers = np.empty(0)
    if numbers.dtype.kind not in "iu" or numbers.shape != (n,):
        kind = f"{numbers.dtype}{list(numbers.shape)}"
        raise UsageError(f"actions must be whole numbers, one for each of {n}: not {kind}")
    if numbers.min() < 0 or numbers.max() >= n_actions:
        wrong = numbers[(numbers < 0) | (numbers >= n_actions)][0]
        raise UsageError(f"action {wrong} is not in 0..{n_actions - 1}")
    return numbers.astype(np.int64, copy=False)


def checked_seed(seed: Any) -> int | None:
    """Return one environment's seed as an int; None stays.

    Raises:
        UsageError: it is no whole number from 0 on.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"a seed is a whole number from 0 on, not {seed!r:.60}")
    return int(seed)


def checked_seeds(seed: Any, n: int) -> list[int | None]:
    """Return the seeds of n environments: seed + i of one seed, else one for each.

    Raises:
        UsageError: a seed is none, or there are more or fewer than n.
    """
    if isinstance(seed, np.ndarray) and seed.ndim == 1:
        seed = list(seed)
    if not isinstance(seed, list | tuple):
        first = checked_seed(seed)
        return [None if first is None else first + i for i in range(n)]
    if len(seed) != n:
        raise UsageError(f"there must be one seed for each of {n}, not {len(seed)}")
    return [checked_seed(own) for own in seed]


def checked_mask(mask: Any, n: int) -> np.ndarray:
    """Return `reset_mask`, bool[n].

    Raises:
        UsageError: it is another array.
    """
    where = np.asarray(mask)
    if where.shape != (n,) or where.dtype != bool:
        raise UsageError(f"reset_mask must be one truth value for each of {n}")
    return where


def chosen_noops(noops: Any) -> np.ndarray:
    """Return what `reset(options={"noops": ...})` was given, an int or int[n], as an array.

    Raises:
        UsageError: it is not made of whole numbers from 0 on.
    """
    numbers = np.asarray(noops)
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1 or (numbers < 0).any():
        raise UsageError(f"noops must be whole numbers from 0 on, not {noops!r}")
    return numbers


def noops_of(options: dict[str, Any], n: int) -> np.ndarray | None:
    """Return the no-ops that options choose for n environments, int64[n]; None: as drawn.

    Raises:
        UsageError: they are no whole numbers, or for another number of environments.
    """
    if options.get("noops") is None:
        return None
    numbers = chosen_noops(options["noops"])
    if numbers.shape not in ((), (n,)):
        raise UsageError(f"noops must be one number, or one for each of {n}")
    return np.broadcast_to(numbers, n)


def stages_of_options(options: dict[str, Any], n: int) -> list[StageId | None]:
    """Return the stage that options choose for each of n environments; None: as drawn.

    Raises:
        UsageError: no such stage, or stages for another number of environments.
    """
    chosen = options.get("stage")
    if chosen is None or isinstance(chosen, str | StageId):
        chosen = [chosen] * n
    if not isinstance(chosen, Sequence) or len(chosen) != n:
        raise UsageError(f"stage must be one, as 3-2, or one for each of {n}, not {chosen!r:.60}")
    return [None if name is None else _stage(name) for name in chosen]


def _stage(name: Any) -> StageId:
    found = parse_stages(str(name))
    if len(found) != 1:
        raise UsageError(f"an episode begins in one stage, not in {name!r:.40}")
    return found[0]


KNOWN_OPTIONS = ("reset_mask", "noops", "stage", "snapshot")


def checked_options(
    options: dict[str, Any] | None, known: Sequence[str] = KNOWN_OPTIONS
) -> dict[str, Any]:
    """Return reset's options, none of them unknown.

    Raises:
        UsageError: there is no option of that name.
    """
    for name in options or {}:
        if name not in known:
            raise UsageError(f"reset has no option {name!r} here; it has: {', '.join(known)}")
    return dict(options or {})


def needs_reset(envs: np.ndarray | None = None) -> ResetNeeded:
    """Return the error of a step before a reset or after an episode's end.

    Args:
        envs: the numbers of the environments that are meant, of several.
    """
    which = "" if envs is None else f" of environments {', '.join(map(str, envs.tolist()[:8]))}"
    return ResetNeeded(f"step() before reset(), or after the end of an episode{which}: reset first")
