"""A search over snapshots, no learning: python examples/tree_search.py --rounds 300.

Keeps the states from which Mario got furthest, and goes on from one of the best by a random burst
of buttons. What a step leads to is exact, so the actions found can be played again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import tyro

import mario_gym


class Node(NamedTuple):
    """A state that was reached."""

    x: int
    actions: tuple[int, ...]  # from the start
    snapshot: mario_gym.EnvSnapshot


def main(rounds: int = 300, burst: int = 12, width: int = 30, seed: int = 0) -> Node:
    made = gym.make("FastMario-1-1-v0", observation="ram", action_set="fast", noop_max=0)
    env: Any = made.unwrapped
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    frontier = [Node(info["x_pos"], (), env.snapshot())]
    for _ in range(rounds):
        node = frontier[rng.integers(min(width, len(frontier)))]
        env.restore(node.snapshot)
        actions, over = list(node.actions), False
        for action in np.repeat(rng.choice(5, size=3, p=[0.4, 0.4, 0.05, 0.05, 0.1]), burst // 3):
            _, _, terminated, truncated, info = env.step(int(action))
            actions.append(int(action))
            over = terminated or truncated
            if over:
                break
        if over and not info["is_success"]:
            continue
        frontier.append(Node(info["x_pos"], tuple(actions), env.snapshot()))
        frontier.sort(key=lambda found: -found.x)
        if info["is_success"]:
            break
    best = frontier[0]
    env.close()
    print(f"furthest x {best.x} with {len(best.actions)} actions")
    return best


if __name__ == "__main__":
    tyro.cli(main)
