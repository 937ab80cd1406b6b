# SPDX-License-Identifier: Apache-2.0
"""Reads parts of tensors of a remote safetensors file, by ranges of bytes.

A file begins with the length of a header, 8 bytes, and the header: JSON with
dtype, shape and place of each tensor (https://github.com/huggingface/
safetensors, "Format"). Local files are read by the library safetensors, which
cannot read others.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from srl_jax import storage

# As in the library safetensors.
_MAX_HEADER_BYTES = 100_000_000
_DTYPES = {
  "F16": np.dtype(np.float16),
  "BF16": jnp.dtype(jnp.bfloat16),
  "F32": np.dtype(np.float32),
  "F64": np.dtype(np.float64),
}


class RemoteTensors:
  """The tensors of a file, like the library's `safe_open`."""

  def __init__(self, path: pathlib.Path):
    """Reads the header.

    Raises:
      ValueError: the file is cut off, or it is no safetensors file.
    """
    self._path = path
    size = storage.size(path)
    head = int.from_bytes(storage.read_range(path, 0, min(8, size)), "little")
    if size < 8 or head > min(_MAX_HEADER_BYTES, size - 8):
      raise ValueError(f"no header of {head} bytes in a file of {size}")
    header = json.loads(storage.read_range(path, 8, 8 + head))
    if not isinstance(header, dict):
      raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    self._first = 8 + head
    self._found: dict[str, dict[str, Any]] = header
    for name, about in header.items():
      _check(name, about, size - self._first)

  def keys(self) -> Iterable[str]:
    """Returns the names of the tensors."""
    return self._found.keys()

  def get_slice(self, name: str) -> RemoteTensor:
    """Returns a tensor, of which nothing is read yet."""
    about = self._found[name]
    start = self._first + about["data_offsets"][0]
    return RemoteTensor(self._path, about["dtype"], about["shape"], start)


class RemoteTensor:
  """A tensor; an index of slices reads a part of it."""

  def __init__(
    self, path: pathlib.Path, dtype: str, shape: list[int], start: int
  ):
    self._path, self._dtype = path, dtype
    self._shape, self._start = shape, start

  def get_dtype(self) -> str:
    """Returns the dtype by its name in safetensors."""
    return self._dtype

  def get_shape(self) -> list[int]:
    """Returns the shape."""
    return list(self._shape)

  def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
    """Reads the rows of the first axis in one request, and cuts the others."""
    first, *rest = index if isinstance(index, tuple) else (index,)
    low, high, step = first.indices(self._shape[0])
    assert step == 1, "shares of devices have no steps"
    high = max(low, high)
    dtype = _DTYPES[self._dtype]
    row = math.prod(self._shape[1:]) * dtype.itemsize
    start, end = self._start + low * row, self._start + high * row
    data = storage.read_range(self._path, start, end) if end > start else b""
    if len(data) != end - start:
      raise ValueError(f"{self._path} changed or was cut off while it was read")
    rows = np.frombuffer(data, dtype).reshape(high - low, *self._shape[1:])
    return rows[(slice(None), *rest)]


def _check(name: str, about: Any, size: int) -> None:
  """Raises ValueError unless a tensor lies in the file, at its length."""
  try:
    start, end = about["data_offsets"]
    shape, dtype = about["shape"], _DTYPES.get(about["dtype"])
    is_right = all(type(x) is int and x >= 0 for x in (start, end, *shape))
    is_right = is_right and start <= end <= size
    if is_right and dtype is not None:
      is_right = end - start == math.prod(shape) * dtype.itemsize
  except (KeyError, TypeError, ValueError):
    is_right = False
  if not is_right:
    raise ValueError(f"{name!r} has no valid place in it: {str(about)[:80]}")
