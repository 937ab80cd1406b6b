# SPDX-License-Identifier: Apache-2.0
"""The rules from logical axes to mesh axes, and what follows them in a program.

Parameters and activations name their logical axes ("embed", "mlp", "batch").
A `ShardingRules` value says over which mesh axes each name is split. Only this
file and mesh.py mention a mesh axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import PartitionSpec

from srl_jax.sharding.mesh import MESH_AXES

_MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class ShardingRules:
  """Mesh axes over which each logical axis is split; None means replicated.

  Attributes:
    batch: rows (trunks) of a batch.
    tokens: the tokens of each row in the update, where rows are too long or too
      few for one per device. The devices of a row gather its keys and values.
    embed: the model width, in parameters.
    kv_heads: key/value heads, with the query heads that belong to them.
    mlp: hidden width of the feed-forward layers.
    vocab: rows of the embedding and of the output head.
    head_width: width of one head.
    layers: the layers, stacked in one array.
  """

  batch: _MeshAxes = ("data", "fsdp")
  tokens: _MeshAxes = None
  embed: _MeshAxes = "fsdp"
  kv_heads: _MeshAxes = "tensor"
  mlp: _MeshAxes = "tensor"
  vocab: _MeshAxes = "tensor"
  head_width: _MeshAxes = None
  layers: _MeshAxes = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      axes = getattr(self, field.name) or ()
      for axis in (axes,) if isinstance(axes, str) else axes:
        if axis not in MESH_AXES:
          raise ValueError(
            f"{field.name}={axes!r} is not allowed: {axis!r} is no mesh axis; "
            f"set c.rules.{field.name} to one of {', '.join(MESH_AXES)}, to a "
            "tuple of them, or to None"
          )

  def spec(self, axes: Sequence[str | None]) -> PartitionSpec:
    """Returns the PartitionSpec of an array with these logical axes.

    A mesh axis that belongs to several of these axes splits only the first:
    heads, for example, stay whole where their mesh axis splits the batch.
    """
    taken: set[str] = set()
    split = []
    for axis in axes:
      names = self.mesh_axes(axis) if axis else ()
      names = tuple(name for name in names if name not in taken)
      taken.update(names)
      split.append(names[0] if len(names) == 1 else names or None)
    return PartitionSpec(*split)

  def mesh_axes(self, axis: str) -> tuple[str, ...]:
    """Returns the mesh axes that a logical axis is split over."""
    axes = getattr(self, axis) or ()
    return (axes,) if isinstance(axes, str) else tuple(axes)

  def axes_in_use(self, axis: str) -> tuple[str, ...]:
    """Returns the mesh axes that split a logical axis of a weight in use.

    A weight that is split along `embed`, or over a mesh axis that splits
    tokens, is gathered before a product. Other splits stay, and products then
    yield partial sums.
    """
    gathered = {*self.token_axes(), *self.mesh_axes("embed")}
    return tuple(x for x in self.mesh_axes(axis) if x not in gathered)

  def token_axes(self) -> tuple[str, ...]:
    """Returns the mesh axes that split the tokens of a batch, rows first."""
    axes = (*self.mesh_axes("batch"), *self.mesh_axes("tokens"))
    return tuple(dict.fromkeys(axes))

  def spec_in_use(self, axes: Sequence[str | None]) -> PartitionSpec:
    """Returns the PartitionSpec of a weight while it is used."""
    return PartitionSpec(*(a and (self.axes_in_use(a) or None) for a in axes))


def _has_mesh() -> bool:
  """Whether a mesh of MESH_AXES is in use."""
  mesh = jax.sharding.get_abstract_mesh()
  return set(MESH_AXES) <= set(mesh.axis_names)


def constrain(
  x: jax.Array, axes: Sequence[str | None], rules: ShardingRules
) -> jax.Array:
  """Pins the sharding of an activation; a no-op without a MESH_AXES mesh."""
  if not _has_mesh():
    return x
  return jax.lax.with_sharding_constraint(x, rules.spec(axes))


def constrain_tokens(x_NRTD: jax.Array, rules: ShardingRules) -> jax.Array:
  """Pins the sharding of what belongs to tokens; see `constrain`."""
  return constrain(x_NRTD, (*_axes_of_tokens(x_NRTD), None), rules)


def _axes_of_tokens(x_NRT: jax.Array) -> tuple[str | None, ...]:
  """Logical axes: branches are split over the devices of a row, if any are."""
  is_one = x_NRT.shape[1] == 1
  return ("batch", None, "tokens") if is_one else ("batch", "tokens", None)


def device_kind() -> str:
  """Returns the device kind of the traced program: "cpu", "TPU v5 lite", ...

  It is that of the current mesh, whose devices may only be described. Without
  a mesh it is that of this process's devices.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.device_kind if device else jax.devices()[0].device_kind


