"""The learner of students: from pixels, what a teacher does that sees the game's state.

DAgger (Ross, Gordon and Bagnell 2011, arXiv:1011.0686): the student learns the teacher's action
distribution on the states that it reaches itself; at first the teacher drives, then less and less.
It learns from a replay of the newest states. It knows no files: it hands out dictionaries.

Symbols: T steps of a rollout, E environments, S steps of the replay, B samples in a minibatch,
A actions, C planes of the stacked screens, H x W their size.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pydantic
import torch as th
from gymnasium import spaces
from torch.nn import functional as F

from mario_cli import UsageError
from mario_config import EnvConfig, FeaturesName
from mario_files import fill
from mario_learner import Learner
from mario_networks import EXTRACTORS, TwoHeadCnnPolicy
from mario_runtime import MarioVectorEnv, action_space, observation_space
from mario_scene import read_scene
from mario_scene_flat import flatten_scene
from mario_teacher import Teachers
from mario_values import (
    Amount,
    Checked,
    Count,
    Positive,
    Share,
    StepSize,
    Temperature,
    Weight,
)
from precision import resolve_precision


@dataclasses.dataclass(frozen=True)
class StudentFlags(Checked):
    """Imitation of a teacher, from pixels."""

    timesteps: Count = 1_000_000
    """The run's target in agent steps, all environments together; resuming goes on to the same."""
    n_envs: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 64
    """Environments side by side."""
    n_steps: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 64
    """Agent steps per environment between updates."""
    replay_size: Annotated[int, pydantic.Field(ge=1, le=10**7)] = 150_000
    """States kept to learn from, 7 KB each, 21 in color; the oldest go."""
    batch_size: Annotated[int, pydantic.Field(ge=2, le=10**6)] = 256
    """Samples in a minibatch; must divide n_steps * n_envs."""
    passes: Annotated[int, pydantic.Field(ge=1, le=1000)] = 4
    """Samples learnt from for each new one."""
    observation: Literal["pixels", "color"] = "pixels"
    """What it sees: gray screens, or the same in color, three planes a screen."""
    features: FeaturesName = "small"
    """CNN 16-32-32-256, Nature's 32-64-64-512, or fine, which looks at smaller things; the others
    take twice small's time per gradient pass."""
    learning_rate: StepSize = 1e-3
    """Adam's step size at first."""
    learning_rate_final: StepSize = 1e-4
    """It falls linearly to this over the run."""
    temperature: Temperature = 1.0
    """Of the teacher's distribution: below 1 the student learns to be surer than the teacher."""
    drive_until: Amount = 100_000
    """Agent steps over which the part of the environments that the teacher drives falls from 1."""
    drive_final: Share = 0.1
    """What it falls to."""
    vf_coef: Weight = 0.1
    """Weight of saying the teacher's value."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""
    end_on_stall_steps: Amount = 120
    """Agent steps without new ground after which an episode is cut off: one wall fills no batch."""


def student_network(flags: StudentFlags, env: EnvConfig, device: th.device) -> TwoHeadCnnPolicy:
    """Return a fresh network that sees what env shows, in the type that the device is fast in."""
    network = TwoHeadCnnPolicy(
        observation_space(env),
        action_space(env),
        lambda _: 0.0,
        features_extractor_class=EXTRACTORS[flags.features],
        channels_last=True,
    ).to(device)
    network.autocast_dtype = resolve_precision("auto", device)
    return network


class Lessons(NamedTuple):
    """What was seen in B states, and what the teacher said of it."""

    observations: th.Tensor  # uint8 [B, C, H, W]
    logits: th.Tensor  # float32 [B, A], the teacher's
    values: th.Tensor  # float32 [B], the teacher's


class Replay:
    """The newest S steps of E environments: each state's newest screen, and the teacher's labels.

    A stack of screens is put together when it is drawn. An episode's first screen stands for those
    before it.

    Args:
        size: states to keep; S is size / E.
        space: of the observations, uint8 [C, H, W].
        planes: P of the C that a screen has.
        n_envs: E.
        n_actions: A.
    """

    def __init__(
        self, size: int, space: spaces.Box, planes: int, n_envs: int, n_actions: int
    ) -> None:
        channels, *frame = space.shape
        self.planes, self.stack = planes, channels // planes
        slots = max(size // n_envs, 2 * self.stack)
        self.frames = np.zeros((slots, n_envs, planes, *frame), np.uint8)
        self.ages = np.zeros((slots, n_envs), np.int64)  # steps since the episode's start
        self.logits = np.zeros((slots, n_envs, n_actions), np.float32)
        self.values = np.zeros((slots, n_envs), np.float32)
        self.steps = 0  # ever added

    def add(
        self, observations: np.ndarray, ages: np.ndarray, logits: th.Tensor, values: th.Tensor
    ) -> None:
        """Take a step of E environments: uint8 [E, C, H, W], int [E], float32 [E, A] and [E]."""
        slot = self.steps % len(self.frames)
        self.frames[slot], self.ages[slot] = observations[:, -self.planes :], ages
        self.logits[slot], self.values[slot] = logits.numpy(), values.numpy()
        self.steps += 1

    def draw(self, count: int, generator: th.Generator) -> Lessons:
        """Return as many states, each as likely, with replacement."""
        slots, n_envs = self.ages.shape
        first = max(self.steps - slots + self.stack - 1, 0)  # its stack is still whole
        step = th.randint(first, self.steps, (count,), generator=generator).numpy()
        env = th.randint(n_envs, (count,), generator=generator).numpy()
        back = np.arange(self.stack - 1, -1, -1)
        # At the replay's very beginning every episode is as old as the replay.
        age = np.minimum(self.ages[step % slots, env], step)
        frames = self.frames[(step[:, None] - np.minimum(back, age[:, None])) % slots, env[:, None]]
        frames = frames.reshape(count, -1, *frames.shape[-2:])
        slot = step % slots
        parts = (frames, self.logits[slot, env], self.values[slot, env])
        return Lessons(*map(th.from_numpy, parts))

    ARRAYS = ("frames", "ages", "logits", "values")

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly; the frames are compressed."""
        used = min(self.steps, len(self.frames))
        arrays = {name: getattr(self, name)[:used].copy() for name in self.ARRAYS}
        packed = zlib.compress(arrays.pop("frames").tobytes(), level=1)
        return {**arrays, "frames": np.frombuffer(packed, np.uint8), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            UsageError: it is of another size, or its frames are not whole.
        """
        used = min(int(state["steps"]), len(self.frames))
        packed = np.asarray(state["frames"]).tobytes()
        expected = self.frames[:used].nbytes
        try:
            pixels = zlib.decompressobj().decompress(packed, expected + 1)
        except zlib.error as error:
            raise UsageError(f"the replay's frames are not whole: {error}") from error
        if len(pixels) != expected or np.shape(state["ages"]) != self.ages[:used].shape:
            raise UsageError("the replay is of another size: leave --student.replay-size as it was")
        self.frames[:used] = np.frombuffer(pixels, np.uint8).reshape(self.frames[:used].shape)
        fill(self.ages[:used], state["ages"], "replay.ages", 0)
        for name in ("logits", "values"):
            fill(getattr(self, name)[:used], state[name], f"replay.{name}")
        self.steps = int(state["steps"])


def imitation_losses(
    logits: th.Tensor, values: th.Tensor, teacher_logits: th.Tensor, teacher_values: th.Tensor
) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
    """Return the losses and the metrics of B samples, scalars.

    Args:
        logits: float32 [B, A], the student's.
        values: float32 [B].
        teacher_logits: float32 [B, A].
        teacher_values: float32 [B].

    Returns:
        losses: `policy`, the cross-entropy to the teacher's distribution, and `value`; metrics:
        `gap`, what that cross-entropy is above the teacher's entropy (the KL divergence), and
        `agreement`, the share of states where both would do the same by argmax.
    """
    assert logits.shape == teacher_logits.shape and values.shape == teacher_values.shape
    log_probs, teacher = logits.log_softmax(1), teacher_logits.log_softmax(1)
    cross_entropy = -(teacher.exp() * log_probs).sum(1).mean()
    entropy = -(teacher.exp() * teacher).sum(1).mean()
    same = (logits.argmax(1) == teacher_logits.argmax(1)).float().mean()
    losses = {"policy": cross_entropy, "value": F.mse_loss(values, teacher_values)}
    return losses, {"gap": (cross_entropy - entropy).detach(), "agreement": same}


class Student(Learner):
    """Teaches a network that sees pixels what teachers do.

    Args:
        network: what learns, on any device.
        env: observing pixels, with autoreset.
        teachers: one for each stage of env.
        flags: see there.
        seed: of sampling and shuffling; the environments' generators are seeded with it, too.
    """

    PARTS = (*Learner.PARTS, "replay", "teachers")

    def __init__(
        self,
        network: TwoHeadCnnPolicy,
        env: MarioVectorEnv,
        teachers: Teachers,
        flags: StudentFlags,
        seed: int,
    ) -> None:
        optimizer = th.optim.Adam(network.parameters(), flags.learning_rate, eps=1e-5, fused=True)
        super().__init__(network, env, optimizer, flags, seed)
        self.teachers, self.flags = teachers, flags
        self.device = network.device
        space = env.single_observation_space
        assert isinstance(space, spaces.Box)
        planes, n_actions = env.config.planes, len(env.buttons)
        self.replay = Replay(flags.replay_size, space, planes, env.num_envs, n_actions)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, with the network's weights loaded already.

        Raises:
            UsageError: another teacher taught it.
        """
        # Older states do not say who did.
        super().load_state_dict({"teachers": self.teachers.state_dict()} | state)

    def drive_share(self) -> float:
        """Return the part of the environments that the teacher drives in the next rollout."""
        falls = 1 - self.steps / max(self.flags.drive_until, 1)
        return max(falls, self.flags.drive_final)

    def rollout(self) -> None:
        """Play T steps, each environment driven by student or teacher, and ask the teacher."""
        n_envs = self.env.num_envs
        driven = th.rand(n_envs, generator=self.generator) < self.drive_share()
        for _ in range(self.flags.n_steps):
            observations = self.env.observations
            scenes = flatten_scene(read_scene(self.env.machines.ram_before))
            said, values = self.teachers.label(scenes, self.env.shaper.began)
            said /= self.flags.temperature
            self.replay.add(observations, self.env.steps, said, values)
            with th.inference_mode():
                pixels = th.from_numpy(observations).to(self.device)
                own = self.network.logits_and_values(pixels)[0].cpu()
            chosen = th.where(driven[:, None], said, own).softmax(1)
            actions = th.multinomial(chosen, 1, generator=self.generator)[:, 0].numpy()
            _, rewards, terminations, truncations, infos = self.env.step(actions)
            self.episodes.count(rewards, terminations | truncations, infos)
        self.steps += self.flags.n_steps * n_envs

    def update(self) -> dict[str, float]:
        """Play a rollout, learn from the replay, and return the metrics by name.

        Raises:
            FloatingPointError: a gradient is not finite; the weights are as before that step.
        """
        flags = self.flags
        self.rollout()
        learning_rate = self.set_learning_rate()
        metrics: dict[str, list[float]] = {}
        for _ in range(flags.passes * flags.n_steps * self.env.num_envs // flags.batch_size):
            lessons = self.replay.draw(flags.batch_size, self.generator)
            found = self._learn(Lessons(*(part.to(self.device) for part in lessons)))
            for name, value in found.items():
                metrics.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in metrics.items()} | {
            "learning_rate": learning_rate,
            "student/driven": self.drive_share(),
            **self.episodes.means(),
        }

    def _learn(self, batch: Lessons) -> dict[str, float]:
        """Do one step of gradient descent on a minibatch."""
        logits, values = self.network.logits_and_values(batch.observations)
        losses, metrics = imitation_losses(logits, values[:, 0], batch.logits, batch.values)
        self.descend(losses["policy"] + self.flags.vf_coef * losses["value"])
        return {
            "policy_loss": losses["policy"].item(),
            "value_loss": losses["value"].item(),
            **{f"student/{name}": metric.item() for name, metric in metrics.items()},
        }
