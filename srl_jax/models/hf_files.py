# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoint folders: which tensors they hold, and where.

A folder holds config.json and one model.safetensors, or several files with
model.safetensors.index.json. Opening a folder reads the heads of its files and
reports everything that is wrong with it at once. Parts of tensors are read on
demand; weights.py decides what becomes of them.
"""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
import safetensors

from srl_jax import storage
from srl_jax.models import hf_index
from srl_jax.models.config import ModelConfig
from srl_jax.models.hf_config import from_hf_config
from srl_jax.models.hf_layout import Place
from srl_jax.models.hf_remote import RemoteTensors

_HEAD, _TABLE = "lm_head.weight", "model.embed_tokens.weight"
# How a multimodal Gemma 3 names its text model, and the parts left out here.
_PREFIXES = ("language_model.", "model.language_model.")
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.")
# Constants that old checkpoints store beside the weights.
_CONSTANTS = ("rotary_emb.inv_freq",)


class HfCheckpoint:
  """The tensors of a folder: names, shapes, and parts of them on demand."""

  def __init__(self, folder: str | os.PathLike):
    """Reads config.json, the index and the head of each file.

    Raises:
      ValueError: something is missing or broken; the message lists it all.
    """
    self.folder = storage.path(folder)
    self.config = read_model_config(self.folder)
    self._files: dict[str, Any] = {}
    # {our name of a tensor: (file, its name there)}
    self._found: dict[str, tuple[str, str]] = {}
    self.problems: list[str] = []
    # Names of tensors in which a number was infinite or NaN when it was read.
    self.not_finite: set[str] = set()
    names, of_tensor = hf_index.weight_files(self.folder)
    for name in names:
      self._open(name, of_tensor)

  def _open(self, name: str, of_tensor: Mapping[str, str]) -> None:
    path = self.folder / name
    if not path.is_file():
      self.problems.append(f"{name} is missing")
      return
    try:
      if storage.is_remote(path):
        file = RemoteTensors(path)
      else:
        file = safetensors.safe_open(path, "numpy")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
      self.problems.append(
        f"{name} is truncated or no safetensors file ({error})"
      )
      return
    self._files[name] = file
    for tensor in file.keys():  # noqa: SIM118 (no mapping)
      is_old = of_tensor.get(tensor, name) != name
      if (ours := _our_name(tensor)) and not is_old:
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
    extra = self._found.keys() - wanted.keys()
    there = wanted.keys() & self._found.keys()
    dtypes = {name: self._slice(name).get_dtype() for name in there}
    if quantised := hf_index.quantisation(dtypes, extra):
      self._refuse([*self.problems, *quantised])
    problems = list(self.problems)
    missing = wanted.keys() - self._found.keys()
    # Tensors of a file that cannot be read are not reported as missing too.
    if not problems:
      problems += _listed("missing", missing)
    if is_tied and _HEAD in extra:
      extra -= {_HEAD}
      if _TABLE in self._found:
        self._warn_of_head()
    problems += _listed("not part of this model", extra)
    for name in sorted(there):
      shape = tuple(self._slice(name).get_shape())
      if shape != wanted[name]:
        problems.append(
          f"{name} is {list(shape)} there and {list(wanted[name])} here"
        )
    if problems:
      self._refuse(problems)

  def _refuse(self, problems: list[str]) -> NoReturn:
    shown = problems[:20]
    rest = len(problems) - len(shown)
    raise ValueError(
      f"{self.folder} cannot be loaded:\n  "
      + "\n  ".join(shown + [f"and {rest} more"] * bool(rest))
      + "\nfetch the folder again, or set c.model to what is in it"
    )

  def _warn_of_head(self) -> None:
    """Warns if there is another head than the embedding, which is used."""
    head, table = self._slice(_HEAD), self._slice(_TABLE)
    rows, *_ = head.get_shape()
    same = head.get_shape() == table.get_shape()
    # A trained head differs everywhere, so some rows are enough.
    for start in range(0, rows, max(rows // 32, 1)):
      part = slice(start, min(start + 16, rows))
      same = same and head[part].tobytes() == table[part].tobytes()
    if not same:
      warnings.warn(
        f"{self.folder}: tie_word_embeddings is true in config.json, but "
        f"{_HEAD} is stored and differs from {_TABLE}; the embedding is used "
        "as the head, as transformers does. To use the head that is stored, "
        "set tie_word_embeddings to false there",
        stacklevel=3,
      )

  def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """Reads part of a tensor; see `not_finite`."""
    part = self._slice(name)[index]
    if not hf_index.is_finite(part):
      self.not_finite.add(name)
    return part

  def check_finite(self) -> None:
    """Raises ValueError if a number that was read is infinite or NaN."""
    if self.not_finite:
      self._refuse(_listed("infinite or NaN numbers in", self.not_finite))

  def _slice(self, name: str) -> Any:
    file, tensor = self._found[name]
    return self._files[file].get_slice(tensor)


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
  config = storage.read_object(path)
  try:
    return from_hf_config(config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


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
