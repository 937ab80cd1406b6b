# SPDX-License-Identifier: Apache-2.0
"""Thoughts are shown, dimmed or hidden while their text comes."""

import pytest

from srl_jax.chat.thoughts import Thoughts

TEXT = "<think>a < b</think> x <b> </think>y"


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_thoughts_are_hidden_or_dimmed_however_the_text_is_cut(size):
  pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]

  def printed(*settings):
    thoughts = Thoughts(*settings)
    return "".join(map(thoughts.add, pieces)) + thoughts.add("", is_last=True)

  assert printed(True, False) == TEXT
  assert printed(False, False) == " x <b> y"
  dimmed = printed(True, True)
  assert dimmed.replace("\x1b[2m", "").replace("\x1b[0m", "") == TEXT
  is_dim, plain = False, ""
  for part in dimmed.replace("\x1b[", "\x00\x1b[").split("\x00"):
    is_dim = part.startswith("\x1b[2m") or (
      is_dim and not part.startswith("\x1b[0m")
    )
    plain += "" if is_dim else part.replace("\x1b[0m", "")
  assert plain == " x <b> y"


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize(
  ("text", "shown"),
  [
    # As after prompts that end in <think>.
    ("a thought</think>y", "y"),
    ("a</think>y<think>b</think>z", "yz"),
    ("no thought < at all", "no thought < at all"),
    ("y</th", "y</th"),
  ],
)
def test_a_thought_that_is_only_closed_is_hidden(text, shown, size):
  thoughts = Thoughts(False, False)
  pieces = [text[at : at + size] for at in range(0, len(text), size)]
  said = list(map(thoughts.add, pieces))
  assert "".join(said) + thoughts.add("", is_last=True) == shown
  assert Thoughts(False, False).add(text, is_last=True) == shown


def test_hidden_thoughts_do_not_hold_up_what_follows_them():
  thoughts = Thoughts(False, False)
  pieces = ("<think>a", "</think>x", "y")
  assert list(map(thoughts.add, pieces)) == ["", "x", "y"]


def test_what_a_model_writes_cannot_steer_the_terminal():
  assert Thoughts(True, True).add("a\x1b[2Jb\n\x07") == "a\\x1b[2Jb\n\\x07"
