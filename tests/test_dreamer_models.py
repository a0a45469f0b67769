"""DreamerV3's losses by hand and against TorchRL; what a model learns at which step."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamerv3 import networks
from dreamerv3.exploration import Ensemble, ExplorationConfig, disagreement, ensemble_loss
from dreamerv3.losses import (
    actor_loss,
    continue_loss,
    imitation_loss,
    kl_losses,
    label_loss,
    lambda_return,
)
from dreamerv3.models import Agent, Batch, Critic, ModelConfig, ReturnRange
from dreamerv3.networks import State, unimix_probs
from dreamerv3.recurrence import no_noise
from dreamerv3.row_norm import NORM_EPS

TINY = ModelConfig(
    deter=32,
    hidden=16,
    stoch=4,
    classes=4,
    units=16,
    depth=2,
    mults=(2, 4),
    strides=(4, 2),
    imagined_steps=5,
    learning_rate=3e-3,
    warmup_steps=10,
    precision="float32",
)
IMAGE = (1, 32, 32)
N_ACTIONS = 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make_batch(steps: int = 6, batch: int = 4) -> Batch:
    """Random sequences, each from an episode's start."""
    flags = torch.zeros(steps, batch, dtype=torch.bool)
    is_first = flags.clone()
    is_first[0] = True
    image = torch.randint(0, 256, (steps, batch, *IMAGE), dtype=torch.uint8)
    action = torch.randint(0, N_ACTIONS, (steps, batch)) * ~is_first
    return Batch(image, action, torch.randn(steps, batch), is_first, flags, flags, flags)


def last_layer(net: torch.nn.Sequential) -> torch.nn.Linear:
    layer = net[-1]
    assert isinstance(layer, torch.nn.Linear)
    return layer


def make_agent(behaviour: str = "greedy", **changes: Any) -> Agent:
    config = dataclasses.replace(TINY, **changes)
    exploration = ExplorationConfig(behaviour=behaviour, members=3, units=8)  # type: ignore[arg-type]
    return Agent(config, exploration, IMAGE, N_ACTIONS)


# -- losses ------------------------------------------------------------------------------------


def test_lambda_return_by_hand() -> None:
    reward = torch.tensor([99.0, 1.0, 2.0, 4.0])  # the first came before
    value = torch.tensor([0.0, 10.0, 20.0, 30.0])
    live = torch.full((4,), 0.5)
    last = 4 + 0.5 * 30
    middle = 2 + 0.5 * (0.2 * 20 + 0.8 * last)
    first = 1 + 0.5 * (0.2 * 10 + 0.8 * middle)
    returns = lambda_return(reward, live, torch.tensor(0.8), value)
    torch.testing.assert_close(returns, torch.tensor([first, middle, last]))


def test_lambda_return_stops_at_a_death_and_bootstraps_at_a_time_out() -> None:
    reward, value = torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.full((4,), 10.0)
    dies = lambda_return(reward, torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor(1.0), value)
    assert dies.tolist() == [1 + 2, 2, 4 + 10]
    mix = torch.tensor([1.0, 1.0, 0.0, 1.0])  # the step after the second is another episode's
    cut_off = lambda_return(reward, torch.ones(4), mix, value)
    assert cut_off.tolist() == [1 + 2 + 10, 2 + 10, 4 + 10]


def test_lambda_return_is_torchrls() -> None:
    loss = pytest.importorskip("torchrl.objectives").DreamerV3ActorLoss
    reward, value, live = torch.randn(16, 9), torch.randn(16, 9), torch.rand(16, 9)
    ours = lambda_return(reward, 0.99 * live, torch.tensor(0.95), value)
    stub = types.SimpleNamespace(
        value_estimator=types.SimpleNamespace(gamma=torch.tensor(0.99), lmbda=torch.tensor(0.95))
    )
    theirs = loss.lambda_target(
        stub, *(x[1:].t().unsqueeze(-1) for x in (reward, value, live))
    )  # [N, T, 1]
    torch.testing.assert_close(ours, theirs.squeeze(-1).t())


