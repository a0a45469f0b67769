"""Policies that are shared: as a folder, and over a hub that runs here, with the real client."""

from __future__ import annotations

import base64
import hashlib
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mario_checkpoints import read_model_zip
from scripts import share

ROOT = Path(__file__).resolve().parents[1]
POLICY = ROOT / "pretrained" / "ppo_mario_1-1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
has_client = importlib.util.find_spec("huggingface_hub") is not None


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_a_run_goes_to_a_folder_and_back(tiny_run: Path, tmp_path: Path) -> None:
    film = tmp_path / "best.mp4"
    film.write_bytes(b"a film")
    there, back = tmp_path / "there", tmp_path / "back"
    assert share.main(["push", str(tiny_run), "--to", str(there), "--film", str(film)]) == 0
    assert sorted(path.name for path in there.iterdir()) == sorted(share.FILES)
    card = (there / "README.md").read_text()
    told = front_matter(card)
    assert told["license"] == "mit" and "super-mario-bros" in told["tags"]
    [result] = told["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0
    assert "# ppo on 1-1" in card
    assert share.main(["pull", str(there), "--to", str(back)]) == 0
    weights = read_model_zip(back / share.MODEL)[1]
    own = read_model_zip(tiny_run / "evaluations" / "best_eval.zip")[1]
    assert all((weights[name] == own[name]).all() for name in own)


def test_a_shipped_policys_card_stays_and_gets_a_head(tmp_path: Path) -> None:
    assert share.main(["push", str(POLICY), "--to", str(tmp_path / "there")]) == 0
    card = (tmp_path / "there" / "README.md").read_text(encoding="utf-8")
    assert card.endswith((POLICY / "README.md").read_text(encoding="utf-8"))
    assert front_matter(card)["pipeline_tag"] == "reinforcement-learning"


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / share.MODEL).write_bytes(b"no model")
    full = str(POLICY)
    for words, said in {
        ("pull", str(strange), "--to", str(tmp_path / "a")): "is not a whole zip file",
        ("pull", str(tmp_path / "none"), "--to", str(tmp_path / "b")): "there is no model file",
        ("pull", str(POLICY), "--to", full): "holds something already",
        ("push", str(tmp_path / "none"), "--to", str(tmp_path / "c")): "there is no model file",
        ("push", str(POLICY), "--to", str(tmp_path / "d"), "--film", "x.gif"): "no mp4",
    }.items():
        assert share.main(list(words)) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "a").exists(), "what cannot be read is not put down"


class Hub(http.server.BaseHTTPRequestHandler):
    """What of the hub's interface the client needs for small files."""

    files: dict[str, bytes]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        sizes = {"Content-Length": str(len(content))}
        for name, value in (sizes | (headers or {"Content-Type": "application/json"})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = f"http://{self.headers['Host']}/you/it"
        if self.path.endswith("/preupload/main"):
            asked = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked
            ]
            self.answer(json.dumps({"files": modes}).encode())
            return
        if self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT}
            self.answer(json.dumps(commit | {"pullRequestUrl": None}).encode())
            return
        self.answer(json.dumps({"url": address, "id": "you/it", "name": "you/it"}).encode())

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            content = self.files[self.path.rpartition("/")[2]]
            etag = hashlib.sha1(content).hexdigest()
            self.answer(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            return
        listed = [{"rfilename": name} for name in self.files]
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
            for name, content in self.files.items()
        ]
        if "/tree/" in self.path:
            self.answer(json.dumps(tree).encode())
        else:
            about = {"id": "you/it", "modelId": "you/it", "sha": COMMIT, "siblings": listed}
            self.answer(json.dumps(about | {"tags": [], "private": False}).encode())

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.files = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(not has_client, reason="huggingface_hub is not installed")
def test_a_policy_goes_over_the_hub_with_its_own_client(hub: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_none",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    def call(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "share.py"), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    call("push", str(POLICY), "--to", "you/it")
    assert sorted(Hub.files) == ["README.md", share.MODEL, "train_config.json"]
    call("pull", "you/it", "--to", "fetched")
    assert (tmp_path / "fetched" / share.MODEL).read_bytes() == (POLICY / share.MODEL).read_bytes()


def test_the_hub_without_its_client_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    assert share.main(["push", str(POLICY), "--to", "you/it"]) == 2
    assert "python -m pip install huggingface_hub" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------
# Containers and clusters: read here, not run
# --------------------------------------------------------------------------------------------


def test_the_container_starts_through_the_front_door() -> None:
    lines = [
        line.split(None, 1)
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in lines} == known
    steps = {word: rest for word, rest in lines}
    assert steps["FROM"].startswith("python:3.13")
    assert steps["RUN"] == "scripts/run_mario.sh install"
    assert json.loads(steps["ENTRYPOINT"]) == ["scripts/run_mario.sh"]
    json.loads(steps["CMD"])
    opened = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert opened["image"].endswith(":3.13")
    assert opened["postCreateCommand"] == "scripts/run_mario.sh install"
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", "runs", ".git"} <= set(ignored)


@pytest.mark.skipif(os.name == "nt", reason="runs a shell script")
def test_an_array_of_slurm_trains_a_seed_each_and_goes_on(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    (tmp_path / "scripts").mkdir()
    door = tmp_path / "scripts" / "run_mario.sh"
    door.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS $*"\n')
    door.chmod(0o755)

    def submit() -> str:
        given = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "2"}
        words = ["bash", "cluster/seeds.sbatch"]
        return subprocess.run(
            words, cwd=tmp_path, env=given, capture_output=True, text=True, check=True
        ).stdout

    assert submit() == "2 train --run-dir runs/slurm/seed3 --seed 3\n"
    (tmp_path / "runs" / "slurm" / "seed3" / "models").mkdir(parents=True)
    assert submit() == "2 train --resume-model runs/slurm/seed3\n"
