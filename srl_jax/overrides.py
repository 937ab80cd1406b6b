# SPDX-License-Identifier: Apache-2.0
"""What users type: the preset of an experiment, and key=value.

This module reads the part after the colon of
`--config=file.py:preset,key=value`, and the flags `--config.key=value`.
config.py decides which dataclass they fill; strict.py checks the values.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import functools
import operator
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from srl_jax import strict

# A resumed run may differ in these fields of its config. They change no number
# of the run, or only the order of sums (mesh, sizes of parts).
FREE_TO_CHANGE = (
  "note",
  "log_every",
  "checkpoint",
  "rollouts",
  "trackers",
  "profile",
  "watchdog",
  "evaluate.answers_per_batch",
  # suites_problems is not free to change: from then on the metric would be
  # that of other problems.
  "evaluate.suites_every_update_steps",
  "mesh",
  "model.remat",
  "model.attention_logits",
  "sft.trunks_per_micro_batch",
  "sft.max_logits",
  *(
    f"{stage}.{field}"
    for stage in ("srl", "rlvr", "episodes")
    for field in (
      "trunks_per_micro_batch",
      "lanes_per_branch",
      "loss.max_logits",
    )
  ),
  "srl.sampling.parts_per_round",
  "rlvr.sampling.parts_per_round",
  "reward_workers",
)

# Inputs may lie elsewhere when a run is resumed, with the same contents.
INPUTS = (
  "weights",
  "tokenizer.path",
  "data.path",
  "evaluate.suites",
  "evaluate.suites_folder",
)


def without_changeable(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config, as it is in JSON, without FREE_TO_CHANGE and INPUTS."""
  kept = copy.deepcopy(dict(config))
  for path in (*FREE_TO_CHANGE, *INPUTS):
    *parents, last = path.split(".")
    del functools.reduce(operator.getitem, parents, kept)[last]
  return kept


def parse_argument(
  argument: str | None, default: str, presets: Collection[str]
) -> tuple[str, dict[str, str]]:
  """Reads the part after the colon of `--config=file.py:preset,key=value`.

  Args:
    argument: the part after the colon, or None.
    default: name of the preset that is used when none is named.
    presets: names of all presets.

  Returns:
    The preset's name and the overrides, which `config.override` applies.

  Raises:
    ValueError: unknown preset; the message lists the known ones.
  """
  preset, overrides = default, {}
  for index, part in enumerate((argument or "").split(",")):
    key, equals, value = part.partition("=")
    if equals:
      overrides[key.strip()] = value.strip()
    elif part and index == 0:
      preset = part
    elif part:
      raise ValueError(
        f"{part!r} in --config=...:{argument} is neither the preset, which "
        "comes first, nor of the form key=value"
      )
  if preset not in presets:
    near = difflib.get_close_matches(preset, presets, n=1)
    raise ValueError(
      f"there is no preset {preset!r}; choose one of {', '.join(presets)}"
      + (f" (did you mean {near[0]!r}?)" if near else "")
    )
  return preset, overrides


def fields_in(
  argument: str, config: ml_collections.ConfigDict
) -> dict[str, str]:
  """Returns what an argument sets of a config, as texts by dotted name.

  An experiment may know more names than a config has fields, such as `method`.
  """
  parts = (part.partition("=") for part in argument.split(","))
  texts = {key.strip(): text.strip() for key, equals, text in parts if equals}
  return {key: text for key, text in texts.items() if _has(config, key)}


def _has(config: ml_collections.ConfigDict, path: str) -> bool:
  *parents, last = path.split(".")
  for parent in parents:
    config = config.get(parent)
    if not isinstance(config, ml_collections.ConfigDict):
      return False
  return last in config


def apply(
  cls: type, config: ml_collections.ConfigDict, overrides: Mapping[str, str]
) -> None:
  """Sets dotted fields from text, read by the type of the present value.

  Text that does not fit that type is set unchanged, and the strict conversion
  refuses it.

  Args:
    cls: the dataclass that `config` will become.
    config: the config; it is changed in place.
    overrides: texts by dotted name, such as {"srl.update_steps": "20"}.

  Raises:
    ValueError: there is no such field; the message names the nearest one.
  """
  for path, text in overrides.items():
    *parents, last = path.split(".")
    node = config
    for parent in parents:
      node = node.get(parent)
      if not isinstance(node, ml_collections.ConfigDict):
        node = {}
        break
    if last not in node:
      strict.to_dataclass(cls, _nested(path.split("."), text), "config")
    with node.ignore_type():
      node[last] = _read(text, node[last])


def _read(text, present):
  """Returns the value that a text means, given the field's present value."""
  if isinstance(present, str):
    # Sharding rules may be None or a tuple; no other text field has such.
    if text == "None":
      return None
    if text[:1] in ("(", "'", '"'):
      with contextlib.suppress(SyntaxError, ValueError):
        value = ast.literal_eval(text)
        if isinstance(value, str | tuple):
          return value
    return text
  if isinstance(present, bool) and text in ("true", "false"):
    return text == "true"
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return tuple(text.split(",")) if isinstance(present, tuple) else text


def _nested(names, value):
  return value if not names else {names[0]: _nested(names[1:], value)}