def test_kl_trains_prior_and_posterior_apart_and_rests_below_the_free_nats() -> None:
    posterior = torch.tensor([[[2.0, 0.0]], [[0.1, 0.0]]], requires_grad=True)  # [2, S=1, K=2]
    prior = torch.zeros(2, 1, 2, requires_grad=True)
    dyn, rep, kl = kl_losses(posterior, prior, free_nats=0.2)
    p = 0.99 * torch.softmax(torch.tensor([2.0, 0.0]), -1) + 0.005
    by_hand = (p * (p / 0.5).log()).sum().item()
    assert kl[0].item() == pytest.approx(by_hand, rel=1e-5)
    assert dyn.tolist() == rep.tolist() == pytest.approx([by_hand, 0.2])

    def have_gradients() -> list[bool]:
        return [logits.grad is not None for logits in (posterior, prior)]

    dyn.sum().backward(retain_graph=True)
    assert have_gradients() == [False, True]
    assert prior.grad is not None
    assert (prior.grad[0] != 0).any()
    assert (prior.grad[1] == 0).all(), "below the free nats nothing is pushed"
    prior.grad = None
    rep.sum().backward()
    assert have_gradients() == [True, False]
    assert posterior.grad is not None
    assert (posterior.grad[0] != 0).any()
    assert (posterior.grad[1] == 0).all()


def test_kl_is_torchrls() -> None:
    oracle = pytest.importorskip("torchrl.objectives").categorical_kl_terms
    posterior, prior = torch.randn(6, 5, 32, 4) * 0.3, torch.randn(6, 5, 32, 4) * 0.3
    dyn, rep, _ = kl_losses(posterior, prior, free_nats=1.0)
    torch.testing.assert_close((dyn.mean(), rep.mean()), oracle(posterior, prior, 1.0, 0.01))


def test_continue_is_the_discount_and_zero_at_the_end() -> None:
    logits = torch.full((2,), 30.0, requires_grad=True)
    loss = continue_loss(logits, torch.tensor([False, True]), discount=0.75)
    assert loss.tolist() == pytest.approx([0.25 * 30, 30.0])
    target = torch.tensor([0.75, 1e-9])
    settled = torch.logit(target).requires_grad_()
    continue_loss(settled, torch.tensor([False, True]), discount=0.75).sum().backward()
    torch.testing.assert_close(settled.grad, torch.zeros(2), rtol=0, atol=1e-6)


def test_the_actor_is_pushed_toward_what_paid() -> None:
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    actions = torch.tensor([[1, 2]])
    advantage, weight = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.5]])
    loss, entropy = actor_loss(logits, actions, advantage, weight, entropy_scale=0.0)
    log_third = torch.tensor(1 / 3).log().item()
    assert loss.item() == pytest.approx(-(2 * log_third - 0.5 * log_third) / 2)
    assert entropy.item() == pytest.approx(-log_third)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].argmin() == 1, "descent raises the logit of the action that paid"
    assert logits.grad[0, 1].argmax() == 2
    share = 0.99  # of the softmax beside the uniform part
    assert logits.grad[0, 0, 1].item() == pytest.approx(-(1 / 2) * 2 * share * 2 / 3, rel=1e-5)


def test_imitation_counts_demos_and_no_step_across_episodes() -> None:
    batch = make_batch(4, 2)
    batch.is_demo[:, 0] = True
    batch.is_first[2, 0] = True
    batch.action[:, 0] = torch.tensor([0, 1, 0, 2])
    agent = make_agent(imitation_scale=2.0)
    heard: list[Tensor] = []
    agent.actor.register_forward_hook(lambda _, __, logits: heard.append(logits.detach()))
    losses, _ = agent.losses(batch)
    log_probs = unimix_probs(heard[-1]).log()  # after the steps that were imagined
    by_hand = -(log_probs[0, 0, 1] + log_probs[2, 0, 2]) / 2
    torch.testing.assert_close(losses["imitation"], 2 * by_hand)


