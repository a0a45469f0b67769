"""The teacher's network: it plays and judges states from `Scene`, what the game's memory says.

What the actor sees is what a screen and the three before it can tell (`split_scene`): a teacher
that knows places by heart cannot be copied from pixels. The critic also sees what only the machine
knows (Pinto et al. 2017, "Asymmetric Actor Critic", arXiv:1710.06542); nobody asks it to play.

Symbols: B scenes, A actions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import nn

from mario_checkpoints import check_weights, read_model_zip
from mario_cli import UsageError
from mario_config import EnvConfig, env_config_from_dict
from mario_game import StageId
from mario_runs import BadModelFile, RunFolder
from mario_runtime import action_space
from mario_scene_flat import (
    HIDDEN_PARTS,
    HIDDEN_SIZE,
    MACHINE_NUMBERS,
    OTHER_SIZE,
    OTHER_SLOTS,
    SEEN_ENEMY_SIZE,
    SEEN_PARTS,
    split_scene,
)

PLACES = 32 * 32  # stages, half screens of 128 px; levels are shorter
_TILES = slice(0, SEEN_PARTS["column_on_screen"].stop)
_WORLD, _STAGE, _HALF_SCREEN = (
    HIDDEN_PARTS["machine"].start + MACHINE_NUMBERS.index(name)
    for name in ("world", "stage", "half_screen")
)


class Widths(NamedTuple):
    """How wide the network's layers are."""

    tiles: int = 192
    enemy: int = 32  # each of the six
    others: int = 32  # of all together
    trunk: int = 256  # two layers
    hidden: int = 64  # the critic's own input
    critic: int = 128


class PlaceTable(nn.Embedding):
    """What the critic adds for each place."""

    def reset_parameters(self) -> None:
        """Draw numbers; not of shapes alone, for which torch would import for 8 s."""
        if not self.weight.is_meta:
            super().reset_parameters()


