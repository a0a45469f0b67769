"""Share a policy in Hugging Face's layout, and fetch one: run_mario.sh push, run_mario.sh pull.

    python scripts/share.py push pretrained/ppo_mario_1-1 --to you/mario-1-1
    python scripts/share.py pull you/mario-1-1 --to runs/from_you

What is pushed is a folder of card (README.md), best_eval.zip, train_config.json and, if it is
there, replay.mp4. `--to` a folder instead of a name writes that, and `pull` takes one. What is
pulled is read as tensors and JSON before it is put down; nothing in it is run.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from mario_cli import Failure, UsageError, exit_code
from mario_runs import CONFIG_MEMBER
from mario_values import Checked, parse_flags

MODEL = "best_eval.zip"
FILES = ("README.md", MODEL, CONFIG_MEMBER, "replay.mp4")
REPOSITORY_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class ShareFlags(Checked):
    """What goes where."""

    action: tyro.conf.Positional[Literal["push", "pull"]]
    """push or pull."""
    what: tyro.conf.Positional[str]
    """push: a model, a run's or a shipped policy's folder. pull: owner/name on the hub, or a
    folder."""
    to: str
    """push: owner/name on the hub, or a folder (with a / at its end, or ./). pull: a folder."""
    film: Path | None = None
    """push: a film of it, which becomes replay.mp4."""
    private: bool = False
    """push: the hub shows it to nobody else."""


def is_hub_name(text: str) -> bool:
    """Return whether a text is a name on the hub, owner/name, and no folder."""
    return bool(REPOSITORY_NAME.fullmatch(text)) and not Path(text).exists()


def front_matter(config: dict[str, Any], clear_rate: float | None) -> str:
    """Return what the hub reads at the top of a card."""
    stages = config["env"]["stages"]
    lines = [
        "---",
        "library_name: mario-machine-learning",
        "license: mit",
        "pipeline_tag: reinforcement-learning",
        "tags:",
        *(f"- {tag}" for tag in ("reinforcement-learning", "super-mario-bros", config["agent"])),
    ]
    if clear_rate is not None:
        lines += [
            "model-index:",
            f"- name: {config['agent']}",
            "  results:",
            "  - task: {type: reinforcement-learning, name: reinforcement-learning}",
            f"    dataset: {{name: Super Mario Bros. {stages}, type: FastMario-{stages}-v0}}",
            f"    metrics: [{{type: success_rate, value: {clear_rate}, name: clear rate}}]",
        ]
    return "\n".join([*lines, "---", ""])


def card(model: Path, config: dict[str, Any]) -> str:
    """Return the card of a model: the one beside it, or one of what its config says."""
    beside = model.parent / "README.md"
    summary = model.with_name("best_eval_summary.json")
    clear_rate = None
    if summary.is_file():
        from mario_judge import ModelEvaluation

        clear_rate = ModelEvaluation.from_json(summary).rank[0]
    if beside.is_file():
        text = beside.read_text(encoding="utf-8")
        return text if text.startswith("---") else front_matter(config, clear_rate) + text
    told = f"Its evaluations cleared {clear_rate:.0%}.\n\n" if clear_rate is not None else ""
    title = f"# {config['agent']} on {config['env']['stages']} of Super Mario Bros."
    return (
        f"{front_matter(config, clear_rate)}{title}\n\n"
        f"{told}Play it with mario-machine-learning:\n\n"
        "    scripts/run_mario.sh pull OWNER/NAME --to runs/pulled\n"
        "    scripts/run_mario.sh watch --model runs/pulled\n"
    )


def pack(flags: ShareFlags, folder: Path) -> None:
    """Write what is shared into a folder.

    Raises:
        BadModelFile: there is no model, or it is none of ours.
        UsageError: the film is not there.
    """
    from mario_checkpoints import find_model, read_model_zip

    model = find_model(Path(flags.what))
    config, _ = read_model_zip(model)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, folder / MODEL)
    (folder / CONFIG_MEMBER).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(model, config), encoding="utf-8")
    if flags.film:
        if flags.film.suffix != ".mp4" or not flags.film.is_file():
            raise UsageError(f"{flags.film} is no mp4 that is there")
        shutil.copyfile(flags.film, folder / "replay.mp4")


def client() -> Any:
    """Return Hugging Face's client.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(
            "the hub needs its client: run_mario.sh python -m pip install huggingface_hub"
        ) from None
    return huggingface_hub


def push(flags: ShareFlags) -> None:
    """Write or upload a policy."""
    if not is_hub_name(flags.to):
        pack(flags, Path(flags.to))
        print(f"written: {flags.to}")
        return
    hub = client()
    with tempfile.TemporaryDirectory() as folder:
        pack(flags, Path(folder))
        try:
            hub.create_repo(flags.to, private=flags.private, exist_ok=True)
            hub.upload_folder(
                repo_id=flags.to, folder_path=folder, commit_message="A policy that plays Mario"
            )
        except (hub.errors.HfHubHTTPError, OSError) as error:
            raise Failure(f"the hub took it not: {one_line(error)} (hf auth login?)") from error
    print(f"pushed: {flags.to}")


def pull(flags: ShareFlags) -> None:
    """Fetch a policy, and put it down if it can be read without running code of it.

    Raises:
        BadModelFile: it is none of ours.
        UsageError: the folder holds something already.
    """
    from mario_checkpoints import read_model_zip

    target = Path(flags.to)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} holds something already: name another folder")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(flags.what)
        if is_hub_name(flags.what):
            hub, source = client(), Path(temporary)
            try:
                hub.snapshot_download(flags.what, local_dir=source, allow_patterns=list(FILES))
            except (hub.errors.HfHubHTTPError, OSError) as error:
                raise Failure(f"nothing came of {flags.what}: {one_line(error)}") from error
        read_model_zip(source / MODEL)  # refuses what is not plain tensors and JSON
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
    print(f"pulled: {target}; watch it with run_mario.sh watch --model {target}")


def one_line(error: Exception) -> str:
    """Return what an error says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, and push or pull."""

    def task() -> None:
        flags = parse_flags(ShareFlags, arguments, __doc__)
        (push if flags.action == "push" else pull)(flags)

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
