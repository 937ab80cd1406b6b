# SPDX-License-Identifier: Apache-2.0
"""Every field of the configuration is read by the package, as its class's."""

import ast
import dataclasses
import functools
import pathlib
import sys
import types
import typing

import pytest

from srl_jax import config as config_lib
from srl_jax import sharding
from srl_jax.testing import config_reads

ROOT = pathlib.Path(__file__).parents[1]


def config_fields(cls=config_lib.Config, path="config"):
  """Yields (path, class, field name) of a config dataclass, nested ones too."""
  for name, annotation in typing.get_type_hints(cls).items():
    yield f"{path}.{name}", cls, name
    if dataclasses.is_dataclass(annotation):
      yield from config_fields(annotation, f"{path}.{name}")


FIELDS = list(config_fields())
CLASSES = {cls for _, cls, _ in FIELDS}


@functools.cache
def sources():
  """The package, without what is there for tests."""
  found = {}
  for path in sorted((ROOT / "srl_jax").rglob("*.py")):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if not name.startswith("srl_jax.testing."):
      found[name.removesuffix(".__init__")] = path.read_text(encoding="utf-8")
  return found


def strings_of(*modules):
  return {
    node.value
    for name, text in sources().items()
    if name.startswith(modules)
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Constant)
  }


def find_reads(of):
  computed = {
    config_lib.Config: typing.get_args(config_lib.StageName),
    sharding.MeshConfig: sharding.MESH_AXES,
    # The rule of an axis is looked up by the name that the model gives it.
    sharding.ShardingRules: {
      *strings_of("srl_jax.models.layers"),
      *strings_of("srl_jax.models.transformer"),
    },
  }
  return config_reads.find_reads(of, CLASSES, computed)


def unread(reads):
  """Paths of the fields that nothing reads, of their class or of a base."""
  return {
    path
    for path, cls, name in FIELDS
    if not any((base, name) in reads for base in cls.__mro__)
  }


def test_every_config_field_is_read_somewhere():
  assert len(FIELDS) > 150
  assert not unread(find_reads(sources())), (
    "remove these fields, or annotate the variables they are read through"
  )


def with_fields(text, *names):
  """Declares more fields in all config dataclasses of a module."""
  lines = text.split("\n")
  for node in reversed(ast.parse(text).body):
    if isinstance(node, ast.ClassDef) and node.name in {
      cls.__name__ for cls in CLASSES
    }:
      first = next(x for x in node.body if isinstance(x, ast.AnnAssign))
      at = first.lineno - 1
      lines[at:at] = [f"  {name}: int = 0" for name in names]
  return "\n".join(lines)


@pytest.mark.slow
def test_an_unread_field_is_found_whatever_else_has_its_name():
  # Much else has a path, a count, a config, a name.
  names = ("path", "count", "config", "name")
  changed = {k: with_fields(text, *names) for k, text in sources().items()}
  assert sum(changed[k] != text for k, text in sources().items()) > 10
  reads = find_reads(changed)
  declared = {(cls, name) for _, cls, name in FIELDS}
  for cls in CLASSES:
    for name in names:
      is_read = any((base, name) in reads for base in cls.__mro__)
      assert is_read == ((cls, name) in declared), (cls, name)


@pytest.mark.slow
def test_a_field_that_is_not_read_any_more_is_found():
  module = "srl_jax.checkpoint"
  text = sources()[module].replace("config.keep", "2")
  assert text != sources()[module]
  reads = find_reads(sources() | {module: text})
  assert unread(reads) == {"config.checkpoint.keep"}


EXAMPLE = """
import dataclasses

@dataclasses.dataclass
class Inner:
  by_annotation: int = 0
  by_attribute: int = 0
  by_caller: int = 0
  by_copy: int = 0
  by_loop: int = 0
  by_nested_function: int = 0
  by_property: int = 0
  by_return: int = 0
  by_own_method: int = 0
  train_size: int = 0
  only_checked: int = 0
  only_set: int = 0
  of_something_else: int = 0

  def __post_init__(self):
    assert self.only_checked >= 0

  def method(self):
    return self.by_own_method

@dataclasses.dataclass
class Outer:
  inner: Inner
  other: int = 0

class Holder:
  def __init__(self, config: Outer):
    self._name, self._inner = "x", config.inner

  @property
  def section(self) -> Inner:
    return self._inner

  def use(self):
    return self._inner.by_attribute

def annotated(config: Inner):
  def nested():
    return config.by_nested_function
  return config.by_annotation

def not_annotated(config):
  config.only_set = 3
  return config.by_caller

def makes(outer: Outer):
  return outer.inner

def all_of_it(outer: Outer, something, split):
  not_annotated(config=outer.inner)
  Holder(outer).section.by_property
  makes(outer).by_return
  dataclasses.replace(outer.inner, by_copy=1).by_copy
  [x.by_loop for x in (None, outer.inner)]
  something.of_something_else
  return getattr(outer.inner, f"{split}_size")
"""


def test_reads_are_found_however_the_reader_got_the_config(monkeypatch):
  module = types.ModuleType("example_of_reads")
  monkeypatch.setitem(sys.modules, module.__name__, module)
  exec(EXAMPLE, vars(module))
  reads = config_reads.find_reads(
    {module.__name__: EXAMPLE}, {module.Inner, module.Outer}, {}
  )
  fields = {field.name for field in dataclasses.fields(module.Inner)}
  unread = {"only_checked", "only_set", "of_something_else"}
  assert reads == {
    (module.Outer, "inner"),
    *((module.Inner, name) for name in fields - unread),
  }
