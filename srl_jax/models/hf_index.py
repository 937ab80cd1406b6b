# SPDX-License-Identifier: Apache-2.0
"""Which files of a checkpoint folder hold its weights, and in what form.

The index of a folder and the heads of its files come from others: nothing that
they say leads out of the folder.
"""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from srl_jax import storage
from srl_jax.models import hf_fields

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

# The dtypes of weights that are read, as safetensors names them.
_FLOATS = ("F16", "BF16", "F32", "F64")
_QUANTISED = {
  "F8_E4M3": "float8_e4m3",
  "F8_E5M2": "float8_e5m2",
  "I8": "int8",
  "U8": "uint8, as of 4-bit weights",
  "I32": "int32, as of packed 4-bit weights",
}
# Endings of the tensors that a method of quantisation adds.
_METHODS = {
  "GPTQ or AWQ": (".qweight", ".qzeros", ".g_idx"),
  "bitsandbytes": (".absmax", ".quant_map", ".nested_absmax", ".SCB"),
  "compressed-tensors": (".weight_packed", ".weight_shape"),
  "scales beside 8-bit weights": (
    *(".weight_scale", ".weight_scale_inv", ".input_scale", ".scales"),
  ),
}
_CURE = (
  "use the checkpoint in bfloat16 that it was made from, or dequantise it "
  "(transformers: from_pretrained(..), model.dequantize(), save_pretrained(..))"
)


def weight_files(folder: pathlib.Path) -> tuple[list[str], dict[str, str]]:
  """Returns the files with the weights, and the file of each tensor.

  As in transformers, a model.safetensors counts before an index. Without an
  index the second result is empty.

  Raises:
    ValueError: there are no weights, or the index is broken.
  """
  has_index = (folder / INDEX).is_file()
  if (folder / SINGLE).is_file():
    of_tensor = _read_index(folder / INDEX) if has_index else {}
    if set(of_tensor.values()) - {SINGLE}:
      warnings.warn(
        f"{folder} has {SINGLE} and an index of other files; {SINGLE} is read, "
        "as transformers does. If it is the older one, remove it",
        stacklevel=4,
      )
    return [SINGLE], {}
  if has_index:
    of_tensor = _read_index(folder / INDEX)
    return sorted(set(of_tensor.values())), of_tensor
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


def _read_index(path: pathlib.Path) -> dict[str, str]:
  of_tensor = storage.read_object(path).get("weight_map")
  if not isinstance(of_tensor, dict) or not of_tensor:
    raise ValueError(
      f"{path} has weight_map={hf_fields.shown(of_tensor)}, but it must be an "
      "object of file names by tensor; fetch it again"
    )
  for tensor, name in of_tensor.items():
    if not _is_inside(name):
      raise ValueError(
        f"{path} says that {hf_fields.shown(tensor)} is in "
        f"{hf_fields.shown(name)}, but it must be in a .safetensors file of "
        "that folder; fetch the index again"
      )
  return of_tensor


def _is_inside(name: Any) -> bool:
  """Whether a file's name stays in its folder, wherever that links to."""
  return (
    isinstance(name, str)
    and name.endswith(".safetensors")
    and len(name) < 256
    and not any(x in name for x in ("\0", "\\", ":", "//"))
    and not name.startswith("/")
    and ".." not in name.split("/")
  )


def quantisation(dtypes: Mapping[str, str], extra: Iterable[str]) -> list[str]:
  """Says in which form weights are quantised; [] if they are not.

  Args:
    dtypes: tensor -> dtype, of the tensors that a model wants.
    extra: names of the other tensors.
  """
  extra = sorted(extra)
  for method, endings in _METHODS.items():
    if names := [name for name in extra if name.endswith(endings)]:
      return [f"its weights are quantised ({method}: {names[0]}); {_CURE}"]
  wrong = {n: d for n, d in sorted(dtypes.items()) if d not in _FLOATS}
  if not wrong:
    return []
  name, dtype = next(iter(wrong.items()))
  return [
    f"it holds {_QUANTISED.get(dtype, dtype)} ({name} and {len(wrong) - 1} "
    f"more tensors), not floats of 16 or more bits; {_CURE}"
  ]


def is_finite(part: np.ndarray) -> bool:
  """Whether no number of an array of floats is infinite or NaN."""
  if part.dtype.name == "bfloat16":
    # Its own isfinite is five times slower: all bits of the exponent are set.
    return not np.any((part.view(np.uint16) & 0x7F80) == 0x7F80)
  return bool(np.isfinite(part).all())
