"""RND: the normalisers by hand, novelty that fades where the predictor has been, its state."""

import io
from typing import Any

import numpy as np
import pytest
import torch as th

from rnd import RND, RewardForwardFilter, pixel_moments

pytestmark = pytest.mark.usefixtures("one_thread")


def make_rnd(seed: int = 0, **arguments: Any) -> RND:
    th.manual_seed(seed)
    return RND((36, 36), n_envs=2, feature_dim=32, **arguments)


def random_frames(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(n, 36, 36), dtype=np.uint8)


def test_filter_is_the_discounted_sum_per_environment_and_carries_over() -> None:
    forward = RewardForwardFilter(n_envs=2, gamma=0.5)
    first = forward(np.array([[1.0, 0.0], [2.0, 4.0]]))
    np.testing.assert_allclose(first, [[1.0, 0.0], [2.5, 4.0]])
    np.testing.assert_allclose(forward(np.array([[0.0, 1.0]])), [[1.25, 3.0]])


def test_rewards_are_divided_by_the_std_of_the_discounted_return_not_of_the_reward() -> None:
    rnd = make_rnd(gamma=0.99)
    errors = np.ones((500, 2)) * 3.0  # constant: its own std is 0, its return's is not
    returns = RewardForwardFilter(2, 0.99)(errors)
    normalised = rnd.normalize_rewards(errors)
    np.testing.assert_allclose(normalised, 3.0 / returns.std(), rtol=1e-3)


def test_rewards_do_not_depend_on_the_errors_scale() -> None:
    errors = np.random.default_rng(0).random((200, 2))
    small = make_rnd().normalize_rewards(errors)
    large = make_rnd().normalize_rewards(errors * 1000.0)
    np.testing.assert_allclose(small, large, rtol=1e-2)


def test_pixel_moments_are_numpys() -> None:
    frames = random_frames(700)  # several chunks, the last one partial
    mean, variance, n = pixel_moments(th.from_numpy(frames))
    assert n == 700
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, frames.var(axis=0), rtol=1e-9)


def test_normalised_pixels_have_mean_0_std_1_and_are_clipped_at_5() -> None:
    assert not make_rnd().is_warm
    rnd = make_rnd()
    frames = random_frames(300)
    frames[:, 0, 0] = 7  # a pixel that never changes
    rnd.warm_up_normalizer(frames)
    assert rnd.is_warm
    whitened = rnd.normalize(th.from_numpy(frames))
    assert whitened.shape == (300, 1, 36, 36)
    assert whitened.mean().abs() < 1e-3
    assert (whitened[:, 0, 1:].std(dim=0) - 1).abs().max() < 0.01
    surprise = frames[:1].copy()
    surprise[0, 0, 0] = 200
    assert rnd.normalize(th.from_numpy(surprise))[0, 0, 0, 0] == 5.0


def test_error_falls_on_seen_frames_and_stays_high_on_new_ones() -> None:
    rnd = make_rnd(learning_rate=1e-3)
    pixels = np.random.default_rng(1).integers(0, 256, size=(2, 36, 36), dtype=np.uint8)
    noise = random_frames(64, seed=2) // 16
    seen = th.from_numpy((pixels[0] // 2) + noise[:32])
    new = th.from_numpy((pixels[1] // 2) + noise[32:])
    rnd.update_normalizer(th.cat([seen, new]))
    before, targets = rnd.prediction_error(seen)
    new_before = rnd.prediction_error(new)[0].mean()
    for _ in range(150):
        rnd.optimizer.zero_grad()
        rnd.loss(seen, targets).backward()
        rnd.optimizer.step()
    after = rnd.prediction_error(seen)[0].mean()
    new_after = rnd.prediction_error(new)[0].mean()
    assert after < 0.1 * before.mean()
    assert new_after > 0.5 * new_before
    assert new_after > 5 * after


def test_loss_is_the_mean_error_and_the_target_never_learns() -> None:
    rnd = make_rnd()
    frames = th.from_numpy(random_frames(16))
    rnd.update_normalizer(frames)
    errors, targets = rnd.prediction_error(frames)
    loss = rnd.loss(frames, targets)
    assert loss.item() == pytest.approx(errors.mean().item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in rnd.networks.target.parameters())
    trained = {id(p) for group in rnd.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in rnd.networks.predictor.parameters()}


def test_state_survives_torch_weights_only_and_continues_identically() -> None:
    first = make_rnd()
    frames = th.from_numpy(random_frames(64))

    def step(rnd: RND) -> np.ndarray:
        errors, targets = rnd.prediction_error(frames)
        rewards = rnd.normalize_rewards(errors.numpy().reshape(32, 2))
        rnd.optimizer.zero_grad()
        rnd.loss(frames, targets).backward()
        rnd.optimizer.step()
        rnd.update_normalizer(frames[:32])
        return rewards

    step(first)
    file = io.BytesIO()
    th.save(first.state_dict(), file)
    file.seek(0)
    second = make_rnd(seed=99)
    second.load_state_dict(th.load(file, weights_only=True))
    for _ in range(2):
        np.testing.assert_array_equal(step(first), step(second))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"update_proportion": 0.0}, "proportion"), ({"gamma": 1.0}, "gamma")],
)
def test_impossible_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rnd(**arguments)
