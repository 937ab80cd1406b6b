# SPDX-License-Identifier: Apache-2.0
"""Every number of a config means something documented or is refused by name."""

import dataclasses
import math
import re
import typing

import pytest

from srl_jax import sharding, strict
from srl_jax.config import Config
from srl_jax.train.rl_config import RoundConfig

# -1 is a documented value of these; of the mesh's axes, of one at a time.
NEGATIVE = {"evaluate.suite_samples", "mesh.data", "reward_workers.count"}
# Any reward may be given for a broken format.
NEGATIVE |= {f"{x}.reward.broken_format_reward" for x in ("srl", "rlvr")}
# What 0 means is plain: no decay, no memory, no margin, no reward, or a seed.
PLAIN_ZERO = ("beta1", "beta2", "weight_decay", "warmup_ratio", "epsilon")
PLAIN_ZERO += ("clip_low", "clip_high", "broken_format_reward", "seed")
PLAIN_ZERO += ("valid_size", "test_size", "pretrain_size")


def numeric_fields(cls, path=()):
  """Yields (dotted path, type, documentation) of all numbers below a class."""
  hints = typing.get_type_hints(cls)
  texts = strict.field_texts(cls)
  for field in dataclasses.fields(cls):
    here = (*path, field.name)
    if dataclasses.is_dataclass(hints[field.name]):
      yield from numeric_fields(hints[field.name], here)
    elif hints[field.name] in (int, float):
      yield ".".join(here), hints[field.name], texts[field.name]


FIELDS = list(numeric_fields(Config))


def with_value(path, value):
  mapping = strict.to_config_dict(Config()).to_dict()
  *parents, last = path.split(".")
  node = mapping
  for name in parents:
    node = node[name]
  node[last] = value
  config = strict.to_dataclass(Config, mapping, "config")
  sharding.make_mesh(config.mesh)
  return config


def is_refused(path, value):
  """Whether a value is an error, which then names the field."""
  try:
    with_value(path, value)
  except ValueError as error:
    *parents, last = path.split(".")
    # "config.srl.optim: learning_rate=-1.0; ...", "c.mesh.data".
    said = str(error)
    assert all(name in said for name in parents) and last in said, said
    return True
  return False


def test_there_are_many_numbers():
  assert len(FIELDS) > 120
  assert {path for path, *_ in FIELDS} >= NEGATIVE


@pytest.mark.parametrize(
  "value", [math.nan, math.inf, -math.inf, "3", True, None, -5]
)
def test_what_is_no_number_of_a_kind_is_refused_everywhere(value):
  taken = [path for path, *_ in FIELDS if not is_refused(path, value)]
  rewards = [x for x in taken if x.endswith("broken_format_reward")]
  assert taken == (rewards if value == -5 else [])


def test_minus_one_is_refused_unless_it_means_something():
  taken = {path for path, *_ in FIELDS if not is_refused(path, -1)}
  assert taken == NEGATIVE


def test_no_count_is_a_float_or_too_large_a_seed():
  wrong = [
    path
    for path, kind, _ in FIELDS
    if kind is int and not is_refused(path, 1e30)
  ]
  assert not wrong
  for path in ("seed", "data.seed"):
    assert is_refused(path, 2**32)
  for path in ("sft.optim.learning_rate", "srl.reward.broken_format_reward"):
    assert is_refused(path, 1e30)


def test_zero_is_refused_or_its_meaning_is_documented():
  undocumented = [
    path
    for path, _, text in FIELDS
    if not is_refused(path, 0)
    and not re.search(r"\b0\b", text)
    and not path.endswith(PLAIN_ZERO)
  ]
  assert not undocumented


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_code_that_makes_a_config_is_told_the_same(value):
  with pytest.raises(ValueError, match="temperature="):
    RoundConfig(temperature=value)
