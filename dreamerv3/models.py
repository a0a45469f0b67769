"""The world model, and actor and critic that learn in its imagination.

Hafner et al. 2025 ("the paper", see networks.py), equation numbers are its. Symbols of shapes:
docs/tensor_shapes.md, losses: losses.py. Time comes first: [T, B, ...] for replayed sequences,
[H + 1, N, ...] for imagined ones. A reward, like an action, stands with the state that it led to.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import pydantic
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from dreamerv3.exploration import Ensemble, ExplorationConfig, disagreement, ensemble_loss
from dreamerv3.losses import (
    Harmony,
    actor_loss,
    continue_loss,
    imitation_loss,
    kl_losses,
    label_loss,
    lambda_return,
    redundancy_loss,
    sprite_weights,
)
from dreamerv3.networks import (
    MLP,
    RSSM,
    Decoder,
    Encoder,
    Linear,
    State,
    centered,
    products_in,
    two_hot_bins,
    two_hot_cross_entropy,
    two_hot_mean,
    unimix_probs,
)
from dreamerv3.optim import LaProp
from dreamerv3.recurrence import draw_noise, no_noise, noisy
from dreamerv3.scene_head import SceneHead, scaled_gradient, scene_loss
from mario_values import Amount, Checked, Positive, Share, Weight
from precision import Precision, resolve_precision

Size = Annotated[int, pydantic.Field(ge=1, le=16_384)]


@dataclasses.dataclass(frozen=True)
class ModelConfig(Checked):
    """Sizes, losses and the optimiser. Sizes are those of the paper's 1M-parameter model."""

    deter: Size = 512
    """Units of the deterministic state."""
    hidden: Size = 64
    """Units of the layers around it."""
    stoch: Size = 32
    """Categoricals of the stochastic state."""
    classes: Annotated[int, pydantic.Field(ge=2, le=1024)] = 4
    """Classes of each."""
    blocks: Size = 8
    """Blocks of the GRU."""
    units: Size = 64
    """Units of the heads' layers."""
    depth: Size = 4
    """Channels of the convolutions, times mults."""
    mults: tuple[Annotated[int, pydantic.Field(ge=1, le=256)], ...] = (2, 3, 4, 4)
    """One factor a convolution, from the image inward."""
    strides: tuple[Annotated[int, pydantic.Field(ge=1, le=16)], ...] = (2, 2, 2, 2)
    """One stride a convolution; together they take the screen to 4 x 4, or to 6 x 6. A kernel is
    twice that; the first decides how small a thing is seen."""
    image_norm: bool = True
    """RMSNorm after each convolution, as in the paper; without it an update is a fifth faster."""
    actor_layers: Annotated[int, pydantic.Field(ge=1, le=32)] = 3
    """Hidden layers of actor and critics; reward and continuation have one."""

    picture: Literal["decoder", "redundancy", "none"] = "decoder"
    """What the state learns of the picture by: drawing it; correlating with its tokens, without a
    decoder (R2-Dreamer); or nothing."""
    sprite_share: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    """Share of the drawn picture's weight that its sprites have. 0: a pixel is a pixel."""
    redundancy_scale: Weight = 0.05
    """Weight of the loss without a decoder."""
    redundancy_off: Weight = 5e-4
    """Weight in it of what is off the correlation's diagonal."""
    scene_head: Literal["none", "informed", "detached"] = "none"
    """Tell what the game says is on the screen, as a grid; detached: without teaching the model."""
    scene_scale: Weight = 1.0
    """Times the gradient that this head sends into the model."""
    told_states: Amount = 0
    """Replayed states, drawn for each update, whose picture and scene are told; 0: all. Either
    costs as much as they are many."""
    harmony: bool = False
    """Learn the weights of picture, scene, reward and dynamics (HarmonyDream)."""

    burn_in: Amount = 0
    """Steps at the beginning of a replayed sequence that only warm up the state: no loss counts
    there (Kapturowski et al. 2019, R2D2). What was before them is not known."""
    free_nats: Weight = 1.0
    """Below this a KL divergence is not pushed further."""
    dyn_scale: Weight = 1.0
    """Weight of the prior's loss."""
    rep_scale: Weight = 0.1
    """Weight of the posterior's loss."""
    continue_scale: Weight = 1.0
    """Weight of the loss of whether the episode goes on: a death is one step in a hundred, and a
    model can learn to overlook it (DreamerV2 took 5, DreamerV1 10)."""
    replay_value_scale: Weight = 0.3
    """Weight of the critic's loss on replayed states, which also trains the model."""
    imitation_scale: Weight = 0.0
    """Weight of the actor's log likelihood of the demos' actions. 0 is off."""
    label_scale: Weight = 1.0
    """Weight of the actor's cross-entropy to the teacher's distribution, on all replayed states
    (--teacher)."""
    label_gradient: Weight = 1.0
    """Times the gradient that this loss sends into the model: what decides is kept in its state."""

    horizon: Annotated[int, pydantic.Field(ge=2, le=10**6)] = 333
    """Steps that a reward matters for: the discount is 1 - 1 / horizon."""
    imagined_steps: Annotated[int, pydantic.Field(ge=1, le=1000)] = 15
    """Length of an imagined trajectory."""
    imagined_starts: Amount = 0
    """Replayed states that imagination starts from: every sequence's last, and others at random.
    0: all of them. The rest of the batch gets the critic's own value as its bootstrap."""
    lambda_: Annotated[Share, tyro.conf.arg(name="lambda")] = 0.95
    """Mix of n-step returns."""
    entropy_scale: Weight = 3e-4
    """Weight of the actor's entropy."""
    return_range_limit: Positive = 1.0
    """Advantages are divided by the returns' 5-95 % range, if that is larger than this."""
    slow_critic_scale: Weight = 1.0
    """Weight of the critic's distance to its slow copy."""
    slow_critic_rate: Share = 0.02
    """Share of the critic that its slow copy takes over each update."""

    precision: Precision = "auto"
    """bf16: convolutions, heads and imagination multiply in bfloat16; auto: where the processor
    does. What the recurrence learns from, losses and weights stay float32."""
    compile_losses: bool = False
    """torch.compile what an update computes: minutes of warm-up, and other random numbers."""
    learning_rate: Annotated[float, pydantic.Field(gt=0, le=1)] = 4e-5
    """LaProp's step size, for all networks."""
    learning_rate_final: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    """It falls linearly to this over the run. Unset: it stays."""
    agc: Positive = 0.3
    """A gradient's norm is at most this share of its tensor's."""
    warmup_steps: Amount = 1000
    """Updates until the full learning rate."""

    @property
    def discount(self) -> float:
        """gamma."""
        return 1 - 1 / self.horizon


