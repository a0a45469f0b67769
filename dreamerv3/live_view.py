"""The monitor on a DreamerV3 run: `live_view.py logs/run`, further flags as the monitor takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from auto_update_mario_monitor import main as monitor


def main(arguments: Sequence[str]) -> int:
    """Open the monitor on the run that the first argument names."""
    if not arguments or arguments[0].startswith("-"):
        print("error: name a run folder", file=sys.stderr)
        return 2
    return monitor(["--run-dir", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
