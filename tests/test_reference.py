# SPDX-License-Identifier: Apache-2.0
"""The reference pages are complete, and what the code says."""

import dataclasses
import pathlib
import re

import pytest

from srl_jax import config as config_lib
from srl_jax import reference, strict

FOLDER = pathlib.Path(__file__).parents[1] / "docs/reference"


@pytest.mark.parametrize("name", reference.pages())
def test_the_page_is_what_the_code_says(name):
  page = (FOLDER / name).read_text(encoding="utf-8")
  assert page == reference.pages()[name], (
    f"run: python -m srl_jax.reference {FOLDER}"
  )


def test_every_metric_has_a_row():
  rows = reference.metrics().splitlines()
  assert (
    "| `reward_well_formed` | ratio | 1 | Mean reward of completions whose "
    "format is whole |" in rows
  )
  assert sum(row.startswith("| `") for row in rows) > 50


def sections(section, path=""):
  yield path, section
  for field in dataclasses.fields(section):
    value = getattr(section, field.name)
    if dataclasses.is_dataclass(value):
      yield from sections(value, f"{path}.{field.name}".lstrip("."))


def test_every_field_is_described_where_it_is_declared():
  for _, section in sections(config_lib.Config()):
    names = [field.name for field in dataclasses.fields(section)]
    texts = strict.field_texts(type(section))
    assert sorted(texts) == sorted(names), type(section)


def test_every_section_has_a_heading_and_every_link_leads_to_one():
  page = reference.configuration()
  headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
  assert headings == [
    path or "The run" for path, _ in sections(config_lib.Config())
  ]
  anchors = {heading.replace(".", "") for heading in headings}
  links = re.findall(r"\]\(#([^)]+)\)", page)
  assert len(links) > 20
  assert set(links) <= anchors


def test_a_row_holds_type_default_and_description():
  rows = reference.configuration().splitlines()
  [row] = [x for x in rows if x.startswith("| `learning_rate` |")]
  assert row == "| `learning_rate` | float | `5e-06` | Peak learning rate. |"
  # Of a dataclass that is used again only what differs is listed.
  assert (
    "The fields are those of [sft.optim](#sftoptim); other defaults here: "
    "`learning_rate=5e-07`, `schedule='constant'`, `warmup_ratio=0.0`." in rows
  )