def test_imitation_is_the_likelihood_of_what_counts() -> None:
    logits = torch.randn(2, 2, N_ACTIONS)
    actions, counts = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[True, False], [True, False]])
    log_probs = unimix_probs(logits).log()
    by_hand = -(log_probs[0, 0, 0] + log_probs[1, 0, 2]) / 2
    torch.testing.assert_close(imitation_loss(logits, actions, counts), by_hand)


def test_a_label_costs_its_cross_entropy_and_an_episodes_last_state_has_none() -> None:
    labels = torch.randn(3, 2, N_ACTIONS).log_softmax(-1)
    counts = torch.tensor([[True, True], [False, True], [True, False]])
    logits = torch.randn(3, 2, N_ACTIONS)
    log_probs = unimix_probs(logits).log()
    by_hand = torch.stack(
        [-(labels[t, b].exp() * log_probs[t, b]).sum() for t, b in counts.nonzero().tolist()]
    ).mean()
    loss, gap = label_loss(logits, labels, counts)
    torch.testing.assert_close(loss, by_hand)
    assert gap > 0
    _, none = label_loss(labels, labels, counts)
    assert abs(none.item()) < 0.05, "but for the uniform actions it says the same"


@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_labels_teach_the_actor_and_if_they_may_the_model(gradient: float) -> None:
    batch = make_batch()._replace(labels=torch.randn(6, 4, N_ACTIONS).log_softmax(-1))
    batch.is_last[2] = True
    agent = make_agent(label_gradient=gradient, label_scale=0.5)
    losses, metrics = agent.losses(batch)
    losses["labels"].backward()
    moved = {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in (("actor", agent.actor), ("world", agent.world), ("critic", agent.critic))
    }
    assert moved == {"actor": True, "world": gradient > 0, "critic": False}
    assert 0 < metrics["dreamer/label_gap"] < 2 * losses["labels"]
    assert batch.labels is not None
    others = torch.where(batch.is_last.unsqueeze(-1), batch.labels.roll(1, -1), batch.labels)
    torch.manual_seed(3)
    once = agent.losses(batch)[0]["labels"]
    torch.manual_seed(3)
    assert agent.losses(batch._replace(labels=others))[0]["labels"] == once, (
        "a last state counts in none"
    )


def test_return_range_is_torchrls_and_has_a_floor() -> None:
    ours = ReturnRange(limit=1.0)
    assert ours.update(torch.linspace(-1, 1, 50)).item() == 1.0
    oracle = pytest.importorskip("torchrl.modules").PercentileValueNorm()
    oracle.update(torch.linspace(-1, 1, 50).unsqueeze(-1))
    for _ in range(20):
        returns = torch.randn(64, 3) * 300 + 50
        scale = ours.update(returns)
        oracle.update(returns.reshape(-1, 1))
    torch.testing.assert_close(scale.reshape(1), oracle.scale())


def test_the_critic_starts_at_zero_and_is_held_by_its_slow_copy() -> None:
    critic = Critic(8, TINY, range_limit=1.0)
    features = torch.randn(5, 8)
    log_probs = critic.log_probs(features)
    assert (critic.value(log_probs) == 0).all()
    uniform = torch.log(torch.tensor(255.0)).item()
    loss = critic.loss(log_probs, features, torch.ones(5), torch.ones(5))
    assert loss.item() == pytest.approx(2 * uniform, rel=1e-5)
    with torch.no_grad():
        last_layer(critic.net).bias.fill_(1.0)
    critic.update_slow()
    torch.testing.assert_close(critic.slow[-1].bias, torch.full((255,), 0.02))


# -- replayed returns ---------------------------------------------------------------------------


def replay_value_case() -> tuple[Agent, Batch, Tensor, Tensor]:
    """A batch with a death, a time-out, and imagined returns for every state."""
    agent, batch = make_agent(), make_batch(7, 3)
    batch.is_last[3, 0] = batch.is_terminal[3, 0] = batch.is_first[4, 0] = True
    batch.is_last[2, 1] = batch.is_first[3, 1] = True
    features = torch.randn(7, 3, agent.world.rssm.features)
    with torch.no_grad():
        last_layer(agent.critic.net).weight.normal_(std=0.1)
    return agent, batch, features, torch.randn(21) * 10


