"""The learner: SB3's algebra, both value streams by hand, exact resume, bad numbers."""

import copy
import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mario_buffer import ImageRolloutBuffer
from mario_losses import Clipping, Targets, gae, kickstart_loss, ppo_losses, weighted_sum
from mario_networks import SmallCNN, TwoHeadCnnPolicy
from mario_ppo import MarioPPO, NonFiniteLoss, linear_schedule
from precision import resolve_precision
from rnd import RND

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 36
RESET_PIXEL, LAST_PIXEL = 255, 200


class Corridor(gym.Env):
    """A dot walks right or left; the episode ends at the right edge (+1) or after 20 steps.

    Deterministic; the newest frame's corner pixel tells a reset frame (255) from an episode's last
    frame (200).
    """

    observation_space = spaces.Box(0, 255, (2, SIZE, SIZE), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.frames: np.ndarray

    def _observation(self, corner: int) -> np.ndarray:
        self.frames = np.roll(self.frames, -1, axis=0)
        self.frames[-1] = self.t
        self.frames[-1, 10:20, 3 * self.x : 3 * self.x + 3] = 180
        self.frames[-1, 0, 0] = corner
        return self.frames.copy()

    def reset(self, **_: Any) -> tuple[np.ndarray, dict]:
        self.x, self.t = self.start, 0
        self.frames = np.zeros((2, SIZE, SIZE), np.uint8)
        return self._observation(RESET_PIXEL), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.x = max(0, self.x + int(action) - 1)
        self.t += 1
        won, late = self.x >= 8, self.t >= 20
        reward = float(won) - 0.01
        return self._observation(LAST_PIXEL if won or late else 0), reward, won, late, {}


def corridors(n: int = 3) -> DummyVecEnv:
    return DummyVecEnv([lambda i=i: Monitor(Corridor(start=i)) for i in range(n)])  # type: ignore[misc]


SETTINGS: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 24,
    "n_epochs": 2,
    "learning_rate": 1e-3,
    "seed": 3,
    "device": "cpu",
}
RND_SETTINGS: dict[str, Any] = {"rnd_coef": 0.5, "rnd_feature_dim": 16, "rnd_warmup_steps": 16}
SMALL = {"features_extractor_class": SmallCNN, "features_extractor_kwargs": {"features_dim": 32}}


def make(env: Any = None, **arguments: Any) -> MarioPPO:
    arguments = {**SETTINGS, "policy_kwargs": SMALL, **arguments}
    return MarioPPO("CnnPolicy", env or corridors(), **arguments)


def rnd_of(model: MarioPPO) -> RND:
    assert model.rnd
    return model.rnd


