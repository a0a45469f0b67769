"""The notebook for Colab and Kaggle, run from its first cell to its last."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "mario.ipynb"
TINY = "--timesteps 256 --n-envs 2 --n-steps 64 --batch-size 64 --n-epochs 1 --eval-freq 0"


def test_the_notebook_is_kept_without_outputs_and_its_cells_parse() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(codes) >= 5
    for cell in codes:
        assert not cell["outputs"] and cell["execution_count"] is None
        ast.parse("".join(cell["source"]))
    first = "".join(codes[0]["source"])
    assert '"uv", "python", "install", "3.13"' in first


@pytest.mark.slow
def test_the_notebook_runs_and_shows_two_films_and_a_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in {"RUNS": str(tmp_path), "FLAGS": TINY, "EPISODES": "1"}.items():
        monkeypatch.setenv(f"MARIO_{name}", value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=550, resources=resources).execute()
    shown = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert shown.count("image/png") == 1
    assert shown.count("text/html") == 2, "two films"
    assert (tmp_path / "notebook" / "models" / "mario_final.zip").is_file()
