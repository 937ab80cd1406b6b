# SPDX-License-Identifier: Apache-2.0
"""Declared reductions, by hand numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax import reductions
from srl_jax.types import Ratio


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Update:
  tokens: jax.Array = reductions.metric("sum", "tokens", "Tokens trained.")
  grad_norm: jax.Array = reductions.metric("mean", "1", "Gradient norm.")
  longest: jax.Array = reductions.metric("max", "tokens", "Longest branch.")
  loss: Ratio = reductions.metric("ratio", "nats", "Loss per token.")


PARTS = [
  Update(10, 1.0, 7, Ratio(6.0, 2.0)),
  Update(20, 2.0, 5, Ratio(1.0, 5.0)),
]


def test_each_metric_combines_as_its_field_declares():
  # The mean of the two ratios would be 1.6.
  assert reductions.reduce_metrics(PARTS) == {
    "tokens": 30.0,
    "grad_norm": 1.5,
    "longest": 7.0,
    "loss": 1.0,
  }


def test_what_a_scan_stacks_counts_as_further_parts():
  # A third micro-batch weighs as much as each of the two that a scan stacked.
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *PARTS)
  third = Update(30, 6.0, 9, Ratio(2.0, 2.0))
  assert reductions.reduce_metrics([stacked, third]) == {
    "tokens": 60.0,
    "grad_norm": 3.0,
    "longest": 9.0,
    "loss": 1.0,
  }


def test_sums_do_not_round_to_float32():
  # 2**24 + 1 is the first integer that float32 cannot hold.
  parts = [
    Update(np.int32(2**24), 0, 0, Ratio(0, 1)),
    Update(1, 0, 0, Ratio(0, 1)),
  ]
  assert reductions.reduce_metrics(parts)["tokens"] == 2**24 + 1


def test_a_ratio_without_anything_to_count_is_nan():
  reduced = reductions.reduce_metrics([Update(0, 0, 0, Ratio(0.0, 0.0))])
  assert math.isnan(reduced["loss"])


def test_a_declaration_that_does_not_fit_the_value_is_refused():
  with pytest.raises(ValueError, match="loss is declared 'ratio' and got a"):
    reductions.reduce_metrics([Update(0, 0, 0, 1.0)])
  with pytest.raises(ValueError, match="tokens is declared 'sum' and got a"):
    reductions.reduce_metrics([Update(Ratio(1, 1), 0, 0, Ratio(1, 1))])
  with pytest.raises(ValueError, match="'average' is unknown; use one of sum"):
    reductions.metric("average", "1", "")
  with pytest.raises(ValueError, match="no parts"):
    reductions.reduce_metrics([])


def test_explanations_say_reduction_unit_and_help():
  found = reductions.explanations(Update)
  assert found[3] == ("loss", "ratio", "nats", "Loss per token.")
  assert len(found) == 4