def weights(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    return {k: v.clone() for k, v in model.policy.state_dict().items()}


def assert_same(a: dict[str, th.Tensor], b: dict[str, th.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert th.equal(a[name], b[name]), name


@pytest.mark.parametrize("cnn", [SMALL, {}], ids=["small", "nature"])
def test_without_rnd_training_is_sb3s_to_the_bit(cnn: dict) -> None:
    """Two rollouts and updates, time limits and VecNormalize included, nothing of RND around."""
    plain_cnn = {**cnn, "net_arch": []}
    arguments = {**SETTINGS, "ent_coef": 0.01, "gamma": 0.9, "clip_range_vf": 0.2}

    def env() -> VecNormalize:
        return VecNormalize(corridors(), norm_obs=False, gamma=0.9)

    theirs = PPO("CnnPolicy", env(), policy_kwargs=plain_cnn, **arguments).learn(192)
    cnn = {**cnn, "optimizer_kwargs": {"eps": 1e-5}}  # fused Adam rounds otherwise
    ours = make(env(), channels_last=False, **{**arguments, "policy_kwargs": cnn}).learn(192)
    assert_same(weights(theirs), weights(ours))
    assert ours.rnd is None
    for name in ("value_loss", "approx_kl", "explained_variance", "clip_fraction"):
        name = f"train/{name}"
        expected = theirs.logger.name_to_value[name]
        assert ours.logger.name_to_value[name] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def loss_and_gradients(model: MarioPPO) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
    """PPO's losses of one seeded batch and the gradients that they give to the weights."""
    generator = th.Generator().manual_seed(0)
    obs = th.randint(0, 256, (64, 2, SIZE, SIZE), dtype=th.uint8, generator=generator)
    numbers = [th.randn(64, generator=generator) for _ in range(4)]
    actions = th.randint(0, 3, (64,), generator=generator)
    targets = Targets(*numbers)
    targets = targets._replace(old_log_prob=-targets.old_log_prob.abs())
    found = model.policy.evaluate_all(obs, actions)
    losses, metrics = ppo_losses(found.values, found.log_prob, found.entropy, targets, Clipping())
    model.policy.zero_grad()
    weighted_sum(losses, {"value": 0.5, "entropy": 0.01}).backward()
    return losses | metrics, {
        name: th.clone(p.grad)  # type: ignore[arg-type]
        for name, p in model.policy.named_parameters()
    }


def relative_difference(a: th.Tensor, b: th.Tensor) -> float:
    return float((a - b).norm() / a.norm())


def test_channels_last_is_the_same_function() -> None:
    plain, fast = make(channels_last=False), make(channels_last=True)
    assert_same(weights(plain), weights(fast))
    (losses, gradients), (fast_losses, fast_gradients) = map(loss_and_gradients, (plain, fast))
    for name, loss in losses.items():
        th.testing.assert_close(loss, fast_losses[name], rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        assert relative_difference(gradient, fast_gradients[name]) < 1e-4, name


def test_gae_by_hand_episodic_and_not() -> None:
    rewards = np.array([[1.0], [2.0], [3.0]], np.float32)
    values = np.array([[0.5], [1.0], [1.5]], np.float32)
    last = np.array([4.0], np.float32)
    # gamma = lambda = 0.5. Deltas without an end: 1 + .5 - .5, 2 + .75 - 1, 3 + 2 - 1.5.
    running = gae(rewards, values, last, np.ones((3, 1)), 0.5, 0.5)
    np.testing.assert_allclose(running[:, 0], [1 + 0.25 * (1.75 + 0.25 * 3.5), 2.625, 3.5])
    # The episode ends with the second step: its delta is 2 - 1, and nothing flows back over it.
    ended = gae(rewards, values, last, np.array([[1.0], [0.0], [1.0]]), 0.5, 0.5)
    np.testing.assert_allclose(ended[:, 0], [1.25, 1.0, 3.5])


def filled_buffer(channels_last: bool = False) -> ImageRolloutBuffer:
    """Three steps, two environments; environment 0 dies with the second step."""
    buffer = ImageRolloutBuffer(
        3,
        Corridor.observation_space,
        Corridor.action_space,
        device="cpu",
        gamma=0.5,
        gae_lambda=0.5,
        n_envs=2,
        channels_last=channels_last,
        intrinsic=True,
    )
    for t in range(3):
        obs = np.zeros((2, 2, SIZE, SIZE), np.uint8)
        obs[:, 0], obs[:, 1] = 100 + t, np.array([10 + t, 20 + t])[:, None, None]
        if t == 1:
            buffer.add_terminal_frame(0, np.full((SIZE, SIZE), 99, np.uint8))
        buffer.intrinsic_values[t] = [0.5, 0.5]
        start = np.array([t == 2, False])
        value = th.tensor([0.5, 1.0])
        buffer.add(obs, np.array([t, 0]), np.array([1.0, t]), start, value, th.zeros(2))
    return buffer


@pytest.mark.parametrize("channels_last", [False, True])
def test_dying_step_leads_to_its_own_last_frame(channels_last: bool) -> None:
    last_obs = np.full((2, 2, SIZE, SIZE), 50, np.uint8)
    frames = filled_buffer(channels_last).next_frames(last_obs)
    assert frames.shape == (6, SIZE, SIZE)
    assert frames.dtype == th.uint8
    assert frames[:, 5, 5].tolist() == [11, 99, 50, 21, 22, 50]


def test_both_streams_in_the_buffer_by_hand() -> None:
    buffer = filled_buffer()
    buffer.compute_returns_and_advantage(th.tensor([2.0, 2.0]), np.array([False, False]))
    # Environment 0, extrinsic: reward 1, value 0.5, end after step 1, last value 2.
    np.testing.assert_allclose(buffer.advantages[:, 0], [0.875, 0.5, 1.5])
    extrinsic = buffer.advantages.copy()
    intrinsic_rewards = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]], np.float32)
    buffer.add_intrinsic(intrinsic_rewards, np.array([1.0, 1.0]), gamma=0.8, coefficient=10.0)
    # Environment 0, intrinsic, gamma 0.8, lambda 0.5, no ends: deltas 0.9, 1.9, 0.3.
    third, second = 0.3, 1.9 + 0.4 * 0.3
    expected = np.array([0.9 + 0.4 * second, second, third])
    np.testing.assert_allclose(buffer.intrinsic_returns[:, 0], expected + 0.5, rtol=1e-6)
    combined = extrinsic[:, 0] + 10.0 * expected
    np.testing.assert_allclose(buffer.advantages[:, 0], combined, rtol=1e-6)
    np.testing.assert_allclose(buffer.returns[:, 0], [1.375, 1.0, 2.0])  # extrinsic alone


@pytest.mark.parametrize("channels_last", [False, True])
def test_minibatches_hold_every_sample_once_with_its_own_numbers(channels_last: bool) -> None:
    buffer = filled_buffer(channels_last)
    batches = list(buffer.get(4))
    assert [len(b.indices) for b in batches] == [4, 2]
    assert sorted(th.cat([b.indices for b in batches]).tolist()) == list(range(6))
    for batch in batches:
        assert batch.observations.shape == (len(batch.indices), 2, SIZE, SIZE)
        for i, sample in enumerate(batch.indices.tolist()):
            env, step = divmod(sample, 3)
            assert batch.observations[i, 1, 3, 4] == (10, 20)[env] + step
            assert batch.actions[i] == (step if env == 0 else 0)


def test_rollout_scores_the_dying_frame_and_never_the_reset_frame() -> None:
    model = make(n_steps=64, **RND_SETTINGS)
    model.learn(192)
    frames, _ = model._rnd_rollout  # type: ignore[misc]
    corners = frames[:, 0, 0].tolist()
    ends = int(model.rollout_buffer.episode_starts[1:].sum()) + int(
        np.asarray(model._last_episode_starts).sum()
    )
    assert ends > 5
    assert corners.count(LAST_PIXEL) == ends
    assert RESET_PIXEL not in corners


def test_normaliser_is_warmed_up_before_the_first_rollout_and_not_again() -> None:
    env = VecNormalize(corridors(), norm_obs=False)
    model = make(env, **RND_SETTINGS)
    normaliser_counts: list[float] = []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            normaliser_counts.append(rnd_of(model).observation_rms.count)
            if self.num_timesteps == 0:  # the environments are fresh, the reward statistics too
                assert (np.asarray(model._last_obs)[:, -1, 0, 0] == RESET_PIXEL).all()
                assert env.ret_rms.count < 1

        def _on_step(self) -> bool:
            return True

    model.learn(96, callback=Watch())
    assert env.training
    model.learn(192, callback=Watch(), reset_num_timesteps=False)
    # 16 random steps of 3 environments; then the first rollout's 96 frames, and no second warm-up
    assert normaliser_counts == pytest.approx([48, 48 + 96], abs=1e-3)


def test_a_quarter_of_each_minibatch_trains_the_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(**RND_SETTINGS, rnd_update_proportion=0.25)
    sizes: list[int] = []
    original = rnd_of(model).loss

    def spy(frames: th.Tensor, target: th.Tensor) -> th.Tensor:
        sizes.append(len(frames))
        return original(frames, target)

    monkeypatch.setattr(model.rnd, "loss", spy)
    before = copy.deepcopy(rnd_of(model).networks.state_dict())
    model.learn(96)
    assert sizes == [6] * 8  # 96 samples, batch 24, 2 epochs
    after = rnd_of(model).networks.state_dict()
    changed = {k.split(".")[0] for k in after if not th.equal(before[k], after[k])}
    assert changed == {"predictor"}
    log = model.logger.name_to_value
    assert {"train/intrinsic_reward", "train/rnd_loss", "train/intrinsic_value_loss"} <= set(log)
    assert log["train/intrinsic_reward"] > 0


def test_entropy_coefficient_follows_its_schedule() -> None:
    model = make(ent_coef=linear_schedule(0.05, 0.01), n_steps=32)
    used: list[float] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            used.append(model.ent_coef)

    model.learn(4 * 96, callback=Watch())
    used.append(model.ent_coef)
    assert used == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01])  # before each, after the last
    assert model.logger.name_to_value["train/entropy"] > 0


