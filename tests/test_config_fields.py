# SPDX-License-Identifier: Apache-2.0
"""Every field of the configuration is read, and every choice is checked."""

import ast
import dataclasses
import pathlib
import typing

import pytest

from srl_jax import config as config_lib
from srl_jax import sharding
from srl_jax.data.splits import SPLITS

ROOT = pathlib.Path(__file__).parents[1]


def config_fields(cls=config_lib.Config, path="config"):
  """Yields (path, class, field name) of a config dataclass, nested ones too."""
  for field in dataclasses.fields(cls):
    annotation = typing.get_type_hints(cls)[field.name]
    yield f"{path}.{field.name}", cls, field.name
    if dataclasses.is_dataclass(annotation):
      yield from config_fields(annotation, f"{path}.{field.name}")


FIELDS = list(config_fields())
# Variables that hold a config, beside those named after its section.
HOLDERS = {"c", "config", "settings"}
HOLDERS |= {"adapters", "choice", "device", "scaling", "workers"}
# Read by getattr with a computed name.
COMPUTED = {
  *typing.get_args(config_lib.StageName),
  *(f"{split}_size" for split in SPLITS),
  *(field.name for field in dataclasses.fields(sharding.MeshConfig)),
  *(field.name for field in dataclasses.fields(sharding.ShardingRules)),
}


def reads(node, owner=""):
  """Yields ("data", "path") for `data.path` as for `config.data.path`.

  The `self` of a method is its class. A field that is only checked is not read:
  __post_init__ does not count.
  """
  if getattr(node, "name", "") == "__post_init__":
    return
  if isinstance(node, ast.ClassDef):
    owner = node.name
  if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
    of = getattr(node.value, "attr", getattr(node.value, "id", ""))
    yield owner if of == "self" else of.lstrip("_"), node.attr
  for child in ast.iter_child_nodes(node):
    yield from reads(child, owner)


def holders(path, cls):
  """Names of variables that may hold the config of a field."""
  return (
    HOLDERS | {path.split(".")[-2]} | {base.__name__ for base in cls.__mro__}
  )


def test_every_config_field_is_read_somewhere():
  found = set()
  for path in (ROOT / "srl_jax").rglob("*.py"):
    if "testing" not in path.parts:
      found.update(reads(ast.parse(path.read_text(encoding="utf-8"))))
  unread = {
    path
    for path, cls, name in FIELDS
    if name not in COMPUTED
    and not any((of, name) in found for of in holders(path, cls))
  }
  assert len(FIELDS) > 150
  assert not unread, "remove these fields, or name what they are read through"


def is_choice(cls, name):
  return typing.get_origin(typing.get_type_hints(cls)[name]) is typing.Literal


@pytest.mark.parametrize(
  ("cls", "name"),
  [
    pytest.param(cls, name, id=path)
    for path, cls, name in FIELDS
    if is_choice(cls, name)
  ],
)
def test_a_choice_is_checked_when_a_config_is_built_in_python(cls, name):
  with pytest.raises(ValueError, match=f"{name} got 'nonsense'.*allowed is"):
    cls(**{name: "nonsense"})
