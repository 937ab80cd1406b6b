# SPDX-License-Identifier: Apache-2.0
"""Tries a tokenizer file in a child process before this one reads it.

Such files come from others. One may hold a regular expression that takes for
ever, or name ids that need more memory than there is. probe_child.py has the
limits.
"""

from __future__ import annotations

from srl_jax.processes.children import LazyChild, Lines

_WALL_S = 120.0

_child = LazyChild(
  "srl_jax.tokenizers.probe_child", Lines, {"TOKENIZERS_PARALLELISM": "false"}
)


def check_file(path: str) -> None:
  """Raises ValueError if a tokenizer file takes too much time or memory."""
  try:
    problem = _child.ask(path, _WALL_S)
  except (TimeoutError, EOFError) as error:
    problem = f"reading it and tokenising some texts {error}"
  if problem:
    raise ValueError(
      f"{path}: {problem}; fetch it again, or use the tokenizer of the model "
      "that it was made from"
    )
