# SPDX-License-Identifier: Apache-2.0
"""By which rules answers are judged: a checksum of code and libraries."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterable

from srl_jax import rewards
from srl_jax.evaluate import protocols
from srl_jax.rewards.reward import RewardConfig, find_function, source_of
from srl_jax.storage.workdir import JUDGING, versions

# The package's own files that verdicts are made by.
FILES = (
  *sorted(pathlib.Path(rewards.__file__).parent.rglob("*.py")),
  pathlib.Path(protocols.__file__),
)


def checksum(functions: Iterable[str], files: Iterable[pathlib.Path]) -> str:
  """Returns what is equal as long as the rules of verdicts are.

  Args:
    functions: verdicts of domains, of which "package.module:name" counts with
      its file.
    files: source files of all other rules.

  Raises:
    ValueError: a function cannot be imported.
  """
  found = hashlib.sha256()
  for path in files:
    found.update(path.read_bytes())
  for name in sorted({x for x in functions if ":" in x}):
    find_function(RewardConfig(function=name))
    found.update(source_of(name))
  for name in JUDGING:
    found.update(versions()[name].encode())
  return found.hexdigest()[:16]
