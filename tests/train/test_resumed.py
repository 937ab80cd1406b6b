# SPDX-License-Identifier: Apache-2.0
"""A stage that resumes needs no more memory than one that trains."""

import types

import jax
import jax.numpy as jnp
import pytest

from srl_jax.train import loop


def resume(params, uses_reference):
  """Resumes a stage; returns its state, its reference, and what was freed."""
  freed = []

  def restore(step, wanted):
    freed.extend(x.is_deleted() for x in jax.tree.leaves(params))
    assert (step, wanted) == (3, "abstract")
    saved = {"params": {"w": jnp.ones(2)}, "opt_state": "moments"}
    return saved, "pool", {"data": "position"}

  abstract = types.SimpleNamespace(to_save=lambda: "abstract")
  updater = types.SimpleNamespace(abstract_state=lambda: abstract)
  stage = types.SimpleNamespace(uses_reference=uses_reference, updater=updater)
  saver = types.SimpleNamespace(restore=restore)
  state, reference, data = loop._resumed(stage, params, saver, 3)
  assert data == ("position", "pool")
  return state, reference, freed


def test_what_it_started_from_is_freed_before_the_checkpoint_comes():
  state, reference, freed = resume({"w": jnp.zeros(2)}, False)
  assert freed == [True] and reference is None
  assert state.params["w"].tolist() == [1, 1]
  assert state.opt_state == "moments"


@pytest.mark.parametrize("name", ["w", "w_lora_a"])
def test_what_is_still_needed_stays(name):
  # The reference of a KL penalty is what the stage started from.
  params = {"w": jnp.zeros(2), name: jnp.full(2, 7.0)}
  _, reference, freed = resume(params, True)
  assert not any(freed)
  assert reference[name].tolist() == [7, 7]


def test_only_adapters_are_freed_where_only_they_train():
  params = {"w": jnp.zeros(2), "w_lora_a": jnp.full(2, 7.0)}
  state, _, freed = resume(params, False)
  assert sorted(freed) == [False, True] and not params["w"].is_deleted()
  assert state.frozen["w"].tolist() == [0, 0]
