"""A run's post-mortem: did it reach the flag, where does it die, what drives and deceives it?

    python dreamerv3/diagnose.py runs/dreamer --compare-reward death_penalty=50 flag_bonus=100
    python dreamerv3/diagnose.py runs/dreamer --curiosity
    python dreamerv3/diagnose.py runs/dreamer --play 100
    python dreamerv3/diagnose.py runs/dreamer0 runs/dreamer1 runs/dreamer2

Reads the replay (also while the run goes on), metrics.jsonl and the newest model. Writes
<run>/diagnosis/diagnosis.json, and open_loop.mp4 and .png, in which the model sees a sequence's
beginning and then dreams on under the actions that were really done: the real screen, what the
model sees of it, its dream, the difference; with the things that it tells, if it has learnt to.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
import tyro
from scipy.stats import spearmanr
from torch import Tensor

from dreamerv3.envs.mario import recompute_rewards
from dreamerv3.episodes import StoredEpisode, best_first, open_run, stored_episodes
from dreamerv3.exploration import Ensemble, disagreement, ensemble_loss
from dreamerv3.flags import DreamerConfig
from dreamerv3.models import Agent
from dreamerv3.networks import State, centered, unimix_probs
from dreamerv3.pictures import SEEN_STEPS, can_show_screens, sheet_png, side_by_side, views_of
from dreamerv3.policy import DreamerPolicy, policy_from_tensors
from dreamerv3.recurrence import UNIMIX, draw_noise
from dreamerv3.replay import Replay
from mario_checkpoints import find_model, read_model_zip
from mario_cli import UsageError, exit_code
from mario_config import in_process
from mario_judge import evaluate
from mario_rollout import game_fps
from mario_runs import BadModelFile, RunFolder, atomic_write, read_metrics, write_json
from mario_values import Amount, Checked, Seed, parse_flags, with_values
from mario_video import write_video

CURIOSITY_EPISODES = 64  # the newest ones
ENSEMBLE_UPDATES = 300  # of an ensemble for an agent that has none
PLACE_PX = 100  # width of the places that deaths are counted in
DEATH_SEEN = 40  # newest steps of an episode that a model sees before it is asked of its end
DEATH_AHEAD = (1, 2, 4, 8)  # steps that a death is foretold over
SURVIVED = 12  # steps before a death: there a stretch ends that was survived
DREAMS = 8  # of each stretch: the model's samples differ
SHEET_STEPS = (0, 5, 15, 30)  # since the last picture seen, of the frames on the sheet


@dataclasses.dataclass(frozen=True)
class DiagnoseFlags(Checked):
    """Which run, what else to look at."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folders."""
    compare_reward: tuple[str, ...] = ()
    """Reward flags, as death_penalty=50, to set the reward's profile under them beside its own."""
    curiosity: bool = False
    """Set what disagreement pays beside what its logarithm pays, on the newest episodes."""
    play: Amount = 0
    """Episodes to play, `noop` and sampled, with the actor's share of uniform actions and without:
    a wrong one in a hundred ends many episodes that the actor itself would clear."""
    deaths: Amount = 100
    """Newest deaths of which the model is asked whether it knows them, at once and foretold: an
    actor learns to avoid no death that its model does not see."""
    best: Amount = 5
    """Episodes listed as the best."""
    video: bool = True
    """Write open_loop.mp4 and open_loop.png."""
    sequences: Amount = 3
    """Sequences in it."""
    length: Annotated[int, pydantic.Field(ge=SEEN_STEPS + 1, le=10**5)] = 64
    """Steps of each."""
    seed: Seed = 0
    """Chooses them."""


def profile(rewards: np.ndarray) -> dict[str, float]:
    """Return what rewards look like."""
    paid = rewards[~np.isnan(rewards)]
    return {
        "mean": float(paid.mean()),
        "std": float(paid.std()),
        "min": float(paid.min()),
        "max": float(paid.max()),
        "share_positive": float((paid > 0).mean()),
        "share_negative": float((paid < 0).mean()),
        "sum_positive": float(paid[paid > 0].sum()),
        "sum_negative": float(paid[paid < 0].sum()),
    }


