# SPDX-License-Identifier: Apache-2.0
"""Templates give the exact words and control tokens that a model sees."""

import pytest

from srl_jax.data.templates import (
  PlainTemplate,
  Special,
  encode_segment,
  encode_written,
  make_template,
  system_prompt,
)
from srl_jax.domains.math import MATH
from srl_jax.tokenizers import (
  ByteTokenizer,
  TokenizerConfig,
  make_tokenizer,
  tokenizer_folder,
)
from tests.support import checkpoints
from tests.support.trajectories import AGENT, TITLED

CHATML = make_template("chatml", ByteTokenizer())
BUILT_IN = [PlainTemplate(), CHATML]


def text(segment):
  return "".join(p.name if isinstance(p, Special) else p for p in segment)


def prompt(template, trajectory, k, hinted=False):
  """The whole prompt of branch point k, as text."""
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
  got = prompt(CHATML, TITLED, 1)
  system, user, assistant = got.split("<|im_start|>")[1:]
  assert system.startswith("system\nYou are a helpful assistant for mathema")
  assert system.endswith("<|im_end|>\n")
  assert user == (
    "user\nProblem:\nSolve x + 1 = 3.\n\nSolution so far:\n\n"
    "1. **Isolate x**\nSubtract 1 from both sides.\n\n"
    "Write the next step.<|im_end|>\n"
  )
  assert assistant == "assistant\n"


def test_chat_prompt_of_an_agent_shows_what_the_environment_answered():
  user = prompt(CHATML, AGENT, 1).split("<|im_start|>")[2]
  assert user == (
    "user\nProblem:\nFix the bug.\n\nRecent actions:\n\n"
    "ls\n\nObservation:\na.py\n\nWrite the next step.<|im_end|>\n"
  )


@pytest.mark.parametrize("template", BUILT_IN)
def test_hint_gives_number_and_title_and_the_action_leaves_them_out(template):
  assert "2. **Conclude**" in prompt(template, TITLED, 1, hinted=True)
  assert "2. **Conclude**" not in prompt(template, TITLED, 1)
  step = TITLED.steps[1]
  assert template.action(step, 2, hinted=True) == "x = \\boxed{2}"
  assert template.action(step, 2) == "2. **Conclude**\nx = \\boxed{2}"


@pytest.mark.parametrize("template", BUILT_IN)
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
  head = CHATML.problem
  step, solve = (text(head(TITLED, task)) for task in ("step", "solve"))
  assert "very next step" in step and "Solution so far:" in step
  assert "\\boxed{}" in solve and "Solution so far:" not in solve


def of_checkpoint(folder, name="chat"):
  """The tokenizer of a checkpoint's folder, and a template for it."""
  config = TokenizerConfig(kind="huggingface", path=str(folder))
  tokenizer = make_tokenizer(config)
  return tokenizer, make_template(name, tokenizer, tokenizer_folder(config))


USER = (
  "Problem:\nSolve x + 1 = 3.\n\nSolution so far:\n\n"
  "1. **Isolate x**\nSubtract 1 from both sides.\n\nWrite the next step."
)


@pytest.mark.parametrize(
  ("family", "form"),
  [
    (
      "qwen3",
      "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}"
      "<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
      "llama3_1",
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
      "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
      "{system}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{user}"
      "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
      "gemma2",
      "<bos><start_of_turn>user\n{system}\n\n{user}<end_of_turn>\n"
      "<start_of_turn>model\n",
    ),
  ],
)
def test_a_checkpoints_own_template_stands_around_the_users_text(
  families, family, form
):
  tokenizer, template = of_checkpoint(families(family))
  text_ = form.format(system=system_prompt(MATH, "step"), user=USER)
  assert prompt(template, TITLED, 1) == text_
  assert template.whole(TITLED, "step", text_) == text_
  # Exactly the control tokens of the form are Special.
  names = [
    part.name
    for part in template.problem(TITLED, "step") + template.stem("step", 2)
    if isinstance(part, Special)
  ]
  assert set(names) <= tokenizer.control_names
  assert len(names) == sum(map(form.count, tokenizer.control_names))


