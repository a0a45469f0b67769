"""README and docs: commands parse, files exist, links lead somewhere, tables say what was found."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

import mario_tables
from mario_results import is_study, read_study, study_of
from mario_tables import documents, with_tables
from scripts import doc_tables, front_door, launch

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"

PAGES = [page.relative_to(ROOT).as_posix() for page in documents()]
FENCE = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
IN_A_RUN_FOLDER = ("tensorboard/", "models/", "evaluations/", "previews/")
MADE_AT_RUN_TIME = (".venv/", "runs/", "logs/", "backups/", "/", "~", "http", *IN_A_RUN_FOLDER)
EXAMPLES = (
    "demos/mine.npz",
    "demos/W-S.npz",
    "episodes/1-1",
    "you/",
    "./shared/",
    "some.zip",
    "a.mp4",
    "b.mp4",
    "both.gif",
    "results/mine",
    "results/mine/seed0",
    "results/speed/mine",
)
SUFFIXES = set(
    ".py .sh .ps1 .md .yaml .json .jsonl .csv .txt .npz .zip .state .png .gif .mp4".split()
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------


def code_lines(text: str) -> Iterator[str]:
    """Lines of fenced and indented code, continuations joined; code in a sentence."""
    blocks = FENCE.findall(text)
    rest = FENCE.sub("", text)
    blocks += [
        line[4:] + "\n" for line in re.sub(r"\\\n +", "", rest).splitlines() if line[:4] == "    "
    ]
    for block in blocks:
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    yield from SPAN.findall(rest)


def commands(page: str) -> list[list[str]]:
    """The words of every command of this project that a page shows."""
    found = []
    for line in code_lines(text_of(page)):
        for part in re.split(r"\s(?:&&|\||;)\s", line.strip()):
            if part.startswith("scripts\\"):
                part = part.replace("\\", "/")
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # an apostrophe: no command
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and is_command(words):
                found.append(words)
    return found


def is_command(words: list[str]) -> bool:
    """Whether words call a script of ours, by name or as the front door's command."""
    first, *rest = words
    if first == "python":
        return bool(rest) and rest[0] != "-m"
    if first in front_door.COMMANDS:
        return any(word.startswith("--") for word in rest)
    return bool(rest) and (first.startswith("scripts/") or first.endswith(".py"))


def script_and_flags(words: list[str]) -> tuple[str, list[str]]:
    """The Python script that words call in the end, and what it gets."""
    first, *rest = words
    if first.endswith(".ps1"):
        rest = list(front_door.with_unix_flags(rest))
    if first == "python":
        return rest[0], rest[1:]
    if first in ("scripts/run_mario.sh", "scripts/run_mario.ps1"):
        if rest == ["--help"]:
            return "", []
        assert rest and rest[0] in front_door.COMMANDS, f"no command {rest[:1]}"
        return target_of(rest[0], rest[1:])
    if first.endswith((".sh", ".ps1")):
        launcher = (ROOT / first).with_suffix(".sh").read_text()
        given = re.search(r'run_mario\.sh" (.*) "\$@"', launcher)
        assert given, f"{first} calls no command"
        command, *flags = shlex.split(given[1])
        return target_of(command, [*flags, *rest])
    if first in front_door.COMMANDS:
        return target_of(first, rest)
    return first, rest


def target_of(command: str, flags: list[str]) -> tuple[str, list[str]]:
    """The script of a command of the front door, and its flags; of -m, the module after it."""
    target = front_door.COMMANDS[command].target
    if target == "scripts/train_dreamer.py":  # it becomes this one, with the same flags
        return "dreamerv3/dreamer.py", flags
    if command == "python" and flags and flags[0].endswith(".py"):
        return flags[0], flags[1:]
    script, *own = target.split() or ["", ""]
    return (target, flags) if script == "-m" else (script, [*own, *flags])


class Parsed(Exception):
    """A script's parser took its flags."""

    def __init__(self, result: Any) -> None:
        self.result = result


