"""The replay: what is on disk survives a kill, belongs to one reward, and resumes exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamerv3 import replay as replay_module
from dreamerv3.replay import CHUNK_ROWS, Replay, relabel, row_type
from mario_cli import UsageError

ROOT = Path(__file__).parents[1]
ROW = row_type((1, 2, 2), 2)
CONTENTS = {"reward_signature": "aaaa", "stage": "1-1"}


def make_rows(first: int, count: int, episode: int = 10) -> np.ndarray:
    """Rows numbered in `facts`, in episodes of so many."""
    rows = np.zeros(count, ROW)
    numbers = np.arange(first, first + count)
    rows["facts"][:, 0] = numbers
    rows["image"] = (numbers % 251)[:, None, None, None]
    rows["is_first"] = numbers % episode == 0
    rows["is_last"] = numbers % episode == episode - 1
    rows["reward"] = numbers * 0.5
    return rows


def open_replay(folder: Path, streams: int = 1, length: int = 4, **changes: Any) -> Replay:
    return Replay(folder, ROW, CONTENTS, streams=streams, length=length, **changes)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "CHUNK_ROWS", 8)


def numbers(rows: np.ndarray) -> list[int]:
    return rows["facts"][..., 0].tolist()


def test_what_is_said_of_unusual_pictures_alone_counts_both_ways(tmp_path: Path) -> None:
    """Pictures that were cropped are of the same size, and no replay for others."""
    open_replay(tmp_path / "usual")
    Replay(tmp_path / "cropped", ROW, CONTENTS | {"crop": "playfield"}, streams=1, length=4)
    for folder, contents in (("usual", {"crop": "playfield"}), ("cropped", {})):
        with pytest.raises(UsageError, match="was made with crop"):
            Replay(tmp_path / folder, ROW, CONTENTS | contents, streams=1, length=4)


def test_rows_with_ram_are_other_rows(tmp_path: Path) -> None:
    row = row_type((1, 2, 2), 2, ram_bytes=5)
    replay = Replay(tmp_path, row, CONTENTS, streams=1, length=4)
    rows = np.zeros(6, row)
    rows["ram"][:] = np.arange(5)
    replay.append(0, rows)
    assert replay.read(0, 0, 6)["ram"].tolist() == [[0, 1, 2, 3, 4]] * 6
    assert "ram" not in (replay.without_images(0).dtype.names or ())
    with pytest.raises(UsageError, match="was made with row"):
        open_replay(tmp_path)


@pytest.mark.usefixtures("small_chunks")
def test_rows_come_back_in_order_across_files(tmp_path: Path) -> None:
    replay = open_replay(tmp_path, streams=2)
    replay.append(0, make_rows(0, 30))
    replay.append(1, make_rows(100, 5))
    assert len(list(tmp_path.glob("0/0/*.rows"))) == 4
    assert numbers(replay.read(0, 6, 12)) == list(range(6, 18))
    again = open_replay(tmp_path, streams=2)
    assert len(again) == 35
    np.testing.assert_array_equal(again.read(1, 0, 5), replay.read(1, 0, 5))


def test_every_sequence_is_drawn_alike_and_none_spans_two_streams(tmp_path: Path) -> None:
    replay = open_replay(tmp_path, streams=2)
    replay.append(0, make_rows(0, 9))
    replay.append(1, make_rows(100, 6))
    replay.queue.clear()
    rows = replay.sample(4000)
    starts = rows["facts"][0, :, 0]
    assert (rows["facts"][:, :, 0] == starts + np.arange(4)[:, None]).all()
    assert set(starts.tolist()) == {0, 1, 2, 3, 4, 5, 100, 101, 102}
    counts = np.unique(starts, return_counts=True)[1]
    assert counts.min() > 0.8 * 4000 / 9


def test_fresh_sequences_come_first_and_once(tmp_path: Path) -> None:
    replay = open_replay(tmp_path)
    replay.append(0, make_rows(0, 8))
    assert [numbers(replay.sample(1)[:, 0]) for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    replay.append(0, make_rows(8, 3))
    assert not replay.queue
    replay.append(0, make_rows(11, 1))
    assert numbers(replay.sample(1)[:, 0]) == [8, 9, 10, 11]


def test_a_sequence_starts_anew_and_a_broken_episode_ends(tmp_path: Path) -> None:
    replay = open_replay(tmp_path)
    rows = make_rows(1, 3)
    rows["is_first"] = [False, True, False]  # the row before was lost
    replay.append(0, np.concatenate([rows, make_rows(4, 1)]))
    sampled = replay.sample(1)[:, 0]
    assert sampled["is_first"].tolist() == [True, True, False, False]
    assert sampled["is_last"].tolist() == [True, False, False, False]


@pytest.mark.usefixtures("small_chunks")
def test_it_is_bounded_and_files_go_at_the_flush_after_the_next(tmp_path: Path) -> None:
    replay = open_replay(tmp_path, capacity=20)
    for first in range(0, 64, 4):
        replay.append(0, make_rows(first, 4))
        assert len(replay) <= 24
    assert len(list(tmp_path.glob("0/0/*.rows"))) == 8
    replay.queue.clear()
    assert replay.sample(500)["facts"][..., 0].min() >= 40
    replay.flush()
    assert len(list(tmp_path.glob("0/0/*.rows"))) == 8, "the checkpoint before counts on them"
    replay.flush()
    assert sorted(int(p.stem) for p in tmp_path.glob("0/0/*.rows")) == [48, 56]
    assert len(open_replay(tmp_path)) == 16


def test_a_circular_replay_draws_its_ends_as_often_as_its_middle(tmp_path: Path) -> None:
    replay = open_replay(tmp_path, circular=True)
    replay.append(0, make_rows(0, 10))
    replay.queue.clear()
    rows = replay.sample(3000)
    counts = np.bincount(rows["facts"][..., 0].ravel())
    assert counts.min() > 0.85 * counts.mean()
    wrapped = rows[:, (rows["facts"][0, :, 0] == 8)][:, 0]
    assert numbers(wrapped) == [8, 9, 0, 1]
    assert wrapped["is_first"].tolist() == [True, False, True, False]


WRITER = """
import sys
from pathlib import Path
from tests.test_dreamer_replay import make_rows, open_replay
replay = open_replay(Path(sys.argv[1]))
for number in range(10**9):
    replay.append(0, make_rows(number, 1))
    if number == 3000:
        print("going", flush=True)
