"""All runs below a folder, read again when somebody looks, but not all the time."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

from mario_runs import printable
from mario_status import RunReader, RunStatus, find_runs

REFRESH_S = 2.0
REFRESH_SHARE = 0.05  # of a core, at most: beside a training a page of many runs refreshes less
FIRST_LOOK_S = 0.2  # for reading runs that nobody has looked at, until the rest waits its turn


class Board:
    """All runs below a root, by name."""

    def __init__(self, root: Path, only: Path | None = None) -> None:
        """Show the runs below a folder, or one of them alone."""
        self.only = only.resolve() if only else None
        self.root = self.only.parent if self.only else root
        self.readers: dict[str, RunReader] = {}
        self._statuses: dict[str, RunStatus] = {}
        self._next = 0.0
        self._lock = threading.Lock()

    @property
    def statuses(self) -> list[RunStatus]:
        """The runs that have been read, the one that wrote last first."""
        known = list(self._statuses.values())  # another thread may be adding to them
        return sorted(known, key=lambda one: math.inf if one.age_s is None else one.age_s)

    @property
    def unread(self) -> list[str]:
        """The names of the runs that a first look has not come to yet."""
        return [name for name in self.readers if name not in self._statuses]

    def refresh(self, within_s: float = math.inf) -> None:
        """Read what is new, unless that was done a moment ago.

        Args:
            within_s: how long runs are read that have never been read; the rest is left for the
                next call, which then comes at once. Whoever says it does not wait for another
                who is reading, either.
        """
        if not self._lock.acquire(blocking=within_s == math.inf):
            return
        try:
            begun, cpu_begun = time.monotonic(), time.thread_time()
            if begun < self._next:
                return
            found = {printable(self.only.name): self.only} if self.only else find_runs(self.root)
            readers = {
                name: self.readers.get(name) or RunReader(path, name)
                for name, path in found.items()
            }
            known = self._statuses
            statuses = {name: known[name] for name in readers if name in known}
            self.readers, self._statuses = readers, statuses  # who asks meanwhile sees what is read
            for name, reader in readers.items():
                if name in known or time.monotonic() - begun < within_s:
                    statuses[name] = reader.status()
            took_s = time.thread_time() - cpu_begun
            if not self.unread:
                self._next = begun + max(REFRESH_S / 2, took_s / REFRESH_SHARE)
        finally:
            self._lock.release()

    def status(self, name: str) -> RunStatus | None:
        """Return a run's status as last read."""
        return self._statuses.get(name)

    def reader(self, name: str) -> RunReader:
        """Return the run of a name that a browser asks for.

        Raises:
            KeyError: no run of the list is called so.
        """
        self.refresh(FIRST_LOOK_S)
        return self.readers[name]
