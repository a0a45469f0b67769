"""Replay on disk: append-only streams of rows, sampled as sequences.

    <folder>/replay.json                     what the rows are, and under which reward
    <folder>/<generation>/<stream>/<first row>.rows

A stream is what one environment lived through, episode after episode; a row is one observation and
what came with it, of fixed size, closed by a checksum. Rows are appended by one unbuffered write
each: a process that is killed leaves at most one torn row, which the next opening cuts off. Nothing
is kept in memory: sampled rows are read from the files, that is from the system's page cache.

A folder belongs to one reward. Opened under another it is refused; `relabel` pays its rows anew
from the game's facts that they hold, into a new generation that takes the old one's place at once.
Knows no game.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mario_cli import UsageError
from mario_runs import atomic_write, write_json

FORMAT = 1
GENERATION = re.compile(r"\d{1,9}")
STREAM = re.compile(r"\d{1,6}")
CHUNK = re.compile(r"\d{12}\.rows")
CHUNK_ROWS = 1024  # rows of a file; 4.3 MB with 64x64 gray images
QUEUED_SEQUENCES = 256  # fresh sequences that wait at most


def row_type(image_shape: tuple[int, int, int], n_facts: int, ram_bytes: int = 0) -> np.dtype:
    """Return what a row holds. What stands in a row led to, or came with, its image.

    Fields: image uint8[C, H, W]; action (0 where is_first); reward; is_first, is_last (terminal or
    cut off), is_terminal; frames that the step took; the game's facts; RAM, if any of it is kept;
    checksum.
    """
    ram = [("ram", "u1", (ram_bytes,))] if ram_bytes else []
    return np.dtype(
        [
            ("image", "u1", image_shape),
            ("action", "u1"),
            ("reward", "<f4"),
            ("is_first", "?"),
            ("is_last", "?"),
            ("is_terminal", "?"),
            ("frames", "<u2"),
            ("facts", "<i4", (n_facts,)),
            *ram,
            ("crc", "<u4"),
        ]
    )


class Replay:
    """Rows of several streams; sequences of them at random, fresh ones first."""

    def __init__(
        self,
        folder: Path,
        row: np.dtype,
        contents: dict[str, Any],
        *,
        streams: int,
        length: int,
        capacity: int = 0,
        seed: int = 0,
        circular: bool = False,
        read_only: bool = False,
    ) -> None:
        """Open a folder, or make it. Torn rows at a stream's end are cut off.

        Args:
            folder: where.
            row: a `row_type`.
            contents: what the rows are of ("reward_signature" and more); must be as before.
            streams: how many there are; a folder that has more keeps them for sampling.
            length: rows of a sampled sequence.
            capacity: rows to keep, about; the oldest go, a file at a time. 0: all.
            seed: of the sampling.
            circular: a stream's first row follows its last: few and short episodes (demos) are
                then sampled evenly, ends too.
            read_only: leave the folder, which has to exist, as it is: another process may be
                writing to it.

        Raises:
            UsageError: it holds other rows, or rows paid under another reward.
        """
        self.folder, self.row, self.length, self.capacity = folder, row, length, capacity
        self.circular = circular
        self.generator = np.random.default_rng(seed)
        description = {"format": FORMAT, "row": json.loads(json.dumps(row.descr))} | contents
        index = folder / "replay.json"
        if index.exists() or read_only:
            self.generation = check_index(index, description)
        else:
            self.generation = "0"
            write_json(index, description | {"generation": self.generation})
        self.path = folder / self.generation
        streams = max([streams, *(int(path.name) + 1 for path in own_entries(self.path, STREAM))])
        self.first, self.end = [0] * streams, [0] * streams  # rows of each stream, counted for ever
        for stream in range(streams):
            self._scan(stream)
            if not read_only:
                (self.path / str(stream)).mkdir(parents=True, exist_ok=True)
                self._cut(stream, self.end[stream])
        self.online = list(self.end)  # each stream's first row that no queued sequence holds yet
        self.queue: deque[tuple[int, int]] = deque(maxlen=QUEUED_SEQUENCES)
        self._files: list[BinaryIO | None] = [None] * streams
        self._first_before = list(self.first)  # what the checkpoint before the next one counts on

    def __len__(self) -> int:
        """Return the rows that can be sampled."""
        return sum(self.end) - sum(self.first)

    # -- files -------------------------------------------------------------------------------------

    def _chunk(self, stream: int, row: int) -> Path:
        """Return the file that holds a row of a stream."""
        return self.path / str(stream) / f"{row - row % CHUNK_ROWS:012d}.rows"

    def _chunks(self, stream: int) -> list[Path]:
        """Return a stream's files, the oldest first."""
        return own_entries(self.path / str(stream), CHUNK)

    def _scan(self, stream: int) -> None:
        """Find a stream's rows, up to its first torn one."""
        chunks = self._chunks(stream)
        if not chunks:
            return
        self.first[stream] = self.end[stream] = int(chunks[0].stem)
        for path in chunks:
            if int(path.stem) != self.end[stream]:
                break
            rows = np.fromfile(path, self.row)
            self.end[stream] += count_whole(rows)
            if self.end[stream] % CHUNK_ROWS:
                break

    def _cut(self, stream: int, end: int) -> None:
        """Forget a stream's rows from `end` on."""
        self.end[stream] = end
        for path in self._chunks(stream):
            rows = max(0, end - int(path.stem))
            if path.stat().st_size > rows * self.row.itemsize:
                os.truncate(path, rows * self.row.itemsize)
            if rows == 0:
                path.unlink()

    def clear(self) -> None:
        """Forget all rows."""
        for stream in range(len(self.end)):
            self._close(stream)
            self._cut(stream, 0)
            self.first[stream] = self.online[stream] = 0
        self.queue.clear()

    # -- writing -----------------------------------------------------------------------------------

    def append(self, stream: int, rows: np.ndarray) -> None:
        """Add rows to a stream, in order; their checksums are filled in.

        Raises:
            OSError: the disk is full; the rows before this one are there.
        """
        rows["crc"] = checksums(rows)
        for row in rows:
            file = self._files[stream]
            if file is None:
                file = self._files[stream] = self._chunk(stream, self.end[stream]).open(
                    "ab", buffering=0
                )
            if file.write(row.tobytes()) != self.row.itemsize:
                raise OSError(f"the disk is full: a row of {self.folder} was torn")
            self.end[stream] += 1
            if self.end[stream] % CHUNK_ROWS == 0:
                self._close(stream)
        while self.end[stream] - self.online[stream] >= self.length:
            self.queue.append((stream, self.online[stream]))
            self.online[stream] += self.length
        self._forget_oldest()

    def _close(self, stream: int) -> None:
        """Close a stream's file, on disk for good."""
        file = self._files[stream]
        if file is not None:
            os.fsync(file.fileno())
            file.close()
        self._files[stream] = None

    def _forget_oldest(self) -> None:
        """Stop sampling the oldest file of the longest stream while there are too many rows."""
        while self.capacity and len(self) > self.capacity:
            stream = int(np.argmax(np.subtract(self.end, self.first)))
            after = self.first[stream] - self.first[stream] % CHUNK_ROWS + CHUNK_ROWS
            if after >= self.end[stream]:
                return
            self.first[stream] = after

    def flush(self) -> None:
        """Put all rows on disk for good, and delete files whose rows are no longer sampled.

        Called with a checkpoint: what the one before it needs stays, should this one be torn.
        """
        for stream, first in enumerate(self._first_before):
            self._close(stream)
            for path in self._chunks(stream):
                if int(path.stem) + CHUNK_ROWS <= first:
                    path.unlink()
        self._first_before = list(self.first)

    # -- sampling ----------------------------------------------------------------------------------

    def read(self, stream: int, start: int, count: int) -> np.ndarray:
        """Return rows [count] of a stream, the first one numbered `start`.

        Raises:
            OSError: some of them are gone.
        """
        parts = []
        while count > 0:
            if self.circular and start >= self.end[stream]:
                start = self.first[stream]
            left_in_chunk = CHUNK_ROWS - start % CHUNK_ROWS
            n = min(count, left_in_chunk, self.end[stream] - start)
            offset = start % CHUNK_ROWS * self.row.itemsize
            part = np.fromfile(self._chunk(stream, start), self.row, n, offset=offset)
            if len(part) != n or n < 1:
                raise OSError(f"rows {start} to {start + n} of stream {stream} are gone")
            parts.append(part)
            start, count = start + n, count - n
        return np.concatenate(parts)

    def without_images(self, stream: int) -> np.ndarray:
        """Return all rows of a stream, but for their images and RAM."""
        names = [name for name in self.row.names or () if name not in ("image", "ram")]
        first, end = self.first[stream], self.end[stream]
        parts = [
            self.read(stream, start, min(CHUNK_ROWS, end - start))[names].copy()
            for start in range(first, end, CHUNK_ROWS)
        ]
        return np.concatenate([np.zeros(0, self.row)[names], *parts])

    def starts(self) -> np.ndarray:
        """Return int64[streams], at how many rows of each a sequence can begin."""
        rows = np.subtract(self.end, self.first)
        return rows if self.circular else np.maximum(rows - self.length + 1, 0)

    def can_sample(self) -> bool:
        """Return whether there is a whole sequence."""
        return bool(self.starts().sum() > 0)

    def sample(self, batch: int) -> np.ndarray:
        """Return rows [length, batch]: fresh sequences, while there are any, then uniform ones.

        A sequence's first row is marked as is_first: what was before is not known to the learner.
        """
        starts = self.starts().cumsum()
        rows = np.empty((self.length, batch), self.row)
        for b in range(batch):
            if self.queue:
                stream, start = self.queue.popleft()
                start = max(start, self.first[stream])
            else:
                number = int(self.generator.integers(starts[-1]))
                stream = int(np.searchsorted(starts, number, side="right"))
                start = self.first[stream] + number - int(starts[stream - 1] if stream else 0)
            rows[:, b] = self.read(stream, start, self.length)
        rows["is_first"][0] = True
        # An episode that a kill cut off: the next row is another one's.
        rows["is_last"][:-1] |= rows["is_first"][1:]
        return rows

    # -- exact resume ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what sampling goes on from; the rows themselves are on disk (`flush`)."""
        return {
            "first": list(self.first),
            "end": list(self.end),
            "online": list(self.online),
            "queue": [list(item) for item in self.queue],
            "generator": json.dumps(self.generator.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`: rows that were written later are cut off.

        Raises:
            UsageError: rows of that time are missing.
        """
        for stream, (first, end) in enumerate(zip(state["first"], state["end"], strict=True)):
            if self.first[stream] > first or self.end[stream] < end:
                raise UsageError(f"{self.folder} lacks rows that the checkpoint counts on")
            self._close(stream)
            self._cut(stream, end)
            self.first[stream] = first
        self._first_before = list(self.first)
        self.online = list(state["online"])
        self.queue = deque((tuple(item) for item in state["queue"]), maxlen=QUEUED_SEQUENCES)
        self.generator.bit_generator.state = json.loads(state["generator"])


def checksums(rows: np.ndarray) -> np.ndarray:
    """Return the checksum of every row, uint32[n]."""
    size = rows.dtype.itemsize
    content = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), size)
    return np.array([zlib.crc32(row[:-4]) for row in content], np.uint32)


def are_whole(rows: np.ndarray) -> np.ndarray:
    """Return bool[n], whether each row has its checksum, and no truth value but 0 and 1."""
    whole = checksums(rows) == rows["crc"]
    for name in rows.dtype.names or ():
        if rows.dtype[name] == np.bool_:
            whole &= rows[name].view(np.uint8) <= 1
    return whole


def count_whole(rows: np.ndarray) -> int:
    """Return how many rows come before the first torn one."""
    whole = are_whole(rows)
    return len(rows) if whole.all() else int(np.argmin(whole))


def check_index(index: Path, description: dict[str, Any]) -> str:
    """Return the generation that a replay.json names, if its rows are as described.

    Raises:
        UsageError: they are not.
    """
    found = read_index(index)
    signature = description["reward_signature"]
    # Both ways: what is only said of pictures that are not the usual ones counts, too.
    for key in sorted((description.keys() | found.keys()) - {"reward_signature", "generation"}):
        if found.get(key) != description.get(key):
            raise UsageError(
                f"{index.parent} was made with {key} {found.get(key)}, not "
                f"{description.get(key)}: choose another folder"
            )
    if found["reward_signature"] != signature:
        raise UsageError(
            f"{index.parent} holds rewards of signature {found['reward_signature']}, not "
            f"{signature}: --relabel pays them anew from the game's facts"
        )
    return str(found["generation"])


def own_entries(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """Return what in a folder has such a name, sorted; none if there is no such folder.

    Raises:
        UsageError: the folder, or one of them, is a link: rows are cut off and deleted there.
    """
    found = sorted(path for path in folder.glob("*") if names.fullmatch(path.name))
    for path in (folder, *found):
        if path.is_symlink():
            raise UsageError(f"{path} is a link: a replay's rows stand in its folder")
    return found


def read_index(index: Path) -> dict[str, Any]:
    """Return the content of a replay.json.

    Raises:
        UsageError: it is not one.
    """
    try:
        found = json.loads(index.read_text())
        if not {"format", "row", "reward_signature", "generation"} <= found.keys():
            raise KeyError("not a replay's index")
        if not GENERATION.fullmatch(str(found["generation"])):
            raise ValueError(f"its generation is {str(found['generation'])[:40]!r}")
    except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"{index} cannot be read: {error}") from error
    return found


def relabel(
    folder: Path, row: np.dtype, signature: str, rewards_of: Callable[[np.ndarray], np.ndarray]
) -> int:
    """Pay all rows of a folder anew and return how many; a kill at any moment leaves it whole.

    Args:
        folder: a replay.
        row: its `row_type`.
        signature: of the new reward.
        rewards_of: given all rows of a stream without their images, returns float32[rows], NaN
            where the reward cannot be told: an episode whose beginning was forgotten. Those rows,
            at the stream's beginning, are left out.
    """
    index = folder / "replay.json"
    found = read_index(index)
    contents = {k: v for k, v in found.items() if k not in ("format", "row", "generation")}
    old = Replay(folder, row, contents, streams=0, length=1)
    generation = str(int(old.generation) + 1)
    shutil.rmtree(folder / generation, ignore_errors=True)  # of a relabelling that was killed
    count = 0
    for stream in range(len(old.end)):
        target = folder / generation / str(stream)
        target.mkdir(parents=True)
        rewards = rewards_of(old.without_images(stream))
        rewards = rewards[int(np.isnan(rewards).sum()) :]
        first = old.end[stream] - len(rewards)
        for start in range(0, len(rewards), CHUNK_ROWS):
            paid = rewards[start : start + CHUNK_ROWS]
            rows = old.read(stream, first + start, len(paid))
            rows["reward"] = paid
            rows["crc"] = checksums(rows)
            atomic_write(target / f"{start:012d}.rows", rows.tobytes())
        count += len(rewards)
    write_json(index, found | {"reward_signature": signature, "generation": generation})
    shutil.rmtree(old.path)
    print(f"{folder}: {count:,} rows paid anew", file=sys.stderr)
    return count
