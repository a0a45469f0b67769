"""A trained agent as the rollout loop's `Policy`: what evaluation, videos and the monitor play."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dreamerv3.exploration import ExplorationConfig
from dreamerv3.models import Agent, ModelConfig
from dreamerv3.networks import State, unimix_probs
from mario_cli import UsageError
from mario_config import EnvConfig, env_config_from_dict
from mario_runs import BadModelFile
from mario_runtime import action_space, observation_space
from mario_values import with_values


def make_agent(model: ModelConfig, exploration: ExplorationConfig, env: EnvConfig) -> Agent:
    """Return an untrained agent for an environment.

    Raises:
        UsageError: the model does not fit the environment's screen.
    """
    shape = observation_space(env).shape
    try:
        return Agent(model, exploration, shape, int(action_space(env).n))
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"no such model: {error}") from error


class DreamerPolicy:
    """Logits from observations and what was believed before.

    The stochastic state is its mode, not a sample, so that an episode depends on its seed alone.
    """

    def __init__(self, agent: Agent, env_config: EnvConfig, unimix: float = 0.0) -> None:
        """Play with an agent.

        Args:
            agent: a trained one.
            env_config: what it was trained on.
            unimix: share of uniform actions among what it does. Training has 1 % of them, to
                explore; a policy is judged without: a wrong action in a hundred ended every second
                episode that its own samples clear (`diagnose.py --play`).
        """
        self.agent, self.env_config, self.unimix = agent, env_config, unimix

    def initial_state(self, n: int) -> State:
        """Return the belief of n fresh episodes."""
        return self.agent.world.rssm.initial_state(n)

    def logits(
        self, observations: np.ndarray, previous_actions: np.ndarray, state: State
    ) -> tuple[np.ndarray, State]:
        """Return log probabilities float32[n, n_actions] and the next belief; see `Policy`."""
        actions = torch.from_numpy(np.asarray(previous_actions, dtype=np.int64))
        logits, state = self.agent.act(
            torch.from_numpy(np.ascontiguousarray(observations)),
            actions,
            actions < 0,
            state,
            sample=False,
        )
        return unimix_probs(logits, self.unimix).log().numpy(), state

    def values(self, observations: np.ndarray, state: State) -> np.ndarray:
        """Return the discounted reward expected from a belief on, float32[n]."""
        critic = self.agent.critic
        with torch.no_grad():
            return critic.value(critic.log_probs(state.features)).numpy()


def policy_from_tensors(
    config: dict[str, Any], tensors: dict[str, torch.Tensor], name: str
) -> DreamerPolicy:
    """Return the policy of a model file's config and weights; runs no code from either.

    Args:
        config: a train_config.json's content.
        tensors: an `Agent`'s state dict.
        name: what to call the file in errors.

    Raises:
        BadModelFile: they are incomplete or disagree; nothing of the size that a hostile config
            may ask for has been made by then.
    """
    try:
        env = env_config_from_dict(config["env"])
        model = with_values(ModelConfig(), config["model"], "model")
        exploration = with_values(ExplorationConfig(), config["exploration"], "exploration")
        with torch.device("meta"):  # shapes without memory
            expected = make_agent(model, exploration, env).state_dict()
    except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
        raise BadModelFile(f"{name}: its config is incomplete: {error}") from error
    for key in sorted(expected.keys() | tensors.keys()):
        if key not in expected or key not in tensors or expected[key].shape != tensors[key].shape:
            raise BadModelFile(f"{name}: weights and config disagree, first at {key}")
    agent = make_agent(model, exploration, env)
    agent.load_state_dict(tensors)
    return DreamerPolicy(agent.eval(), env)
