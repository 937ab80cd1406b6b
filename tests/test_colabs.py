# SPDX-License-Identifier: Apache-2.0
"""Every notebook runs, shows what it promises, and only uses the package."""

import ast
import pathlib

import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

FOLDER = pathlib.Path(__file__).parents[1] / "colabs"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def read(name):
  notebook = nbformat.read(FOLDER / name, as_version=4)
  nbformat.validate(notebook)
  return notebook


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def definitions(source):
  """What a cell defines; magics become calls first."""
  tree = ast.parse(TransformerManager().transform_cell(source))
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
  return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def test_there_are_notebooks():
  assert "quickstart.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_stripped(name):
  for cell in code_cells(read(name)):
    assert cell.outputs == []
    assert cell.execution_count is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_code_lives_in_the_package(name):
  for cell in code_cells(read(name)):
    assert not definitions(cell.source), cell.source


def test_definitions_are_found_in_cells_with_magics():
  assert definitions("%matplotlib inline\nimport x\ny = x.f()") == []
  for source in ("%pip list\ndef f(): pass", "class A: pass", "f = lambda: 1"):
    assert len(definitions(source)) == 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_licence_is_named(name):
  assert "SPDX-License-Identifier: Apache-2.0" in read(name).cells[0].source


@pytest.fixture(scope="module")
def quickstart():
  """The quickstart after all its cells have run; a cell that fails raises."""
  notebook = read("quickstart.ipynb")
  with pytest.MonkeyPatch.context() as patch:
    # One device and fast programs, as a reader has; not those of the tests.
    patch.setenv("XLA_FLAGS", "")
    patch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    nbclient.NotebookClient(
      notebook,
      timeout=1200,
      kernel_name="python3",
      resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
  return notebook


def shown(notebook, kind):
  """What all cells have put out as this MIME type."""
  return [
    output.data[kind]
    for cell in code_cells(notebook)
    for output in cell.outputs
    if output.output_type in ("display_data", "execute_result")
    and kind in output.data
  ]


@pytest.mark.slow
def test_the_quickstart_plots_the_reward_curve(quickstart):
  [image] = shown(quickstart, "image/png")
  assert len(image) > 5000, "an empty figure is smaller"


@pytest.mark.slow
def test_the_quickstart_shows_three_rollouts_beside_the_expert(quickstart):
  for page in shown(quickstart, "text/html"):
    assert page.count("<table") == 3
    assert page.count(">expert</th>") == 3
    assert "<mark" in page
  assert len(shown(quickstart, "text/html")) == 2


@pytest.mark.slow
def test_the_quickstart_says_nothing_alarming(quickstart):
  for cell in code_cells(quickstart):
    for output in cell.outputs:
      assert output.get("name") != "stderr", output.text