def test_replay_value_loss_is_torchrls() -> None:
    oracle = pytest.importorskip("torchrl.objectives.dreamer_v3")
    agent, batch, features, imagined = replay_value_case()
    ours = agent.replayed_critic(batch, features, torch.arange(21), imagined)
    by_row = [x.t().unsqueeze(-1) for x in (batch.reward, batch.is_last, batch.is_terminal)]
    target = oracle._replay_value_target(*by_row, imagined.view(7, 3).t(), 333.0, 0.95)
    log_probs = agent.critic.log_probs(features[:-1])
    weight = (~batch.is_last[:-1]).float()
    expected = agent.critic.loss(log_probs, features[:-1], target.reshape(3, 6).t(), weight)
    torch.testing.assert_close(ours, expected)


def test_states_without_an_imagined_return_bootstrap_from_the_critic() -> None:
    agent, batch, features, imagined = replay_value_case()
    starts = torch.tensor([18, 19, 20, 4])
    value = agent.critic.value(agent.critic.log_probs(features)).flatten()
    filled = value.clone()
    filled[starts] = imagined[starts]
    torch.testing.assert_close(
        agent.replayed_critic(batch, features, starts, imagined[starts]),
        agent.replayed_critic(batch, features, torch.arange(21), filled),
    )


def test_starts_hold_every_sequences_last_state() -> None:
    agent = make_agent(imagined_starts=10)
    starts = agent.choose_starts(6, 4)
    assert len(starts) == len(set(starts.tolist())) == 10
    assert set(range(20, 24)) <= set(starts.tolist())
    assert sorted(make_agent().choose_starts(6, 4).tolist()) == list(range(24))


# -- the agent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gradients_go_where_they_belong(precision: str) -> None:
    """Actor and critic do not train the model through imagination; the replayed value does."""
    agent, batch = make_agent("plan2explore", precision=precision), make_batch()
    with torch.no_grad():
        for critic in (agent.critic, agent.curious_critic):
            last_layer(critic.net).weight.normal_(std=0.1)

    def trained_by(name: str) -> set[str]:
        agent.zero_grad(set_to_none=True)
        agent.losses(batch)[0][name].backward()
        return {n.split(".")[0] for n, p in agent.named_parameters() if p.grad is not None}

    assert trained_by("policy") == {"actor"}
    assert trained_by("value") == {"critic"}
    assert trained_by("curious_value") == {"curious_critic"}
    assert trained_by("ensemble") == {"ensemble"}
    assert trained_by("replay_value") == {"critic", "world"}
    assert trained_by("image") == {"world"}
    agent.losses(batch)[0]["dyn"].backward()
    assert all(p.grad is None for p in agent.critic.slow.parameters())


def test_acting_is_observing_one_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "draw_noise", no_noise)
    agent, batch = make_agent(), make_batch()
    batch.is_first[3, 1] = True
    images = networks.centered(batch.image.flatten(0, 1))
    observed = agent.world.observe(batch, images)
    state = agent.world.rssm.initial_state(4)
    for t in range(6):
        logits, state = agent.act(
            batch.image[t], batch.action[t], batch.is_first[t], state, sample=False
        )
        torch.testing.assert_close(state.deter, observed.deter[t], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits, agent.actor(observed.features[t]), rtol=1e-4, atol=1e-5)


def test_imagination_follows_the_actor() -> None:
    agent = make_agent()
    with torch.no_grad():
        last_layer(agent.actor).bias.copy_(torch.tensor([0.0, 20.0, 0.0]))
    start = State(torch.zeros(500, 32), torch.zeros(500, 16))
    imagined = agent.imagine(start)
    assert imagined.features.shape == (6, 500, 48)
    share = (imagined.actions == 1).float().mean().item()
    assert share == pytest.approx(0.99 + 0.01 / 3, abs=0.01)
    torch.testing.assert_close(imagined.features[0], start.features)
    stoch = imagined.features[1:, :, 32:].unflatten(-1, (4, 4))
    assert (stoch.sum(-1) == 1).all()