"""


def test_a_killed_writer_loses_nothing_but_a_torn_row(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "going\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = max(tmp_path.glob("0/0/*.rows"))
    with last.open("ab") as file:  # half of a row, as a kill within the write leaves it
        file.write(make_rows(0, 1).tobytes()[:-7])
    replay = open_replay(tmp_path)
    assert len(replay) > 3000
    assert numbers(replay.read(0, 0, len(replay))) == list(range(len(replay)))
    assert last.stat().st_size % ROW.itemsize == 0
    replay.append(0, make_rows(len(replay), 1))
    reopened = open_replay(tmp_path)
    assert numbers(reopened.read(0, len(replay) - 2, 2)) == [len(replay) - 2, len(replay) - 1]


@pytest.mark.usefixtures("small_chunks")
def test_rows_with_a_wrong_checksum_end_the_stream(tmp_path: Path) -> None:
    open_replay(tmp_path).append(0, make_rows(0, 30))
    path = sorted(tmp_path.glob("0/0/*.rows"))[1]
    content = bytearray(path.read_bytes())
    content[3 * ROW.itemsize] ^= 1
    path.write_bytes(content)
    replay = open_replay(tmp_path)
    assert len(replay) == 8 + 3
    replay.append(0, make_rows(11, 20))
    assert numbers(open_replay(tmp_path).read(0, 0, 31)) == list(range(31))


@pytest.mark.usefixtures("small_chunks")
def test_it_resumes_exactly(tmp_path: Path) -> None:
    replay = open_replay(tmp_path, streams=2, seed=3)
    replay.append(0, make_rows(0, 30))
    replay.append(1, make_rows(100, 13))
    replay.sample(4)
    replay.flush()
    state = json.loads(json.dumps(replay.state_dict()))

    def go_on(one: Replay) -> list[np.ndarray]:
        one.append(0, make_rows(30, 7))
        return [one.sample(16) for _ in range(3)]

    expected = go_on(replay)
    again = open_replay(tmp_path, streams=2, seed=99)
    again.load_state_dict(state)
    assert len(again) == 43, "rows written after the checkpoint are cut off"
    for one, other in zip(go_on(again), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_whose_rows_are_gone_is_refused(tmp_path: Path) -> None:
    replay = open_replay(tmp_path)
    replay.append(0, make_rows(0, 5))
    state = replay.state_dict()
    replay.flush()
    os.truncate(next(tmp_path.glob("0/0/*.rows")), 4 * ROW.itemsize)
    with pytest.raises(UsageError, match="lacks rows"):
        open_replay(tmp_path).load_state_dict(state)


def test_another_reward_or_another_game_is_refused(tmp_path: Path) -> None:
    open_replay(tmp_path)
    with pytest.raises(UsageError, match="signature aaaa, not bbbb: --relabel"):
        Replay(tmp_path, ROW, CONTENTS | {"reward_signature": "bbbb"}, streams=1, length=4)
    with pytest.raises(UsageError, match="made with stage 1-1, not 1-2"):
        Replay(tmp_path, ROW, CONTENTS | {"stage": "1-2"}, streams=1, length=4)
    with pytest.raises(UsageError, match="made with row"):
        Replay(tmp_path, row_type((1, 4, 4), 2), CONTENTS, streams=1, length=4)
    (tmp_path / "replay.json").write_text('{"format": 1')
    with pytest.raises(UsageError, match="cannot be read"):
        open_replay(tmp_path)


@pytest.mark.usefixtures("small_chunks")
def test_relabel_pays_all_rows_anew(tmp_path: Path) -> None:
    replay = open_replay(tmp_path, streams=2)
    replay.append(0, make_rows(3, 30))
    replay.append(1, make_rows(100, 20))

    def rewards_of(rows: np.ndarray) -> np.ndarray:
        assert "image" not in (rows.dtype.names or ())
        rewards = rows["facts"][:, 0].astype(np.float32) * 2
        rewards[: int(np.argmax(rows["is_first"]))] = np.nan  # an episode without its beginning
        return rewards

    assert relabel(tmp_path, ROW, "bbbb", rewards_of) == 23 + 20
    new = Replay(tmp_path, ROW, CONTENTS | {"reward_signature": "bbbb"}, streams=2, length=4)
    rows = new.read(0, 0, 23)
    assert numbers(rows) == list(range(10, 33))
    np.testing.assert_array_equal(rows["reward"], 2.0 * np.arange(10, 33))
    np.testing.assert_array_equal(rows["image"], replay_images(10, 23))
    assert not (tmp_path / "0").exists()
    with pytest.raises(UsageError, match="signature bbbb, not aaaa"):
        open_replay(tmp_path)


def replay_images(first: int, count: int) -> np.ndarray:
    return make_rows(first, count)["image"]


def test_a_relabelling_that_dies_leaves_the_old_rewards(tmp_path: Path) -> None:
    open_replay(tmp_path).append(0, make_rows(0, 12))

    def dies(rows: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relabel(tmp_path, ROW, "bbbb", dies)
    assert numbers(open_replay(tmp_path).read(0, 0, 12)) == list(range(12))
    assert relabel(tmp_path, ROW, "bbbb", lambda rows: np.zeros(len(rows), np.float32)) == 12


def test_a_file_is_a_few_megabytes_with_real_images() -> None:
    row = row_type((1, 64, 64), 13)
    assert 4_000_000 < CHUNK_ROWS * row.itemsize < 5_000_000