def reward_profiles(
    replay: Replay, config: DreamerConfig, changes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the profile of the rewards as stored, and as they would be under changed flags.

    Raises:
        UsageError: a change is not name=number, or no flag of the reward.
    """
    streams = [replay.without_images(stream) for stream in range(len(replay.end))]
    profiles = {"stored": profile(np.concatenate([rows["reward"] for rows in streams]))}
    if changes:
        try:
            values = {name: float(value) for name, value in (c.split("=") for c in changes)}
        except ValueError as error:
            raise UsageError(f"--compare-reward takes name=number: {error}") from error
        reward = with_values(config.env.reward, values, "--compare-reward")
        env = dataclasses.replace(config.env, reward=reward)
        anew = [recompute_rewards(rows, env) for rows in streams]
        profiles[" ".join(changes)] = profile(np.concatenate(anew))
    return profiles


def signals(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return what drove the agent of late: means over the last tenth of metrics.jsonl."""
    keys = (
        *("intrinsic_reward", "dreamer/imagined_reward", "dreamer/imagined_return"),
        *("dreamer/return_range", "dreamer/curious_return_range", "entropy"),
        *("explained_variance", "dreamer/kl"),
    )
    recent = lines[-max(1, len(lines) // 10) :]
    found = {key: [line[key] for line in recent if key in line] for key in keys}
    return {key: float(np.mean(values)) for key, values in found.items() if values}


@torch.no_grad()
def believed(agent: Agent, rows: np.ndarray) -> tuple[Tensor, State, Tensor]:
    """Return T rows' actions int64[T], the states after each, and posterior logits [T, S, K]."""
    images = torch.from_numpy(rows["image"].copy())  # [T, C, H, W]
    actions = torch.from_numpy(rows["action"].astype(np.int64))
    is_first = torch.from_numpy(rows["is_first"].copy())
    is_first[0] = True  # what was before is not known
    tokens = agent.world.encoder(centered(images)).unsqueeze(1)  # [T, 1, tokens]
    deter, stoch, posterior = agent.world.rssm.observe(tokens, actions[:, None], is_first[:, None])
    return actions, State(deter[:, 0], stoch[:, 0]), posterior[:, 0]


def transitions(agent: Agent, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return what the ensemble reads [T - 1, F + A] and predicts [T - 1, S * K] of an episode."""
    actions, states, posterior = believed(agent, rows)
    one_hot = F.one_hot(actions[1:], agent.n_actions).float()
    return torch.cat([states.features[:-1], one_hot], -1), unimix_probs(posterior[1:]).flatten(1)


def fitted_ensemble(agent: Agent, inputs: Tensor, targets: Tensor) -> Ensemble:
    """Return an ensemble for an agent that was trained without one."""
    config = agent.exploration
    ensemble = Ensemble(inputs.shape[1], config.units, config.members, targets.shape[1])
    optimizer = torch.optim.Adam(ensemble.parameters(), 1e-3)
    for _ in range(ENSEMBLE_UPDATES):
        chosen = torch.randint(len(inputs), (512,))
        features, actions = inputs[chosen].split(inputs.shape[1] - agent.n_actions, -1)
        optimizer.zero_grad()
        ensemble_loss(ensemble(features, actions), targets[chosen], torch.ones(512)).backward()
        optimizer.step()
    return ensemble


def curiosity(
    agent: Agent, replay: Replay, episodes: Sequence[StoredEpisode], seed: int
) -> dict[str, dict[str, float]]:
    """Return what disagreement pays, as a variance (Plan2Explore) and as the variance's logarithm.

    Both on the same world model, ensemble and states. A dead agent is paid nothing more: where the
    discounted pay still to come is below 0, dying at once is the better choice.

    Returns:
        of either signal: `mean`, `min` and `max` a step, `better_dead` (share of the states where
        that is so) and `life` (rank correlation of an episode's length with its pay).
    """
    torch.manual_seed(seed)
    long_enough = [episode for episode in episodes if episode.length > 2]
    newest = sorted(long_enough, key=lambda episode: episode.first)[-CURIOSITY_EPISODES:]
    found = [transitions(agent, replay.read(e.stream, e.first, e.length)) for e in newest]
    inputs, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    ensemble = agent.ensemble if agent.curious else fitted_ensemble(agent, inputs, targets)
    lengths = [len(part) for part, _ in found]
    with torch.no_grad():
        features, actions = inputs.split(inputs.shape[1] - agent.n_actions, -1)
        variance = disagreement(ensemble(features, actions))
    pays = {"variance": variance, "logarithm": variance.log()}
    return {name: what_it_pays(pay, lengths, agent.config.discount) for name, pay in pays.items()}


def what_it_pays(pay: Tensor, lengths: Sequence[int], discount: float) -> dict[str, float]:
    """Return `curiosity`'s figures of one signal [steps of all episodes]."""
    still_to_come = []  # of each episode, the discounted pay from each state on
    for steps in pay.split(list(lengths)):
        come = [0.0]
        for value in reversed(steps.tolist()):
            come.append(value + discount * come[-1])
        still_to_come.append(come[:0:-1])
    totals = [come[0] for come in still_to_come]
    figures = {
        "mean": pay.mean().item(),
        "min": pay.min().item(),
        "max": pay.max().item(),
        "better_dead": float(np.mean([c < 0 for come in still_to_come for c in come])),
    }
    if len(set(lengths)) > 1:
        figures["life"] = float(spearmanr(lengths, totals).statistic)
    return figures


@torch.no_grad()
def lives_on(
    agent: Agent, replay: Replay, died: Sequence[StoredEpisode], seed: int
) -> dict[str, dict[str, float]]:
    """Return the chance that an agent's model gives Mario to live on, where he died.

    Args:
        agent: its world model is asked.
        replay: holds the episodes.
        died: episodes that end in a death.
        seed: of the samples.

    Returns:
        `at once`, from the state that has seen the last picture, and `N ahead`, through the last N
        steps as foretold from the state before them under the actions that were done. Of either
        `dies`, the mean of that, and `lives`, the mean where Mario did not die: in all steps
        before, and in stretches of N steps that end `SURVIVED` steps earlier. Without a death long
        enough to ask of: nothing.
    """
    torch.manual_seed(seed)
    world, rssm = agent.world, agent.world.rssm
    weights, table = rssm.weights(), rssm.action_table()
    found: dict[str, dict[str, list[float]]] = {}

    def chance(features: Tensor) -> Tensor:  # [..., F] -> [...]
        return (world.predict_continue(features) / agent.config.discount).clamp(max=1)

    def keep(of: str, how: str, chances: Tensor) -> None:
        found.setdefault(of, {"dies": [], "lives": []})[how] += chances.flatten().tolist()

    for episode in died:
        seen = min(DEATH_SEEN, episode.length)
        rows = replay.read(episode.stream, episode.first + episode.length - seen, seen)
        actions, states, _ = believed(agent, rows)
        chances = chance(states.features)
        keep("at once", "dies", chances[-1])
        keep("at once", "lives", chances[:-1])
        for ahead in DEATH_AHEAD:
            for how, end in (("dies", seen - 1), ("lives", seen - 1 - SURVIVED)):
                if end - ahead < 0:
                    continue
                state = State(*(x[end - ahead].expand(DREAMS, -1) for x in states))
                so_far = torch.ones(DREAMS)
                for t in range(end - ahead + 1, end + 1):
                    noise = draw_noise(1, DREAMS, rssm.stoch, rssm.classes).at(0)
                    inputs = table[actions[t]].expand(DREAMS, -1)
                    state = rssm.imagine_step(weights, state, inputs, noise)
                    so_far *= chance(state.features)
                keep(f"{ahead} ahead", how, so_far)
    return {
        of: {how: float(np.mean(values)) for how, values in by.items()}
        for of, by in found.items()
        if by["dies"] and by["lives"]
    }


def post_mortems(flags: DiagnoseFlags) -> None:
    """Look at each run, and at several beside each other."""
    if not flags.runs:
        raise UsageError("name at least one run folder")
    found = {}
    for run in flags.runs:
        if len(flags.runs) > 1:
            print(f"\n{run}")
        found[str(run)] = post_mortem(flags, run)
    if len(found) > 1:
        print("\n" + "\n".join(compared(found)))


def compared(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a table in Markdown, a line a run, of what `post_mortem` found of each."""
    yield "| run | flags from the start | best max-x | dies most at x | entropy | KL |"
    yield "|---|---|---|---|---|---|"
    for run, findings in found.items():
        deaths = findings["deaths_by_x"]
        worst = max(deaths, key=lambda x: deaths[x]) if deaths else "-"
        drives = [findings["signals"].get(key) for key in ("entropy", "dreamer/kl")]
        numbers = ["-" if value is None else f"{value:.3g}" for value in drives]
        yield (
            f"| {run} | {findings['flags_from_start']} of {findings['episodes_from_start']} | "
            f"{findings['best'][0]['max_x']} | {worst} | {numbers[0]} | {numbers[1]} |"
        )


def post_mortem(flags: DiagnoseFlags, run: Path) -> dict[str, Any]:
    """Look at a run, print, write; return what was found."""
    config, replay = open_run(run)
    episodes = list(stored_episodes(replay))
    if not episodes:
        raise UsageError(f"{run} holds no finished episode yet")
    best = best_first(episodes)
    start_x = best[0].start_x
    flags_from_start = [episode for episode in best if episode.flag]
    deaths = np.array([episode.end_x for episode in best if episode.dead], dtype=np.int64)
    places, counts = np.unique(deaths // PLACE_PX * PLACE_PX, return_counts=True)
    findings = {
        "episodes": len(episodes),
        "episodes_from_start": len(best),
        "flags": sum(episode.flag for episode in episodes),
        "flags_from_start": len(flags_from_start),
        "start_x": start_x,
        "goal_line_x": config.env.goal_of(config.env.stages[0]),
        "best": [episode._asdict() for episode in best[: flags.best]],
        "deaths_by_x": {str(x): int(n) for x, n in zip(places, counts, strict=True)},
        "reward": reward_profiles(replay, config, flags.compare_reward),
        "signals": signals(read_metrics(RunFolder(run).metrics_path)),
    }
    asks_agent = flags.video or flags.curiosity or flags.play or flags.deaths
    policy = trained_policy(run) if asks_agent else None
    if flags.deaths and policy:
        died = sorted((e for e in episodes if e.dead), key=lambda e: -e.first)[: flags.deaths]
        findings["lives_on"] = lives_on(policy.agent, replay, died, flags.seed)
    if flags.curiosity and policy:
        findings["curiosity"] = curiosity(policy.agent, replay, episodes, flags.seed)
    if flags.play and policy:
        findings["played"] = played(policy, flags.play, flags.seed)
    output = run / "diagnosis"
    write_json(output / "diagnosis.json", findings)
    print("\n".join(findings_lines(findings)))
    if flags.video and policy:
        write_open_loop(flags, policy.agent, config, replay, episodes, output)
    print(f"written to {output}")
    return findings


def findings_lines(findings: dict[str, Any]) -> Iterator[str]:
    """Yield what a person wants to know, in lines."""
    yield (
        f"flags: {findings['flags_from_start']} of {findings['episodes_from_start']} episodes "
        f"from the level's start, {findings['flags']} of {findings['episodes']} from anywhere"
    )
    for episode in findings["best"]:
        yield (
            f"  best: max-x {episode['max_x']} of {findings['goal_line_x']} in "
            f"{episode['length'] - 1} steps, return {episode['episode_return']:.2f}"
            f"{', flag' if episode['flag'] else ''}"
        )
    deaths = sorted(findings["deaths_by_x"].items(), key=lambda item: -item[1])
    for x, count in deaths[:8]:
        yield f"  dies at x {x}-{int(x) + PLACE_PX - 1}: {count}"
    for name, values in findings["reward"].items():
        yield f"reward, {name}: " + ", ".join(f"{k} {v:.3g}" for k, v in values.items())
    for name, value in findings["signals"].items():
        yield f"  {name}: {value:.4g}"
    for name, values in findings.get("curiosity", {}).items():
        yield f"curiosity, {name}: " + ", ".join(f"{k} {v:.3g}" for k, v in values.items())
    if chances := findings.get("lives_on"):
        told = (f"{of} {c['dies']:.2f} ({c['lives']:.2f})" for of, c in chances.items())
        yield "chance to live on through a death (through a step that it lived): " + ", ".join(told)
    for name, values in findings.get("played", {}).items():
        yield f"sampled, {name}: {values['flags_cleared']} of {values['episodes']} cleared"


def trained_policy(run: Path) -> DreamerPolicy | None:
    """Return a run's model as a policy; None, and a line that says so, if it has none yet."""
    try:
        model = find_model(run)
    except BadModelFile:
        print("no model yet: no open-loop video, no curiosity, nothing played")
        return None
    return policy_from_tensors(*read_model_zip(model), str(model))


def played(policy: DreamerPolicy, episodes: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return how a policy's samples fare as it trains, and without its uniform actions.

    Args:
        policy: plays `noop` episodes on fastnes.
        episodes: of each kind.
        seed: the first episode's.
    """
    found = {}
    for name, unimix in (("as it trains", UNIMIX), ("without uniform actions", 0.0)):
        summary, _ = evaluate(
            DreamerPolicy(policy.agent, policy.env_config, unimix),
            in_process(policy.env_config, "fast"),
            protocol="noop",
            episodes=episodes,
            deterministic=False,
            seed=seed,
        )
        found[name] = {
            "flags_cleared": summary.flags_cleared,
            "episodes": episodes,
            "clear_rate_ci95": summary.clear_rate_ci95,
            "median_max_x": summary.median_max_x,
        }
    return found


def write_open_loop(
    flags: DiagnoseFlags,
    agent: Agent,
    config: DreamerConfig,
    replay: Replay,
    episodes: Sequence[StoredEpisode],
    output: Path,
) -> None:
    """Film open-loop predictions of an agent's world model, and put the first on a sheet."""
    rng = np.random.default_rng(flags.seed)
    frames: list[np.ndarray] = []
    long_enough = [episode for episode in best_first(episodes) if episode.length >= flags.length]
    with_screens = bool(long_enough) and can_show_screens(config.env)
    for _ in range(flags.sequences if long_enough else 0):
        episode = long_enough[int(rng.integers(len(long_enough)))]
        rows = replay.read(episode.stream, episode.first, episode.length)
        start = int(rng.integers(episode.length - flags.length + 1))
        views = views_of(rows, config.env) if with_screens else None
        views = views and views.part(start, flags.length)
        part = rows[start : start + flags.length]
        frames += side_by_side(agent, part, config.env, views, SEEN_STEPS)
    if frames:
        widest = max(frame.shape[1] for frame in frames)
        frames = [np.pad(frame, ((0, 0), (widest - frame.shape[1], 0), (0, 0))) for frame in frames]
        write_video(output / "open_loop.mp4", frames, game_fps(config.env), max_width=1024)
        shown = [SEEN_STEPS - 1 + ahead for ahead in SHEET_STEPS]
        sheet = [frames[number] for number in shown if number < min(flags.length, len(frames))]
        atomic_write(output / "open_loop.png", sheet_png(sheet))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and diagnose."""
    return exit_code(
        lambda: post_mortems(parse_flags(DiagnoseFlags, arguments, __doc__.split("\n\n")[0]))
    )


if __name__ == "__main__":
    sys.exit(main())
