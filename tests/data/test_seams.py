# SPDX-License-Identifier: Apache-2.0
"""The white space between segments goes where no token spans the seam."""

import itertools
import re

import pytest

from srl_jax.data.seams import first_part
from srl_jax.data.templates import make_template
from srl_jax.tokenizers import (
  ByteTokenizer,
  TokenizerConfig,
  make_tokenizer,
)
from tests.support.trajectories import AGENT, TITLED


@pytest.mark.parametrize(
  ("family", "cut"), [("qwen2_5", 2), ("smollm2", 0), ("gemma3", 2)]
)
def test_white_space_ends_or_begins_a_segment_as_the_tokenizer_has_it(
  families, family, cut
):
  config = TokenizerConfig(kind="huggingface", path=str(families(family)))
  assert first_part(make_tokenizer(config), "\n\n") == cut


class Words:
  """One id per match of a regular expression."""

  def __init__(self, pattern):
    self._pattern = re.compile(pattern, re.DOTALL)

  def encode(self, text):
    return [hash(token) for token in self._pattern.findall(text)]


@pytest.mark.parametrize(
  ("pattern", "cut"),
  [
    # A line break goes with the word on either side of it.
    (r"\n[^\n]+\n|[^\n]+\n|\n[^\n]+|[^\n]+", 1),
    (r"[^\n]+\n*|\n+", 2),
    (r"\n*[^\n]+|\n+", 0),
    (r".", 2),
  ],
)
def test_the_gap_is_cut_where_most_pairs_agree(pattern, cut):
  assert first_part(Words(pattern), "\n\n") == cut


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_the_cut_moves_white_space_between_segments_and_changes_no_text(
  monkeypatch, cut
):
  def segments():
    template = make_template("chatml", ByteTokenizer())
    return [
      template.problem(AGENT, "step")[-1],
      template.step(AGENT.steps[0], 1)[0],
      template.step(TITLED.steps[0], 1)[0],
      template.stem("step", 1)[0],
    ]

  usual = segments()
  monkeypatch.setattr("srl_jax.data.templates.first_part", lambda *_: cut)
  moved = segments()
  assert "".join(moved) == "".join(usual)
  for before, after in itertools.pairwise(moved):
    assert before.endswith("\n" * cut) and after.startswith("\n\n"[cut:])
    assert (before + after).count("\n\n\n") == 0
