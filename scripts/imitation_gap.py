"""Measure how far a policy is from its teacher, on fresh episodes of its own.

    python scripts/imitation_gap.py runs/taught/student --teacher runs/taught/teacher

In training the gap is measured on states that were learnt from. Where it is smaller than here, they
are learnt by heart.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch as th
import tyro

from mario_cli import exit_code
from mario_config import ProtocolName, in_process
from mario_judge import JUDGE_SEED, protocol_config
from mario_policies import load_policy
from mario_rollout import Policy, answers, select_actions
from mario_runtime import MarioVectorEnv
from mario_scene import read_scene
from mario_scene_flat import flatten_scene
from mario_student import imitation_losses
from mario_teacher import Teachers, read_teachers
from mario_values import Checked, Count, Seed, parse_flags


@dataclasses.dataclass(frozen=True)
class GapFlags(Checked):
    """Whose, to whom, on what."""

    model: tyro.conf.Positional[Path]
    """A policy's file or folder: a student's, or a taught DreamerV3's."""
    teacher: Path
    """A teacher's model file or run folder, or a folder of <stage>.zip."""
    protocol: ProtocolName = "sticky"
    """How the policy's episodes begin and are disturbed."""
    n_envs: Count = 32
    """Episodes side by side; the policy plays its samples."""
    steps: Count = 400
    """Agent steps of each; where an episode ends, the next one begins."""
    seed: Seed = JUDGE_SEED
    """Of the episodes and of the policy's samples."""


class Gap(NamedTuple):
    """How far a policy is from its teacher, means over states."""

    gap: float  # KL divergence of the policy's distribution from the teacher's, nats
    cross_entropy: float  # nats; the gap and the teacher's own entropy
    agreement: float  # share of states where both would do the same by argmax
    states: int


def measure(policy: Policy, teachers: Teachers, flags: GapFlags) -> Gap:
    """Let a policy play its samples, and ask the teacher in each of its states.

    It steps the batch itself: `mario_rollout.play` hands nobody the machines between two steps.

    Raises:
        FloatingPointError: the policy's or the teacher's answers are not finite.
    """
    config = protocol_config(in_process(policy.env_config, "fast"), flags.protocol)
    env = MarioVectorEnv(dataclasses.replace(config, n_envs=flags.n_envs))
    observations, _ = env.reset(seed=flags.seed)
    generators = [np.random.default_rng([flags.seed + i, 1]) for i in range(flags.n_envs)]
    state = policy.initial_state(flags.n_envs)
    previous = np.full(flags.n_envs, -1)
    own, said = [], []
    for _ in range(flags.steps):
        logits, state = answers(policy, observations, previous, state)
        scenes = flatten_scene(read_scene(env.machines.ram_before))
        own.append(th.from_numpy(logits))
        said.append(teachers.label(scenes, env.shaper.began)[0])
        chosen = select_actions(logits, False, generators)
        observations, _, terminations, truncations, _ = env.step(chosen)
        previous = np.where(terminations | truncations, -1, chosen)
    values = th.zeros(flags.steps * flags.n_envs)
    losses, metrics = imitation_losses(th.cat(own), values, th.cat(said), values)
    return Gap(
        float(metrics["gap"]), float(losses["policy"]), float(metrics["agreement"]), len(values)
    )


def run(flags: GapFlags) -> None:
    """Measure, and say it.

    Raises:
        UsageError: the model or the teacher cannot be read, or they do not fit together.
    """
    policy = load_policy(flags.model)
    teachers = read_teachers(flags.teacher, policy.env_config)
    found = measure(policy, teachers, flags)
    print(
        f"{flags.model}: gap to the teacher {found.gap:.3f}, cross-entropy "
        f"{found.cross_entropy:.3f}, agreement {found.agreement:.1%}, in {found.states:,} states"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; exit 2 if there is nothing to measure."""
    return exit_code(lambda: run(parse_flags(GapFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
