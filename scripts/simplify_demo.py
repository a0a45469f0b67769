"""Rid demos of the buttons that they do not need, so that they are easier to imitate.

    python scripts/simplify_demo.py demos/4-2.npz --output runs/simple

A searched clear presses A at random where it does not matter, and a policy that learns from it
(`train_mario.py --imitation-coef`) has to learn those presses, too. Here every change of buttons
is tried without: from the end to the start, each stretch of agent steps takes on the buttons
before it, those after it, or those of an action. What still clears, in about as many steps, with
fewer changes stays, until nothing more can go. Where it still presses what the agent cannot (left
at full speed, say), random presses of what it can are tried instead.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from search_route import Level, has_cleared

from fastnes import BatchMachine, start_snapshot
from mario_cli import exit_code
from mario_demos import AGENT_FRAMES, Demo, load_demo, record, save_demo
from mario_runtime import UsageError, action_buttons, read_facts

SPANS = (1, 2, 4, 8, 16)  # agent steps that take on their neighbour's buttons
MACHINES = 64  # variants tried at once, at most
# Instead of what the agent cannot press: so many runs of an action, each of so many steps,
RUNS, RUN_STEPS = (2, 6), (1, 9)
APART = 10  # steps by which they may begin sooner and end later than what they replace,
BATCHES = 400  # tried, of MACHINES each,
MORE_BATCHES = 50  # and after the first that clears, for a simpler one


@dataclasses.dataclass(frozen=True)
class SimplifyFlags:
    """Which demos, where to."""

    demos: tyro.conf.Positional[tuple[Path, ...]]
    """Demo files, each a clear."""
    output: Path
    """Folder of the simpler ones, each under its own name."""
    action_set: str = "fast"
    """The actions to make do with where that is possible."""
    slack: float = 0.02
    """How much longer than before a clear may get."""
    seed: int = 0
    """Of what is tried where the clear presses what no action has."""


def changes(pressed: np.ndarray) -> int:
    """Return how often the buttons of uint8[steps] change."""
    return int((pressed[1:] != pressed[:-1]).sum())


class Simplifier:
    """Tries variants of one clear.

    Attributes:
        pressed: uint8[steps], the simplest clear so far.
    """

    def __init__(self, demo: Demo, actions: np.ndarray, slack: float, seed: int = 0) -> None:
        """Find the start after the no-ops.

        Args:
            demo: a clear.
            actions: button byte of each action to make do with, uint8[n].
            slack: share of the demo's steps by which it may get longer.
            seed: of what is tried where the clear presses what no action has.

        Raises:
            UsageError: the demo is no clear, or its buttons change within agent steps.
        """
        self.original = demo
        self.level: Level = (demo.world, demo.stage)
        self.actions = actions
        self.rng = np.random.default_rng(seed)
        self.pressed = demo.buttons[demo.noops :: AGENT_FRAMES].copy()
        self.most_steps = int(len(self.pressed) * (1 + slack))
        self.machines = BatchMachine(MACHINES, frames=AGENT_FRAMES, threads=1)
        level_start = start_snapshot(*self.level) if demo.start is None else demo.start
        self.start = self.snapshot_after(level_start, demo.buttons[: demo.noops])
        if not self.clear_steps(self.start, self.pressed[None])[0]:
            raise UsageError(
                f"the demo of {demo.world}-{demo.stage} is no clear in whole agent steps of "
                f"{AGENT_FRAMES} frames"
            )

    def snapshot_after(self, state: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Return the snapshot after uint8[n] buttons, one a frame, from a snapshot on."""
        self.machines.restore(0, state)
        if len(frames):
            self.machines.step(frames[None], indices=np.array([0]), draw=False)
        return self.machines.snapshot(0)

    def clear_steps(self, state: np.ndarray, variants: np.ndarray) -> np.ndarray:
        """Return after how many steps each of uint8[n, steps] clears from a state, 0: it does not.

        Returns:
            int64[n].
        """
        n, steps = variants.shape
        cleared = np.zeros(n, np.int64)
        self.machines.states[:n] = state
        playing = np.arange(n)
        for step in range(steps):
            self.machines.step(variants[playing, step], indices=playing, draw=False)
            facts = read_facts(self.machines.ram_before[playing])
            cleared[playing[has_cleared(facts, self.level)]] = step + 1
            playing = playing[~self.machines.terminated[playing]]
            if not len(playing):
                break
        return cleared

    def clear_from(self, state: np.ndarray) -> np.ndarray | None:
        """Return what clears from another state, uint8[steps], or None if the clear does not.

        It is the clear, cut where it arrives sooner, its last buttons held where it arrives later.
        """
        tail = np.repeat(self.pressed[-1:], self.most_steps - len(self.pressed))
        held = np.concatenate([self.pressed, tail])
        [steps] = self.clear_steps(state, held[None])
        return held[:steps] if steps else None

    def states(self) -> list[np.ndarray]:
        """Return the snapshot before every step of the clear, uint8[STATE_SIZE] each."""
        states = []
        self.machines.states[0] = self.start
        for pressed in self.pressed:
            states.append(self.machines.snapshot(0))
            self.machines.step(np.array([pressed]), indices=np.array([0]), draw=False)
        return states

    def variants(self, i: int) -> Iterator[np.ndarray]:
        """Yield uint8[steps] that differ from the clear around step i, where buttons change."""
        others = np.flatnonzero(self.pressed[i:] != self.pressed[i])
        end = i + int(others[0]) if len(others) else len(self.pressed)
        fills = [(i, i + span, self.pressed[i - 1]) for span in SPANS]
        fills += [(max(0, i - span), i, self.pressed[i]) for span in SPANS]
        fills += [(i, end, action) for action in self.actions]
        for first, last, buttons in fills:
            variant = self.pressed.copy()
            variant[first:last] = buttons
            yield variant

    def cost(self, pressed: np.ndarray) -> tuple[int, int, int]:
        """Return what is to be made small: steps with foreign buttons, then changes, then steps."""
        return int(self.foreign(pressed).sum()), changes(pressed), len(pressed)

    def foreign(self, pressed: np.ndarray) -> np.ndarray:
        """Return which steps press what no action has, bool[steps]."""
        return ~np.isin(pressed, self.actions)

    def simplest(self, variants: np.ndarray, first: int, state: np.ndarray) -> np.ndarray:
        """Return the simplest of the clear and those of its variants that clear as well.

        Args:
            variants: uint8[n, most_steps], like the clear before step `first`.
            first: the step that `state` is before.
            state: snapshot, uint8[STATE_SIZE].
        """
        steps = self.clear_steps(state, variants[:, first:])
        cleared = [variants[row, : first + steps[row]] for row in np.flatnonzero(steps)]
        return min([self.pressed, *cleared], key=self.cost)

    def translate(self) -> None:
        """Try to do without the first stretch of foreign buttons, then without the next."""
        end = 0
        while self.foreign(self.pressed[end:]).any():
            at = end + np.flatnonzero(self.foreign(self.pressed[end:]))
            last = int(np.append(np.diff(at) > APART, True).argmax())  # before a gap
            end = int(at[last]) + 1
            steps = len(self.pressed)
            self.replace_stretch(int(at[0]), end)
            end = max(0, end + len(self.pressed) - steps)

    def replace_stretch(self, begin: int, end: int) -> None:
        """Press actions at random instead of steps [begin, end); keep the simplest that clears.

        Half of them are those nearest to the buttons that they stand for: walking for running.
        """
        states, before = self.states(), self.pressed
        replaced = before[begin:end][self.foreign(before[begin:end])]
        bits = np.bitwise_count(self.actions[:, None] ^ replaced[None])
        nearest = self.actions[bits.argmin(axis=0)]
        batches = BATCHES
        tried = 0
        while tried < batches:
            tried += 1
            first = max(0, begin - int(self.rng.integers(APART)))
            variants = np.full((MACHINES, self.most_steps), before[-1])
            variants[:, :first] = before[:first]
            for variant in variants:
                drawn = [before[:0]]
                for _ in range(self.rng.integers(*RUNS)):
                    buttons = self.rng.choice(nearest if self.rng.random() < 0.5 else self.actions)
                    drawn.append(np.full(self.rng.integers(*RUN_STEPS), buttons))
                drawn.append(before[end + int(self.rng.integers(APART)) :])
                follows = np.concatenate(drawn)[: self.most_steps - first]
                variant[first : first + len(follows)] = follows
            simplest = self.simplest(variants, first, states[first])
            if simplest is not self.pressed:
                if self.pressed is before:
                    batches = tried + MORE_BATCHES
                self.pressed = simplest

    def sweep(self) -> bool:
        """Try every change of buttons once, the last one first; True if one could go."""
        before = self.cost(self.pressed)
        states = self.states()
        for i in range(len(self.pressed) - 1, 0, -1):
            if i >= len(self.pressed) or self.pressed[i] == self.pressed[i - 1]:
                continue
            cost = self.cost(self.pressed)
            simpler = [v for v in self.variants(i) if self.cost(v) < cost]
            if not simpler:
                continue
            first = max(0, i - max(SPANS))
            tried = np.array(simpler)
            tail = np.repeat(tried[:, -1:], self.most_steps - tried.shape[1], axis=1)
            tried = np.concatenate([tried, tail], axis=1)
            self.pressed = self.simplest(tried, first, states[first])
        return self.cost(self.pressed) < before

    def simplify(self) -> Demo:
        """Return a clear like the original with fewer changes of buttons, in whole agent steps."""
        while self.sweep():
            pass
        if self.foreign(self.pressed).any():
            self.translate()
            while self.sweep():
                pass
        noops = self.original.buttons[: self.original.noops]
        return record(
            *self.level,
            np.concatenate([noops, np.repeat(self.pressed, AGENT_FRAMES)]),
            source=self.original.source,
            seed=self.original.seed,
            noops=len(noops),
            start=self.original.start,
        )


def run(flags: SimplifyFlags) -> None:
    """Simplify every demo and say what went."""
    actions = action_buttons(flags.action_set)
    if flags.slack < 0:
        raise UsageError(f"--slack must not be negative: {flags.slack}")
    for path in flags.demos:
        demo = load_demo(path)
        simpler = Simplifier(demo, actions, flags.slack, flags.seed).simplify()
        save_demo(flags.output / path.name, simpler)
        before, after = (d.buttons[d.noops :: AGENT_FRAMES] for d in (demo, simpler))
        print(
            f"{flags.output / path.name}: {changes(before)} changes of buttons became "
            f"{changes(after)}, {len(before)} agent steps {len(after)}, "
            f"steps that {flags.action_set} lacks {int((~np.isin(before, actions)).sum())} became "
            f"{int((~np.isin(after, actions)).sum())}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, simplify, and turn every expected failure into one line and an exit code."""
    flags = tyro.cli(SimplifyFlags, args=arguments, description=__doc__)
    return exit_code(lambda: run(flags))


if __name__ == "__main__":
    sys.exit(main())