class Batch(NamedTuple):
    """Replayed sequences. What stands at t led to, or came with, the image at t."""

    image: Tensor  # uint8[T, B, C, H, W]
    action: Tensor  # int64[T, B], 0 where is_first
    reward: Tensor  # float32[T, B], 0 where is_first
    is_first: Tensor  # bool[T, B], an episode begins, or the sequence does
    is_last: Tensor  # bool[T, B], the episode ends here: terminal or cut off
    is_terminal: Tensor  # bool[T, B], it ends for good: death or flag
    is_demo: Tensor  # bool[T, B]
    scene: Tensor | None = None  # int8[T, B, PLANES, ROWS, COLUMNS], what was there
    sprites: Tensor | None = None  # bool[T, B, H, W], the pixels of sprites
    labels: Tensor | None = None  # float32[T, B, A], the teacher's log probabilities

    def later(self, steps: int) -> Batch:
        """Return the batch without its first steps."""
        parts = {name: part[steps:] for name, part in self._asdict().items() if part is not None}
        return self._replace(**parts)


# --------------------------------------------------------------------------------------------
# World model
# --------------------------------------------------------------------------------------------


class Observed(NamedTuple):
    """What the world model makes of a batch."""

    deter: Tensor  # [T, B, D]
    stoch: Tensor  # [T, B, S * K], straight-through
    posterior: Tensor  # logits [T, B, S, K]
    tokens: Tensor  # [T, B, tokens]

    def later(self, steps: int) -> Observed:
        """Return what was made of the batch without its first steps."""
        return Observed(*(part[steps:] for part in self))

    @property
    def features(self) -> Tensor:
        """[T, B, F]."""
        return torch.cat([self.deter, self.stoch], -1)