def test_a_text_for_a_base_model_has_no_roles(families, tmp_path):
  without = checkpoints.write(tmp_path, "gemma3", add_bos_token=False)
  text_ = f"{system_prompt(MATH, 'step')}\n\n{USER}\n"
  for folder, first in (
    (families("qwen2_5"), ""),
    (families("llama3_1"), "<|begin_of_text|>"),
    (families("gemma3"), "<bos>"),
    (without, ""),
  ):
    _, template = of_checkpoint(folder, "text")
    assert prompt(template, TITLED, 1) == first + text_
    is_special = isinstance(template.problem(TITLED, "step")[0], Special)
    assert is_special == bool(first)
    assert template.whole(TITLED, "step", first + text_) == first + text_


@pytest.mark.parametrize(
  ("family", "name", "stops"),
  [
    ("qwen2_5", "chat", ("<|im_end|>", "<|endoftext|>")),
    ("qwen3", "text", ("<|im_end|>", "<|endoftext|>")),
    ("qwen3", "chatml", ("<|im_end|>", "<|endoftext|>")),
    ("llama3_1", "chat", ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")),
    ("gemma2", "chat", ("<end_of_turn>", "<eos>")),
    ("gemma3", "text", ("<eos>", "<end_of_turn>")),
  ],
)
def test_a_turn_ends_where_its_template_or_the_generation_config_says(
  families, family, name, stops
):
  _, template = of_checkpoint(families(family), name)
  assert template.stop("step") == template.stop("solve") == stops
  assert template.end() == (Special(stops[0]),)


def test_a_target_ends_in_what_the_template_writes_before_the_stop(tmp_path):
  source = (
    "{% for m in messages %}<|im_start|>{{ m.content }}\n\n<|im_end|>x"
    "{% endfor %}<|im_start|>"
  )
  folder = checkpoints.write(tmp_path, "qwen2_5", chat_template=source)
  _, template = of_checkpoint(folder)
  assert template.end() == ("\n\n", Special("<|im_end|>"))


def test_a_turn_without_a_control_token_ends_in_the_end_of_text(tmp_path):
  source = "{% for m in messages %}\n{{ m.role }}: {{ m.content }}{% endfor %}"
  folder = checkpoints.write(tmp_path, "gemma2", chat_template=source)
  _, template = of_checkpoint(folder)
  assert template.end() == (Special("<eos>"),)
  (folder / "config.json").unlink()
  (folder / "generation_config.json").unlink()
  checkpoints.write_json(
    folder / "tokenizer_config.json", {"chat_template": source}
  )
  with pytest.raises(ValueError, match="without a control token, and there is"):
    of_checkpoint(folder)


def test_a_template_that_branches_cannot_use_is_refused(tmp_path):
  source = "{{ messages[-1].content }}<|im_end|>{{ messages[0].content }}"
  message = "writes the system message after the user's text"
  folder = checkpoints.write(tmp_path, "qwen2_5", chat_template=source)
  with pytest.raises(ValueError, match=message):
    of_checkpoint(folder)


@pytest.mark.parametrize(
  ("family", "others"),
  [("qwen2_5", "'chatml' or 'text'"), ("llama3_1", "'text'")],
)
def test_only_templates_that_the_tokenizer_has_tokens_for_are_offered(
  tmp_path, family, others
):
  opens = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
  folder = checkpoints.write(tmp_path, family, chat_template=opens)
  _, template = of_checkpoint(folder)
  with pytest.raises(ValueError, match=f"or set c.template={others}$"):
    template.chat.check_thinking()
  # The offer is good.
  of_checkpoint(folder, others.split("'")[1])


def test_a_checkpoint_without_a_template_is_told_the_one_for_base_models(
  tmp_path,
):
  folder = checkpoints.write(tmp_path, "qwen2_5", chat_template=None)
  with pytest.raises(ValueError, match=r"base models.* set c\.template='text'"):
    of_checkpoint(folder)
  of_checkpoint(folder, "text")


@pytest.mark.parametrize("name", ["chat", "text"])
def test_a_tokenizer_without_a_checkpoint_has_no_template_of_its_own(name):
  with pytest.raises(ValueError, match=r"c\.tokenizer\.kind='huggingface'"):
    make_template(name, ByteTokenizer())


def test_what_a_model_writes_has_its_think_tokens_and_no_other_control():
  text = "<think>a</think>b<eos>"
  plain = ByteTokenizer(("<eos>",))
  assert encode_written(plain, text) == plain.encode(text)
  flagged = ByteTokenizer(("<eos>", "<think>", "</think>"))
  opening, closing = map(flagged.special_id, ("<think>", "</think>"))
  assert encode_written(flagged, text) == [
    opening,
    *b"a",
    closing,
    *b"b<eos>",
  ]