def episode_batch() -> Batch:
    """Eight times the same episode of 4 steps, its reward 5 with the last image, which is death."""
    batch = make_batch(4, 8)
    for t in range(4):
        batch.image[t] = 0
        batch.image[t, :, :, 8 * t : 8 * t + 8] = 255
    batch.reward[:] = 0
    batch.reward[3] = 5.0
    batch.is_last[3] = batch.is_terminal[3] = True
    batch.action[1:] = 1
    return batch


@pytest.mark.slow
def test_a_terminal_reward_is_learnt_at_the_terminal_step_and_valued_one_before() -> None:
    """The classic off-by-one: at the last image reward 5 and no future, before it value 5 ahead."""
    agent, batch = make_agent(horizon=5), episode_batch()
    optimizer = agent.make_optimizer()
    first = agent.losses(batch)[0]["image"].item()
    for _ in range(350):
        metrics = agent.update(batch, optimizer)
    assert metrics["dreamer/image_loss"].item() < 0.2 * first
    with torch.no_grad():
        observed = agent.world.observe(batch, networks.centered(batch.image.flatten(0, 1)))
        reward = agent.world.predict_reward(observed.features).mean(1)
        goes_on = agent.world.predict_continue(observed.features).mean(1)
        value = agent.critic.value(agent.critic.log_probs(observed.features)).mean(1)
    assert reward.tolist() == pytest.approx([0, 0, 0, 5], abs=0.5)
    assert goes_on.tolist() == pytest.approx([0.8, 0.8, 0.8, 0], abs=0.05)
    assert value[:3].tolist() == pytest.approx([5 * 0.8**2, 5 * 0.8, 5], abs=0.5)


def test_bf16_has_the_losses_and_gradients_of_float32() -> None:
    """Within its rounding, on the same batch with the same weights."""
    found = []
    for precision in ("float32", "bf16"):
        torch.manual_seed(0)
        agent, batch = make_agent(precision=precision), make_batch()
        losses = agent.losses(batch)[0]
        torch.stack(
            [losses[name] for name in ("image", "reward", "continue", "rep")]
        ).sum().backward()
        weight: Any = agent.world.encoder[0].weight
        found.append((losses, weight.grad))
        assert weight.grad.dtype == torch.float32
    (exact, exact_grad), (fast, fast_grad) = found
    for name in ("image", "reward", "continue", "dyn", "rep", "value", "policy"):
        torch.testing.assert_close(fast[name], exact[name], rtol=0.02, atol=0.02)
    cosine = torch.cosine_similarity(exact_grad.flatten(), fast_grad.flatten(), dim=0)
    assert cosine > 0.98


def test_the_first_steps_of_a_sequence_may_only_warm_up_the_state() -> None:
    agent, batch = make_agent(burn_in=2), make_batch()
    torch.nn.init.normal_(last_layer(agent.world.reward).weight)  # zeros at first: all is alike

    def losses(batch: Batch) -> dict[str, float]:
        torch.manual_seed(3)
        found = agent.losses(batch)[0]
        return {name: loss.item() for name, loss in found.items() if name != "policy"}

    once = losses(batch)
    paid, late, images = batch.reward.clone(), batch.reward.clone(), batch.image.clone()
    paid[:2] += 1
    late[2:] += 1
    images[0] = 255 - images[0]
    assert losses(batch._replace(reward=paid)) == once, "no loss counts there"
    assert losses(batch._replace(reward=late))["reward"] != once["reward"]
    assert losses(batch._replace(image=images))["reward"] != once["reward"], (
        "the state is from there"
    )


def test_an_end_can_weigh_more_than_it_is_frequent() -> None:
    batch = make_batch()
    batch.is_terminal[-1] = True

    def losses(scale: float) -> dict[str, float]:
        torch.manual_seed(3)
        agent = make_agent(continue_scale=scale)
        return {name: loss.item() for name, loss in agent.losses(batch)[0].items()}

    once, ten_times = losses(1.0), losses(10.0)
    assert ten_times.pop("continue") == pytest.approx(10 * once.pop("continue"))
    assert ten_times == once, "the other losses stay"