def test_the_moving_average_by_hand_and_training_never_sees_it() -> None:
    seen: list[dict[str, th.Tensor]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append(weights(self.model))

    plain_run = weights(make().learn(3 * 96))
    model = make(ema_decay=0.75).learn(3 * 96, callback=Watch())
    assert_same(weights(model), plain_run)
    first, second, third = *seen[1:], weights(model)  # after each of the three updates
    with model.averaged():
        for name, value in weights(model).items():
            by_hand = 0.75 * (0.75 * first[name] + 0.25 * second[name]) + 0.25 * third[name]
            th.testing.assert_close(value, by_hand)
    assert_same(weights(model), third)


def walk_right() -> tuple[np.ndarray, np.ndarray]:
    """A demo of the corridor: what is seen on the straight way to its end, and action 2."""
    env = Corridor()
    observations = [env.reset()[0]]
    while len(observations) < 8:
        observations.append(env.step(2)[0])
    return np.array(observations), np.full(8, 2)


def test_what_is_imitated_becomes_likely_and_the_weight_falls_to_nothing() -> None:
    observations, actions = walk_right()

    def likelihood(imitation_coef: Any) -> tuple[float, float]:
        model = make(imitation_coef=imitation_coef, n_epochs=10)
        model.imitate(observations, actions)
        model.learn(192)
        _, log_prob, _ = model.policy.evaluate_actions(
            th.from_numpy(observations), th.from_numpy(actions)
        )
        return log_prob.exp().mean().item(), model.logger.name_to_value.get(
            "train/imitation_loss", np.nan
        )

    without, _ = likelihood(0.0)
    imitated, loss = likelihood(2.0)
    assert imitated > 0.9 > without
    assert loss == pytest.approx(-np.log(imitated), abs=0.2)
    trained = []
    for imitation_coef in (0.0, linear_schedule(2.0, 0.0, until=0.1)):
        model = make(imitation_coef=imitation_coef)
        model.imitate(observations, actions)
        trained.append(weights(model.learn(96)))  # its only update comes when the weight is 0
    assert_same(*trained)


@pytest.mark.parametrize("rnd", [{}, RND_SETTINGS], ids=["ppo", "rnd"])
def test_at_first_the_critic_learns_alone(rnd: dict) -> None:
    model = make(critic_steps=192, ent_coef=0.1, **rnd)
    before = weights(model)
    after = weights(model.learn(192))
    changed = {name for name in before if not th.equal(before[name], after[name])}
    assert "train/value_loss" in model.logger.name_to_value
    assert not {"train/approx_kl", "train/clip_fraction"} & set(model.logger.name_to_value)
    heads = ["value_net", "intrinsic_value_net"] if rnd else ["value_net"]
    assert changed == {f"{head}.{part}" for head in heads for part in ("weight", "bias")}
    then = weights(model.learn(288, reset_num_timesteps=False))
    assert not any(th.equal(after[name], then[name]) for name in after)


def test_a_mentor_holds_the_policy_until_its_weight_is_nothing() -> None:
    observations = th.from_numpy(walk_right()[0])
    start = weights(make(seed=5))

    def likelihood(kickstart_coef: Any) -> tuple[th.Tensor, MarioPPO]:
        model = make(kickstart_coef=kickstart_coef, n_epochs=10)
        model.policy.load_state_dict(start)
        model.kickstart()
        model.learn(192)
        return model.policy.logits_and_values(observations)[0].detach().softmax(1), model

    mentor = make()
    mentor.policy.load_state_dict(start)
    shown = mentor.policy.logits_and_values(observations)[0].detach().softmax(1)
    free, _ = likelihood(0.0)
    held, model = likelihood(100.0)
    assert (held - shown).abs().max() < 0.02 < (free - shown).abs().max()
    assert 0 <= model.logger.name_to_value["train/kickstart_loss"] < 0.01
    gone, _ = likelihood(linear_schedule(100.0, 0.0, until=0.1))
    assert th.equal(gone, free)


def test_kickstarting_by_hand() -> None:
    mentor, own = th.tensor([[0.5, 0.5], [0.8, 0.2]]), th.tensor([[0.25, 0.75], [0.8, 0.2]])
    by_hand = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert kickstart_loss(own.log(), mentor.log()).item() == pytest.approx(by_hand)


def test_action_bias_sets_the_initial_probabilities() -> None:
    bias = [0.0, 1.0, -2.0]
    model = make(policy_kwargs={**SMALL, "action_bias": bias})
    obs = th.randint(0, 256, (64, 2, SIZE, SIZE), dtype=th.uint8)
    probabilities = model.policy.get_distribution(obs).distribution.probs.detach()  # type: ignore[union-attr]
    expected = th.softmax(th.tensor(bias), dim=0).expand(64, 3)
    th.testing.assert_close(probabilities, expected, rtol=0, atol=0.01)
    with pytest.raises(ValueError, match="2 entries for 3 actions"):
        make(policy_kwargs={**SMALL, "action_bias": [0.0, 1.0]})


@pytest.mark.parametrize("rnd", [{}, RND_SETTINGS], ids=["ppo", "rnd"])
def test_plain_ppo_loads_the_zip(tmp_path: Path, rnd: dict) -> None:
    schedule = linear_schedule(0.1, 0.0)
    model = make(ent_coef=schedule, learning_rate=linear_schedule(1e-3, 0.0), **rnd).learn(96)
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    assert type(loaded) is PPO
    assert isinstance(loaded.policy, TwoHeadCnnPolicy)
    assert_same(weights(model), weights(loaded))
    obs = np.random.default_rng(0).integers(0, 256, (8, 2, SIZE, SIZE), dtype=np.uint8)
    np.testing.assert_array_equal(
        model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
    )
    again = MarioPPO.load(tmp_path / "model.zip", env=corridors(), device="cpu")
    again.learn(192, reset_num_timesteps=False)
    assert again.num_timesteps == 192


def episodes(model: PPO) -> list[tuple[float, int]]:
    """Returns and lengths; the third entry of an episode, its wall time, is nobody's to repeat."""
    return [(episode["r"], episode["l"]) for episode in model.ep_info_buffer or ()]


class Checkpoint(BaseCallback):
    """Takes the whole trainer down, as a checkpoint would, when `at` steps are done."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.files: dict[str, bytes] = {}
        self.env: Any = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.at:
            assert isinstance(self.model, MarioPPO)
            state = {"policy": weights(self.model), "trainer": self.model.trainer_state()}
            file = io.BytesIO()
            th.save(state, file)
            self.files["state"] = file.getvalue()
            self.env = copy.deepcopy(self.training_env)


@pytest.mark.parametrize("rnd", [{}, RND_SETTINGS], ids=["ppo", "rnd"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_resumed_run_is_bit_identical(rnd: dict, channels_last: bool) -> None:
    rollout = 96
    arguments = {
        **rnd,
        "channels_last": channels_last,
        "learning_rate": linear_schedule(1e-3, 1e-4),
        "ent_coef": linear_schedule(0.05, 0.0),
        "imitation_coef": linear_schedule(0.5, 0.1),
        "critic_steps": 2 * rollout,
        "kickstart_coef": linear_schedule(0.5, 0.1),
        "ema_decay": 0.5,
    }
    checkpoint = Checkpoint(at=2 * rollout)
    whole = make(**arguments)
    whole.imitate(*walk_right())
    whole.kickstart()
    whole.learn(4 * rollout, callback=checkpoint)

    resumed = make(checkpoint.env, **{**arguments, "seed": 12345})
    state = th.load(io.BytesIO(checkpoint.files["state"]), weights_only=True)
    resumed.policy.load_state_dict(state["policy"])
    resumed.load_trainer_state(state["trainer"])
    resumed.imitate(*walk_right())
    assert resumed.num_timesteps == 2 * rollout
    resumed.learn(4 * rollout, reset_num_timesteps=False)

    assert resumed.num_timesteps == whole.num_timesteps == 4 * rollout
    assert resumed._n_updates == whole._n_updates
    assert resumed.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert_same(weights(whole), weights(resumed))
    with whole.averaged(), resumed.averaged():
        assert_same(weights(whole), weights(resumed))
    assert episodes(whole) == episodes(resumed)
    if rnd:
        one, other = rnd_of(whole), rnd_of(resumed)
        assert_same(one.networks.state_dict(), other.networks.state_dict())
        assert one.return_rms.var == other.return_rms.var
        np.testing.assert_array_equal(one.observation_rms.mean, other.observation_rms.mean)


def test_trainer_state_is_a_snapshot() -> None:
    model = make(**RND_SETTINGS).learn(96)
    state = model.trainer_state()
    before = copy.deepcopy(state)
    model.learn(192, reset_num_timesteps=False)
    moments = state["optimizer"]["state"][0]["exp_avg"]
    assert th.equal(moments, before["optimizer"]["state"][0]["exp_avg"])
    assert th.equal(state["rnd"]["return_filter"], before["rnd"]["return_filter"])


@pytest.mark.parametrize("where", ["reward", "rnd", "gradient"])
def test_nan_raises_and_leaves_the_weights_alone(where: str) -> None:
    model = make(**RND_SETTINGS)
    model.learn(96)
    before = weights(model)
    predictor = copy.deepcopy(rnd_of(model).networks.state_dict())
    if where == "reward":
        model.rollout_buffer._flat["returns"][:] = float("nan")
    elif where == "rnd":
        assert model._rnd_rollout
        model._rnd_rollout[1][:] = float("inf")
    else:
        model.policy.value_net.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteLoss, match="not updated"):
        model.train()
    assert_same(before, weights(model))
    assert_same(predictor, rnd_of(model).networks.state_dict())


def test_bf16_agrees_with_float32_on_the_loss_and_on_a_short_run() -> None:
    plain, half = make(precision="float32"), make(precision="bf16")
    assert half.policy.autocast_dtype is th.bfloat16
    (losses, gradients), (half_losses, half_gradients) = map(loss_and_gradients, (plain, half))
    for name in ("policy", "value", "entropy"):
        assert half_losses[name].dtype == th.float32
        th.testing.assert_close(losses[name], half_losses[name], rtol=0.02, atol=0.01)
    for name, gradient in gradients.items():
        assert relative_difference(gradient, half_gradients[name]) < 0.2, name
    for model in (plain, half):
        model.learn(2 * 96)
        assert all(w.dtype == th.float32 and w.isfinite().all() for w in weights(model).values())
    log, half_log = plain.logger.name_to_value, half.logger.name_to_value
    assert half_log["train/entropy"] == pytest.approx(log["train/entropy"], rel=0.1)
    # the first ratios are near 1: rollout and training compute in the same precision
    assert half_log["train/approx_kl"] < 0.05


def test_precision_words() -> None:
    assert resolve_precision("float32", "cpu") is None
    native = th.cpu.get_capabilities()
    expected = native.get("avx512_bf16") or native.get("amx_bf16")
    assert (resolve_precision("auto", "cpu") is th.bfloat16) == bool(expected)
    with pytest.raises(ValueError, match="fp8"):
        resolve_precision("fp8", "cpu")  # type: ignore[arg-type]


def test_it_learns_the_corridor() -> None:
    model = make(corridors(4), n_steps=64, batch_size=64, n_epochs=4, ent_coef=0.01, gamma=0.9)
    model.learn(4096)
    rewards = [episode["r"] for episode in list(model.ep_info_buffer or ())[-20:]]
    assert np.mean(rewards) > 0.85  # the shortest way is worth 0.92 or more


def test_wrong_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        MarioPPO("CnnPolicy", gym.make("CartPole-v1"), device="cpu")


def test_losses_by_hand_know_no_observation() -> None:
    """Two samples: one whose ratio is clipped, one below; the value of one may move by 0.1."""
    targets = Targets(
        old_values=th.tensor([0.0, 1.0]),
        old_log_prob=th.zeros(2),
        advantages=th.tensor([1.0, 2.0]),
        returns=th.tensor([1.0, 1.0]),
    )
    log_prob = th.tensor([1.5, 0.5]).log()
    clipping = Clipping(ratio=0.2, value=0.1, normalize_advantage=False)
    losses, metrics = ppo_losses(
        th.tensor([[0.5], [1.0]]), log_prob, th.tensor([0.4, 0.6]), targets, clipping
    )
    assert losses["policy"].item() == pytest.approx(-(1.2 * 1 + 0.5 * 2) / 2)
    assert losses["value"].item() == pytest.approx((0.9**2 + 0) / 2)
    assert losses["entropy"].item() == pytest.approx(-0.5)
    assert metrics["clip_fraction"].item() == 1.0
    assert weighted_sum(losses, {"value": 2.0}).item() == pytest.approx(-1.1 + 0.81)
