"""A notebook that is run from its first cell to its last, in a kernel of its own."""

import os

import pytest

# A kernel takes some seconds to start and to import torch.
WANTED = os.environ.get("SOFTPROMPT_NOTEBOOK_TESTS") == "1"
CELLS = (
    "import softprompt",
    "run = softprompt.train('lab/color', 'lab-t5-small', method='scaled', steps=6, eval_every=3, eval_rows=8, "
    "batch_size=4, output='run', progress=True)",
    "run",
    "run.history",
    "softprompt.train('lab/colour', 'lab-t5-small', steps=1)",
)


@pytest.mark.skipif(not WANTED, reason="starts a kernel: set SOFTPROMPT_NOTEBOOK_TESTS=1")
def test_a_notebook_shows_progress_the_run_its_history_and_a_mistake(tmp_path):
    why = "nbclient is not installed: pip install nbclient ipykernel ipywidgets"
    nbclient, nbformat = (pytest.importorskip(name, reason=why) for name in ("nbclient", "nbformat"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.cells[-1].metadata["tags"] = ["raises-exception"]
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    nothing, trained, run, history, mistake = ([dict(output) for output in cell.outputs] for cell in notebook.cells)
    assert nothing == []
    assert any("widget-view" in kind for output in trained for kind in output.get("data", {})), trained
    assert "<table" in run[0]["data"]["text/html"]
    assert "<polyline" in run[0]["data"]["text/html"]
    assert "loss" in history[0]["data"]["text/html"]
    assert mistake[0]["ename"] == "UnknownName"
    assert "Did you mean 'lab/color'" in mistake[0]["evalue"]
