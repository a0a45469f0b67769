"""The test command: lint, format, types, tests, in this order; all are run, whatever fails.

    scripts/run_mario.sh test            # the quick suite
    scripts/run_mario.sh test -m slow    # the slow tests; further flags go to pytest

Exits 0 only if all four pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKS = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "tests": ["pytest", "-n", "auto"],
}
# A test process a core, so a torch thread a process; and none that spins while it waits.
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def main(pytest_flags: list[str]) -> int:
    """Run every check and print which ones failed, with their time in seconds."""
    if {"-h", "--help"} & set(pytest_flags):
        print(__doc__)
        return 0
    results = []
    for name, module in CHECKS.items():
        command = [sys.executable, "-m", *module, *(pytest_flags if name == "tests" else [])]
        print(f"== {name}: {' '.join(command[2:])}", flush=True)
        start = time.monotonic()
        environment = {**os.environ, **THREADS}
        code = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode
        results.append((name, code, time.monotonic() - start))
    print("== summary")
    for name, code, wall_s in results:
        print(f"{name:7s} {'ok' if code == 0 else f'FAILED ({code})':12s} {wall_s:6.1f} s")
    return 1 if any(code for _, code, _ in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
