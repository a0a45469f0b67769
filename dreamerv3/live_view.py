"""The monitor on a DreamerV3 run: `live_view.py logs/run`, further flags as the monitor takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MONITOR = Path(__file__).resolve().parents[1] / "auto_update_mario_monitor.py"


def main(arguments: Sequence[str]) -> int:
    """Open the monitor on the run that the first argument names; return its exit code."""
    if not arguments or arguments[0].startswith("-"):
        print("error: name a run folder", file=sys.stderr)
        return 2
    return subprocess.call([sys.executable, str(MONITOR), "--run-dir", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
