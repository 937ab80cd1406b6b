# SPDX-License-Identifier: Apache-2.0
"""Work of programs, the shapes of what they work on, and how that is laid out.

Axes as in types.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flax import linen as nn

from srl_jax.sharding import ShardingRules


class Work(NamedTuple):
  """Operations, bytes of memory traffic and bytes received, per device."""

  flops: float = 0.0
  memory_bytes: float = 0.0
  link_bytes: float = 0.0

  def plus(self, *others: Work) -> Work:
    """Returns the sum of this and other work."""
    return Work(*map(sum, zip(self, *others, strict=True)))

  def times(self, factor: float) -> Work:
    """Returns this work repeated `factor` times."""
    return Work(*(factor * x for x in self))


class Load(NamedTuple):
  """Static shape of a batch; letters as in types.py.

  Attributes:
    trunks: number N of trunks on all devices together.
    trunk: length S of a trunk in tokens.
    branches: number R of branches per trunk.
    width: length C of stem and completion in tokens.
  """

  trunks: int
  trunk: int
  branches: int
  width: int


class InKernel(NamedTuple):
  """What the kernels for trees compute in a micro-batch, on all devices.

  Attributes:
    tokens: tokens of all rows, padding included.
    pairs: pairs of a query and a key, in whole blocks.
    fetched: keys that are read for them.
  """

  tokens: float
  pairs: float
  fetched: float


def product(rows: float, inner: float, columns: float, size: int) -> Work:
  """Work of [rows, inner] times [inner, columns], `size` bytes an element."""
  elements = rows * inner + inner * columns + rows * columns
  return Work(2.0 * rows * inner * columns, elements * size)


# Levels of the recursion for two texts of a few hundred characters.
_LEVELS = 20


def reward_work(pairs: float, characters: int, function: str) -> Work:
  """Work of comparing pairs of texts of `characters` each, on one device.

  The programs are elementwise on int16 or int32 arrays, so only memory traffic
  is counted. Texts shorter than the limit take less.
  """
  if function == "levenshtein":
    # Each of the 2 X diagonals reads two diagonals and writes one.
    return Work(0, pairs * 2 * characters * characters * 3 * 4)
  doublings = math.ceil(math.log2(characters))
  cells = pairs * characters**2
  return Work(0, cells * 2 * (1 + 2 * doublings + _LEVELS))


@dataclasses.dataclass(frozen=True)
class Split:
  """How rules split arrays over a mesh while a program computes.

  Weights that are split over an axis that splits tokens, or along `embed`, are
  gathered before use. Other splits stay, and the partial sums that they yield
  are added between devices.
  """

  mesh: Mapping[str, int]
  rules: ShardingRules

  def size(self, axes: Iterable[str]) -> int:
    """Number of devices along these mesh axes."""
    return math.prod(self.mesh[axis] for axis in axes)

  @property
  def batch(self) -> int:
    """Number of parts that the tokens of a batch are split into."""
    return self.size(self.rules.token_axes())

  @property
  def row(self) -> int:
    """Number of devices that the tokens of a row are split over."""
    return self.batch // self.size(self.rules.mesh_axes("batch"))

  def parts(self, name: str) -> int:
    """Number of parts of a logical axis while a program computes with it."""
    return self.size(self.rules.axes_in_use(name))

  def stored(self, box: nn.LogicallyPartitioned) -> float:
    """Number of elements of a parameter that a device stores."""
    names = [name for name in box.names if name]
    split = math.prod(self.size(self.rules.mesh_axes(name)) for name in names)
    return box.value.size / split

  def used(self, box: nn.LogicallyPartitioned) -> float:
    """Number of elements of a parameter that a device computes with."""
    names = [name for name in box.names if name]
    return box.value.size / math.prod(map(self.parts, names))

  def gathered_axes(self, box: nn.LogicallyPartitioned) -> int:
    """Number of axes along which a parameter is gathered before use."""
    sizes = (
      (self.size(self.rules.mesh_axes(name)), self.parts(name))
      for name in box.names
      if name
    )
    return sum(stored > used for stored, used in sizes)

  def copies(self, box: nn.LogicallyPartitioned) -> int:
    """Number of parts of a batch's tokens that store the same elements."""
    axes = {
      axis for name in box.names if name for axis in self.rules.mesh_axes(name)
    }
    return self.size(set(self.rules.token_axes()) - axes)