class SceneNetwork(nn.Module):
    """Actor and critic on scenes.

    Tiles go through one layer, each enemy through two that all share, the other objects through two
    whose outputs are summed; then a trunk of two layers, from which the logits come. The critic has
    the trunk, what no screen tells through one layer, and which half screen of which stage it is.

    Args:
        n_actions: A.
        widths: of the layers.
    """

    def __init__(self, n_actions: int, widths: Widths | None = None) -> None:
        super().__init__()
        self.n_actions = n_actions
        widths = widths or Widths()
        self.tiles = nn.Linear(_TILES.stop, widths.tiles)
        self.enemy = nn.Sequential(
            nn.Linear(SEEN_ENEMY_SIZE, 64), nn.ReLU(), nn.Linear(64, widths.enemy), nn.ReLU()
        )
        self.other = nn.Sequential(
            nn.Linear(OTHER_SIZE, widths.others), nn.ReLU(), nn.Linear(widths.others, widths.others)
        )
        mario = SEEN_PARTS["mario"]
        enemies = SEEN_PARTS["enemies"]
        self.n_enemies = (enemies.stop - enemies.start) // SEEN_ENEMY_SIZE
        inputs = widths.tiles + widths.others + self.n_enemies * widths.enemy
        self.trunk = nn.Sequential(
            nn.Linear(inputs + mario.stop - mario.start, widths.trunk),
            nn.ReLU(),
            nn.Linear(widths.trunk, widths.trunk),
            nn.ReLU(),
        )
        self.action_net = nn.Linear(widths.trunk, n_actions)
        self.hidden = nn.Linear(HIDDEN_SIZE, widths.hidden)
        self.place = PlaceTable(PLACES, widths.hidden)
        self.judge = nn.Sequential(
            nn.Linear(widths.trunk + widths.hidden, widths.critic), nn.ReLU()
        )
        self.value_net = nn.Linear(widths.critic, 1)
        if not self.action_net.weight.is_meta:  # shapes alone hold no numbers
            self.begin()

    def begin(self) -> None:
        """Set the weights with which learning begins."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, 2**0.5)
                nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.action_net.weight, 0.01)
        nn.init.orthogonal_(self.value_net.weight, 1.0)
        nn.init.zeros_(self.place.weight)

    def latent(self, seen: th.Tensor) -> th.Tensor:
        """Float32 [B, SEEN_SIZE] to the trunk's output [B, widths.trunk]."""
        size = len(seen)
        enemies = seen[:, SEEN_PARTS["enemies"]].reshape(size, self.n_enemies, SEEN_ENEMY_SIZE)
        others = seen[:, SEEN_PARTS["others"]].reshape(size, OTHER_SLOTS, OTHER_SIZE)
        parts = (
            th.relu(self.tiles(seen[:, _TILES])),
            self.enemy(enemies).flatten(1),
            self.other(others).sum(dim=1),
            seen[:, SEEN_PARTS["mario"]],
        )
        return self.trunk(th.cat(parts, dim=1))

    def logits(self, seen: th.Tensor) -> th.Tensor:
        """Float32 [B, SEEN_SIZE] to action logits [B, A]."""
        return self.action_net(self.latent(seen))

    def forward(self, seen: th.Tensor, hidden: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Logits float32 [B, A] and values [B].

        Args:
            seen: float32 [B, SEEN_SIZE].
            hidden: float32 [B, HIDDEN_SIZE], of the same scenes.
        """
        latent = self.latent(seen)
        known = th.relu(self.hidden(hidden) + self.place(place_of(hidden)))
        value = self.value_net(self.judge(th.cat((latent, known), dim=1))).squeeze(1)
        return self.action_net(latent), value


def place_of(hidden: th.Tensor) -> th.Tensor:
    """Float32 [B, HIDDEN_SIZE] to int64 [B] below `PLACES`: which half screen of which stage."""
    world = (hidden[:, _WORLD] * 8).round().long() - 1
    stage = (hidden[:, _STAGE] * 4).round().long() - 1
    half_screen = (hidden[:, _HALF_SCREEN] * 32).round().long().clamp(0, 31)
    return ((world * 4 + stage) * 32 + half_screen).clamp(0, PLACES - 1)


def network_of_weights(weights: dict[str, th.Tensor], name: str) -> SceneNetwork:
    """Return the network of a teacher's weights, which become its own; name is the file's.

    Raises:
        BadModelFile: they are no teacher's; nothing of the sizes that they claim has been made.
    """
    try:
        widths = Widths(
            tiles=len(weights["tiles.bias"]),
            enemy=len(weights["enemy.2.bias"]),
            others=len(weights["other.2.bias"]),
            trunk=len(weights["action_net.weight"][0]),
            hidden=len(weights["hidden.bias"]),
            critic=len(weights["value_net.weight"][0]),
        )
        with th.device("meta"):  # shapes without memory
            network = SceneNetwork(len(weights["action_net.bias"]), widths)
        check_weights(weights, network.state_dict())
    except (KeyError, IndexError, TypeError, RuntimeError, BadModelFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadModelFile(f"{name} is no teacher's network: {reason}") from error
    network.load_state_dict(weights, assign=True)
    return network


class Teachers:
    """Says what to do in any state: of each stage the teacher that is named for it.

    Args:
        networks: by stage; one may stand for several.
    """

    def __init__(self, networks: Mapping[StageId, SceneNetwork]) -> None:
        self.networks = dict(networks)

    def label(self, scenes: np.ndarray, stages: np.ndarray) -> tuple[th.Tensor, th.Tensor]:
        """Return log-probabilities float32 [B, A] and values float32 [B], on the CPU.

        Args:
            scenes: float32 [B, SCENE_SIZE].
            stages: int [B, 2], world and stage that each episode began in.

        Raises:
            FloatingPointError: they are not finite; a student would learn nothing else.
        """
        seen, hidden = (th.from_numpy(part) for part in split_scene(scenes))
        by_network: dict[SceneNetwork, list[int]] = {}
        for i, (world, stage) in enumerate(stages.tolist()):
            by_network.setdefault(self.networks[StageId(world, stage)], []).append(i)
        found: list[tuple[list[int], th.Tensor, th.Tensor]] = []
        with th.inference_mode():
            for network, rows in by_network.items():
                device = network.action_net.weight.device
                logits, values = network(seen[rows].to(device), hidden[rows].to(device))
                found.append((rows, logits.log_softmax(1).cpu(), values.cpu()))
        log_probs = th.empty((len(scenes), found[0][1].shape[1]))
        all_values = th.empty(len(scenes))
        for rows, own_log_probs, own_values in found:
            log_probs[rows], all_values[rows] = own_log_probs, own_values
        if not (log_probs.isfinite().all() and all_values.isfinite().all()):
            raise FloatingPointError("the teacher's answers are not finite: its weights are broken")
        return log_probs, all_values

    def state_dict(self) -> dict[str, str]:
        """Return a digest of each stage's teacher, by the stage's name."""
        digests = {network: digest(network) for network in set(self.networks.values())}
        return {str(stage): digests[network] for stage, network in self.networks.items()}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Make sure that these are the teachers of whom `state_dict` returned that.

        Raises:
            UsageError: a stage has another one.
        """
        for stage, own in self.state_dict().items():
            if state.get(stage) != own:
                raise UsageError(
                    f"another teacher taught it {stage}: give the same --teacher, or begin a new "
                    "student from its weights with --warm-start"
                )


def digest(network: nn.Module) -> str:
    """Return what tells a network's weights from all others: their SHA-256."""
    found = hashlib.sha256()
    for tensor in network.state_dict().values():
        found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()


class ScenePolicy:
    """A `SceneNetwork` as the rollout loop's `Policy`: logits from scenes, no memory.

    Args:
        network: on any device.
        env_config: what it was trained in; handed on, never read here.
    """

    def __init__(self, network: SceneNetwork, env_config: Any) -> None:
        self.network = network
        self.env_config = env_config

    def initial_state(self, n: int) -> None:
        """None: there is no memory."""

    def logits(
        self, observations: np.ndarray, previous_actions: np.ndarray, state: None
    ) -> tuple[np.ndarray, None]:
        """Return log-probabilities float32 [n, A] of float32 [n, SCENE_SIZE], and None."""
        with th.inference_mode():
            seen, _ = self._tensors(observations)
            return self.network.logits(seen).log_softmax(dim=1).cpu().numpy(), None

    def values(self, observations: np.ndarray, state: None) -> np.ndarray:
        """Return the values float32 [n], in units of normalised reward, of such observations."""
        with th.inference_mode():
            return self.network(*self._tensors(observations))[1].cpu().numpy()

    def _tensors(self, observations: np.ndarray) -> list[th.Tensor]:
        device = self.network.action_net.weight.device
        return [th.from_numpy(part).to(device) for part in split_scene(observations)]


def teacher_file(path: Path, stage: StageId) -> Path | None:
    """Return the model of who teaches a stage, or None.

    Args:
        path: a teacher's model file or run folder, or a folder of <stage>.zip.
        stage: which.
    """
    run = RunFolder(path)
    own = [path / f"{stage}.zip", path / "stages" / f"{stage}.zip"]
    candidates = [path] if path.is_file() else [*own, run.best_model, run.final_model]
    return next((file for file in candidates if file.is_file()), None)


def read_teachers(path: Path, env: EnvConfig, device: th.device | None = None) -> Teachers:
    """Return who teaches each stage of an environment.

    Args:
        path: as of `teacher_file`.
        env: whose stages, and whose actions.
        device: where the networks compute; None: the CPU.

    Raises:
        UsageError: nobody teaches a stage, or with other actions.
        BadModelFile: a file is no whole model.
    """
    networks = {}
    read: dict[Path, SceneNetwork] = {}
    for stage in env.stages:
        found = teacher_file(path, stage)
        if found is None:
            raise UsageError(f"{path} has no teacher of {stage}: train one with --phase teacher")
        if found not in read:
            content, weights = read_model_zip(found)
            if content.get("agent") != "teacher":
                raise UsageError(f"{found} is of agent {content.get('agent')!r}, not a teacher")
            try:
                before = env_config_from_dict(content["env"])
            except (KeyError, TypeError) as error:
                raise BadModelFile(f"{found}: its config is incomplete: {error}") from error
            if before.action_set != env.action_set:
                raise UsageError(
                    f"{found} plays with action set {before.action_set}, not {env.action_set}"
                )
            network = network_of_weights(weights, str(found))
            if network.n_actions != action_space(env).n:
                raise BadModelFile(f"{found}: weights and config disagree on the actions")
            read[found] = network.to(device or th.device("cpu"))
        networks[stage] = read[found]
    return Teachers(networks)
