# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoint folders: which tensors they hold, and where.

A folder holds config.json and one model.safetensors, or several files with
model.safetensors.index.json. Opening a folder reads the heads of its files and
reports everything that is wrong with it at once. Parts of tensors are read on
demand; weights.py decides what becomes of them.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import huggingface_hub
import numpy as np
import safetensors

from srl_jax.models import hf_fields
from srl_jax.models.config import ModelConfig
from srl_jax.models.hf_config import from_hf_config
from srl_jax.models.hf_layout import Place

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# How a multimodal Gemma 3 names its text model, and the parts left out here.
_PREFIXES = ("language_model.", "model.language_model.")
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.")
# Constants that old checkpoints store beside the weights.
_CONSTANTS = ("rotary_emb.inv_freq",)
# Files to fetch from the hub: without weights, and with them.
SMALL_FILES = ("*.json", "*.model", "*.jinja")
_PATTERNS = (*SMALL_FILES, "*.safetensors")


class HfCheckpoint:
  """The tensors of a folder: names, shapes, and parts of them on demand."""

  def __init__(self, folder: str | os.PathLike):
    """Reads config.json, the index and the head of each file.

    Raises:
      ValueError: something is missing or broken; the message lists it all.
    """
    self.folder = pathlib.Path(folder)
    self.config = read_model_config(self.folder)
    self._files: dict[str, Any] = {}
    # {our name of a tensor: (file, its name there)}
    self._found: dict[str, tuple[str, str]] = {}
    self.problems: list[str] = []
    for name in _file_names(self.folder):
      self._open(name)

  def _open(self, name: str) -> None:
    path = self.folder / name
    if not path.is_file():
      self.problems.append(f"{name} is missing")
      return
    try:
      file = safetensors.safe_open(path, "numpy")
    except (safetensors.SafetensorError, OSError) as error:
      self.problems.append(
        f"{name} is truncated or no safetensors file ({error})"
      )
      return
    self._files[name] = file
    for tensor in file.keys():  # noqa: SIM118 (no mapping)
      if ours := _our_name(tensor):
        self._found[ours] = (name, tensor)

  def check(self, places: Mapping[str, Place], is_tied: bool) -> None:
    """Compares the tensors with what a model wants.

    Raises:
      ValueError: lists the missing, the unknown and the misshapen tensors.
    """
    wanted = {
      name: place.stored_shape
      for place in places.values()
      for name in place.names
    }
    problems = list(self.problems)
    missing = wanted.keys() - self._found.keys()
    # Tensors of a file that cannot be read are not reported as missing too.
    if not problems:
      problems += _listed("missing", missing)
    extra = self._found.keys() - wanted.keys()
    if is_tied:
      extra -= {"lm_head.weight"}
    problems += _listed("not part of this model", extra)
    for name in sorted(wanted.keys() & self._found.keys()):
      shape = tuple(self._slice(name).get_shape())
      if shape != wanted[name]:
        problems.append(
          f"{name} is {list(shape)} there and {list(wanted[name])} here"
        )
    if problems:
      shown = problems[:20]
      rest = len(problems) - len(shown)
      raise ValueError(
        f"{self.folder} cannot be loaded:\n  "
        + "\n  ".join(shown + [f"and {rest} more"] * bool(rest))
        + "\nfetch the folder again, or set c.model to what is in it"
      )

  def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """Reads part of a tensor."""
    return self._slice(name)[index]

  def _slice(self, name: str) -> Any:
    file, tensor = self._found[name]
    return self._files[file].get_slice(tensor)


def fetch(source: str, patterns: Sequence[str] = _PATTERNS) -> pathlib.Path:
  """Returns a folder: the one of this name, or a copy of it from the hub.

  Args:
    source: a folder, or owner/name on the Hugging Face hub; a folder that
      exists comes first.
    patterns: the files to fetch.

  Raises:
    ValueError: neither is there.
  """
  folder = pathlib.Path(source)
  if folder.is_dir():
    return folder
  # Anything else, such as a file, cannot be a name on the hub.
  if folder.exists() or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", source):
    raise ValueError(
      f"there is no checkpoint folder {source!r}; give a folder as "
      "transformers' save_pretrained writes it, or a name on the Hugging Face "
      "hub such as Qwen/Qwen2.5-7B-Instruct"
    )
  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(source, allow_patterns=list(patterns))
    )
  # The hub's errors (no network, no such name, no access) share no base class.
  except Exception as error:
    raise ValueError(
      f"{source!r} is no folder here, and the Hugging Face hub did not give it "
      f"({type(error).__name__}: {str(error).splitlines()[0]}); fetch it where "
      f"there is a network (hf download {source}) and give the folder"
    ) from error


def read_model_config(folder: pathlib.Path) -> ModelConfig:
  """Returns the ModelConfig of a folder's config.json.

  Raises:
    ValueError: no such folder or file, or a model that is not supported.
  """
  path = folder / "config.json"
  if not path.is_file():
    found = sorted(x.name for x in folder.iterdir()) if folder.is_dir() else []
    raise ValueError(
      f"{folder} is no checkpoint folder: it has no config.json (it has "
      f"{', '.join(found[:10]) or 'nothing'}); give a folder as transformers' "
      "save_pretrained writes it"
    )
  config = hf_fields.read_object(path)
  try:
    return from_hf_config(config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _file_names(folder: pathlib.Path) -> list[str]:
  """The files that hold the weights."""
  if (folder / INDEX).is_file():
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return sorted(set(index["weight_map"].values()))
  if (folder / SINGLE).is_file():
    return [SINGLE]
  found = sorted(x.name for x in folder.iterdir())
  is_torch = any(x.endswith((".bin", ".pt", ".pth")) for x in found)
  raise ValueError(
    f"{folder} has no weights: neither {SINGLE} nor {INDEX} (it has "
    f"{', '.join(found[:10])})"
    + (
      "; PyTorch's own format has to be converted first: load it with "
      "transformers and save_pretrained(..., safe_serialization=True)"
      if is_torch
      else "; fetch the folder again"
    )
  )


def _our_name(tensor: str) -> str | None:
  """Name of a tensor as text models have it; None for other parts."""
  if tensor.endswith(_CONSTANTS):
    return None
  if tensor.removeprefix("model.").startswith(_OTHER_PARTS):
    return None
  for prefix in _PREFIXES:
    if tensor.startswith(prefix):
      rest = tensor.removeprefix(prefix).removeprefix("model.")
      return rest if rest.startswith("lm_head") else f"model.{rest}"
  return tensor


def _listed(what: str, names: Iterable[str]) -> list[str]:
  names = sorted(names)
  if len(names) > 6:
    names = [*names[:6], f"and {len(names) - 6} more"]
  return [f"{what}: {', '.join(names)}"] if names else []