def test_an_update_reports_and_a_loss_that_is_not_finite_changes_nothing() -> None:
    agent, batch = make_agent("plan2explore", imagined_starts=8), make_batch()
    optimizer = agent.make_optimizer()
    metrics = agent.update(batch, optimizer)
    assert {"entropy", "value_loss", "policy_loss", "intrinsic_reward"} <= metrics.keys()
    assert metrics["intrinsic_reward"] >= 0
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    batch.reward[2, 1] = float("nan")
    with pytest.raises(FloatingPointError, match="reward"):
        agent.update(batch, optimizer)
    for name, tensor in agent.state_dict().items():
        if "range" not in name:
            assert torch.equal(tensor, before[name]), name


# -- Plan2Explore -------------------------------------------------------------------------------


def test_members_are_independent_networks() -> None:
    ensemble = Ensemble(5, 8, 3, 4)
    x, actions = torch.randn(6, 3), torch.eye(2)[torch.tensor([0, 1, 0, 1, 0, 1])]
    together = ensemble(x, actions)
    for m in range(3):
        rows = slice(8 * m, 8 * m + 8)
        hidden = torch.cat([x, actions], -1) @ ensemble.first.weight[rows].t()
        hidden = torch.nn.functional.silu(
            torch.nn.functional.rms_norm(hidden, (8,), ensemble.norm.scale[m], NORM_EPS)
        )
        torch.testing.assert_close(together[m], hidden @ ensemble.weight[m], rtol=1e-4, atol=1e-5)
    loss = ensemble_loss(together, torch.zeros(6, 4), torch.tensor([1.0, 1, 1, 1, 1, 0]))
    assert loss.item() == pytest.approx(
        together[:, :5].square().mean((1, 2)).sum().item(), rel=1e-5
    )


def best_stay(pay_alive: float) -> bool:
    """Whether living on is worth more than dying, in a corridor that pays this much a step.

    Value iteration on a chain of 5 places: `on` moves one further (the last one stays), `die` ends
    the episode. Either step pays the same intrinsic reward: only its sign can make a difference.
    """
    values = [0.0] * 5
    for _ in range(200):
        values = [
            max(pay_alive + 0.99 * values[min(place + 1, 4)], pay_alive) for place in range(5)
        ]
    return pay_alive + 0.99 * values[1] > pay_alive


def test_log_disagreement_pays_for_dying_early_and_variance_does_not() -> None:
    """What likely sank the earlier attempt: below 1, a logarithm makes every step a punishment."""
    ensemble = Ensemble(5, 8, 4, 16)
    with torch.no_grad():
        predictions = ensemble(torch.randn(200, 3), torch.eye(2)[torch.randint(0, 2, (200,))])
        variance = disagreement(predictions)
    assert (variance >= 0).all()
    assert disagreement(torch.ones(4, 3, 16)).tolist() == [0, 0, 0]
    assert best_stay(variance.mean().item()), "paid by variance, it lives"
    assert not best_stay(variance.log().mean().item()), "paid by its logarithm, it dies at once"


def test_the_ensemble_agrees_on_what_it_has_seen() -> None:
    ensemble = Ensemble(4, 16, 5, 6)
    seen, unseen = torch.randn(8, 3), torch.randn(8, 3) * 3
    actions, target = torch.ones(8, 1), torch.rand(8, 6)
    optimizer = torch.optim.Adam(ensemble.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        ensemble_loss(ensemble(seen, actions), target, torch.ones(8)).backward()
        optimizer.step()
    with torch.no_grad():
        known, unknown = (disagreement(ensemble(x, actions)).mean() for x in (seen, unseen))
    assert unknown > 10 * known


@pytest.mark.slow
def test_compiled_losses_are_the_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config, "fallback_random", True)  # draw as eager code does
    eager, compiled = (make_agent("plan2explore", compile_losses=on) for on in (False, True))
    compiled.load_state_dict(eager.state_dict())
    batch = make_batch()
    found = []
    for agent in (eager, compiled):
        torch.manual_seed(1)
        losses, _ = agent.losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        found.append((losses, {n: p.grad for n, p in agent.named_parameters()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)
