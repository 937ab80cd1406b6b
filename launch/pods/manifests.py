# SPDX-License-Identifier: Apache-2.0
"""Writes manifests as YAML that people read: in order, scripts as blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
  """Indents lists, and writes what is there twice out twice."""

  def ignore_aliases(self, data: Any) -> bool:
    return True

  def increase_indent(self, flow: bool = False, indentless: bool = False):
    return super().increase_indent(flow, indentless=False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
  style = "|" if "\n" in text else None
  return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def dump(value: Mapping[str, Any]) -> str:
  """Returns nested mappings, sequences, texts, numbers and booleans as YAML."""
  return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000)
