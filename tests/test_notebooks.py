"""The notebooks run from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import slow

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


TRAINING = [slow(name) for name in ("tour", "merge", "method")]


@pytest.mark.parametrize("name", [*TRAINING, "grid", "law"])
def test_runs_from_top_to_bottom(name: str, shared: Path) -> None:
    """In one folder, as a reader runs them: what one notebook has trained the next one takes from the store."""
    (folder := shared / "notebooks").mkdir(exist_ok=True)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert any(output.output_type in ("execute_result", "display_data") for output in last.outputs)
