# SPDX-License-Identifier: Apache-2.0
"""The rotary embedding in a config.json, whose fields have changed often.

transformers 4 has rope_theta and rope_scaling, and for local layers
rope_local_base_freq; transformers 5 has them all in rope_parameters. What a
file says twice must agree: the two versions would not read the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srl_jax.models import hf_fields
from srl_jax.models.config import RopeScaling

# The fields that a scaled rotary embedding needs.
_SCALINGS = {
  "linear": ("factor",),
  "llama3": (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
  ),
}


def read(
  given: Mapping[str, Any], config: Mapping[str, Any], has_local: bool
) -> dict[str, Any]:
  """Returns the fields of a ModelConfig that describe its rotary embedding.

  Args:
    given: the fields of the file with their defaults, checked.
    config: the fields of the file.
    has_local: whether the family has layers with an embedding of their own.

  Raises:
    ValueError: what the file says is not supported, or is said twice.
  """
  scaling, parameters = given["rope_scaling"], given["rope_parameters"]
  if scaling and parameters and scaling != parameters:
    raise hf_fields.refuse(
      "rope_scaling", scaling, "absent beside other rope_parameters"
    )
  field = "rope_scaling" if scaling else "rope_parameters"
  whole, local = scaling or parameters or {}, {}
  # transformers 5 writes the parameters by kind of layer where there are two.
  by_layer = {"full_attention", "sliding_attention"} & whole.keys()
  if whole and bool(by_layer) != (has_local and not scaling):
    allowed = "an object for each kind of layer" if has_local else "one object"
    raise hf_fields.refuse(field, whole, allowed)
  if by_layer:
    local = whole.get("sliding_attention") or {}
    whole = whole.get("full_attention") or {}
  theta = _theta("rope_theta", whole, given, config)
  fields: dict[str, Any] = {
    "rope_theta": theta,
    "rope_scaling": _scaling(field, whole),
  }
  if local.get("rope_type", "default") != "default":
    raise ValueError(
      f"config.json has rope_parameters.sliding_attention={local!r}; only "
      "rope_type='default' is supported there"
    )
  if has_local:
    local_theta = _theta("rope_local_base_freq", local, given, config)
    if local_theta != theta or fields["rope_scaling"].kind != "none":
      fields["rope_local_theta"] = local_theta
  return fields


def _theta(
  field: str,
  parameters: Mapping[str, Any],
  given: Mapping[str, Any],
  config: Mapping[str, Any],
) -> float:
  """The base of a rotary embedding, which may stand at two places."""
  inner, outer = parameters.get("rope_theta"), given[field]
  if inner and config.get(field) not in (None, inner):
    raise hf_fields.refuse(
      field, outer, f"{inner}, as in the parameters of the rotary embedding"
    )
  if not (inner or outer):
    raise hf_fields.refuse(field, outer, "a number")
  return float(inner or outer)


def _scaling(field: str, scaling: Mapping[str, Any]) -> RopeScaling:
  kinds = {scaling[x] for x in ("rope_type", "type") if scaling.get(x)}
  if len(kinds) > 1:
    raise hf_fields.refuse(field, dict(scaling), "of one type")
  needed = {name for names in _SCALINGS.values() for name in names}
  if not kinds and any(scaling.get(name) is not None for name in needed):
    raise ValueError(
      f"config.json lacks rope_type in {field}={hf_fields.shown(scaling)}"
    )
  [kind] = kinds or {"default"}
  if kind == "default":
    return RopeScaling()
  if kind not in _SCALINGS:
    raise ValueError(
      f"config.json has {field} of type {hf_fields.shown(kind)}; there "
      "are 'default', 'linear' and 'llama3'"
    )
  for name in _SCALINGS[kind]:
    if scaling.get(name) is None:
      raise ValueError(f"config.json lacks {name} in {field} of type {kind!r}")
  if kind == "linear":
    return RopeScaling("linear", factor=float(scaling["factor"]))
  return RopeScaling(
    "llama3",
    factor=float(scaling["factor"]),
    low_frequency_factor=float(scaling["low_freq_factor"]),
    high_frequency_factor=float(scaling["high_freq_factor"]),
    original_positions=scaling["original_max_position_embeddings"],
  )


def write_scaling(scaling: RopeScaling) -> dict[str, Any] | None:
  """Returns the field rope_scaling of a config.json."""
  if scaling.kind == "none":
    return None
  written = {"rope_type": scaling.kind, "factor": scaling.factor}
  if scaling.kind == "llama3":
    written |= {
      "low_freq_factor": scaling.low_frequency_factor,
      "high_freq_factor": scaling.high_frequency_factor,
      "original_max_position_embeddings": scaling.original_positions,
    }
  return written
