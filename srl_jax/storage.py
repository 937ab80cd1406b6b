# SPDX-License-Identifier: Apache-2.0
"""Paths that users give: folders and files of this machine.

Every path that a user can type comes through `path`. Paths that the package
makes itself (caches, temporary files) do not.
"""

from __future__ import annotations

import os
import pathlib
import re

# A scheme has two letters or more, and pathlib makes one slash of several.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def path(given: str | os.PathLike) -> pathlib.Path:
  """Returns the path that a user gave.

  Raises:
    ValueError: it is a URL, which would else become a local folder that is
      called like the scheme.
  """
  text = os.fspath(given)
  if url := _URL.match(text):
    raise ValueError(
      f"{text!r} is not a path of this machine, and {url[1]}:// is not read; "
      "copy the files to a disk and give their path there (a local folder of "
      f"that name is written ./{text})"
    )
  return pathlib.Path(given)
