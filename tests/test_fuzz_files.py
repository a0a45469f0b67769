"""Mutated files, thousands of them: nothing dies, hangs, prints a traceback or writes elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import select
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzzing import READERS

from dreamerv3.envs.mario import demo_rows, mario_row, replay_contents
from dreamerv3.replay import checksums
from fastnes import start_snapshot
from mario_checkpoints import plain, tensor_bytes
from mario_config import EnvConfig
from mario_demos import load_demo, record, save_demo
from mario_results import ABOUT, TABLE
from mario_runs import RunFolder
from mario_runtime import MarioVectorEnv

ROOT = Path(__file__).parents[1]
INPUTS = int(os.environ.get("FUZZ_INPUTS", "260"))  # of each reader: 3,380 in all
LONGEST_S = 20
LIMIT_MIB = 1536
NASTY = (
    *("-1", "0", "1e999", "NaN", "9" * 5000, "[" * 2000, '""', "[]", "{}", "null", "true", '"a"'),
    *("1e9", "4294967296", "-9223372036854775809", '"../../x"', "[[1]]", '"\\ud800"'),
)
SMALL = EnvConfig(frame_stack=1, screen_size=8)
MAGIC = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content with one to eight bits flipped."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the beginning of content."""
    return content[: int(rng.integers(len(content)))]


def resized(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content with a number of 2 to 8 bytes in it replaced: sizes, counts, offsets."""
    width = int(rng.choice([2, 4, 8]))
    at = int(rng.integers(max(1, len(content) - width)))
    value = int(rng.choice(MAGIC)) & (1 << (8 * width)) - 1
    return content[:at] + value.to_bytes(width, "little") + content[at + width :]


def retold(content: bytes, rng: np.random.Generator) -> bytes:
    """Return text with one of its values replaced by one that nobody expects."""
    places = list(re.finditer(rb'-?\d[\d.eE+-]*|"[^"\n]*"|true|false|null', content))
    if not places:
        return flipped(content, rng)
    place = places[int(rng.integers(len(places)))]
    value = NASTY[int(rng.integers(len(NASTY)))].encode()
    return content[: place.start()] + value + content[place.end() :]


def repacked(content: bytes, rng: np.random.Generator) -> bytes:
    """Return an archive with one of its members mutated, or a bomb, and right checksums."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as made:
        names = source.namelist()
        chosen = names[int(rng.integers(len(names)))]
        for name in names:
            data, kind = source.read(name), zipfile.ZIP_STORED
            if name == chosen:
                how = int(rng.integers(6))
                if (
                    name.endswith((".pth", ".state"))
                    and how < 3
                    and zipfile.is_zipfile(io.BytesIO(data))
                ):
                    data = repacked(data, rng)
                elif how < 4 and data:
                    data = MUTATIONS[int(rng.integers(4))](data, rng)
                else:
                    data = data[:100] + bytes(200 * 2**20)
                kind = (0, 8, 12, 14)[int(rng.integers(4))] if len(data) < 10**6 else 8
            made.writestr(name, data, kind, 1 if kind == 8 else None)
    return target.getvalue()


def resealed(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a replay's rows with bits flipped and the checksums right."""
    rows = np.frombuffer(flipped(flipped(content, rng), rng), mario_row(SMALL)).copy()
    rows["crc"] = checksums(rows)
    return rows.tobytes()


def regzipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Return what a gzip file holds, mutated and packed again, or a bomb."""
    how = int(rng.integers(5))
    data = MUTATIONS[how](gzip.decompress(content), rng) if how < 4 else bytes(400 * 2**20)
    return gzip.compress(data, 1)


Mutation = Callable[[bytes, np.random.Generator], bytes]
MUTATIONS: tuple[Mutation, ...] = (flipped, cut, resized, retold)
DEEPER: dict[str, Mutation] = {"rows": resealed, "table": regzipped}  # behind checksums


def valid_files(folder: Path, tiny_run: Path) -> dict[str, bytes]:
    """Return a valid file of each reader."""
    run = RunFolder(tiny_run)
    study = ROOT / "results" / "ppo_1-1"
    env = MarioVectorEnv(EnvConfig(n_envs=2), threads=1)
    env.reset(seed=0)
    index = {"format": 1, "row": mario_row(SMALL).descr, "generation": "0"}
    index |= replay_contents(SMALL)
    save_demo(folder / "demo.npz", record(1, 1, [1] * 60, source="human"))
    rows, _ = demo_rows(load_demo(folder / "demo.npz"), SMALL)
    rows["crc"] = checksums(rows)
    environments = {
        name: json.loads(json.dumps(value, default=list)) if name == "generators" else value
        for name, value in env.state_dict().items()
    }
    return {
        "snapshot": start_snapshot(1, 1).tobytes(),
        "demo": (folder / "demo.npz").read_bytes(),
        "model": run.final_model.read_bytes(),
        "state": tensor_bytes({"environments": plain(environments)}),
        "flags": (ROOT / "configs" / "ppo_1-1.yaml").read_bytes(),
        "evaluation": run.best_summary.read_bytes(),
        "replay": json.dumps(index).encode(),
        "metrics": run.metrics_path.read_bytes(),
        "rows": rows.tobytes(),
        "plan": (ROOT / "configs" / "professional.yaml").read_bytes(),
        "run": run.config_path.read_bytes(),
        "study": (study / ABOUT).read_bytes(),
        "table": (study / TABLE).read_bytes(),
    }


def read_all(name: str, folder: Path, count: int) -> tuple[list[str], int]:
    """Return how a reader took each input of a folder, and its most memory, in MiB."""
    results: list[str] = []
    peak_mib = 0
    while len(results) < count:
        command = [sys.executable, ROOT / "tests" / "fuzzing.py", name, folder, str(len(results))]
        with subprocess.Popen(
            [*map(str, command), str(LIMIT_MIB)], cwd=folder, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            first = True
            while True:
                wait = LONGEST_S + 300 * first  # it imports, and compiles, before the first
                if not select.select([process.stdout], [], [], wait)[0]:
                    process.kill()
                    results.append("hangs")
                    break
                line = process.stdout.readline()
                if not line:
                    if process.wait():
                        results.append(f"ended by {process.returncode}")
                    break
                first = False
                result, _, peak = line.partition(" ")[2].strip().rpartition(" ")
                results.append(result)
                peak_mib = max(peak_mib, int(peak))
    return results, peak_mib


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_no_mutated_file_kills_hangs_or_escapes_its_reader(
    tmp_path: Path, tiny_run: Path, name: str
) -> None:
    content = valid_files(tmp_path, tiny_run)[name]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("as it was")
    folder = tmp_path / "inputs"
    folder.mkdir()
    rng = np.random.default_rng(list(READERS).index(name))
    deeper = repacked if zipfile.is_zipfile(io.BytesIO(content)) else DEEPER.get(name)
    mutations = [*MUTATIONS, *([deeper] * 4 if deeper else [])]
    (folder / "00000.input").write_bytes(content)
    for i in range(1, INPUTS):
        mutated = mutations[i % len(mutations)](content, rng)
        (folder / f"{i:05d}.input").write_bytes(mutated)
    results, peak_mib = read_all(name, folder, INPUTS)
    print(f"{name}: {dict(Counter(results))}, {peak_mib} MiB with all imports")
    assert results[0] == "read", "the valid one"
    wrong = {i: result for i, result in enumerate(results) if result not in ("read", "refused")}
    assert not wrong
    assert len(results) == INPUTS
    assert "refused" in results or name == "metrics"  # of which a bad line is left out
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "as it was"
