# SPDX-License-Identifier: Apache-2.0
"""Every notebook runs, shows what it promises, and only uses the package."""

import ast
import importlib.metadata
import pathlib
import types

import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tests.support import small_model

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


def test_there_are_notebooks_and_each_is_executed():
  assert sorted(SMALLER) == NOTEBOOKS


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


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize(
  ("clone", "here", "source"),
  [
    ("srl_jax", ".", "./srl_jax"),
    (".", "colabs", ".."),
    (None, ".", "srl_jax"),
  ],
)
def test_the_first_cell_installs_a_clone_or_the_release(
  name, clone, here, source, tmp_path, monkeypatch
):
  """A clone beside the notebook is a folder that Python could import, too."""

  def version(_):
    raise importlib.metadata.PackageNotFoundError

  (tmp_path / here).mkdir(exist_ok=True)
  if clone:
    (tmp_path / clone).mkdir(exist_ok=True)
    (tmp_path / clone / "setup.py").touch()
  monkeypatch.chdir(tmp_path / here)
  monkeypatch.setattr(importlib.metadata, "version", version)
  asked = []
  cell = TransformerManager().transform_cell(code_cells(read(name))[0].source)
  shell = types.SimpleNamespace(run_line_magic=lambda *x: asked.append(x))
  # IPython fills in what stands in braces.
  scope = {"get_ipython": lambda: shell}
  exec(cell, scope)
  assert scope["source"] == source
  assert asked == [("pip", 'install -q "{source}[colab]"')]


# Budgets and models that tests put instead of a reader's, to take less time.
SMALLER = {
  "ablations.ipynb": {
    "update_steps, problems, seeds = 15, 100, (0,)": (
      "update_steps, problems, seeds = 1, 8, (0,)"
    ),
    # Each takes half a minute to compile.
    "in arms.items()": "in list(arms.items())[2:4]",
  },
  "finished_run.ipynb": {"update_steps = 10": "update_steps = 2"},
  "own_data.ipynb": {
    "sft_steps, srl_steps = 150, 15": "sft_steps, srl_steps = 20, 2"
  },
  "quickstart.ipynb": {},
  "small_model.ipynb": {
    '"HuggingFaceTB/SmolLM2-135M-Instruct"': '"{model}"',
    "new_tokens = 96": "new_tokens = 8",
  },
}


def execute(name, folder, **values):
  """Returns the notebook after all cells have run; a cell that fails raises."""
  notebook = read(name)
  for ours, smaller in SMALLER[name].items():
    for key, value in values.items():
      smaller = smaller.replace(f"{{{key}}}", str(value))
    [cell] = [x for x in code_cells(notebook) if ours in x.source]
    cell.source = cell.source.replace(ours, smaller)
  with pytest.MonkeyPatch.context() as patch:
    # One device, as a reader has. Fast programs, too, where a model learns;
    # elsewhere those of the tests, which compile in half the time.
    patch.setenv("XLA_FLAGS", "")
    if not SMALLER[name]:
      patch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    nbclient.NotebookClient(
      notebook,
      timeout=1200,
      kernel_name="python3",
      # In Colab there is no clone around it.
      resources={"metadata": {"path": str(folder)}},
    ).execute()
  return notebook


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
  return execute("quickstart.ipynb", tmp_path_factory.mktemp("colab"))


def said(notebook):
  """What all cells have printed."""
  return "".join(
    output.text
    for cell in code_cells(notebook)
    for output in cell.outputs
    if output.output_type == "stream"
  )


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


@pytest.mark.slow
def test_own_data_are_checked_learnt_and_shown(tmp_path):
  notebook = execute("own_data.ipynb", tmp_path)
  assert "branch point 0 of 1200" in said(notebook)
  assert "after srl" in said(notebook)
  [page] = shown(notebook, "text/html")
  assert page.count(">expert</th>") == 3


@pytest.mark.slow
def test_a_small_model_answers_learns_and_is_evaluated(tmp_path):
  model = small_model.write(tmp_path / "model")
  notebook = execute("small_model.ipynb", tmp_path, model=model)
  assert "srl 2/2" in said(notebook)
  assert "| sums |" in said(notebook)


@pytest.mark.slow
def test_a_finished_run_is_read(tmp_path):
  notebook = execute("finished_run.ipynb", tmp_path)
  assert "after srl" in said(notebook)
  assert "of 50 problems" in said(notebook)
  assert len(shown(notebook, "image/png")) == 1
  assert len(shown(notebook, "text/html")) == 1


@pytest.mark.slow
def test_ablations_have_an_arm_each_with_intervals(tmp_path):
  notebook = execute("ablations.ipynb", tmp_path)
  for arm in ("R3", "SFT"):
    for how in ("turns", "solve"):
      assert f"{arm}, seed 0, {how}, greedy: " in said(notebook)
