# SPDX-License-Identifier: Apache-2.0
"""Chat templates are rendered, cut, and refused if they cannot be cut."""

import time

import pytest

from srl_jax.data.chat import ChatFormat
from tests.support import checkpoints

NAMES = {"bos_token": "<bos>"}


def chat(source):
  return ChatFormat(source, NAMES, "somewhere")


def of(family):
  return chat(checkpoints.FAMILIES[family][1])


@pytest.mark.parametrize(
  ("family", "before", "after"),
  [
    (
      "qwen2_5",
      "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n",
      "<|im_end|>\n<|im_start|>assistant\n",
    ),
    # The template does not open the think block; the model does.
    (
      "qwen3",
      "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n",
      "<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
      "llama3_1",
      "<bos><|start_header_id|>system<|end_header_id|>\n\n"
      "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
      "Be short.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
      "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    # The template refuses a system message, so it goes into the user's.
    (
      "gemma2",
      "<bos><start_of_turn>user\nBe short.\n\n",
      "<end_of_turn>\n<start_of_turn>model\n",
    ),
    (
      "gemma3",
      "<bos><start_of_turn>user\nBe short.\n\n",
      "<end_of_turn>\n<start_of_turn>model\n",
    ),
  ],
)
def test_a_prompt_is_cut_where_the_users_text_stands(family, before, after):
  assert of(family).cut("Be short.") == (before, after)
  text = of(family).prompt("Be short.", "1 < 2 & {{x}}?")
  assert text == f"{before}1 < 2 & {{{{x}}}}?{after}"


def test_a_template_that_asks_for_the_date_gets_the_same_on_every_day():
  assert of("llama3_2").cut("x") == of("llama3_1").cut("x")


def test_a_template_that_leaves_the_system_message_out_gets_it_as_the_users():
  user_only = (
    "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]"
    "{% endif %}{% endfor %}"
  )
  assert chat(user_only).prompt("Be short.", "Why?") == "[Be short.\n\nWhy?]"


@pytest.mark.parametrize(
  ("family", "ending"),
  [
    ("qwen2_5", "<|im_end|>\n"),
    ("qwen3", "<|im_end|>\n"),
    ("llama3_1", "<|eot_id|>"),
    ("gemma2", "<end_of_turn>\n"),
  ],
)
def test_the_end_of_the_assistants_turn_is_found(family, ending):
  assert of(family).ending() == ending


def test_templates_have_what_transformers_gives_them():
  source = (
    "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    "{{ {'<a>': '\u00e9'} | tojson }} {{ tools is none }} {{ documents }}"
  )
  assert chat(source).prompt("s", "u") == 'su{"<a>": "\u00e9"} True None'


EACH = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
  ("source", "problem"),
  [
    ("{% for m in messages %}", "is not valid Jinja"),
    ("{{ raise_exception('not today') }}", r"be rendered \(not today\)"),
    ("{{ messages[7].content.strip() }}", "cannot be rendered"),
    # The sandbox prevents the next two.
    ("{{ ''.__class__.__mro__ }}" + EACH, "cannot be rendered .*unsafe"),
    ("{{ messages.clear() }}" + EACH, "cannot be rendered .*'clear'"),
    ("{{ messages[0].content }}", "leaves the user's text out"),
    (EACH + EACH, "writes the user's text 2 times"),
    (
      "{{ messages[0].content }}{{ messages[1].content | e }}",
      "changes the user's text: .* becomes .*&amp;",
    ),
    (
      "{{ messages[0].content }}{{ messages[1].content.split('</think>')[-1]}}",
      "leaves the user's text out, or part of it",
    ),
  ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(source, problem):
  with pytest.raises(ValueError, match=problem) as caught:
    chat(source).cut("Be short.")
  assert str(caught.value).startswith("somewhere: the chat template ")
  assert "chat_template.jinja in that folder" in str(caught.value)


def test_a_template_without_an_assistants_turn_is_refused():
  with pytest.raises(ValueError, match="leaves the assistant's text out"):
    chat("{{ messages[0].content }}").ending()


@pytest.mark.parametrize(
  ("source", "problem"),
  [
    ("{{ 'a' * 10**10 }}", "MemoryError"),
    ("{{ 'a' * 4 * 10**7 }}", "it writes 40,000,... characters"),
    ("{{ range(10**9) | list }}", "Range too big"),
    ("{% if x %}" * 5000, "is not valid Jinja"),
    ("{{ " + "(" * 5000, "is not valid Jinja"),
    ("{{ " + "[" * 300 + "]" * 300 + " }}", "cannot be rendered|not valid"),
  ],
)
def test_a_template_has_a_limit_of_memory(source, problem):
  with pytest.raises(ValueError, match=problem):
    chat(source + EACH).cut("Be short.")
  assert of("qwen2_5").ending() == "<|im_end|>\n"


@pytest.mark.parametrize(
  "source",
  [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}",
    pytest.param("{{ 9**(9**9) }}", marks=pytest.mark.slow),
  ],
)
def test_a_template_has_a_limit_of_time(source):
  start = time.monotonic()
  with pytest.raises(ValueError, match=r"rendered: .*its limit of CPU time"):
    chat(source + EACH).cut("Be short.")
  # Far more than the limit takes on a busy machine.
  assert time.monotonic() - start < 60
  assert of("qwen2_5").ending() == "<|im_end|>\n"


def test_a_template_that_would_not_let_the_model_think_is_told_to():
  # As Qwen3's template with enable_thinking=False, without being asked to.
  quiet = checkpoints.QWEN3.replace(
    "enable_thinking is defined and enable_thinking is false",
    "enable_thinking is not defined or not enable_thinking",
  )
  template = chat(quiet)
  assert template.cut("s")[1].endswith("<think>\n\n</think>\n\n")
  with pytest.warns(UserWarning, match=r"enable_thinking=True; .*</think>"):
    template.leave_thinking_to_the_model()
  assert template.cut("s") == of("qwen3").cut("s")


@pytest.mark.parametrize(
  ("tail", "what"),
  [
    ("<think>\n", "opens the think block itself"),
    ("<think>\n\n</think>\n\n", "tells the model not to think"),
    ("</think>", "tells the model not to think"),
    ("<think></think><think>", "opens the think block itself"),
  ],
)
def test_a_template_that_takes_thinking_from_the_model_is_refused(tail, what):
  template = chat(EACH + tail)
  template.leave_thinking_to_the_model()
  # Asked as it is, and not trained.
  assert template.cut("s")[1].endswith(tail.removesuffix("\n"))
  with pytest.raises(ValueError, match=what) as caught:
    template.check_thinking()
  tags = tail.removesuffix("\n")  # Jinja drops a last line break.
  assert f"write it without {tags!r} to chat_template" in str(caught.value)


def test_a_template_that_leaves_thinking_to_the_model_is_not_changed():
  for family in checkpoints.FAMILIES:
    template = of(family)
    before = template.cut("s")
    template.leave_thinking_to_the_model()
    template.check_thinking()
    assert template.cut("s") == before
