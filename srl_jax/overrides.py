# SPDX-License-Identifier: Apache-2.0
"""What users type: the preset of an experiment, and key=value.

The part after the colon of `--config=file.py:preset,key=value` and the flags
`--config.key=value` end up here. Which dataclass they fill is config.py's
business, and what its fields may be is for strict.py to say.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection, Mapping

import ml_collections

from srl_jax import strict


def parse_argument(
  argument: str | None, default: str, presets: Collection[str]
) -> tuple[str, dict[str, str]]:
  """Reads the part after the colon of `--config=file.py:preset,key=value`.

  Args:
    argument: that part, or None.
    default: the preset when none is named.
    presets: the ones that exist.

  Returns:
    The preset's name and the overrides, which `override` applies.

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


def names_in(argument: str) -> list[str]:
  """The dotted names of the fields that such an argument sets."""
  parts = (part.partition("=") for part in argument.split(","))
  return [key.strip() for key, equals, _ in parts if equals]


def apply(
  cls: type, config: ml_collections.ConfigDict, overrides: Mapping[str, str]
) -> None:
  """Sets dotted fields from text, which is read by the type of what is there.

  Text that fits no such reading is put in as it is, for the strict conversion
  to refuse.

  Args:
    cls: the dataclass that `config` will become.
    config: is changed.
    overrides: {"srl.update_steps": "20"}.

  Raises:
    ValueError: no such field; the message names the nearest.
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
  """The value that text means where now `present` stands."""
  if isinstance(present, str):
    # Rules are names or None. Nothing else is called so.
    return None if text == "None" else text
  if isinstance(present, bool) and text in ("true", "false"):
    return text == "true"
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return tuple(text.split(",")) if isinstance(present, tuple) else text


def _nested(names, value):
  return value if not names else {names[0]: _nested(names[1:], value)}
