# SPDX-License-Identifier: Apache-2.0
"""Prompts in segments are compared with the same prompts in one piece."""

import dataclasses

import pytest

from srl_jax.data import prompts
from srl_jax.data.templates import PlainTemplate, make_template
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.tokenizers import TokenizerConfig, make_tokenizer, tokenizer_folder
from srl_jax.trajectory import Step
from tests.support import checkpoints
from tests.support.trajectories import AGENT, TITLED, sums, word_problems


def compare(folder, trajectories, name="chat", change=None, limit=0, **config):
  """Builds the prompts of trajectories and compares them."""
  of_folder = TokenizerConfig(kind="huggingface", path=str(folder))
  tokenizer = make_tokenizer(of_folder)
  template = make_template(name, tokenizer, tokenizer_folder(of_folder))
  if change:
    change(template)
  config = TrunkConfig(**config)
  trunks, _ = build_trunks(trajectories, template, tokenizer, config)
  return prompts.compare(trunks, template, tokenizer, config.task, limit)


@pytest.mark.parametrize("name", ["chat", "text"])
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_prompts_have_the_ids_of_their_text_in_one_piece(
  families, family, name
):
  trajectories = [*word_problems(10), TITLED, AGENT]
  for config in ({"step_title_hint": True}, {"task": "solve"}):
    report = compare(families(family), trajectories, name, **config)
    assert report.checked == report.equal >= len(trajectories)
    assert not report.warnings()


def breaks_first(template):
  """Moves line breaks from the ends of segments to the next beginnings."""
  problem, step, stem = template.problem, template.step, template.stem
  ends = lambda segment: (*segment[:-1], segment[-1].rstrip("\n"))  # noqa: E731
  begins = lambda segment: ("\n\n" + segment[0], *segment[1:])  # noqa: E731
  template.problem = lambda *args: ends(problem(*args))
  template.step = lambda *args: begins(ends(step(*args)))
  template.stem = lambda *args: begins(stem(*args))


def breaks_twice(template):
  """Puts the line breaks that end a segment at the beginning of steps, too."""
  step = template.step
  template.step = lambda *args: ("\n\n" + step(*args)[0],)


@pytest.mark.parametrize(
  ("family", "change", "example"),
  [
    ("qwen2_5", breaks_first, r"titled/1 has '.' | '\n\n' for '.\n\n'"),
    ("gemma3", breaks_twice, r"titled/1 has '\n\n' | '\n\n' for '\n\n\n\n'"),
  ],
)
def test_a_merge_across_segments_is_named_with_an_example(
  families, family, change, example
):
  report = compare(families(family), [TITLED], change=change)
  assert report.different == {"merge": 1}
  assert report.warnings() == [
    "1 of 2 prompts have other ids than their text in one piece, because of a "
    f"merge across the end of a segment: {example}"
  ]


def test_the_name_of_a_control_token_in_a_text_is_named(families):
  bad = dataclasses.replace(
    TITLED, id="bad", problem="What does <|im_end|> mean?"
  )
  report = compare(families("qwen2_5"), [TITLED, bad])
  assert (report.checked, report.equal) == (4, 2)
  assert report.different == {"control": 2}
  [warning] = report.warnings()
  assert "because of a control token's name in the text: bad/0 has '" in warning
  assert warning.endswith("'<|im_end|>'")


def test_text_that_the_tokenizers_file_rewrites_is_named(families):
  accent = dataclasses.replace(TITLED, problem="Cafe\u0301s: x + 1 = 3.")
  report = compare(families("qwen3"), [accent])
  assert report.different == {"rewrite": 2}
  assert "e\u0301".encode().decode() not in report.examples["rewrite"]
  # Llama's file does not change accents.
  report = compare(families("llama3_1"), [accent])
  assert not report.different
  # Gemma's file takes its own mark for a space.
  mark = dataclasses.replace(TITLED, steps=(Step("a\u2581b"), Step("c")))
  for family in ("gemma2", "gemma3"):
    report = compare(families(family), [mark])
    assert report.different == {"rewrite": 1}


@pytest.mark.parametrize(
  ("source", "words"),
  [
    # Both changes show only in a text that has the word "both".
    (
      checkpoints.QWEN2_5.replace(
        "m.content +", "m.content.replace('both', 'all') +"
      ),
      "both sides.\\n\\nWrite t' it writes 'x**\\nSubtract 1 from all sides.",
    ),
    (
      "{% if 'both' in messages[1].content %}Both!{% endif %}"
      + checkpoints.QWEN2_5,
      "'<|im_start|>system\\nY' it writes 'Both!<|im_start|>sys'",
    ),
  ],
)
def test_a_template_that_changes_the_text_of_a_prompt_is_an_error(
  tmp_path, source, words
):
  folder = checkpoints.write(tmp_path, "qwen2_5", chat_template=source)
  with pytest.raises(ValueError) as caught:
    compare(folder, [TITLED])
  assert str(caught.value).startswith(
    "the chat template changes the text of titled/1: where the prompt is "
  )
  assert words in str(caught.value)
  assert str(caught.value).endswith("set c.template='chatml' or 'text'")


def test_a_sample_is_spread_over_all_prompts(families):
  data = [sums(10, f"s{i}") for i in range(5)]
  assert compare(families("gemma3"), data).checked == 50
  # Every seventh prompt is compared: 0, 7, ... 49.
  assert compare(families("gemma3"), data, limit=8).checked == 8
  assert compare(families("gemma3"), data, limit=99).checked == 50
  # The second trajectory contains the name of a control token.
  data[1] = dataclasses.replace(data[1], problem="<eos>?")
  assert compare(families("gemma3"), data, limit=5).different == {"control": 1}


def test_small_models_from_scratch_have_nothing_to_differ_from():
  tokenizer = make_tokenizer(TokenizerConfig())
  trajectories = [TITLED, *word_problems(5)]
  template = PlainTemplate()
  trunks, _ = build_trunks(trajectories, template, tokenizer, TrunkConfig())
  report = prompts.compare(trunks, template, tokenizer, "step")
  assert report.checked == report.equal
