# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint fits the arrays that it is restored to."""

from __future__ import annotations

from typing import Any

import jax


def check_fits(saved: Any, wanted: Any, what: str) -> None:
  """Raises ValueError unless names, shapes and dtypes agree."""
  saved_leaves = _leaves_by_path(saved)
  wanted_leaves = _leaves_by_path(wanted)
  differences = [
    f"{path}: saved {saved_leaves.get(path, 'nothing')},"
    f" this run has {wanted_leaves.get(path, 'nothing')}"
    for path in sorted(saved_leaves.keys() | wanted_leaves.keys())
    if saved_leaves.get(path) != wanted_leaves.get(path)
  ]
  if differences:
    more = len(differences) - 3
    shown = "; ".join(differences[:3]) + (f"; {more} more" * (more > 0))
    raise ValueError(
      f"{what} does not fit this run's arrays: {shown}. Use the config that"
      " saved it, or another --workdir"
    )


def _leaves_by_path(tree: Any) -> dict[str, str]:
  # Orbax stores a NamedTuple or dataclass as a dict of its fields, and a list
  # or tuple by position. So both sides are compared by names without types.
  return {
    "/".join(_key_name(key) for key in path): (
      f"{leaf.dtype}{list(leaf.shape)}"
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _key_name(key: Any) -> str:
  for attribute in ("key", "name", "idx"):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  return str(key)