class WorldModel(nn.Module):
    """Encoder, RSSM, and the heads that predict image, reward and continuation."""

    bins: Tensor

    def __init__(self, config: ModelConfig, image_shape: Sequence[int], n_actions: int) -> None:
        super().__init__()
        self.config = config
        channels, size, _ = image_shape
        depths = [config.depth * mult for mult in config.mults]
        self.encoder = Encoder(channels, size, depths, config.strides, config.image_norm)
        self.rssm = RSSM(
            n_actions,
            self.encoder.tokens,
            deter=config.deter,
            hidden=config.hidden,
            stoch=config.stoch,
            classes=config.classes,
            blocks=config.blocks,
        )
        features = self.rssm.features
        if config.picture == "decoder":
            self.decoder = Decoder(
                features, channels, depths, config.strides, config.image_norm, self.encoder.top
            )
        self.register_buffer("bins", two_hot_bins(), persistent=False)
        self.reward = MLP(features, config.units, 1, len(self.bins), output_scale=0.0)
        self.goes_on = MLP(features, config.units, 1, 1)
        # After the others: without them, those begin with the weights that they always had.
        if config.picture == "redundancy":
            self.projection = Linear(features, self.encoder.tokens)
        if config.scene_head != "none":
            self.scene = SceneHead(features, max(8, depths[-1]))
        if config.harmony:
            self.harmony = Harmony()

    def observe(self, batch: Batch, images: Tensor) -> Observed:
        """Return what is believed after each step of a batch.

        Args:
            batch: of T x B steps.
            images: [T * B, C, H, W], the batch's, centered.
        """
        tokens = self.encoder(images).unflatten(0, batch.action.shape)  # [T, B, tokens]
        return Observed(*self.rssm.observe(tokens, batch.action, batch.is_first), tokens)

    def losses(
        self, batch: Batch, images: Tensor, observed: Observed
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses by name, each a weighted mean [], and metrics (equation 2)."""
        config = self.config
        features = observed.features
        told = self.choose_told(len(images))
        seen = features.flatten(0, 1)[told]
        sprites = None if batch.sprites is None else batch.sprites.flatten(0, 1)[told]
        losses = self.picture_losses(
            images[told], observed.tokens.flatten(0, 1)[told], seen, sprites
        )
        dyn, rep, kl = kl_losses(
            observed.posterior, self.rssm.prior_logits(observed.deter), config.free_nats
        )
        reward_log_probs = torch.log_softmax(self.reward(features), -1)
        losses |= {
            "reward": two_hot_cross_entropy(reward_log_probs, batch.reward, self.bins).mean(),
            "continue": config.continue_scale
            * continue_loss(
                self.goes_on(features).squeeze(-1), batch.is_terminal, config.discount
            ).mean(),
            "dyn": config.dyn_scale * dyn.mean(),
            "rep": config.rep_scale * rep.mean(),
        }
        metrics = {"dreamer/kl": kl.mean()}
        if batch.scene is not None and config.scene_head != "none":
            scale = config.scene_scale if config.scene_head == "informed" else 0.0
            scene = batch.scene.flatten(0, 1)[told]
            scene_losses, more = scene_loss(self.scene(scaled_gradient(seen, scale)), scene)
            losses, metrics = losses | scene_losses, metrics | more
        if config.harmony:
            losses, more = self.harmony(losses)
            metrics |= more
        return losses, metrics

    def choose_told(self, states: int) -> Tensor | slice:
        """Return which of so many replayed states tell their picture and scene, an index."""
        n = self.config.told_states
        return torch.randperm(states)[:n] if 0 < n < states else slice(None)

    def picture_losses(
        self, images: Tensor, tokens: Tensor, features: Tensor, sprites: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the loss of what N states know of the picture, by name, or none.

        Args:
            images: [N, C, H, W], centered.
            tokens: [N, tokens], theirs.
            features: [N, F], of the states that saw them.
            sprites: bool[N, H, W], which pixels are sprites', or None.
        """
        config = self.config
        if config.picture == "none":
            return {}
        if config.picture == "redundancy":
            projected = self.projection(features)
            loss = redundancy_loss(projected, tokens, config.redundancy_off)
            return {"redundancy": config.redundancy_scale * loss}
        decoded = self.decoder(features).float()  # [N, C * patch^2, ...]
        patches = self.decoder.to_patches(images)
        if config.sprite_share and sprites is not None:
            weights = sprite_weights(sprites, config.sprite_share)
            weights = weights.unsqueeze(1).expand_as(images).contiguous()
            errors = (decoded - patches).square() * self.decoder.to_patches(weights)
            return {"image": errors.sum() / len(images)}
        return {"image": F.mse_loss(decoded, patches, reduction="sum") / len(images)}

    def predict_reward(self, features: Tensor) -> Tensor:
        """[..., F] -> [...]."""
        return two_hot_mean(torch.softmax(self.reward(features), -1), self.bins)

    def predict_continue(self, features: Tensor) -> Tensor:
        """[..., F] -> [...]: the discount, times the chance that the episode goes on."""
        return torch.sigmoid(self.goes_on(features)).squeeze(-1)


# --------------------------------------------------------------------------------------------
# Actor and critic
# --------------------------------------------------------------------------------------------


class ReturnRange(nn.Module):
    """Running 5-95 % range of returns, by which advantages are divided (equation 7)."""

    low: Tensor
    high: Tensor
    RATE = 0.01

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def update(self, returns: Tensor) -> Tensor:
        """Take returns of any shape in, and return the range, at least the limit, []."""
        quantiles = torch.quantile(returns.flatten(), torch.tensor([0.05, 0.95]))
        self.low.lerp_(quantiles[0], self.RATE)
        self.high.lerp_(quantiles[1], self.RATE)
        return (self.high - self.low).clamp(min=self.limit)


class Critic(nn.Module):
    """The value of states under one kind of reward, its slow copy, and its returns' range."""

    bins: Tensor

    def __init__(self, features: int, config: ModelConfig, range_limit: float) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("bins", two_hot_bins(), persistent=False)
        self.net = MLP(
            features, config.units, config.actor_layers, len(self.bins), output_scale=0.0
        )
        self.slow = copy.deepcopy(self.net).requires_grad_(False)
        self.range = ReturnRange(range_limit)

    def log_probs(self, features: Tensor) -> Tensor:
        """[..., F] -> [..., bins]."""
        return torch.log_softmax(self.net(features), -1)

    def value(self, log_probs: Tensor) -> Tensor:
        """[..., bins] -> [...], without a gradient."""
        return two_hot_mean(log_probs.detach().exp(), self.bins)

    def loss(self, log_probs: Tensor, features: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted mean loss [] against returns and against the slow copy.

        Args:
            log_probs: [..., bins], of features.
            features: [..., F].
            target: [...], returns.
            weight: [...].
        """
        with torch.no_grad():
            slow_value = two_hot_mean(torch.softmax(self.slow(features), -1), self.bins)
        loss = two_hot_cross_entropy(log_probs, target, self.bins)
        slow = two_hot_cross_entropy(log_probs, slow_value, self.bins)
        return (weight * (loss + self.config.slow_critic_scale * slow)).mean()

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow copy a little toward the critic."""
        torch._foreach_lerp_(
            list(self.slow.parameters()), list(self.net.parameters()), self.config.slow_critic_rate
        )


class Imagined(NamedTuple):
    """Trajectories that the model dreamt under the actor."""

    features: Tensor  # [H + 1, N, F], in the type of the products
    actions: Tensor  # int64[H, N]


class Agent(nn.Module):
    """World model, actor, critics and, for Plan2Explore, the ensemble; one optimiser for all."""

    def __init__(
        self,
        config: ModelConfig,
        exploration: ExplorationConfig,
        image_shape: Sequence[int],
        n_actions: int,
    ) -> None:
        """Make it.

        Args:
            config: sizes and losses.
            exploration: what else is needed for it.
            image_shape: C, H, W of an observation.
            n_actions: A.
        """
        super().__init__()
        self.config, self.exploration, self.n_actions = config, exploration, n_actions
        self.products = resolve_precision(config.precision, "cpu") or torch.float32
        self.world = WorldModel(config, image_shape, n_actions)
        features = self.world.rssm.features
        self.actor = MLP(features, config.units, config.actor_layers, n_actions, output_scale=0.01)
        self.critic = Critic(features, config, config.return_range_limit)
        self.curious = exploration.behaviour == "plan2explore"
        if self.curious:
            self.ensemble = Ensemble(
                features + n_actions,
                exploration.units,
                exploration.members,
                config.stoch * config.classes,
            )
            # Disagreements are small numbers of no fixed scale: their range has no lower limit.
            self.curious_critic = Critic(features, config, range_limit=1e-8)
        self.computed_losses = (
            torch.compile(self._losses) if config.compile_losses else self._losses
        )

    def make_optimizer(self) -> LaProp:
        """Return the optimiser of all networks."""
        config = self.config
        params = [p for p in self.parameters() if p.requires_grad]
        return LaProp(
            params, config.learning_rate, agc=config.agc, warmup_steps=config.warmup_steps
        )

    def sharpen(self, factor: float) -> None:
        """Multiply the actor's logits: a sampling temperature of 1 / factor, in the weights."""
        with torch.no_grad():
            for parameter in self.actor[-1].parameters():
                parameter.mul_(factor)

    # -- acting --------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self, images: Tensor, actions: Tensor, is_first: Tensor, state: State, sample: bool
    ) -> tuple[Tensor, State]:
        """Return the actor's logits [N, A] and what is believed now.

        Args:
            images: uint8[N, C, H, W].
            actions: int64[N], what was done last; not read where is_first.
            is_first: bool[N].
            state: what was believed before; not read where is_first.
            sample: draw the stochastic state, as in training; else take its mode, so that an
                episode depends on nothing but itself.
        """
        rssm = self.world.rssm
        keep = (~is_first).float().unsqueeze(-1)  # [N, 1]
        inputs = rssm.action_table()[torch.where(is_first, rssm.n_actions, actions)]  # [N, D]
        tokens = self.world.encoder(centered(images))
        noise_of = draw_noise if sample else no_noise
        noise = noise_of(len(images), rssm.stoch, rssm.classes)
        before = State(state.deter * keep, state.stoch * keep)
        state = rssm.observe_step(before, tokens, inputs, noise)
        return self.actor(state.features), state

    # -- imagining -----------------------------------------------------------------------------

    def imagine(self, start: State) -> Imagined:
        """Dream on from N states, with the actor's samples as actions.

        No gradient is needed: REINFORCE learns from the log probabilities of the actions, which
        are computed again afterwards, for all steps at once.
        """
        with torch.no_grad(), products_in(self.products):
            return self._imagine(start)

    def _imagine(self, start: State) -> Imagined:
        rssm, steps, n = self.world.rssm, self.config.imagined_steps, len(start.deter)
        weights = rssm.weights().products_in(self.products)
        table = rssm.action_table().to(self.products)
        noise = draw_noise(steps, n, rssm.stoch, rssm.classes)
        action_noise = draw_noise(steps, n, self.n_actions)
        features = torch.empty(steps + 1, n, rssm.features, dtype=self.products)
        actions = torch.empty(steps, n, dtype=torch.int64)
        state = start
        torch.cat(state, -1, out=features[0])
        for h in range(steps):
            torch.argmax(noisy(self.actor(features[h]), action_noise.at(h)), -1, out=actions[h])
            state = rssm.imagine_step(weights, state, table[actions[h]], noise.at(h))
            torch.cat(state, -1, out=features[h + 1])
        return Imagined(features, actions)

    def choose_starts(self, steps: int, batch: int) -> Tensor:
        """Return which of the steps x batch replayed states to imagine from, int64[N].

        Indices into the flattened [T, B]; the last states come first: their imagined returns are
        what the replayed ones are bootstrapped with.
        """
        n = self.config.imagined_starts or steps * batch
        earlier = (steps - 1) * batch
        last = torch.arange(earlier, steps * batch)
        return torch.cat([last, torch.randperm(earlier)[: max(0, n - batch)]])

    # -- learning ------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return all losses by name, weighted means [], and metrics."""
        with products_in(self.products):
            return self.computed_losses(batch)

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        images = centered(batch.image.flatten(0, 1))  # [T * B, C, H, W]
        observed = self.world.observe(batch, images)
        if steps := self.config.burn_in:
            images = images[steps * batch.action.shape[1] :]
            batch, observed = batch.later(steps), observed.later(steps)
        losses, metrics = self.world.losses(batch, images, observed)
        features = observed.features
        starts = self.choose_starts(*batch.action.shape)
        with torch.no_grad():
            imagined = self.imagine(
                State(*(x.flatten(0, 1)[starts] for x in (observed.deter, observed.stoch)))
            )
            live = self.world.predict_continue(imagined.features)  # [H + 1, N], discounted
            reward = self.world.predict_reward(imagined.features)
            # The discount of the start itself is not due.
            weight = torch.cumprod(live, 0)[:-1] / self.config.discount

        value_loss, advantage, returns, value = self.imagined_critic(
            self.critic, imagined.features, reward, live, weight
        )
        losses["value"] = value_loss
        losses["replay_value"] = self.config.replay_value_scale * self.replayed_critic(
            batch, features, starts, returns[0]
        )
        metrics["explained_variance"] = 1 - (returns - value).var() / returns.var().clamp(min=1e-8)
        metrics["dreamer/imagined_return"] = returns.mean()
        metrics["dreamer/imagined_reward"] = reward[1:].mean()
        metrics["dreamer/return_range"] = self.critic.range.high - self.critic.range.low
        if self.curious:
            advantage = self.exploration.extrinsic_scale * advantage
            advantage = advantage + self.exploration.intrinsic_scale * self.curiosity(
                batch, observed, imagined, live, weight, losses, metrics
            )
        logits = self.actor(imagined.features[:-1])
        losses["policy"], metrics["entropy"] = actor_loss(
            logits, imagined.actions, advantage, weight, self.config.entropy_scale
        )
        if self.config.imitation_scale:
            follows = batch.is_demo[:-1] & ~batch.is_first[1:]
            loss = imitation_loss(self.actor(features[:-1].detach()), batch.action[1:], follows)
            losses["imitation"] = self.config.imitation_scale * loss
        if batch.labels is not None:
            heard = self.actor(scaled_gradient(features, self.config.label_gradient))
            loss, metrics["dreamer/label_gap"] = label_loss(heard, batch.labels, ~batch.is_last)
            losses["labels"] = self.config.label_scale * loss
        return losses, metrics

    def imagined_critic(
        self, critic: Critic, features: Tensor, reward: Tensor, live: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a critic's loss [] on imagined states, and advantage, returns, value [H, N].

        The advantage is in units of the returns' range.
        """
        log_probs = critic.log_probs(features)
        value = critic.value(log_probs)  # [H + 1, N]
        mix = torch.tensor(self.config.lambda_)
        returns = lambda_return(reward, live, mix, value)
        loss = critic.loss(log_probs[:-1], features[:-1], returns, weight)
        advantage = (returns - value[:-1]) / critic.range.update(returns)
        return loss, advantage, returns, value[:-1]

    def replayed_critic(
        self, batch: Batch, features: Tensor, starts: Tensor, imagined_return: Tensor
    ) -> Tensor:
        """Return the critic's loss [] on replayed states, whose gradient goes into the model.

        Args:
            batch: of T x B steps.
            features: [T, B, F].
            starts: int64[N], from `choose_starts`.
            imagined_return: [N], of those states: what their returns are bootstrapped with.
        """
        log_probs = self.critic.log_probs(features)
        bootstrap = self.critic.value(log_probs)  # [T, B]
        bootstrap.view(-1)[starts] = imagined_return
        live = (~batch.is_terminal).float() * self.config.discount
        mix = (~batch.is_last).float() * self.config.lambda_
        returns = lambda_return(batch.reward, live, mix, bootstrap)
        weight = (~batch.is_last[:-1]).float()
        return self.critic.loss(log_probs[:-1], features[:-1].detach(), returns, weight)

    def curiosity(
        self,
        batch: Batch,
        observed: Observed,
        imagined: Imagined,
        live: Tensor,
        weight: Tensor,
        losses: dict[str, Tensor],
        metrics: dict[str, Tensor],
    ) -> Tensor:
        """Add Plan2Explore's losses and metrics; return its advantage [H, N]."""
        predictions = self.ensemble(
            observed.features[:-1].detach().flatten(0, 1),
            F.one_hot(batch.action[1:].flatten(), self.n_actions).float(),
        )
        target = unimix_probs(observed.posterior[1:].detach()).flatten(2).flatten(0, 1)
        follows = (~batch.is_first[1:]).flatten().float()
        losses["ensemble"] = ensemble_loss(predictions, target, follows)
        with torch.no_grad():
            actions = F.one_hot(imagined.actions.flatten(), self.n_actions)
            surprise = disagreement(
                self.ensemble(imagined.features[:-1].flatten(0, 1), actions)
            ).view(imagined.actions.shape)  # [H, N]
            # Paid, like every reward, with the state that the action leads to.
            reward = torch.cat([torch.zeros_like(surprise[:1]), surprise])
        losses["curious_value"], advantage, _, _ = self.imagined_critic(
            self.curious_critic, imagined.features, reward, live, weight
        )
        metrics["intrinsic_reward"] = surprise.mean()
        return advantage

    def update(self, batch: Batch, optimizer: LaProp) -> dict[str, Tensor]:
        """Take one gradient step on a batch and return metrics, each [].

        Raises:
            FloatingPointError: a loss or a gradient is not finite; no weight was changed.
        """
        losses, metrics = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            wrong = [name for name, loss in losses.items() if not torch.isfinite(loss)]
            raise FloatingPointError(f"the loss is not finite: {', '.join(wrong)}")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        self.critic.update_slow()
        if self.curious:
            self.curious_critic.update_slow()
        metrics |= {f"dreamer/{name}_loss": loss.detach() for name, loss in losses.items()}
        metrics["value_loss"] = metrics.pop("dreamer/value_loss")
        metrics["policy_loss"] = metrics.pop("dreamer/policy_loss")
        metrics["dreamer/grad_norm"] = optimizer.grad_norm
        return metrics
