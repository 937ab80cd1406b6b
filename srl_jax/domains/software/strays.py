# SPDX-License-Identifier: Apache-2.0
"""Takes away code by which a repair would hide a module of the environment.

Mostly it is what agents leave behind, such as code.py. hidden_tests.py starts
this file inside of a sandbox with `python -I`, before anything of the
repository runs; nothing else of srl_jax is there. It gets a JSON object on
stdin, and writes the files that it has removed as a JSON list.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys


def main() -> None:
  """Takes away what stdin asks for."""
  request = json.loads(sys.stdin.buffer.read())
  print(json.dumps(_take_away(request["root"], {*request["modules"]})))


def module_of(path: str) -> str:
  """The module that a file makes importable from a folder that has it."""
  return path.partition("/")[0].partition(".")[0]


def _take_away(root: str, own: set[str]) -> list[str]:
  """Removes code that is named like a module of the environment.

  Names in `own` are the repository's, whatever else is called so.
  """
  taken = []
  for folder in (root, f"{root}/src"):
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
      if module_of(name) not in own and _is_known(module_of(name)):
        taken += _remove_code(f"{folder}/{name}")
  return [os.path.relpath(path, root) for path in taken]


def _is_known(name: str) -> bool:
  """Whether a module can be imported without the repository."""
  # `-I` has left the current folder out of sys.path.
  return name in sys.builtin_module_names or (
    name.isidentifier()
    and importlib.machinery.PathFinder.find_spec(name) is not None
  )


def _remove_code(path: str) -> list[str]:
  """Removes a file or all files of a folder that can be imported."""
  if os.path.isdir(path) and not os.path.islink(path):
    entries = sorted(os.listdir(path))
    return [x for name in entries for x in _remove_code(f"{path}/{name}")]
  suffixes = tuple(importlib.machinery.all_suffixes())
  if not os.path.isdir(path) and not path.endswith(suffixes):
    return []
  os.remove(path)
  return [path]


if __name__ == "__main__":
  main()
