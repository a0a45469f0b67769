"""What a run's metrics say about its health: rules over the rows of metrics.jsonl.

A rule looks at the rows up to now and says what is wrong with the numbers that show it, or nothing.
`diagnose` reads a whole run; `Doctor` is fed row by row while one trains (train_mario.py's
CollapseMonitor, the monitor page, scripts/). The thresholds come from two earlier recipes, named P4
and P8 in docs/journey.md: P4, which collapsed within 12,000 steps (entropy 0.95 to 5e-8, KL 0, clip
fraction 0, value loss 1.9e5), must be recognised; P8, which learns slowly, never.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]

ENTROPY_GONE = 0.01  # nats: the likeliest of 5 actions has 99.8 %; P8 starts at 1.8
COMPETENT = 0.5  # clear rate from which on a decided policy is the aim and no collapse
STILL_KL, STILL_CLIP = 1e-5, 1e-4  # of a policy that does not move; P8's lowest are 2e-3 and 4e-3
VALUE_LOSS_ALARM = 500.0  # P4 has 1,500 to 3,800 from its first rollouts on; P8 stays below 1
VALUE_LOSS_GROWTH = 100.0  # times the median of the run so far
WALL_EPISODES, WALL_PX = 1_000, 32  # this many episodes, half of them ending within this
OSCILLATION = 3.0  # px walked for a px of new ground
SATURATED = 0.05  # share of the steps whose normalised reward is clipped
SEVERAL = 3  # rows that must agree where one alone is noise


class Finding(NamedTuple):
    """Something wrong with a run."""

    rule: str
    step: int  # agent steps, where it was first seen
    message: str  # one line with the numbers that show it
    is_collapse: bool  # learning is over; otherwise a warning


def _last(rows: Sequence[Row], count: int, *keys: str) -> list[Row]:
    """Return the last count rows if there are as many and each has the keys, else nothing."""
    last = list(rows[-count:])
    complete = len(last) == count and all(key in row for row in last for key in keys)
    return last if complete else []


def entropy_collapse(rows: Sequence[Row]) -> str | None:
    """The policy has decided before it can play."""
    for row in _last(rows, 1, "entropy"):
        rate = row.get("clear_rate", 0.0)
        if row["entropy"] < ENTROPY_GONE and rate < COMPETENT:
            before = max(r["entropy"] for r in rows if "entropy" in r)
            return (
                f"entropy fell from {before:.3g} to {row['entropy']:.2g} nats at a clear rate of "
                f"{rate:.0%}: it no longer tries anything"
            )
    return None


def frozen_policy(rows: Sequence[Row]) -> str | None:
    """Updates change nothing any more."""
    last = _last(rows, SEVERAL, "approx_kl", "clip_fraction", "learning_rate")
    still = [
        abs(row["approx_kl"]) < STILL_KL
        and row["clip_fraction"] < STILL_CLIP
        and row["learning_rate"] > 0
        and row.get("clear_rate", 0.0) < COMPETENT
        for row in last
    ]
    if last and all(still):
        row = last[-1]
        return (
            f"KL {row['approx_kl']:.1g} and clip fraction {row['clip_fraction']:.1g} for "
            f"{SEVERAL} rollouts: the policy has stopped moving"
        )
    return None


def value_explosion(rows: Sequence[Row]) -> str | None:
    """The value loss drowns the policy's gradient."""
    for row in _last(rows, 1, "value_loss"):
        loss = row["value_loss"]
        if loss > VALUE_LOSS_ALARM:
            return (
                f"value loss {loss:.2g}, above {VALUE_LOSS_ALARM:.0f}: it drowns the policy "
                "gradient; normalise the reward"
            )
        if loss <= 1:  # as nearly always: sorting all rows for every row is slow
            continue
        earlier = sorted(r["value_loss"] for r in rows[:-1] if "value_loss" in r)
        usual = earlier[len(earlier) // 2] if len(earlier) >= 2 * SEVERAL else loss
        if loss > VALUE_LOSS_GROWTH * usual:
            return f"value loss {loss:.2g}, {loss / usual:.0f} times the run's median {usual:.2g}"
    return None


def death_wall(rows: Sequence[Row]) -> str | None:
    """Episodes end at one place, for a thousand of them."""
    keys = ("ppo/episodes", "ppo/max_x_p25", "ppo/max_x_median", "ppo/max_x_p75")
    if not _last(rows, 1, *keys):
        return None
    newest = rows[-1]
    if newest.get("clear_rate", 0.0) >= COMPETENT:
        return None
    backwards = (row for row in reversed(rows) if all(key in row for key in keys))
    since = list(
        itertools.takewhile(
            lambda row: newest["ppo/episodes"] - row["ppo/episodes"] <= WALL_EPISODES, backwards
        )
    )
    begun = newest["ppo/episodes"] - since[-1]["ppo/episodes"]
    if begun < 0.9 * WALL_EPISODES:
        return None
    low = min(row["ppo/max_x_p25"] for row in since)
    high = max(row["ppo/max_x_p75"] for row in since)
    if high - low > WALL_PX:
        return None
    return (
        f"for {begun:.0f} episodes half of them and more ended with max-x between {low:.0f} and "
        f"{high:.0f}: a wall it does not get over"
    )


def oscillation(rows: Sequence[Row]) -> str | None:
    """It walks to and fro for reward instead of forward."""
    last = _last(rows, SEVERAL, "ppo/walked_per_ground")
    if last and all(row["ppo/walked_per_ground"] > OSCILLATION for row in last):
        return (
            f"{last[-1]['ppo/walked_per_ground']:.1f} px walked for each px of new ground: "
            "the reward pays walking to and fro"
        )
    return None


def reward_saturation(rows: Sequence[Row]) -> str | None:
    """The reward normaliser's clip cuts off what it should show."""
    last = _last(rows, SEVERAL, "ppo/reward_clipped")
    if last and all(row["ppo/reward_clipped"] > SATURATED for row in last):
        return (
            f"{last[-1]['ppo/reward_clipped']:.0%} of the normalised rewards are clipped: a flag "
            "and a step look alike; raise norm_reward_clip or scale the bonus down"
        )
    return None


RULES: dict[str, tuple[Callable[[Sequence[Row]], str | None], bool]] = {
    "entropy_collapse": (entropy_collapse, True),
    "frozen_policy": (frozen_policy, True),
    "value_explosion": (value_explosion, True),
    "death_wall": (death_wall, False),
    "oscillation": (oscillation, False),
    "reward_saturation": (reward_saturation, False),
}


class Doctor:
    """Takes a run's rows as they come; reports each rule once."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        """Begin with the rows of the run so far, if it is resumed."""
        self.rows: list[Row] = []
        self.findings: list[Finding] = []
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> list[Finding]:
        """Take the next row of metrics.jsonl and return what it shows for the first time."""
        self.rows.append(row)
        known = {finding.rule for finding in self.findings}
        new = [
            Finding(name, int(row["step"]), message, is_collapse)
            for name, (rule, is_collapse) in RULES.items()
            if name not in known and (message := rule(self.rows))
        ]
        self.findings += new
        return new


def diagnose(rows: Sequence[Row]) -> list[Finding]:
    """Return what is wrong with a run, in the order in which it showed.

    Args:
        rows: metrics.jsonl's, in order (`mario_runs.read_metrics`). What a run does not log, such
            as a DreamerV3's KL, is not judged.
    """
    return Doctor(rows).findings
