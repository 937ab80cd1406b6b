# SPDX-License-Identifier: Apache-2.0
"""Strict conversion: what is refused, with which words, and what is kept."""

import dataclasses
from typing import Literal

import ml_collections
import pytest

from srl_jax import strict


@dataclasses.dataclass(frozen=True)
class Optimizer:
  learning_rate: float = 1e-3
  schedule: Literal["constant", "cosine"] = "constant"

  def __post_init__(self):
    if self.learning_rate <= 0:
      raise ValueError(f"learning_rate is {self.learning_rate}; use > 0")


@dataclasses.dataclass(frozen=True)
class Stage:
  name: str = "srl"
  group_size: int = 8
  optimizer: Optimizer = Optimizer()


@dataclasses.dataclass(frozen=True)
class Run:
  seed: int = 0
  path: str | None = None
  sizes: tuple[int, ...] = (1, 2)
  band: tuple[float, float] = (0.0, 1.0)
  resume: bool = True
  stages: tuple[Stage, ...] = (Stage(), Stage(name="rlvr"))
  warm: Optimizer | None = None
  limit: int | float = 1


def convert(**values):
  return strict.to_dataclass(Run, values, "config")


def test_defaults_survive_the_trip_through_a_config_dict():
  run = Run(seed=3, sizes=(), warm=Optimizer(2.0, "cosine"))
  config = strict.to_config_dict(run)
  assert strict.to_dataclass(Run, config, "config") == run


def test_edits_of_a_config_dict_arrive_at_any_depth():
  config = strict.to_config_dict(Run())
  config.stages[1].optimizer.learning_rate = 0.5
  config.path = "a.jsonl"
  config.sizes = [4, 5, 6]
  run = strict.to_dataclass(Run, config, "config")
  assert run.stages[1].optimizer.learning_rate == 0.5
  assert run.stages[0].optimizer.learning_rate == 1e-3
  assert run.path == "a.jsonl"
  assert run.sizes == (4, 5, 6)


def test_the_config_dict_is_locked_also_inside_tuples():
  config = strict.to_config_dict(Run())
  for part in (config, config.stages[1], config.stages[0].optimizer):
    with pytest.raises(AttributeError, match="locked"):
      part.grop_size = 4


def test_an_int_becomes_a_float_and_a_list_a_tuple_and_nothing_else_changes():
  run = convert(band=[0, 1], warm={"learning_rate": 2})
  assert run.band == (0.0, 1.0)
  assert [type(x) for x in run.band] == [float, float]
  assert type(run.warm.learning_rate) is float


def test_a_union_of_numbers_keeps_the_type_that_was_given():
  assert type(convert(limit=2).limit) is int
  assert type(convert(limit=2.0).limit) is float


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"seed": 1.0}, "config.seed got 1.0 of type float, allowed is int"),
    ({"seed": "1"}, "config.seed got '1' of type str, allowed is int"),
    ({"seed": True}, "config.seed got True of type bool, allowed is int"),
    ({"seed": None}, "config.seed got None"),
    ({"resume": 1}, "config.resume got 1 of type int, allowed is bool"),
    ({"path": 3}, "allowed is str or None"),
    ({"sizes": 3}, "config.sizes got 3 of type int, allowed is tuple"),
    ({"sizes": "12"}, "config.sizes got '12' of type str"),
    ({"sizes": (1, 2.5)}, r"config.sizes\[1\] got 2.5 of type float"),
    ({"band": (0.0,)}, "config.band got 1 values .* give exactly 2"),
    ({"warm": 3}, "allowed is the fields of Optimizer or None"),
    (
      {"stages": [{}, {"optimizer": {"learning_rate": "1e-3"}}]},
      r"config.stages\[1\].optimizer.learning_rate got '1e-3' of type str",
    ),
    (
      {"warm": {"schedule": "cosin"}},
      "allowed is 'constant' or 'cosine'; did you mean 'cosine'",
    ),
  ],
)
def test_a_wrong_type_is_refused_with_its_path(values, message):
  with pytest.raises(ValueError, match=message):
    convert(**values)


@pytest.mark.parametrize(
  ("values", "unknown", "nearest"),
  [
    ({"sede": 1}, "config.sede", "config.seed"),
    (
      {"stages": [{"grop_size": 4}]},
      r"config.stages\[0\].grop_size",
      r"config.stages\[0\].group_size",
    ),
    # Spelt right, but one level too high.
    (
      {"learning_rate": 1.0},
      "config.learning_rate",
      r"config.stages\[0\].optimizer.learning_rate",
    ),
  ],
)
def test_an_unknown_field_names_the_nearest_one(values, unknown, nearest):
  message = f"{unknown} does not exist; did you mean {nearest}?"
  with pytest.raises(ValueError, match=message):
    convert(**values)


@dataclasses.dataclass(frozen=True)
class Described:
  """A class that says what it is.

  In two paragraphs: name is not a field here.

  Attributes:
    name: what it is called, on
      two: lines.
    sizes: how large.
  """

  name: str = ""
  sizes: tuple[int, ...] = ()


def test_fields_are_described_by_the_docstring():
  assert strict.field_texts(Described) == {
    "name": "what it is called, on two: lines.",
    "sizes": "how large.",
  }
  assert strict.summary(Described) == (
    "A class that says what it is. In two paragraphs: name is not a field here."
  )
  assert strict.field_texts(Run) == {}


@pytest.mark.parametrize(
  ("annotation", "words"),
  [
    (int, "int"),
    (str | None, "str or None"),
    (Literal["a", "b"], "'a' or 'b'"),
    (tuple[int, ...], "tuple of int"),
    (tuple[Literal["a", "b"], ...], "tuple of 'a' or 'b'"),
    (tuple[int, float], "tuple (int, float)"),
    (Optimizer | None, "the fields of Optimizer or None"),
  ],
)
def test_types_are_described_in_words(annotation, words):
  assert strict.describe_type(annotation) == words


def test_a_field_without_default_must_be_given():
  @dataclasses.dataclass(frozen=True)
  class Data:
    path: str

  message = r"data\.path has no value; set it to str"
  with pytest.raises(ValueError, match=message):
    strict.to_dataclass(Data, {}, "data")


def test_a_refusal_by_the_dataclass_itself_gets_the_path():
  message = r"config.warm: learning_rate is -1.0; use > 0"
  with pytest.raises(ValueError, match=message):
    convert(warm={"learning_rate": -1.0})


def test_plain_config_dicts_and_mappings_are_both_accepted():
  config = ml_collections.ConfigDict({"warm": {"learning_rate": 2.0}})
  run = strict.to_dataclass(Run, config, "config")
  assert run == convert(warm={"learning_rate": 2.0})
