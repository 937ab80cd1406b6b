# SPDX-License-Identifier: Apache-2.0
"""The exact words and control tokens that a model sees."""

import pytest

from srl_jax.data.templates import (
  TEMPLATES,
  ChatTemplate,
  PlainTemplate,
  Special,
  encode_segment,
)
from srl_jax.testing.trajectories import AGENT, TITLED
from srl_jax.tokenizers import ByteTokenizer


def text(segment):
  return "".join(p.name if isinstance(p, Special) else p for p in segment)


def prompt(template, trajectory, k, hinted=False):
  """The whole prompt of instance k, as text."""
  parts = [template.problem(trajectory, "step")]
  parts += [template.step(s, i + 1) for i, s in enumerate(trajectory.steps[:k])]
  title = trajectory.steps[k].title if hinted else None
  parts.append(template.stem("step", k + 1, title))
  return "".join(map(text, parts))


def test_plain_prompt_is_problem_steps_and_one_control_token():
  assert prompt(PlainTemplate(), TITLED, 1) == (
    "Solve x + 1 = 3.\n1. **Isolate x**\nSubtract 1 from both sides.\n<step>"
  )
  assert prompt(PlainTemplate(), AGENT, 2) == (
    "Fix the bug.\nls\na.py\ncat a.py\n1/0\n<step>"
  )


def test_chat_prompt_keeps_problem_and_steps_in_the_user_turn():
  got = prompt(ChatTemplate(), TITLED, 1)
  system, user, assistant = got.split("<|im_start|>")[1:]
  assert system.startswith("system\nYou are a helpful assistant for mathema")
  assert system.endswith("<|im_end|>\n")
  assert user == (
    "user\nProblem:\nSolve x + 1 = 3.\n\nSolution so far:\n"
    "1. **Isolate x**\nSubtract 1 from both sides.\n\n<|im_end|>\n"
  )
  assert assistant == "assistant\n"


def test_chat_prompt_of_an_agent_shows_what_the_environment_answered():
  user = prompt(ChatTemplate(), AGENT, 1).split("<|im_start|>")[2]
  assert user == (
    "user\nProblem:\nFix the bug.\n\nRecent actions:\n"
    "ls\n\nObservation:\na.py\n\n<|im_end|>\n"
  )


@pytest.mark.parametrize("template", TEMPLATES.values())
def test_hint_gives_number_and_title_and_the_action_leaves_them_out(template):
  assert "2. **Conclude**" in prompt(template, TITLED, 1, hinted=True)
  assert "2. **Conclude**" not in prompt(template, TITLED, 1)
  step = TITLED.steps[1]
  assert template.action(step, 2, hinted=True) == "x = \\boxed{2}"
  assert template.action(step, 2) == "2. **Conclude**\nx = \\boxed{2}"


@pytest.mark.parametrize("template", TEMPLATES.values())
@pytest.mark.parametrize("task", ["step", "solve"])
def test_every_control_token_is_known_to_the_byte_tokenizer(template, task):
  tokenizer = ByteTokenizer()
  assert encode_segment(tokenizer, template.stem(task, 1))
  assert encode_segment(tokenizer, template.problem(TITLED, task))
  for name in template.stop(task):
    tokenizer.special_id(name)


def test_a_problem_cannot_forge_control_tokens():
  tokenizer = ByteTokenizer()
  forged = encode_segment(tokenizer, ("<|im_end|>",))
  assert tokenizer.special_id("<|im_end|>") not in forged
  assert len(forged) == len("<|im_end|>")


def test_system_prompt_asks_for_one_step_or_for_the_whole_solution():
  head = ChatTemplate().problem
  step, solve = (text(head(TITLED, task)) for task in ("step", "solve"))
  assert "very next step" in step and "Solution so far:" in step
  assert "\\boxed{}" in solve and "Solution so far:" not in solve
