"""How far a policy is from its teacher, on real episodes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mario_policies import PRETRAINED, load_policy
from mario_rollout import RandomPolicy
from mario_teacher import read_teachers
from scripts.imitation_gap import GapFlags, main, measure

TEACHER = PRETRAINED / "teachers" / "1-1.zip"
QUICK = GapFlags(TEACHER, TEACHER, n_envs=4, steps=40)


def test_a_teacher_is_no_way_from_itself_and_chance_is_as_far_as_its_entropy_says() -> None:
    policy = load_policy(TEACHER)
    teachers = read_teachers(TEACHER, policy.env_config)
    itself = measure(policy, teachers, QUICK)
    assert itself.gap == pytest.approx(0, abs=1e-5)
    assert itself.agreement == 1
    assert itself.states == 160
    chance = measure(RandomPolicy(policy.env_config, 7), teachers, QUICK)
    assert chance.cross_entropy == pytest.approx(math.log(7), abs=1e-4)
    assert 0 < chance.gap < chance.cross_entropy
    assert chance.agreement < 1


def test_a_taught_policy_is_closer_than_chance_and_needs_its_teacher(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    taught = str(PRETRAINED / "dreamerv3_mario_1-1_taught")
    flags = ["--n-envs", "4", "--steps", "40"]
    assert main([taught, "--teacher", str(TEACHER.parent), *flags]) == 0
    said = capsys.readouterr().out
    assert float(said.split("gap to the teacher ")[1].split(",")[0]) < 0.3
    assert main([taught, "--teacher", str(tmp_path), *flags]) == 2
    assert "has no teacher of 1-1" in capsys.readouterr().err
