# SPDX-License-Identifier: Apache-2.0
"""Libraries that only some uses need, and the error if one is missing.

On a machine whose packages were chosen by others (a GPU image, a notebook
service), everything runs that does not need a missing library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed_for(purpose: str, install: str) -> Iterator[None]:
  """Imports in its block end in a clear error if the library is missing.

  with needed_for("Plots of metrics", "matplotlib"):
    import matplotlib

  Args:
    purpose: what cannot be done without it; a plural that begins a sentence.
    install: what to give to `pip install`.

  Raises:
    ValueError: names the missing module, the purpose and what to type.
  """
  try:
    yield
  except ModuleNotFoundError as error:
    raise ValueError(
      f"{purpose} need the Python module {error.name!r}, which is not "
      f"installed; type: pip install {install}"
    ) from error
