# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by name: a folder, a run's model, or files of the hub.

Nothing here reads what is in the files.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

import huggingface_hub

from srl_jax.processes import failures
from srl_jax.storage import paths
from srl_jax.storage.workdir import VERSIONS, model_folder

# Files to fetch from the hub.
_PATTERNS = (*paths.SMALL_FILES, "*.safetensors")
# Mistral's weights a second time, in the form of its own software.
_TWICE = "consolidated*"
# A name on the hub, and maybe a commit, branch or tag.
_NAME = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(@(?P<commit>[\w./-]+))?")
# What this process has fetched, as commits by names on the hub: all files of a
# name are of one commit, whatever is pushed meanwhile.
COMMITS: dict[str, str] = {}


def fetch(source: str, patterns: Sequence[str] = _PATTERNS) -> pathlib.Path:
  """Returns a folder: the one of this name, or a copy of it from the hub.

  Args:
    source: as in `folder_of`, or owner/name or owner/name@commit on the Hugging
      Face hub; a folder that exists comes first.
    patterns: the files to fetch.

  Raises:
    ValueError: neither is there, or it is of a run that is not finished.
  """
  folder = folder_of(source)
  if paths.is_remote(folder) and "*.safetensors" not in patterns:
    return paths.local_copy(folder, patterns)
  if folder.is_dir():
    return folder
  # Anything else, such as a file, cannot be a name on the hub.
  if paths.is_remote(folder) or folder.exists() or not is_name(source):
    raise ValueError(
      f"there is no checkpoint folder {source!r}; give a folder as "
      "transformers' save_pretrained writes it, or a name on the Hugging Face "
      "hub such as Qwen/Qwen2.5-7B-Instruct"
    )
  name, revision = name_and_revision(source)
  try:
    folder = pathlib.Path(
      huggingface_hub.snapshot_download(
        name,
        revision=revision,
        allow_patterns=list(patterns),
        ignore_patterns=[_TWICE],
      )
    )
  # The hub's errors (no network, no such name, no access) share no base class.
  except Exception as error:
    at = f" --revision {revision}" if revision else ""
    raise failures.of_hub(
      f"{source!r} is no folder here, and the Hugging Face hub did not give it "
      f"({type(error).__name__}: {str(error).splitlines()[0]}); fetch it where "
      f"there is a network (hf download {name}{at}) and give the folder",
      error,
    ) from error
  # The hub's cache has a folder per commit.
  COMMITS[source] = folder.name
  return folder


def is_name(source: str) -> bool:
  """Whether a text may be a name on the hub."""
  return bool(_NAME.fullmatch(source))


def name_and_revision(source: str) -> tuple[str, str | None]:
  """Returns what libraries of Hugging Face call a checkpoint, and its commit.

  The commit is the one that was fetched or asked for. A folder has none.
  """
  try:
    folder = folder_of(source)
  except ValueError:  # A run that goes on for longer; its model comes back.
    return str(paths.path(source) / "model"), None
  if paths.is_remote(folder) or folder.exists():
    return str(folder), None
  if not (found := _NAME.fullmatch(source)):
    return source, None
  return found["name"], COMMITS.get(source, found["commit"])


def folder_of(source: str) -> pathlib.Path:
  """Returns the path of a checkpoint folder: of a run's, that of its model.

  Raises:
    ValueError: the run is not finished.
  """
  folder = paths.path(source)
  return model_folder(folder) if (folder / VERSIONS).is_file() else folder
