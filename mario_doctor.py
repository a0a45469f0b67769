"""What a run's metrics say about its health: rules over the rows of metrics.jsonl.

A rule looks at the rows up to now and says what is wrong with the numbers that show it, or nothing.
`diagnose` reads a whole run; `Doctor` is fed row by row while one trains (every trainer's
`mario_training.RunLog`, the monitor page, scripts/). A row takes the same time however many came
before it. The thresholds come from an earlier project's runs
(docs/journey.md): P4, which collapsed within 12,000 steps (entropy 0.95 to 5e-8, KL 0, clip
fraction 0, value loss 1.9e5), must be recognised; P8, which learns slowly, never.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]

ENTROPY_GONE = 0.01  # nats: the likeliest of 5 actions has 99.8 %; P8 starts at 1.8
COMPETENT = 0.5  # clear rate from which on a decided policy is the aim and no collapse
STILL_KL, STILL_CLIP = 1e-5, 1e-4  # of a policy that does not move; P8's lowest are 2e-3 and 4e-3
VALUE_LOSS_ALARM = 500.0  # P4 has 1,500 to 3,800 from its first rollouts on; P8 stays below 1
VALUE_LOSS_GROWTH = 100.0  # times the median of the run so far
KL_ALARM = 10.0  # nats in one rollout's updates: another policy; a healthy run stays below 0.1
WALL_EPISODES, WALL_PX = 1_000, 32  # this many episodes, half of them ending within this
WALL_ROWS = 500  # that are looked back over for them
FORGOTTEN, FORGOTTEN_ROWS = 0.05, 10  # clear rate of so many rows after one of COMPETENT
OSCILLATION = 3.0  # px walked for a px of new ground
SATURATED = 0.05  # share of the steps whose normalised reward is clipped
SEVERAL = 3  # rows that must agree where one alone is noise
LOSSES = ("value_loss", "policy_loss", "entropy")  # that an update always has


class Finding(NamedTuple):
    """Something wrong with a run."""

    rule: str
    step: int  # agent steps, where it was first seen
    message: str  # one line with the numbers that show it
    is_collapse: bool  # learning is over; otherwise a warning


class RunningMedian:
    """The median of all numbers so far, in two heaps: the lower half and the upper one."""

    def __init__(self) -> None:
        self._low: list[float] = []  # negated: heapq keeps the least first
        self._high: list[float] = []  # as many, or one more

    def __len__(self) -> int:
        return len(self._low) + len(self._high)

    def add(self, value: float) -> None:
        """Take a number."""
        heapq.heappush(self._low, -heapq.heappushpop(self._high, value))
        if len(self._low) > len(self._high):
            heapq.heappush(self._high, -heapq.heappop(self._low))

    def value(self) -> float:
        """Return the median, of an even count the upper of the two in the middle."""
        return self._high[0]


class Ends(NamedTuple):
    """Where half of the last episodes ended."""

    episodes: float  # of the run up to here
    low: float  # max-x, px
    high: float


ENDS_KEYS = ("ppo/episodes", "ppo/max_x_p25", "ppo/max_x_p75")


class History:
    """A run's rows up to now, and what the rules need of all of them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.median_value_loss = RunningMedian()  # of the rows before the last one
        self.most_entropy = 0.0
        self.cleared_at: Row | None = None  # the row of the best clear rate that lasted
        self.seen: set[str] = set()  # losses that were ever logged
        self.ends: deque[Ends] = deque(maxlen=WALL_ROWS)  # the newest first

    def add(self, row: Row) -> None:
        """Take the next row; numbers that are not finite are as good as missing."""
        if self.rows and "value_loss" in self.rows[-1]:
            self.median_value_loss.add(self.rows[-1]["value_loss"])
        row = {key: value for key, value in row.items() if is_number(value)}
        self.rows.append(row)
        self.most_entropy = max(self.most_entropy, row.get("entropy", 0.0))
        if all(key in row for key in ENDS_KEYS):
            self.ends.appendleft(Ends(*(row[key] for key in ENDS_KEYS)))
        self.seen.update(key for key in LOSSES if key in row)
        if recent := self.last(SEVERAL, "clear_rate"):
            lasting = min(recent, key=lambda one: one["clear_rate"])
            if not self.cleared_at or lasting["clear_rate"] > self.cleared_at["clear_rate"]:
                self.cleared_at = lasting

    def last(self, count: int, *keys: str) -> list[Row]:
        """Return the last count rows if there are as many and each has the keys, else nothing."""
        last = self.rows[-count:]
        complete = len(last) == count and all(key in row for row in last for key in keys)
        return last if complete else []


def is_number(value: Any) -> bool:
    """Return whether a value of a row can be reckoned with."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def entropy_collapse(run: History) -> str | None:
    """The policy has decided before it can play."""
    for row in run.last(1, "entropy"):
        rate = row.get("clear_rate", 0.0)
        if row["entropy"] < ENTROPY_GONE and rate < COMPETENT:
            return (
                f"entropy fell from {run.most_entropy:.3g} to {row['entropy']:.2g} nats at a clear "
                f"rate of {rate:.0%}: it no longer tries anything"
            )
    return None


def frozen_policy(run: History) -> str | None:
    """Updates change nothing any more."""
    last = run.last(SEVERAL, "approx_kl", "clip_fraction", "learning_rate")
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


def value_explosion(run: History) -> str | None:
    """The value loss drowns the policy's gradient."""
    for row in run.last(1, "value_loss"):
        loss = row["value_loss"]
        if loss > VALUE_LOSS_ALARM:
            return (
                f"value loss {loss:.2g}, above {VALUE_LOSS_ALARM:.0f}: it drowns the policy "
                "gradient; normalise the reward"
            )
        earlier = run.median_value_loss
        usual = earlier.value() if len(earlier) >= 2 * SEVERAL else loss
        if loss > max(1.0, VALUE_LOSS_GROWTH * usual):
            times = loss / max(usual, 1e-9)
            return f"value loss {loss:.2g}, {times:.0f} times the run's median {usual:.2g}"
    return None


