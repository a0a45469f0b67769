"""One reader of files against many inputs, in a process of its own with bounded memory.

    python tests/fuzzing.py READER FOLDER FIRST LIMIT_MIB

Reads the inputs FIRST, FIRST + 1, ... of a folder and prints a line for each: its number and
`read`, `refused`, or what was raised that the reader does not document, and the peak in MiB.
"""

from __future__ import annotations

import contextlib
import io
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastnes import EmulationError, Machine, SnapshotError
from mario_cli import Failure, UsageError


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


def read_stream(path: Path) -> None:
    """A stream of a replay, sampled, paid anew and opened for writing, which cuts off torn rows."""
    from dreamerv3.envs.mario import mario_row, recompute_rewards, replay_contents
    from dreamerv3.replay import Replay, relabel
    from mario_config import EnvConfig, RewardConfig

    env = EnvConfig(frame_stack=1, screen_size=8)
    other = EnvConfig(frame_stack=1, screen_size=8, reward=RewardConfig(flag_bonus=1.0))
    row, contents = mario_row(env), replay_contents(env)
    folder = path.parent / f"{path.name}_stream"
    shutil.rmtree(folder, ignore_errors=True)
    Replay(folder, row, contents, streams=1, length=4)
    (folder / "0" / "0" / f"{0:012d}.rows").write_bytes(path.read_bytes())
    replay = Replay(folder, row, contents, streams=1, length=4, read_only=True)
    if not replay.can_sample():
        raise UsageError("no whole sequence")
    replay.sample(8)
    signature = replay_contents(other)["reward_signature"]
    relabel(folder, row, signature, lambda rows: recompute_rewards(rows, other))
    Replay(folder, row, replay_contents(other), streams=1, length=4)


def read_run(path: Path) -> None:
    """A run folder whose small files are all of this content: list, report, health, trainers."""
    from auto_update_mario_monitor import main as monitor
    from dreamerv3.flags import DreamerConfig
    from mario_checkpoints import newest_checkpoint
    from mario_files import MAX_JSON_BYTES, parse_json, read_file
    from mario_recipes import config_of_content
    from mario_runs import RunFolder
    from mario_status import RunReader
    from teach_mario import TeachConfig
    from train_mario import TrainConfig

    root = path.parent / f"{path.name}_root"
    run = RunFolder(root / "run")
    files = (run.config_path, run.best_summary, run.evaluations / "step_5" / "summary.json")
    for file in (*files, run.path / "trainer.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.read_bytes())
    run.metrics_path.write_text('{"step": 5, "max_x": 7.0}\n')
    reader = RunReader(run.path)
    reader.status()
    reader.readable_evaluations()
    assert newest_checkpoint(run) is None
    with contextlib.redirect_stdout(io.StringIO()):
        assert monitor(["--runs-root", str(root), "--once"]) == 0
        html = path.parent / f"{path.name}.html"
        assert monitor(["--runs-root", str(root), "--once", "--html", str(html)]) == 0
    content = parse_json(read_file(path, MAX_JSON_BYTES), path.name)
    defaults = {"ppo": TrainConfig(), "dreamerv3": DreamerConfig(), "teacher": TeachConfig()}
    agent = content.get("agent")
    default = defaults.get(agent if isinstance(agent, str) else "ppo", TrainConfig())
    config_of_content(default, content, str(agent))


def read_plan(path: Path) -> None:
    from train_mario_professional import read_plan, write_recipes

    storage = path.parent / f"{path.name}_runs"
    chains = read_plan(path, storage)
    write_recipes(chains[:20])
    for chain in chains:
        assert chain.folder.resolve().is_relative_to(storage.resolve()), "it leads out"


def read_study(path: Path) -> None:
    """A study's table and what is said of it, both of this content."""
    from mario_results import ABOUT, TABLE, read_study

    folder = path.parent / f"{path.name}_study"
    folder.mkdir(exist_ok=True)
    content = path.read_bytes()
    kept = ROOT / "results" / "ppo_1-1"
    is_table = content.startswith(b"\x1f\x8b")
    (folder / TABLE).write_bytes(content if is_table else (kept / TABLE).read_bytes())
    (folder / ABOUT).write_bytes((kept / ABOUT).read_bytes() if is_table else content)
    read_study(folder)


def read_lines(path: Path) -> None:
    from mario_doctor import diagnose
    from mario_runs import read_metrics
    from mario_status import RunReader

    diagnose(read_metrics(path))
    folder = path.parent / f"{path.name}_run"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_bytes(path.read_bytes())
    RunReader(folder).status()


READERS: dict[str, Callable[[Path], None]] = {
    "snapshot": read_snapshot,
    "demo": read_demo,
    "model": read_model,
    "state": read_state,
    "flags": read_flags,
    "evaluation": read_evaluation,
    "replay": read_rows,
    "metrics": read_lines,
    "rows": read_stream,
    "plan": read_plan,
    "run": read_run,
    "study": read_study,
    "table": read_study,
}
ROOT = Path(__file__).parents[1]
DOCUMENTED = (UsageError, Failure, SnapshotError, EmulationError)


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


def peak_mib() -> int:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    name, folder, first, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    inputs = sorted(folder.glob("*.input"))
    attempt(READERS[name], inputs[0])  # imports are not the input's memory
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (int(limit) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for number in range(first, len(inputs)):
        print(number, attempt(READERS[name], inputs[number]), peak_mib(), flush=True)


if __name__ == "__main__":
    main()
