"""Studies: what is written is read back, its types checked; the same study is the same bytes."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import multiprocessing
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

import bench_throughput
import mario_tables
import teach_mario
from bench_throughput import Measure
from dreamerv3 import flags
from mario_checkpoints import read_model_zip
from mario_cli import UsageError
from mario_config import in_process
from mario_judge import default_protocol, protocol_config
from mario_keeping import (
    figure_rows,
    keep_run,
    noops_of_seed,
    told_by,
    turn_rows,
)
from mario_policies import PRETRAINED, load_policy
from mario_results import (
    RESULTS,
    ROOT,
    SHIPPED,
    About,
    Evaluation,
    Figure,
    Judgement,
    PhaseRecord,
    Played,
    Point,
    RunFacts,
    Study,
    Training,
    Turn,
    is_study,
    read_study,
    shared,
    study_and_run,
    write_study,
)
from mario_rollout import play
from scripts import learning_curve
from train_mario import TrainConfig, config_from_dict, parse_config
from train_mario_professional import read_plan, write_recipes

STUDIES = [folder for folder in sorted(RESULTS.iterdir()) if folder.is_dir()]
RECIPES = ROOT / "configs" / "shipped"


def episode(seed: int, cleared: bool, **changes: Any) -> Played:
    """An episode of run `a`, by argmax from a no-op start, unless changed."""
    about: dict[str, Any] = {
        **{"run": "a", "mode": "argmax", "protocol": "noop", "emulator": "fast", "stage": "1-1"},
        **{"seed": seed, "cleared": cleared, "length": 264, "episode_return": 27.0083},
        **{"max_x": 3161, "end_x": 3161, "noops": noops_of_seed(seed)},
    }
    return Played(**about | changes)


def small_study() -> Study:
    """A study with a row of every kind and two phases whose configs share something."""
    first = PhaseRecord(
        {"env": {"stage": 1, "n_envs": 16}, "agent": "ppo"},
        [Point("a", 8192, 10.25, "first", {"max_x": 310.5}), Point("a", 16384, 20.0, "first")],
        [Evaluation("a", 16384, 20.0, "sampled", "noop", 32, 0.5, 1000.25, 900.0, 264.0, "first")],
    )
    second = PhaseRecord({"env": {"stage": 1, "n_envs": 16.0}, "agent": "ppo"}, [], [])
    trainings = (Training("before", "1-1", 100, 1.5, 0, "abc", ("train_mario.py",), "demos"),)
    facts = RunFacts("demos", "base", "1-1", 3, kept_at_step=8192, trainings=trainings)
    rows: list[Any] = [
        episode(0, True),
        episode(1, False, noops=None, protocol="fixed"),
        Turn("a", "frames/s", "frames/s", 1, 2.0, 1.0, 2.0),
        Figure("a", "curiosity/mean", 1e-12),
    ]
    about = About("A study", ("python x.py",), "2 cores", {})
    return Study(about).with_run("a", facts, rows, {"first": first, "second": second})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    study = small_study()
    write_study(tmp_path / "s", study)
    assert read_study(tmp_path / "s") == study
    first = (tmp_path / "s" / "study.csv.gz").read_bytes()
    write_study(tmp_path / "t", study)
    assert (tmp_path / "t" / "study.csv.gz").read_bytes() == first, "no time stamp"
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        *("study.csv.gz", "study.json", "README.md")
    }


def test_configs_come_back_whole_though_what_is_shared_is_kept_once(tmp_path: Path) -> None:
    study = small_study()
    assert study.about.config == {"env": {"stage": 1}, "agent": "ppo"}, "16 and 16.0 differ"
    write_study(tmp_path, study)
    first, second = read_study(tmp_path).phases("a")
    assert first.config == {"env": {"stage": 1, "n_envs": 16}, "agent": "ppo"}
    assert second.config == {"env": {"stage": 1, "n_envs": 16.0}, "agent": "ppo"}
    assert [point.step for point in first.points] == [8192, 16384]
    assert not second.points
    assert shared([]) == {}


def test_a_run_is_put_in_the_place_of_the_one_of_its_name() -> None:
    study = small_study().with_run("b", RunFacts(), [episode(0, True, run="b")])
    again = study.with_run("a", RunFacts(seed=4), [episode(5, True)])
    assert list(again.about.runs) == ["a", "b"]
    assert [(row.run, getattr(row, "seed", None)) for row in again.rows] == [("a", 5), ("b", 0)]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("kind", "epsiode", "no known kind"),
        ("seed", "four", "seed"),
        ("mode", "greedy", "mode"),
        ("wall_s", "3", "wall_s"),  # an episode has none
    ],
)
def test_a_wrong_cell_is_one_line(tmp_path: Path, column: str, value: str, said: str) -> None:
    write_study(tmp_path, small_study())
    table = tmp_path / "study.csv.gz"
    reader = csv.DictReader(io.StringIO(gzip.decompress(table.read_bytes()).decode()))
    rows = list(reader)
    [row, _] = [row for row in rows if row["kind"] == "episode"]
    row[column] = value
    text = io.StringIO()
    writer = csv.DictWriter(text, reader.fieldnames or ())
    writer.writeheader()
    writer.writerows(rows)
    table.write_bytes(gzip.compress(text.getvalue().encode()))
    read_study.cache_clear()
    with pytest.raises(UsageError, match=said) as raised:
        read_study(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("study.csv.gz", b"no gzip"),
        ("study.csv.gz", gzip.compress(b"run,kind\n", mtime=0)[:-9]),
        ("study.json", b"{"),
        ("study.json", b'{"title": "t", "commands": [], "conditions": "", "runs": {}, "x": 1}'),
    ],
)
def test_a_torn_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    write_study(tmp_path, small_study())
    (tmp_path / name).write_bytes(content)
    read_study.cache_clear()
    with pytest.raises(UsageError) as raised:
        read_study(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_row_of_an_unknown_run_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'b'"):
        write_study(tmp_path, Study(small_study().about, (episode(0, True, run="b"),)))
    assert not list(tmp_path.iterdir())


def test_a_row_is_not_written_twice(tmp_path: Path) -> None:
    point = Point("a", 100, 1.0, metrics={"max_x": 40.0})
    with pytest.raises(UsageError, match=r"would say twice.*'max_x': 40.0"):
        write_study(tmp_path, Study(small_study().about, (point, dataclasses.replace(point))))
    assert not list(tmp_path.iterdir())


def test_a_path_names_a_run_of_a_study(tmp_path: Path) -> None:
    study = small_study().with_run("levels/1-2", RunFacts(), [])
    write_study(tmp_path / "s", study)
    assert study_and_run(tmp_path / "s" / "levels" / "1-2")[1] == "levels/1-2"
    with pytest.raises(UsageError, match="there are: a, levels/1-2"):
        study_and_run(tmp_path / "s" / "b")
    with pytest.raises(UsageError, match="no run of a study"):
        study_and_run(tmp_path / "t" / "a")


def keep_a_few(folder: Path, worker: int) -> None:
    """Keep runs in a study that this process has read before."""
    for number in range(8):
        if number:
            read_study(folder)
        name = f"{worker}/{number}"
        keep_run(folder, name, RunFacts(), [Figure(name, "worker", float(worker))])


def test_processes_that_keep_runs_at_once_lose_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=keep_a_few, args=(tmp_path / "s", one)) for one in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(read_study(tmp_path / "s").about.runs) == 3 * 8


def test_the_table_of_speed_shows_ours_beside_the_peers(tmp_path: Path) -> None:
    sides = {"ours": 90.0, "theirs": 100.0, "ratio": 0.9, "ratios": [0.85, 0.9, 0.95]}
    measures = [{"name": "a", "unit": "steps/s", **sides}, {"name": "b", "unit": "s", "ours": 1234}]
    keep_run(tmp_path / "speed", "here", RunFacts(), turn_rows("here", measures))
    rows = list(mario_tables.speed(tmp_path / "speed" / "here"))[2:]
    assert rows == [
        "| a | 90 steps/s | 100 steps/s | 0.9x, slower (0.85 to 0.95) |",
        "| b | 1,234 s |  |  |",
    ]


def test_the_benchmark_says_its_figures_and_judges_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, alone = iter((85.0, 90.0, 95.0)), iter((1.0, 1234.0, 5000.0))
    measures = [
        Measure("a", "steps/s", lambda: next(ours), lambda: 100.0),
        Measure("b", "updates/s", lambda: next(alone)),
    ]
    content = bench_throughput.run(measures, 3)
    assert capsys.readouterr().out.splitlines() == [
        "a: 0.9x, slower (0.85 to 0.95), 90 steps/s to the peer's 100 steps/s",
        "b: 1,234 updates/s",
    ]
    sides = {"ours": 90.0, "theirs": 100.0, "ratio": 0.9, "ratios": [0.85, 0.9, 0.95]}
    assert content == [
        {"name": "a", "unit": "steps/s", **sides},
        {"name": "b", "unit": "updates/s", "ours": 1234.0},
    ]


def test_what_was_told_is_read_off_the_config() -> None:
    assert told_by({"run": {"backward_demos": None}}) == "pixels only"
    assert told_by({"run": {}}, {"run": {"backward_demos": "demos"}}) == "demos"
    assert told_by({"run": {}, "curriculum": {"backward_demos": "runs/demos"}}) == "demos"
    dreamer = {"agent": "dreamerv3", "run": {"teacher": None}, "model": {"scene_head": "detached"}}
    assert told_by(dreamer) == "pixels only"
    assert told_by(dreamer | {"run": {"teacher": "runs/teacher"}}) == "taught"
    assert told_by(dreamer | {"model": {"scene_head": "informed"}}) == "informed"
    assert told_by(dreamer | {"model": {"sprite_share": 0.3}}) == "informed"


def test_numbers_of_nested_json_are_named_by_their_path() -> None:
    content = {"a": {"b": 1, "c": [0.5, None]}, "d": "text", "e": True}
    assert [(one.name, one.value) for one in figure_rows("r", content)] == [
        *(("a/b", 1.0), ("a/c/0", 0.5), ("e", 1.0))
    ]


def make_run(folder: Path, config: str = '{"agent": "ppo", "run": {"seed": 3}}') -> Path:
    """A run folder with a curve of two points and a line that says no time."""
    folder.mkdir(parents=True)
    lines = ['{"step": 100, "wall_s": 1.0}', '{"step": 200, "wall_s": 2.0}', '{"step": 300}']
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "train_config.json").write_text(config)
    return folder


def test_a_run_is_kept_with_its_diagnosis_where_the_tool_writes_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for place, figure in ((run, 1), (run / "diagnosis", 2)):
        place.mkdir(exist_ok=True)
        (place / "diagnosis.json").write_text(json.dumps({"a": {"b": figure}}))
        keep = ["--every", "1", "--keep", str(tmp_path / "s" / "seed0")]
        assert learning_curve.main([str(run), *keep]) == 0
        study = read_study(tmp_path / "s")
        assert study.figures("seed0") == {"a/b": figure}
        assert study.about.runs["seed0"].seed == 3
        assert [point.step for point in study.of(Point, "seed0")] == [100, 200]


BROKEN_JSON = ["{", "[" * 100_000, "[1]", '{"a": NaN}', '{"a": [Infinity]}', '{"a": 1e999}']
BROKEN_JSON += ['{"": 1}', '{"a": ' + "9" * 400 + "}", '{"a": ' + "[" * 99 + "]" * 99 + "}"]
BROKEN_JSON += ['{"\\ud800": 1}', '{"a": "\\u0000"}', '{"a": ' + "[" * 5000 + "]" * 5000 + "}"]
BROKEN_CONFIGS = ['{"run": 5}', '{"run": {}, "model": 5}', '{"run": {}, "agent": ["x"]}', "{}"]
BROKEN_CONFIGS += ['{"run": {"seed": "x"}}', '{"model": 5}', '{"agent": ["x"]}', *BROKEN_JSON]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("train_config.json", content) for content in BROKEN_CONFIGS),
        *(("diagnosis.json", content) for content in BROKEN_JSON),
        ("metrics.jsonl", '{"step": 1}\n'),
    ],
    ids=lambda text: text[:24],
)
def test_a_broken_file_of_a_run_is_one_line_and_nothing_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_text(content)
    assert learning_curve.main([str(run), "--keep", str(tmp_path / "s" / "seed0")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(run) in line and len(line) < 400
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("place", ["/", ".", "..", "seed0", "s/..", "s", "s/../../x", "/seed0"])
def test_a_kept_run_has_a_study_and_a_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_study(Path("s"), small_study())
    before = sorted(tmp_path.rglob("*"))
    assert learning_curve.main([str(run), "--keep", place]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "names no run of a study: results/mine/seed0 does" in line
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.chdir("s")
    assert learning_curve.main([str(run), "--keep", "seed0"]) == 0, "here is a study"


# --------------------------------------------------------------------------------------------
# Judging
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "changes", "text"),
    [
        (range(100), {}, "100/100 (28 of 30 starts)"),
        (range(100), {"mode": "sampled"}, "100/100 (96-100 %)"),
        (range(100), {"protocol": "sticky"}, "100/100 (96-100 %)"),
        (range(1), {"protocol": "fixed", "noops": None}, "1/1"),
        (range(100), {"protocol": "fixed", "mode": "sampled", "noops": None}, "100/100 (96-100 %)"),
    ],
)
def test_argmax_from_no_op_starts_is_counted_and_not_estimated(
    seeds: range, changes: dict[str, Any], text: str
) -> None:
    assert str(Judgement(tuple(episode(seed, True, **changes) for seed in seeds))) == text


def test_every_start_once_is_counted_exactly() -> None:
    starts = tuple(episode(noops, noops != 13, noops=noops) for noops in range(1, 31))
    assert str(Judgement(starts)) == "29/30"


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_a_start_has_one_outcome_by_argmax(folder: Path) -> None:
    """Whatever the seed: the number of no-ops is all that is random."""
    outcomes: dict[tuple[object, ...], tuple[object, ...]] = {}
    for row in read_study(folder).rows:
        if isinstance(row, Played) and (row.protocol, row.mode) == ("noop", "argmax"):
            key = (row.run, row.stage, row.noops)
            ended = (row.cleared, row.length, row.episode_return, row.max_x, row.end_x)
            assert outcomes.setdefault(key, ended) == ended


# --------------------------------------------------------------------------------------------
# What is kept
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_every_study_is_whole(folder: Path, tmp_path: Path) -> None:
    assert is_study(folder)
    study = read_study(folder)
    assert {row.run for row in study.rows} == set(study.about.runs), "no run without a row"
    assert study.about.commands
    assert study.about.conditions
    for run, facts in study.about.runs.items():
        is_learnt = any(phase.points for phase in study.phases(run)) or facts.trainings
        assert not is_learnt or facts.told, "what a learner was told is said"
    write_study(tmp_path, study)
    read_study.cache_clear()
    assert read_study(tmp_path) == study


def test_every_shipped_student_was_taught_by_the_recipe(tmp_path: Path) -> None:
    recipes = {}
    for name in ("taught", "taught_color", "taught_color_on"):
        name = f"configs/{name}.yaml"
        flags = ["--config", str(ROOT / name), "--run-dir", str(tmp_path)]
        recipes[name] = dataclasses.asdict(teach_mario.parse_config(flags).student)
        del recipes[name]["timesteps"]  # each card says how many
    configs = sorted(PRETRAINED.glob("taught/*/train_config.json"))
    used = set()
    for path in configs:
        [named] = re.findall(r"Recipe: \[([\w./]+)\]", path.with_name("README.md").read_text())
        learnt = {"observation": "pixels"} | json.loads(path.read_text())["student"]  # older: gray
        del learnt["timesteps"]
        assert learnt == recipes[named], path
        used.add(named)
    assert used == set(recipes)


def test_no_shipped_file_names_a_machines_folder() -> None:
    files = sorted(PRETRAINED.rglob("*.zip"))
    assert files
    for path in files:
        with zipfile.ZipFile(path) as model:
            texts = [model.read(name) for name in model.namelist() if name.endswith(".json")]
        assert texts
        for text in texts:
            assert not re.search(rb'"(/|[A-Z]:\\)', text), f"{path} names an absolute path"


def test_every_shipped_policy_is_in_the_study_and_has_its_recipe() -> None:
    names = {
        path.parent.relative_to(PRETRAINED).as_posix() for path in PRETRAINED.rglob("best_eval.zip")
    }
    study = read_study(SHIPPED)
    # A policy that a taught one has replaced is gone; its episodes stay.
    replaced = set(study.about.runs) - names
    assert names <= set(study.about.runs)
    assert all(f"taught/{name.removeprefix('ppo_levels/')}" in names for name in replaced)
    assert {name for name in names if not name.startswith("taught/")} == {
        path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml")
    }
    for name in names:
        noop = study.judgement(name, "noop", "argmax")
        assert (len(noop.played), noop.starts) == (30, 30), name
        assert all(one.stage == study.about.runs[name].stage for one in noop.played)


def test_a_judged_episode_can_be_played_again() -> None:
    name = "ppo_mario_1-1_noop"
    kept = read_study(SHIPPED).judgement(name, "noop", "argmax").played[0]
    policy = load_policy(PRETRAINED / name)
    config = protocol_config(in_process(policy.env_config), "noop")
    [episode] = play(policy, config, 1, deterministic=True, seed=kept.seed)
    played = (episode.flag, episode.length, episode.max_x, episode.end_x)
    assert played == (kept.cleared, kept.length, kept.max_x, kept.end_x)


def flags_of(config: TrainConfig) -> dict[str, Any]:
    """What a training does, without where it ran, and where its first weights lay then."""
    run = dataclasses.asdict(config.run)
    for place in ("config", "run_dir", "resume_model", "warm_start"):
        run.pop(place)
    if run["eval_protocol"] == "auto":
        run["eval_protocol"] = default_protocol(config.env)
    content = {"run": run, **{part: dataclasses.asdict(getattr(config, part)) for part in PARTS}}
    return json.loads(json.dumps(content, default=str))


PARTS = ("env", "ppo", "rnd")


@pytest.mark.parametrize(
    "recipe", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.relative_to(RECIPES).as_posix()
)
def test_a_recipe_ends_in_the_training_that_was_shipped(recipe: Path, tmp_path: Path) -> None:
    name = recipe.relative_to(RECIPES).with_suffix("").as_posix()
    shipped, _ = read_model_zip(PRETRAINED / name / "best_eval.zip")
    if shipped["agent"] == "dreamerv3":
        dream = flags.with_overlay(flags.DreamerConfig(), str(recipe))
        expected = flags.config_from_dict(shipped)
        for part in ("model", "exploration", "replay"):
            assert getattr(dream, part) == getattr(expected, part)
        env = dataclasses.replace(dream.env, discount=dream.model.discount)
        assert env == expected.env
        for flag in ("timesteps", "seed", "threads", "eval_freq", "eval_episodes", "seed_demos"):
            assert str(getattr(dream.run, flag)) == str(getattr(expected.run, flag)), flag
        for flag, value in dataclasses.asdict(expected.curriculum).items():
            assert str(getattr(dream.curriculum, flag)) == str(value), flag
        return
    [chain] = read_plan(recipe, tmp_path)
    write_recipes([chain])
    made = parse_config(["--config", str(chain.recipe_path(len(chain.phases) - 1))])
    assert flags_of(made) == flags_of(config_from_dict(shipped))


def test_the_chain_of_the_headline_policy_is_that_of_its_study(tmp_path: Path) -> None:
    [chain] = read_plan(RECIPES / "ppo_mario_1-1.yaml", tmp_path)
    study = read_study(RESULTS / "ppo_1-1_sticky")
    write_recipes([chain])
    for number, run in enumerate(("phase1", "phase2", "phase3", "phase7", "phase8")):
        made = parse_config(["--config", str(chain.recipe_path(number))])
        [phase] = study.phases(run)
        assert flags_of(made) == flags_of(config_from_dict(phase.config)), run