def check_parses(script: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script up to where its flags are parsed, and hand on what it hands on."""
    real_cli, real_parse = tyro.cli, argparse.ArgumentParser.parse_args

    def cli(*args: Any, **kwargs: Any) -> Any:
        raise Parsed(real_cli(*args, **kwargs))

    def parse(*args: Any, **kwargs: Any) -> Any:
        raise Parsed(real_parse(*args, **kwargs))

    assert (ROOT / script).is_file(), f"there is no {script}"
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [script, *flags])
        patch.syspath_prepend((ROOT / script).parent)
        if script not in ("scripts/front_door.py", "scripts/run_tests.py"):
            patch.setattr(tyro, "cli", cli)
            patch.setattr(argparse.ArgumentParser, "parse_args", parse)
            try:
                runpy.run_path(script, run_name="__main__")
            except Parsed as parsed:
                result = parsed.result
            except SystemExit as end:
                if end.code or not {"--help", "--help-all"} & set(flags):
                    raise AssertionError(f"{script} {flags} does not parse") from end
                return
            else:
                raise AssertionError(f"{script} took no flags")
    if isinstance(result, tuple):  # what the script does not know goes to a trainer
        known, others = result
        recipe = launch.RECIPES[known.recipe] if script == "scripts/launch.py" else None
        if recipe:
            others = ["--run-dir", "runs/new", *recipe.flags, *others]
        check_parses(recipe.program if recipe else "dreamerv3/dreamer.py", others, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = shutil.copy(ROOT / "pretrained" / "ppo_mario_1-1" / "best_eval.zip", tmp_path)
    (tmp_path / "best_eval.state").touch()
    for words in commands(page):
        script, flags = script_and_flags(words)
        if "--resume-model" in flags:  # the trainer reads it to know what its flags mean
            value = flags.index("--resume-model") + 1
            flags[value : value + 1] = [str(checkpoint)]
        if script in ("quick_mario_smoke.py", "scripts/run_tests.py"):  # they have no flags
            continue
        if not script:  # Python itself, or the installation
            continue
        if script.startswith("-m "):  # another project's, which is installed
            assert importlib.util.find_spec(script.split()[1])
            continue
        try:
            check_parses(script, flags, monkeypatch)
        except AssertionError as error:
            raise AssertionError(
                f"{shlex.join(words)}: {error}\n{capsys.readouterr().err}"
            ) from error


def test_the_check_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        "evaluate_mario.py --no-such-flag",
        "evaluate_mario.py --protocol nope",
        "train_mario.py --config configs/no_such.yaml",
        "scripts/launch.py overnight --no-such-flag",
        "no_such.py",
    ):
        script, *flags = wrong.split()
        with pytest.raises(AssertionError):
            check_parses(script, flags, monkeypatch)
    check_parses("scripts/launch.py", ["overnight", "--seed", "3"], monkeypatch)
    assert not is_command(["python", "-m", "pytest"])
    assert is_command("watch --human".split())
    assert not is_command(["watch"])
    assert list(code_lines("a `b c` d\n\n    e \\\n        f\n\n```sh\ng\n```\n")) == [
        "g",
        "e f",
        "b c",
    ]


# --------------------------------------------------------------------------------------------
# Files and links
# --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files() -> set[str]:
    """Every file of the repository, and its folders, relative to its root."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name for name in done.stdout.splitlines() if (ROOT / name).exists()}
    return found | {parent.as_posix() for name in found for parent in Path(name).parents}


def named_files(text: str) -> Iterator[str]:
    """What looks like a file of this repository in a page's code."""
    for line in code_lines(text):
        for word in line.replace("\\", "/").split():
            word = re.sub(r"^\./|[,;:)]+$", "", word)
            is_file = ("/" in word or Path(word).suffix in SUFFIXES) and (
                re.fullmatch(r"[\w./-]*[\w/]", word) and re.search("[a-z]", word)
            )
            if is_file and not word.startswith((*MADE_AT_RUN_TIME, *EXAMPLES, "-")):
                yield word


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page: str, files: set[str]) -> None:
    """In the root, beside the page, anywhere by its name alone, a file that code writes, a run."""
    names = {Path(file).name for file in files}
    sources = "".join(
        text_of(file) for file in sorted(files) if Path(file).suffix in (".py", ".sh")
    )
    folder = Path(page).parent
    for name in named_files(text_of(page)):
        places = {name.rstrip("/"), (folder / name).as_posix().rstrip("/")}
        is_bare = "/" not in name
        assert (
            places & files
            or (is_bare and (name in names or name in sources))
            or f'"{name}"' in sources
            or is_kept_run(name)
        ), f"{page} names {name}, which is not there"


