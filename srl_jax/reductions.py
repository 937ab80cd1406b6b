# SPDX-License-Identifier: Apache-2.0
"""Metrics as dataclass fields that declare how their values combine.

The declaration, not the spelling of a name, decides how values of several
micro-batches combine. Not for: files and console lines (metrics.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from srl_jax.types import Ratio

Reduction = Literal["sum", "mean", "max", "ratio"]

# How the parts of a metric combine: fold each part to a short vector, combine
# the vectors of all parts (sum or maximum), and compute the result from it.
_FOLDS = {
  "sum": (lambda x: [x.sum()], np.sum, lambda v: v[0]),
  "mean": (lambda x: [x.sum(), x.size], np.sum, lambda v: v[0] / v[1]),
  "max": (lambda x: [x.max()], np.max, lambda v: v[0]),
  "ratio": (
    lambda x: [x.numerator.sum(), x.denominator.sum()],
    np.sum,
    lambda v: v[0] / v[1],
  ),
}


def metric(reduction: Reduction, unit: str, help: str) -> Any:
  """Declares a dataclass field as a metric.

  Args:
    reduction: how values of micro-batches combine. "mean" weighs all values
      equally; where values stand for different numbers of things, use "ratio"
      with a `types.Ratio` of sums.
    unit: unit of the value, e.g. "nats", "tokens", "s", or "1" for a fraction.
    help: one line of explanation for metrics.txt.
  """
  if reduction not in _FOLDS:
    raise ValueError(
      f"reduction {reduction!r} is unknown; use one of {', '.join(_FOLDS)}"
    )
  return dataclasses.field(
    metadata={"reduction": reduction, "unit": unit, "help": help}
  )


def explanations(*classes: type) -> list[tuple[str, str, str, str]]:
  """Returns (name, reduction, unit, help) of each metric of dataclasses."""
  return [
    (field.name, *(field.metadata[k] for k in ("reduction", "unit", "help")))
    for cls in classes
    for field in dataclasses.fields(cls)
  ]


def reduce_metrics(parts: Sequence[Any]) -> dict[str, float]:
  """Combines instances of one metrics dataclass as its fields declare.

  Only this function waits for device values: it copies all of them to the
  host in one transfer. They are those of all processes already.

  Args:
    parts: one or more instances. A field is a scalar, or an array whose
      elements are parts too (a scan over micro-batches stacks them).

  Returns:
    One float per field; a ratio with denominator 0 is nan.
  """
  if not parts:
    raise ValueError("reduce_metrics got no parts; give at least one")
  kind = type(parts[0])
  if any(type(part) is not kind for part in parts):
    names = sorted({type(part).__name__ for part in parts})
    raise ValueError(
      f"reduce_metrics got instances of {', '.join(names)};"
      " reduce each dataclass with a call of its own"
    )
  fields = dataclasses.fields(kind)
  for part in parts:
    for field in fields:
      _check_ratio(field, getattr(part, field.name))
  host = jax.device_get([[getattr(p, f.name) for f in fields] for p in parts])
  folded = []
  for i, field in enumerate(fields):
    fold, combine, _ = _FOLDS[field.metadata["reduction"]]
    vectors = [
      np.array(fold(jax.tree.map(_as_float64, part[i])), np.float64)
      for part in host
    ]
    folded.append(combine(np.stack(vectors), axis=0))
  with np.errstate(divide="ignore", invalid="ignore"):
    return {
      field.name: float(_FOLDS[field.metadata["reduction"]][2](vector))
      for field, vector in zip(fields, folded, strict=True)
    }


def _check_ratio(field: dataclasses.Field, value: Any) -> None:
  declared = field.metadata["reduction"] == "ratio"
  if declared != isinstance(value, Ratio):
    raise ValueError(
      f"metric {field.name} is declared {field.metadata['reduction']!r} and"
      f" got a {type(value).__name__}; a types.Ratio goes with 'ratio', and"
      " only with it"
    )


def _as_float64(value: Any) -> np.ndarray:
  return np.asarray(value, np.float64)
