# SPDX-License-Identifier: Apache-2.0
"""The items of a checkpoint that all processes share: `pool` and `meta`.

The pool is host arrays and `meta` is JSON. Every process holds the whole pool,
so the first one writes it and all read it, however many they are.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import future as ocp_future

# Earlier versions wrote the same pool once per process, under the names
# process_0.npz, process_1.npz, ...: the first one is all that is read.
FILE = "process_0.npz"


class PoolHandler(ocp.AsyncCheckpointHandler):
  """Writes the bytes of the pool to a file.

  Orbax itself refuses arrays of size zero, which an empty pool consists of.
  """

  async def async_save(self, directory, args):
    if jax.process_index():
      return []
    path = directory / FILE

    async def write():
      path.write_bytes(args.data)

    return [
      ocp_future.CommitFutureAwaitingContractedSignals(
        write(), name="pool_save"
      )
    ]

  def save(self, directory, args):
    if jax.process_index() == 0:
      (directory / FILE).write_bytes(args.data)

  def restore(self, directory, args):
    del args
    return _unpack((directory / FILE).read_bytes())


@ocp.args.register_with_handler(PoolHandler, for_save=True)
@dataclasses.dataclass
class PoolSave(ocp.args.CheckpointArgs):
  """Asks to save `data`, the bytes that `pack_pool` returned."""

  data: bytes


@ocp.args.register_with_handler(PoolHandler, for_restore=True)
@dataclasses.dataclass
class PoolRestore(ocp.args.CheckpointArgs):
  """Asks for the pool."""


def pack_pool(pool: Any) -> bytes:
  """Returns a pool as the bytes of an .npz file with a `structure` entry."""
  arrays: dict[str, np.ndarray] = {}

  def skeleton(node: Any, path: str) -> Any:
    if isinstance(node, tuple) and hasattr(node, "_asdict"):
      node = node._asdict()
    if isinstance(node, Mapping) and all(isinstance(k, str) for k in node):
      return {k: skeleton(v, f"{path}[{k!r}]") for k, v in node.items()}
    if isinstance(node, (list, tuple)):
      return [skeleton(v, f"{path}[{i}]") for i, v in enumerate(node)]
    if isinstance(node, (np.ndarray, np.generic)) and node.dtype != object:
      arrays[f"array_{len(arrays)}"] = np.asarray(node)
      return len(arrays) - 1
    raise ValueError(
      f"{path} is a {type(node).__name__}; a pool holds dicts with string"
      " keys, lists, tuples and numpy arrays. Put plain values into meta"
    )

  structure = json.dumps(skeleton(pool, "pool"))
  buffer = io.BytesIO()
  np.savez(buffer, structure=np.array(structure), **arrays)
  return buffer.getvalue()


def _unpack(data: bytes) -> Any:
  with np.load(io.BytesIO(data), allow_pickle=False) as arrays:

    def fill(node: Any) -> Any:
      if isinstance(node, dict):
        return {name: fill(child) for name, child in node.items()}
      if isinstance(node, list):
        return [fill(child) for child in node]
      return arrays[f"array_{node}"]

    return fill(json.loads(arrays["structure"].item()))


def check_json(meta: Mapping[str, Any]) -> None:
  """Checks that the item `meta` of a checkpoint comes back as it is.

  Raises:
    ValueError: it does not; the message says why.
  """
  try:
    same = json.loads(json.dumps(meta, allow_nan=False)) == meta
  except (TypeError, ValueError) as error:
    raise ValueError(f"checkpoint meta is not JSON: {error}") from error
  if not same:
    raise ValueError(
      "checkpoint meta would come back changed from JSON; use string keys,"
      f" lists instead of tuples, plain numbers instead of arrays: {meta!r}"
    )