def is_kept_run(name: str) -> bool:
    """Whether a path leads to a run of a study."""
    folder, run = study_of(ROOT / name)
    return is_study(folder) and run in read_study(folder).about.runs


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    here = ROOT / page
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (here.parent / path).resolve() if path else here
        assert there.exists(), f"{page} links to {target}"
        assert there.is_relative_to(ROOT), f"{page} links out of the repository: {target}"
        assert not anchor or anchor in anchors(there), f"{page}: no heading {anchor} in {path}"


def test_the_page_of_plans_lists_every_plan() -> None:
    listed = set(re.findall(r"^\| `(\S+)` \|", text_of("docs/scaling.md"), re.MULTILINE))
    plans = [*ROOT.glob("configs/professional*.yaml"), *ROOT.glob("configs/ablations/*.yaml")]
    assert listed == {plan.relative_to(ROOT).as_posix() for plan in plans}


# --------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------


def test_tables_are_what_their_studies_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert doc_tables.main(["--check"]) == 0, capsys.readouterr()
    text = "".join(map(text_of, PAGES))
    assert {kind for kind in mario_tables.KINDS if f"<!-- table: {kind} " in text} == set(
        mario_tables.KINDS
    )


def test_a_wrong_figure_is_found() -> None:
    page = ROOT / "docs" / "fastnes.md"
    text = page.read_text(encoding="utf-8")
    assert with_tables(page, text) == text
    [wrong] = {text.replace("31.3x (28.5 to", "41.3x (28.5 to")} - {text}
    assert with_tables(page, wrong) == text


@pytest.mark.parametrize("page", [p for p in PAGES if not p.startswith("docs/")])
def test_results_stand_in_tables_that_a_command_wrote(page: str) -> None:
    """No table of README, results or cards holds a count of episodes that was typed."""
    rest = mario_tables.TABLE.sub("", text_of(page))
    rows = [line for line in rest.splitlines() if line.startswith("|")]
    assert not [row for row in rows if re.search(r"\b\d+/\d+\b", row)]


def test_no_table_judges_speed_by_a_mark_that_was_set() -> None:
    for page in PAGES:
        for match in mario_tables.TABLE.finditer(text_of(page)):
            assert not re.search(r"(?i)must reach|\bmet\b|verdict|\baim\b", match[0]), page


def test_what_is_slower_than_its_peer_says_so() -> None:
    assert mario_tables.times(31.312) == "31.3x"
    assert mario_tables.times(0.8712) == "0.871x, slower"


def test_a_difference_of_means_has_welchs_interval() -> None:
    # by hand: variances 1 and 1 over 3 seeds, 4 degrees of freedom, t = 2.776
    difference = mario_tables.difference
    assert difference([3.0, 4.0, 5.0], [1.0, 2.0, 3.0], 100) == "+200 (-27 to +427)"
    assert difference([0.5, 0.5], [1.0, 1.0], 100) == "-50", "no spread, no interval"


# --------------------------------------------------------------------------------------------
# Evidence
# --------------------------------------------------------------------------------------------


def test_no_two_files_hold_the_same_bytes(files: set[str]) -> None:
    found: dict[str, list[str]] = {}
    for name in sorted(files):
        path = ROOT / name
        if path.is_file() and path.stat().st_size:
            found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), []).append(name)
    assert not [names for names in found.values() if len(names) > 1]


def test_a_study_is_three_files(files: set[str]) -> None:
    studies: dict[str, set[str]] = {}
    for name in files:
        if (ROOT / name).is_file() and name.startswith("results/") and name != "results/README.md":
            _, study, below = name.split("/", 2)
            studies.setdefault(study, set()).add(below)
    assert len(studies) >= 10
    for study, names in studies.items():
        assert names == {"README.md", "study.csv.gz", "study.json"}, study
        assert f"({study}/README.md)" in text_of("results/README.md")


def test_a_shipped_policy_is_three_files(files: set[str]) -> None:
    shipped = [Path(name) for name in files if Path(name).name == "best_eval.zip"]
    assert len(shipped) >= 16
    for model in shipped:
        there = {Path(name).name for name in files if Path(name).parent == model.parent}
        assert there == {"README.md", "best_eval.zip", "train_config.json"}, model
