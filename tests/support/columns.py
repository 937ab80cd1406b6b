# SPDX-License-Identifier: Apache-2.0
"""Which explanation in metrics.txt a column of a run has."""

import re

from srl_jax.train import metric_columns


def patterns():
  """Returns the explained columns; those of stages of RL begin with "rl/"."""
  of = {"all stages": ("sft", "rl"), "sft": ("sft",), "test": ("test",)}
  return {
    f"{stage}/{row[0]}"
    for title, rows in metric_columns.sections().items()
    for row in rows
    for stage in of.get(title, ("rl",))
  }


def explained(column):
  """Returns the one of `patterns` that explains a column, or None."""
  stage, _, name = column.rpartition("/")
  column = f"{stage if stage in ('sft', 'test') else 'rl'}/{name}"
  for pattern in patterns():
    regex = pattern.replace("*", r"\d+").replace("NAME", r"[\w.-]+")
    if re.fullmatch(regex, column):
      return pattern
  return None
