"""The report: one HTML file of runs that needs nothing else."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mario_report import (
    BIN_PX,
    CURVES,
    RUN_COLUMNS,
    STATE_COLORS,
    death_counts,
    describe_endings,
    endings,
    level_picture,
    png,
    points,
    rounded,
    run_cells,
    stage_of,
)
from mario_runs import atomic_write
from mario_status import RunReader

MAX_VIDEO_BYTES = 8 * 2**20  # of the preview that a report holds

PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Mario runs</title>
<style>
body { background: #0b1120; color: #e2e8f0; font: 14px/1.5 system-ui, sans-serif;
       max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #1e293b }
th, .muted { color: #94a3b8; font-weight: 400 }
.curves { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1rem }
figure { background: #111a2e; border-radius: 8px; margin: 0; padding: .7rem .9rem }
figcaption { display: flex; justify-content: space-between }
.level { display: block; width: 100% }
video { image-rendering: pixelated; border-radius: 8px }
</style>
<h1>Mario runs</h1>
<table>
<tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for status in statuses %}
<tr>{% for cell in cells(status) %}
<td{% if loop.first %} style="color: {{ colors[cell] }}"{% endif %}>{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</table>
{% for run in runs %}
<h2>{{ run.status.name }}</h2>
<p><b style="color: {{ colors[run.status.state] }}">{{ run.status.state }}</b>
{{ run.status.trouble if run.status.state == "collapsed" else run.status.remark }}</p>
{% for finding in run.status.findings %}
<p class="muted">{{ finding.rule }} at {{ finding.step }}: {{ finding.message }}</p>
{% endfor %}
<div class="curves">
{% for curve in run.curves %}
<figure>
<figcaption><span class="muted">{{ curve.title }}</span><b>{{ curve.value }}</b></figcaption>
<svg viewBox="0 0 300 80" width="100%" preserveAspectRatio="none"><polyline fill="none"
 stroke="#38bdf8" stroke-width="1.5" vector-effect="non-scaling-stroke"
 points="{{ curve.line }}"/></svg></figure>
{% endfor %}
</div>
{% if run.level %}
<h2>Where it ends on {{ run.status.stage }}</h2>
<p class="muted">{{ run.level.text }}</p>
<svg class="level" viewBox="0 0 {{ run.level.width }} 300">
{% for x, share, count in run.level.bars %}
<rect x="{{ x }}" y="{{ 300 * (1 - share) }}" width="{{ bin_px - 4 }}" height="{{ 300 * share }}"
 fill="#ef4444"><title>x {{ x }}-{{ x + bin_px - 1 }}: {{ count }}</title></rect>
{% endfor %}
</svg>
<img class="level" alt="the level" src="{{ run.level.picture }}">
{% endif %}
{% if run.video %}
<h2>Newest preview</h2>
<video controls loop width="512" src="{{ run.video }}"></video>
{% endif %}
{% endfor %}
</html>
""")


def svg_line(found: Sequence[tuple[int, float]]) -> str:
    """Return (step, value) pairs as the points of a line in a box of 300 x 80, 0 included."""
    steps, values = np.array(found, dtype=float).T
    low, high = min(0.0, values.min()), max(values.max(), 0.0)
    x = 300 * (steps - steps[0]) / max(steps[-1] - steps[0], 1)
    y = 78 - 76 * (values - low) / max(high - low, 1e-12)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def data_uri(kind: str, content: bytes) -> str:
    """Return a file's content as an address that a page can hold."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def run_details(reader: RunReader) -> dict[str, Any]:
    """Return what `PAGE` shows of a run; what the run does not have is absent."""
    status = reader.status()
    details: dict[str, Any] = {"status": status, "curves": []}
    for curve in CURVES:
        if found := points(reader.rows, curve.key):
            value = rounded(found[-1][1], curve.digits)
            details["curves"].append(
                {"title": curve.title, "value": value, "line": svg_line(found)}
            )
    stage = stage_of(status)
    ends = endings(reader.readable_evaluations(), stage) if stage else []
    if ends and stage:
        picture, deaths = level_picture(stage), death_counts(ends)
        most = max((count for _, count in deaths), default=1)
        details["level"] = {
            "text": describe_endings(ends),
            "width": picture.shape[1],
            "bars": [(x, count / most, count) for x, count in deaths],
            "picture": data_uri("image/png", png(picture)),
        }
    preview = reader.newest_preview()
    with contextlib.suppress(OSError):  # a trainer may be making room
        if preview and preview.stat().st_size <= MAX_VIDEO_BYTES:
            details["video"] = data_uri("video/mp4", preview.read_bytes())
    return details


def write_html(path: Path, readers: Sequence[RunReader], detailed: Sequence[RunReader]) -> None:
    """Write a page that needs nothing else: a table of all runs, then each detailed one.

    Raises:
        OSError: it could not be written; path is untouched.
    """
    page = PAGE.render(
        statuses=[reader.status() for reader in readers],
        runs=[run_details(reader) for reader in detailed],
        columns=RUN_COLUMNS,
        cells=run_cells,
        colors=STATE_COLORS,
        bin_px=BIN_PX,
    )
    atomic_write(path, page.encode(errors="backslashreplace"))
