# SPDX-License-Identifier: Apache-2.0
"""Exported parameters are those of the update step that was asked for."""

import json

import numpy as np
import pytest
import safetensors.numpy

from srl_jax import export, loading
from srl_jax.testing import experiment


def embedding_of(folder):
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  return tensors["model.embed_tokens.weight"]


def saved_embedding(outcome, stage, step):
  return outcome.saved[stage, step][0]["params"]["embedding"]


def test_any_saved_step_of_a_finished_run_is_exported(whole, tmp_path):
  for step in (2, 6):
    out = tmp_path / str(step)
    export.export(whole.workdir, out, stage="srl", step=step)
    np.testing.assert_array_equal(
      embedding_of(out), saved_embedding(whole, "srl", step)
    )
  assert (embedding_of(tmp_path / "2") != embedding_of(tmp_path / "6")).any()


def test_a_step_of_an_unfinished_run_is_exported(runs, tmp_path):
  outcome = experiment.Outcome(tmp_path / "run")

  def cut():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    runs.run(outcome.workdir, "sft", events={("sft", 5): cut}, outcome=outcome)
  export.export(outcome.workdir, tmp_path / "out", step=4)
  np.testing.assert_array_equal(
    embedding_of(tmp_path / "out"), saved_embedding(outcome, "sft", 4)
  )
  with pytest.raises(ValueError, match="no checkpoint 5; there is: 2, 4"):
    export.export(outcome.workdir, tmp_path / "other", step=5)


def test_a_config_of_another_version_is_refused_by_its_path(whole, tmp_path):
  saved = json.loads((whole.workdir / "config.json").read_text())
  saved["data"]["of_an_older_version"] = 1
  (tmp_path / "config.json").write_text(json.dumps(saved))
  with pytest.raises(ValueError) as caught:
    loading.read_run_config(tmp_path)
  for part in (
    str(tmp_path / "config.json"),
    "config.data.of_an_older_version does not exist",
    str(tmp_path / "versions.json"),
  ):
    assert part in str(caught.value)
