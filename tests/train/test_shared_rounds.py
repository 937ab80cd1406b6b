# SPDX-License-Identifier: Apache-2.0
"""Runs whose rounds share slots: exact resume, programs, refused settings."""

import jax
import numpy as np
import pytest

from srl_jax.testing import experiment
from srl_jax.train import loop as train
from srl_jax.train.rl_config import RlConfig, RoundConfig
from srl_jax.update.groups import DynamicSamplingConfig


class PowerCutError(Exception):
  """Stands for whatever may end a process."""


def cut():
  raise PowerCutError


@pytest.fixture(scope="module")
def changes(runs):
  """A model that knows the format, so that rewards differ."""
  folder = runs.run(runs.folder / "together_start", "sft").workdir
  return {
    "weights": str(folder / "model"),
    "tokenizer__path": str(folder / "tokenizer.model"),
    "tokenizer__train_vocab_size": 0,
    "data__test_size": 0,
    "srl__update_steps": 4,
    "srl__validate_every": 0,
    "srl__sampling__trunks_per_round": 2,
    "srl__sampling__rows": 2,
    "srl__sampling__slots": 4,
  }


@pytest.fixture(scope="module")
def together(runs, changes):
  """A run that nothing interrupts."""
  runs.forget()
  return runs.run(runs.folder / "together", "srl", **changes)


def test_rounds_are_sampled_together_and_groups_carried_over(together):
  # A step whose batch is carried over samples nothing.
  rows = [row for row in together.rows() if row.get("srl/rounds")]
  assert len(rows) >= 2
  assert all(0 < row["srl/slot_occupancy"] <= 1 for row in rows)
  # Only a fused step leaves samples unscored.
  assert not any("srl/unscored" in row for row in rows)
  # Rounds of two trunks; a batch has 12 groups.
  assert max(row["srl/rounds"] for row in rows) > 3
  assert any(0 < row["srl/stale_share"] < 1 for row in rows)
  # A trunk is at another place of its row than in the update.
  assert max(row["srl/logp_gap_max"] for row in rows) < 1e-4
  _, pool, meta = together.saved["srl", 2]
  assert len(pool.born_P) > 0
  counts = meta["data"]["counts"]
  assert 0 < counts["kept"] < counts["scored"]


def test_stopped_anywhere_such_a_run_ends_with_the_same_bits(
  runs, changes, together
):
  outcome = experiment.RunOutcome(runs.folder / "together_pieces")
  for step, event, error in (
    # Saved at 2 and 3; goes on from there.
    (2, experiment.terminate, train.Stopped),
    (3, cut, PowerCutError),
  ):
    with pytest.raises(error):
      runs.run(
        outcome.workdir,
        "srl",
        events={("srl", step): event},
        outcome=outcome,
        **changes,
      )
  runs.run(outcome.workdir, "srl", outcome=outcome, **changes)
  assert ("srl", 3) in outcome.saved
  for key, (state, pool, meta) in together.saved.items():
    other_state, other_pool, other_meta = outcome.saved[key]
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    jax.tree.map(np.testing.assert_array_equal, pool, other_pool)
    assert meta == other_meta
  assert outcome.rows() == together.rows()


def test_nothing_compiles_after_the_first_step(together):
  counts = together.compiled["srl"]
  assert counts[1] == counts[2] == counts[3]


def test_parts_of_a_round_and_rounds_together_are_refused():
  with pytest.raises(ValueError, match="set parts_per_round=1"):
    RoundConfig(rows=2, trunks_per_round=4, parts_per_round=2)


def test_a_batch_of_one_round_and_rounds_together_are_refused():
  with pytest.raises(ValueError, match="refill=True or rows=0"):
    RlConfig(
      sampling=RoundConfig(rows=2),
      dynamic_sampling=DynamicSamplingConfig(refill=False),
    )