def kl_explosion(run: History) -> str | None:
    """One rollout's updates made another policy of it."""
    for row in run.last(1, "approx_kl"):
        if row["approx_kl"] > KL_ALARM:
            return (
                f"KL {row['approx_kl']:.2g}, above {KL_ALARM:.0f} nats: the updates threw the "
                "policy away; lower the learning rate or set target_kl"
            )
    return None


def missing_losses(run: History) -> str | None:
    """Updates are made, but what they measure is no number."""
    last = run.last(SEVERAL, "learning_rate")
    if not last or last[-1].get("dreamer/updates", 1) <= last[0].get("dreamer/updates", 0):
        return None  # no update since: there is nothing to measure
    expected = run.seen | {"value_loss"}
    missing = [name for name in LOSSES if name in expected and not any(name in r for r in last)]
    if not missing:
        return None
    return f"{missing[0]} is missing or no finite number for {SEVERAL} lines, though it learns"


def forgotten(run: History) -> str | None:
    """It could play, and cannot any more."""
    best, last = run.cleared_at, run.last(FORGOTTEN_ROWS, "clear_rate")
    if not best or best["clear_rate"] < COMPETENT or not last:
        return None
    most = max(row["clear_rate"] for row in last)
    if most > FORGOTTEN:
        return None
    return (
        f"clear rate fell from {best['clear_rate']:.0%} at {best['step']:,} steps to {most:.0%} "
        f"and stays there for {FORGOTTEN_ROWS} lines: it has unlearnt to clear"
    )


def death_wall(run: History) -> str | None:
    """Episodes end at one place, for a thousand of them."""
    for row in run.last(1, *ENDS_KEYS):
        if row.get("clear_rate", 0.0) < COMPETENT:
            return _wall_in(run.ends)
    return None


def _wall_in(ends: Iterable[Ends]) -> str | None:
    """Return what `death_wall` says of ends, the newest first."""
    low, high, now, begun = math.inf, -math.inf, None, 0.0
    for episodes, row_low, row_high in ends:
        now = episodes if now is None else now
        if now - episodes > WALL_EPISODES:
            break
        begun = now - episodes
        low, high = min(low, row_low), max(high, row_high)
        if high - low > WALL_PX:
            return None
    if begun < 0.9 * WALL_EPISODES:
        return None
    return (
        f"for {begun:.0f} episodes half of them and more ended with max-x between {low:.0f} and "
        f"{high:.0f}: a wall it does not get over"
    )


def oscillation(run: History) -> str | None:
    """It walks to and fro for reward instead of forward."""
    last = run.last(SEVERAL, "ppo/walked_per_ground")
    if last and all(row["ppo/walked_per_ground"] > OSCILLATION for row in last):
        return (
            f"{last[-1]['ppo/walked_per_ground']:.1f} px walked for each px of new ground: "
            "the reward pays walking to and fro"
        )
    return None


def reward_saturation(run: History) -> str | None:
    """The reward normaliser's clip cuts off what it should show."""
    last = run.last(SEVERAL, "ppo/reward_clipped")
    if last and all(row["ppo/reward_clipped"] > SATURATED for row in last):
        return (
            f"{last[-1]['ppo/reward_clipped']:.0%} of the normalised rewards are clipped: a flag "
            "and a step look alike; raise norm_reward_clip or scale the bonus down"
        )
    return None


RULES: dict[str, tuple[Callable[[History], str | None], bool]] = {
    "entropy_collapse": (entropy_collapse, True),
    "frozen_policy": (frozen_policy, True),
    "value_explosion": (value_explosion, True),
    "kl_explosion": (kl_explosion, True),
    "missing_losses": (missing_losses, False),
    "forgotten": (forgotten, False),
    "death_wall": (death_wall, False),
    "oscillation": (oscillation, False),
    "reward_saturation": (reward_saturation, False),
}


class Doctor:
    """Takes a run's rows as they come; reports each rule once."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        """Begin with the rows of the run so far, if it is resumed."""
        self.history = History()
        self.findings: list[Finding] = []
        self._rules = dict(RULES)  # those that have found nothing yet
        for row in rows:
            self.add(row)

    @property
    def rows(self) -> list[Row]:
        """The rows up to now."""
        return self.history.rows

    def add(self, row: Row) -> list[Finding]:
        """Take the next row of metrics.jsonl and return what it shows for the first time."""
        self.history.add(row)
        new = [
            Finding(name, int(row["step"]), message, is_collapse)
            for name, (rule, is_collapse) in self._rules.items()
            if (message := rule(self.history))
        ]
        for finding in new:
            del self._rules[finding.rule]
        self.findings += new
        return new


def diagnose(rows: Sequence[Row]) -> list[Finding]:
    """Return what is wrong with a run, in the order in which it showed.

    Args:
        rows: metrics.jsonl's, in order (`mario_runs.read_metrics`). What a run does not log, such
            as a DreamerV3's KL, is not judged.
    """
    return Doctor(rows).findings
