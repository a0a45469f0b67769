"""What dreamerv3/diagnose.py says of Plan2Explore's pay: by hand, and of a real run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamerv3.diagnose import lives_on, main, what_it_pays
from dreamerv3.dreamer import main as train
from dreamerv3.episodes import open_run, stored_episodes
from dreamerv3.policy import DreamerPolicy
from dreamerv3.recurrence import UNIMIX
from mario_policies import load_policy
from mario_runtime import observation_space


def test_pay_by_hand() -> None:
    lengths, discount = (1, 3), 0.5
    found = what_it_pays(torch.tensor([2.0, 2.0, 2.0, 2.0]), lengths, discount)
    assert found == {"mean": 2, "min": 2, "max": 2, "better_dead": 0, "life": pytest.approx(1)}
    found = what_it_pays(torch.tensor([-1.0, -1.0, -1.0, -1.0]), lengths, discount)
    assert (found["better_dead"], found["life"]) == (1, pytest.approx(-1))
    # Still to come in the long episode: 1 - 4 / 2 + 8 / 4 = 1, -4 + 8 / 2 = 0, 8.
    found = what_it_pays(torch.tensor([-3.0, 1.0, -4.0, 8.0]), lengths, discount)
    assert found["better_dead"] == 1 / 4
    assert "life" not in what_it_pays(torch.tensor([1.0, 1.0]), (1, 1), discount)


@pytest.mark.parametrize("behaviour", ["greedy", "plan2explore"])
def test_the_logarithm_makes_death_the_better_choice(behaviour: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = f"--config debug --timesteps 300 --eval-freq 0 --exploration.behaviour {behaviour}"
    assert train(["--run-dir", str(run), *flags.split()]) == 0
    assert main([str(run), "--curiosity", "--no-video"]) == 0
    found = json.loads((run / "diagnosis" / "diagnosis.json").read_text())["curiosity"]
    assert found["variance"]["min"] >= 0
    assert found["variance"]["better_dead"] == 0
    assert found["logarithm"]["max"] < 0, "variances of probabilities are below 1"
    assert found["logarithm"]["better_dead"] == 1


def test_what_a_model_says_of_deaths(tiny_dreamer_run: Path) -> None:
    policy = load_policy(tiny_dreamer_run)
    assert isinstance(policy, DreamerPolicy)
    agent = policy.agent
    _, replay = open_run(tiny_dreamer_run)
    episodes = [episode for episode in stored_episodes(replay) if episode.length > 30]
    head = agent.world.goes_on[-1]
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(float(torch.logit(torch.tensor(0.5 * agent.config.discount))))
    found = lives_on(agent, replay, episodes, seed=0)
    assert list(found) == ["at once", "1 ahead", "2 ahead", "4 ahead", "8 ahead"]
    for ahead in (1, 2, 4, 8):
        same = pytest.approx(0.5**ahead, rel=1e-4)
        assert found[f"{ahead} ahead"] == {"dies": same, "lives": same}
    assert lives_on(agent, replay, [], seed=0) == {}

    # What is foretold has seen no picture but the first.
    torch.nn.init.normal_(head.weight)
    before = lives_on(agent, replay, episodes, seed=0)
    seen = replay.read

    def last_one_changed(stream: int, start: int, count: int) -> np.ndarray:
        rows = seen(stream, start, count).copy()
        rows["image"][-1] = 255 - rows["image"][-1]
        return rows

    replay.read = last_one_changed  # type: ignore[method-assign]
    after = lives_on(agent, replay, episodes, seed=0)
    assert after["at once"]["dies"] != before["at once"]["dies"]
    assert after["1 ahead"] == before["1 ahead"]


def test_samples_are_judged_with_uniform_actions_and_without(
    tiny_dreamer_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(tiny_dreamer_run, tmp_path / "run")
    assert main([str(run), "--play", "2", "--no-video"]) == 0
    found = json.loads((run / "diagnosis" / "diagnosis.json").read_text())["played"]
    assert list(found) == ["as it trains", "without uniform actions"]
    assert all(one["episodes"] == 2 and one["median_max_x"] > 0 for one in found.values())

    policy = load_policy(run)
    assert isinstance(policy, DreamerPolicy)
    exploring = DreamerPolicy(policy.agent, policy.env_config, unimix=UNIMIX)
    seen = np.zeros((1, *observation_space(policy.env_config).shape), np.uint8)
    mixed, own = (
        np.exp(one.logits(seen, np.array([-1]), one.initial_state(1))[0])
        for one in (exploring, policy)
    )
    np.testing.assert_allclose(mixed, (1 - UNIMIX) * own + UNIMIX / own.shape[1], rtol=1e-5)
