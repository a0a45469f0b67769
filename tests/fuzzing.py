"""One reader of files against many inputs, in a process of its own with bounded memory.

    python tests/fuzzing.py READER FOLDER FIRST LIMIT_MIB

Reads the inputs FIRST, FIRST + 1, ... of a folder and prints a line for each: its number and
`read`, `refused`, or what was raised that the reader does not document.
"""

from __future__ import annotations

import contextlib
import io
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastnes import EmulationError, Machine, SnapshotError
from mario_cli import UsageError


def read_snapshot(path: Path) -> None:
    machine = Machine()
    machine.restore(np.frombuffer(path.read_bytes(), np.uint8))
    machine.step(0, 3)


def read_demo(path: Path) -> None:
    from mario_demos import load_demo, replay

    replay(load_demo(path))


def read_model(path: Path) -> None:
    from mario_policies import load_policy

    load_policy(path)


def read_state(path: Path) -> None:
    from mario_checkpoints import going_on_from, load_tensors
    from mario_config import EnvConfig
    from mario_runtime import MarioVectorEnv

    env = MarioVectorEnv(EnvConfig(n_envs=2), threads=1)
    state = load_tensors(path, path.name)
    with going_on_from(path, "begin anew"):
        env.load_state_dict(state["environments"])
    env.step(np.zeros(2, np.int64))


def read_flags(path: Path) -> None:
    from mario_recipes import with_file_values
    from mario_values import read_yaml
    from train_mario import TrainConfig

    with_file_values(TrainConfig(), read_yaml(path), path.name)


def read_evaluation(path: Path) -> None:
    from mario_judge import ModelEvaluation

    ModelEvaluation.from_json(path)


def read_rows(path: Path) -> None:
    from dreamerv3.envs.mario import mario_row, replay_contents
    from dreamerv3.replay import Replay
    from mario_config import EnvConfig

    env = EnvConfig(frame_stack=1, screen_size=8)
    folder = path.parent / f"{path.name}_replay"
    (folder / "0" / "0").mkdir(parents=True, exist_ok=True)
    (folder / "replay.json").write_bytes(path.read_bytes())
    replay = Replay(
        folder, mario_row(env), replay_contents(env), streams=1, length=2, read_only=True
    )
    assert len(replay) >= 0


def read_lines(path: Path) -> None:
    from mario_runs import read_metrics

    read_metrics(path)


READERS: dict[str, Callable[[Path], None]] = {
    "snapshot": read_snapshot,
    "demo": read_demo,
    "model": read_model,
    "state": read_state,
    "flags": read_flags,
    "evaluation": read_evaluation,
    "replay": read_rows,
    "metrics": read_lines,
}
DOCUMENTED = (UsageError, SnapshotError, EmulationError)


def attempt(reader: Callable[[Path], None], path: Path) -> str:
    """Return how a reader took an input."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            reader(path)
    except DOCUMENTED as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error!r:.200}"
    except Exception as error:  # noqa: BLE001 - what is looked for
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return "read"


def main() -> None:
    name, folder, first, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    inputs = sorted(folder.glob("*.input"))
    attempt(READERS[name], inputs[0])  # imports are not the input's memory
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (int(limit) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for number in range(first, len(inputs)):
        print(number, attempt(READERS[name], inputs[number]), flush=True)


if __name__ == "__main__":
    main()