def per_device(
  function: Callable[..., jax.Array],
  axes: Sequence[Sequence[str | None]],
  out_axes: Sequence[str | None],
  rules: ShardingRules,
) -> Callable[..., jax.Array]:
  """Runs `function` on each device's part of arrays that XLA cannot split.

  Args:
    function: function of arrays on one device.
    axes: logical axes of each argument. An axis whose length the mesh does
      not divide is not split, such as the single row of an initialisation.
    out_axes: logical axes of the result.
    rules: logical to mesh axes.

  Returns:
    A function of whole arrays; `function` itself without a MESH_AXES mesh.
  """

  def run(*arrays):
    if not _has_mesh():
      return function(*arrays)
    mesh = jax.sharding.get_abstract_mesh()
    whole = {
      axis
      for x, names in zip(arrays, axes, strict=True)
      for length, axis in zip(x.shape, names, strict=True)
      if axis and length % parts(mesh, rules.mesh_axes(axis))
    }

    def spec(names):
      return rules.spec([None if axis in whole else axis for axis in names])

    return jax.shard_map(
      function,
      in_specs=tuple(map(spec, axes)),
      out_specs=spec(out_axes),
      # Kernels do not say over which mesh axes their results vary.
      check_vma=False,
    )(*arrays)

  return run


def gather_weight(
  x: jax.Array, axes: Sequence[str | None], rules: ShardingRules
) -> jax.Array:
  """Gathers a weight for its use, and scatters its gradient.

  Without this, the partitioner sums some gradients up whole on every device
  before each device keeps its part. A no-op without a mesh of MESH_AXES.
  """
  if not _has_mesh():
    return x
  pin = jax.lax.with_sharding_constraint

  @jax.custom_vjp
  def use(x):
    return pin(x, rules.spec_in_use(axes))

  use.defvjp(
    lambda x: (use(x), None), lambda _, grad: (pin(grad, rules.spec(axes)),)
  )
  return use(x)


def lookup(
  table_VD: jax.Array, tokens_NRT: jax.Array, rules: ShardingRules
) -> jax.Array:
  """Returns rows [..., D] of a table with the axes (vocab, embed).

  Every device looks up all tokens in its part of the table, and the rows are
  then sent to the devices of the tokens. The gradient takes the reverse way.
  Without a mesh of MESH_AXES this is plain indexing.
  """
  rows = table_VD[tokens_NRT]
  if not _has_mesh():
    return rows
  # One mesh axis after the other: in a single move, the gradient would be
  # gathered whole before each device takes its columns.
  columns = {*rules.mesh_axes("embed")}
  axes = _axes_of_tokens(tokens_NRT)
  for split in (columns | {*rules.mesh_axes("vocab")}, columns):
    kept = {
      axis: tuple(x for x in rules.mesh_axes(axis) if x not in split)
      for axis in axes
      if axis
    }
    spec = dataclasses.replace(rules, **kept).spec((*axes, "embed"))
    rows = jax.lax.with_sharding_constraint(rows, spec)
  return rows


def batch_devices(mesh: jax.sharding.Mesh, rules: ShardingRules) -> int:
  """Returns the number of devices over which the batch axis N is split."""
  return parts(mesh, rules.mesh_axes("batch"))


def rounded_up(number: int, multiple: int) -> int:
  """Returns the smallest multiple of `multiple` that is at least `number`."""
  return -(-number // multiple) * multiple


def parts(
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, axes: Sequence[str]
) -> int:
  """Returns the number of parts along these mesh axes; 1 without a mesh."""
  return math.prod(mesh.shape.get(axis, 1) for axis in axes)


def row_split(rules: ShardingRules) -> tuple[tuple[str, ...], int]:
  """Returns the mesh axes that split the tokens of a row, and the devices."""
  batch = rules.mesh_axes("batch")
  axes = tuple(x for x in rules.token_axes() if x not in batch)
  return axes, parts(jax.sharding.get_abstract_mesh(), axes)
