# SPDX-License-Identifier: Apache-2.0
"""Long observations are cut to head and tail, and the text says so."""

import pytest

from srl_jax.data.observations import shortened
from srl_jax.data.templates import make_template
from srl_jax.tokenizers import (
  ByteTokenizer,
  TokenizerConfig,
  make_tokenizer,
)
from srl_jax.trajectory import Step
from tests.support import checkpoints

BYTES = ByteTokenizer()


class Watched:
  """The byte tokenizer, and the longest text that it was given."""

  def __init__(self):
    self.longest = 0

  def encode(self, text):
    self.longest = max(self.longest, len(text))
    return BYTES.encode(text)

  def token_bytes(self, token):
    return BYTES.token_bytes(token)


def test_head_and_tail_have_the_tokens_and_the_rest_is_counted():
  text = "a" * 10 + "b" * 1234 + "c" * 10
  cut = "aaa\n[... 1,249 characters are left out ...]\ncc"
  assert shortened(text, BYTES, 5) == cut


@pytest.mark.parametrize("tokens", [0, 8, 9])
def test_what_fits_stays_as_it_is(tokens):
  assert shortened("12345678", BYTES, tokens) == "12345678"


def test_a_character_is_kept_whole_or_not_at_all():
  text = "é🙂" + "x" * 90 + "🙂é"
  for tokens in range(1, 20):
    cut = shortened(text, BYTES, tokens)
    head, _, tail = cut.split("\n")
    assert text.startswith(head) and text.endswith(tail)
    assert len(head.encode()) <= (tokens + 1) // 2
    assert len(tail.encode()) <= tokens // 2
    left_out = len(text) - len(head) - len(tail)
    assert f"[... {left_out} characters are left out ...]" in cut


def test_a_huge_observation_is_not_tokenised_as_a_whole():
  lines = "".join(f"line {n}\n" for n in range(100_000))
  tokenizer = Watched()
  cut = shortened(lines, tokenizer, 100)
  assert tokenizer.longest < len(lines) / 100
  assert cut.startswith("line 0\nline 1\n") and cut.endswith("99999\n")
  assert f"[... {len(lines) - 100:,} characters are left out ...]" in cut


def test_the_limit_counts_tokens_and_not_characters(tmp_path):
  folder = checkpoints.write(tmp_path, "qwen2_5")
  tokenizer = make_tokenizer(
    TokenizerConfig(kind="huggingface", path=str(folder)), ()
  )
  text = "the same words and the same words\n" * 40
  ids = tokenizer.encode(text)
  assert len(ids) < len(text) - 40
  assert shortened(text, tokenizer, len(ids)) == text
  head, _, tail = shortened(text, tokenizer, 12).partition("\n[...")
  assert tokenizer.encode(head) == ids[:6]
  assert len(tokenizer.encode(tail.partition("...]\n")[2])) == 6


@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_templates_cut_observations_and_nothing_else(name):
  long = "x" * 50
  step = Step(long, observation=f"\n{long}\n", thought=long)
  [whole] = make_template(name, BYTES).step(step, 1)
  [cut] = make_template(name, BYTES, observation_tokens=4).step(step, 1)
  assert whole.count(long) == 2
  shown = "xx\n[... 46 characters are left out ...]\nxx"
  assert cut == shown.join(whole.rsplit(long, 1))
