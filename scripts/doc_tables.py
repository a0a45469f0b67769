"""Write the tables of figures in README, docs, results and cards from the studies in results/.

    python scripts/doc_tables.py            # rewrite what is out of date
    python scripts/doc_tables.py --check    # write nothing; exit 1 if something is

A table stands between `<!-- table: KIND PATH... -->` and `<!-- end -->`; the kinds are those of
mario_tables.py.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from mario_cli import UsageError, exit_code
from mario_results import ROOT
from mario_tables import documents, with_tables
from mario_values import Checked, parse_flags


@dataclasses.dataclass(frozen=True)
class TableFlags(Checked):
    """Write, or only look."""

    check: bool = False
    """Write nothing; name what is out of date and exit 1."""


def write_or_look(flags: TableFlags) -> int:
    """Do what the flags say; 1 if something is out of date and stays so.

    Raises:
        UsageError: a marker cannot be followed.
    """
    stale = []
    for page in documents():
        text = page.read_text(encoding="utf-8")
        try:
            fresh = with_tables(page, text)
        except (KeyError, UsageError) as error:
            raise UsageError(f"a table of {page.relative_to(ROOT)}: {error}") from error
        if fresh == text:
            continue
        stale.append(page.relative_to(ROOT).as_posix())
        if not flags.check:
            page.write_text(fresh, encoding="utf-8", newline="\n")
    for name in stale:
        print(f"{'out of date' if flags.check else 'written'}: {name}")
    return 1 if flags.check and stale else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or look."""
    return exit_code(lambda: write_or_look(parse_flags(TableFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
