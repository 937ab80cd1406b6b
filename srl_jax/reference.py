# SPDX-License-Identifier: Apache-2.0
"""Writes the reference pages of the configuration and of the metrics.

  python -m srl_jax.reference docs/reference

Names, types and defaults come from the dataclasses and descriptions from their
docstrings, so the pages always agree with the code.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from srl_jax import strict
from srl_jax.config import Config
from srl_jax.train import metric_columns

_INTRODUCTION = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made by: python -m srl_jax.reference docs/reference -->
# Configuration

Every field of a run's configuration. An experiment file sets fields of
`c = config.default_config()`, as in `c.srl.update_steps = 20`; the command line
sets single ones with `--config.srl.update_steps=20`, or several with
`--config=FILE.py:PRESET,srl.update_steps=20,seed=1`. An unknown field is an
error that names the nearest one, and so is a field of a stage that does not
run. The sections below have the names that are typed; an experiment may have
other defaults than those shown.
"""


_METRICS = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made by: python -m srl_jax.reference docs/reference -->
# Metrics

"""


def pages() -> dict[str, str]:
  """Returns the texts of the pages by the names of their files."""
  return {"configuration.md": configuration(), "metrics.md": metrics()}


def metrics() -> str:
  """Returns the page of the metrics."""
  parts = [f"{_METRICS}{metric_columns.HEAD}"]
  for title, rows in metric_columns.sections().items():
    parts.append(f"## {title[:1].upper()}{title[1:]}\n")
    table = ["| metric | parts | unit | meaning |", "|---|---|---|---|"]
    for name, combined, unit, meaning in rows:
      text = _escaped(meaning[:1].upper() + meaning[1:])
      table.append(f"| `{name}` | {combined} | {unit} | {text} |")
    parts.append("\n".join(table) + "\n")
  return "\n".join(parts)


def configuration() -> str:
  """Returns the page of the configuration."""
  parts = [_INTRODUCTION]
  first: dict[type, tuple[str, Any]] = {}
  for path, section in _sections(Config(), ""):
    cls = type(section)
    parts.append(f"## {path or 'The run'}\n\n{_summary(cls)}\n")
    if cls in first:
      parts.append(_as_before(section, *first[cls]))
    else:
      first[cls] = (path, section)
      parts.append(_table(section, path))
  return "\n".join(parts)


def _sections(section: Any, path: str) -> Iterator[tuple[str, Any]]:
  """Yields (dotted path, default) of a dataclass and of all nested ones."""
  yield path, section
  for name, value in _values(section):
    if dataclasses.is_dataclass(value):
      yield from _sections(value, _join(path, name))


def _values(section: Any) -> Iterator[tuple[str, Any]]:
  for field in dataclasses.fields(section):
    yield field.name, getattr(section, field.name)


def _join(path: str, name: str) -> str:
  return f"{path}.{name}" if path else name


def _summary(cls: type) -> str:
  """Returns the docstring of a dataclass before its attributes."""
  text = strict.summary(cls)
  return f"{_escaped(text)} (`{cls.__name__}` in `{cls.__module__}`)"


def _as_before(section: Any, path: str, before: Any) -> str:
  """Refers to an earlier table of the same dataclass; lists other defaults."""
  differences = [
    f"`{name}={value!r}`"
    for (name, value), (_, other) in zip(
      _values(section), _values(before), strict=True
    )
    if value != other and not dataclasses.is_dataclass(value)
  ]
  text = f"The fields are those of {_link(path)}"
  if differences:
    text += f"; other defaults here: {', '.join(differences)}"
  return f"{text}.\n"


def _table(section: Any, path: str) -> str:
  annotations = typing.get_type_hints(type(section))
  texts = strict.field_texts(type(section))
  rows = ["| field | type | default | description |", "|---|---|---|---|"]
  for name, value in _values(section):
    kind, default = strict.describe_type(annotations[name]), f"`{value!r}`"
    if dataclasses.is_dataclass(value):
      kind, default = "section", _link(_join(path, name))
    text = texts[name]
    cells = (f"`{name}`", kind, default, _escaped(text[:1].upper() + text[1:]))
    rows.append(f"| {' | '.join(cells)} |")
  return "\n".join(rows) + "\n"


def _link(path: str) -> str:
  """Links to a section's heading, with the anchor that GitHub and docs use."""
  return f"[{path}](#{path.replace('.', '')})"


def _escaped(text: str) -> str:
  return text.replace("<", "&lt;").replace("|", "\\|")


def main(argv: Sequence[str] | None = None) -> None:
  """Writes the pages."""
  parser = argparse.ArgumentParser(
    prog="python -m srl_jax.reference",
    description="Writes the reference pages of configuration and metrics.",
  )
  parser.add_argument(
    "folder", type=pathlib.Path, help="such as docs/reference"
  )
  folder = parser.parse_args(argv).folder
  for name, text in pages().items():
    (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
  main()
