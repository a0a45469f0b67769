"""DreamerV3 as others wrote it, for the bench to time beside ours; development only."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.distributions import Distribution

from dreamerv3.models import Batch, ModelConfig


def torchrl_update(config: ModelConfig, batch: Batch, n_actions: int) -> Callable[[], None]:
    """Return a function that does one update of TorchRL's DreamerV3 on a batch.

    The same sizes, losses and optimiser as ours by default (TorchRL's own defaults are not the
    paper's), all of its code: networks, rollout, imagination from every state, losses, LaProp.

    Raises:
        ImportError: TorchRL is not installed.
    """
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule as Module
    from tensordict.nn import TensorDictSequential as Sequence
    from torchrl.data import Composite, OneHot, Unbounded
    from torchrl.envs.model_based import DreamerEnv
    from torchrl.modules import (
        DreamerV3DiscreteActor,
        DreamerV3ImageDecoder,
        DreamerV3ImageEncoder,
        DreamerV3MLP,
        RSSMPosteriorV3,
        RSSMPriorV3,
        RSSMRolloutV3,
        SymExpTwoHot,
        WorldModelWrapper,
    )
    from torchrl.objectives import (
        DreamerV3ActorLoss,
        DreamerV3Loss,
        DreamerV3ModelLoss,
        DreamerV3ValueLoss,
        SoftUpdate,
        two_hot_decode,
    )
    from torchrl.objectives.utils import ValueEstimators
    from torchrl.trainers.algorithms import DreamerV3OptimizationStepper, DreamerV3Optimizer

    warnings.filterwarnings("ignore", module="(torchrl|tensordict)")
    steps, sequences, channels, size, _ = batch.image.shape
    stoch = config.stoch * config.classes
    features, bins = config.deter + stoch, SymExpTwoHot(255).bins
    belief = ["state", "belief"]
    following = [("next", "state"), ("next", "belief")]
    latent = {"num_categoricals": config.stoch, "num_classes": config.classes, "unimix": 0.01}
    depth = {"depth": config.depth, "mults": config.mults}

    encoder = DreamerV3ImageEncoder(channels, **depth)
    prior = RSSMPriorV3(
        action_shape=(n_actions,),
        action_dim=n_actions,
        hidden_dim=config.hidden,
        rnn_hidden_dim=config.deter,
        recurrent_model="block_gru",
        num_blocks=config.blocks,
        **latent,
    )
    posterior = RSSMPosteriorV3(
        hidden_dim=config.hidden,
        rnn_hidden_dim=config.deter,
        obs_embed_dim=encoder.output_features((channels, size, size)),
        use_rms_norm=True,
        **latent,
    )

    class Mean(nn.Module):
        """Logits of bins -> the value that they predict, [..., 1]."""

        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return two_hot_decode(logits, bins).unsqueeze(-1)

    def head(outputs: int, layers: int, outscale: float = 1.0) -> DreamerV3MLP:
        return DreamerV3MLP(features, outputs, layers, config.units, outscale)

    decoder = DreamerV3ImageDecoder(features, (channels, size, size), **depth)
    reward, goes_on = head(len(bins), 1, 0.0), head(1, 1)
    world = Sequence(
        Module(encoder, [("next", "pixels")], [("next", "encoded")]),
        RSSMRolloutV3(
            Module(
                prior,
                [*belief, "action"],
                [("next", "prior_logits"), ("next", "state"), ("next", "belief")],
            ),
            Module(
                posterior,
                [("next", "belief"), ("next", "encoded")],
                [("next", "posterior_logits"), ("next", "state")],
            ),
        ),
        Module(decoder, following, [("next", "reco_pixels")]),
        Module(reward, following, [("next", "reward_logits")]),
        Module(goes_on, following, [("next", "continue_pred")]),
    )
    env = DreamerEnv(
        WorldModelWrapper(
            Module(prior, [*belief, "action"], ["_", *belief]),
            Sequence(
                Module(reward, belief, ["reward_logits"]),
                Module(Mean(), ["reward_logits"], ["reward"]),
            ),
        ),
        prior_shape=(stoch,),
        belief_shape=(config.deter,),
    )
    env.observation_spec = Composite(state=Unbounded(stoch), belief=Unbounded(config.deter))
    env.state_spec = env.observation_spec.clone()
    env.action_spec = OneHot(n_actions)
    env.reward_spec = Unbounded((1,))
    actor = DreamerV3DiscreteActor(
        features, n_actions, depth=config.actor_layers, num_cells=config.units
    )
    value = Sequence(
        Module(head(len(bins), config.actor_layers, 0.0), belief, ["state_value_logits"]),
        Module(Mean(), ["state_value_logits"], ["state_value"]),
    )
    model_loss = DreamerV3ModelLoss(
        world,
        lambda_continue=1.0,
        kl_mode="separate",
        unimix=0.01,
        continue_target_scale=config.discount,
        reco_symlog=False,
        detach_output=False,
    )
    actor_loss = DreamerV3ActorLoss(
        actor,
        value,
        env,
        continuation_model=Sequence(
            Module(goes_on, belief, ["continue_logit"]),
            Module(nn.Sigmoid(), ["continue_logit"], ["continuation"]),
        ),
        imagination_horizon=config.imagined_steps,
        use_reinforce=True,
    )
    # The discount is in the continuation.
    actor_loss.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=config.lambda_)
    value_loss = DreamerV3ValueLoss(
        value, "two_hot", actor_loss=actor_loss, slow_critic_regularization=1.0
    )
    updater = SoftUpdate(value_loss, tau=config.slow_critic_rate)
    loss = DreamerV3Loss(model_loss, actor_loss, value_loss)
    stepper = DreamerV3OptimizationStepper(
        loss, DreamerV3Optimizer(loss.parameters()), updater, compile_train_step=False
    )

    def column(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1).unsqueeze(-1)  # [B, T, 1]

    def update() -> None:
        sample = TensorDict(
            {
                "state": torch.zeros(sequences, steps, stoch),
                "belief": torch.zeros(sequences, steps, config.deter),
                "action": nn.functional.one_hot(batch.action.t(), n_actions).float(),
                "is_init": column(batch.is_first),
                "next": {
                    "pixels": batch.image.transpose(0, 1),
                    "reward": column(batch.reward),
                    "done": column(batch.is_last),
                    "terminated": column(batch.is_terminal),
                },
            },
            [sequences, steps],
        )
        stepper.step(None, sample)

    return update


def sheeprl_update(config: ModelConfig, batch: Batch, n_actions: int) -> Callable[[], None]:
    """Return a function that does one update of sheeprl's DreamerV3 (of 2025) on a batch.

    The same sizes, losses and optimiser as ours by default, all of its code: networks, train step,
    slow critic. Sequences start from zeros, as ours do (by its own default from a state that the
    replay keeps). What could not be made equal: its convolutions have stride 1 and kernels of 5,
    the encoder's before a max pooling, the decoder's after a doubling of pixels, the last one at
    full size with a sigmoid. It has no strides, image_norm or imagined_starts. It multiplies in
    float32, its default.

    Raises:
        ImportError: sheeprl is not installed.
    """
    from gymnasium import spaces
    from hydra import compose, initialize_config_module
    from lightning.fabric import Fabric
    from omegaconf import OmegaConf
    from sheeprl.algos.dreamer_v3_5.agent import build_agent
    from sheeprl.algos.dreamer_v3_5.dreamer_v3_5 import train, update_target_critic
    from sheeprl.algos.dreamer_v3_5.optim import LaProp
    from sheeprl.algos.dreamer_v3_5.utils import Moments
    from sheeprl.utils.utils import dotdict

    overrides = {
        "cnn_keys.encoder": ["image"],
        "replay_context": 0,
        "gamma": config.discount,
        "lmbda": config.lambda_,
        "horizon": config.imagined_steps,
        "dense_units": config.units,
        "cnn_channels_multiplier": config.depth,
        "cnn_stages": list(config.mults),
        "world_model.stochastic_size": config.stoch,
        "world_model.discrete_size": config.classes,
        "world_model.recurrent_model.recurrent_state_size": config.deter,
        "world_model.recurrent_model.hidden_size": config.hidden,
        "world_model.recurrent_model.blocks": config.blocks,
        "world_model.observation_model.block_space": 0,  # the decoder starts with one linear layer
        "actor.mlp_layers": config.actor_layers,
        "critic.mlp_layers": config.actor_layers,
    }
    with initialize_config_module("sheeprl.configs", version_base="1.3"):
        composed = compose(
            "config",
            ["exp=dreamer_v3_5", *(f"algo.{key}={value}" for key, value in overrides.items())],
        )
    cfg = dotdict(OmegaConf.to_container(composed, resolve=True))
    fabric = Fabric(accelerator="cpu", devices=1)
    observations = spaces.Dict({"image": spaces.Box(0, 255, batch.image.shape[2:], np.uint8)})
    world, actor, critic, slow_critic, _ = build_agent(
        fabric, [n_actions], False, cfg, observations
    )
    params = [*world.parameters(), *actor.parameters(), *critic.parameters()]
    optimizer = fabric.setup_optimizers(LaProp(params))
    moments = Moments(max_=1 / config.return_range_limit)

    data = {
        "image": batch.image,
        # What was done at a step; ours are what led to it.
        "actions": nn.functional.one_hot(batch.action.roll(-1, 0), n_actions),
        "rewards": batch.reward.unsqueeze(-1),  # [T, B, 1]
        "is_first": batch.is_first.unsqueeze(-1),
        "terminated": batch.is_terminal.unsqueeze(-1),
        "truncated": batch.is_last.unsqueeze(-1),
    }
    networks = world, actor, critic, slow_critic

    def update() -> None:
        Distribution.set_default_validate_args(False)  # as its command line does
        train(fabric, cfg, *networks, optimizer, moments, data, None, [n_actions])
        Distribution.set_default_validate_args(__debug__)  # torch's default
        update_target_critic(critic, slow_critic, config.slow_critic_rate)

    return update


PEERS = {"TorchRL": torchrl_update, "sheeprl": sheeprl_update}
