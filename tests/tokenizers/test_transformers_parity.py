# SPDX-License-Identifier: Apache-2.0
"""Ids are those of transformers, for texts and for whole prompts."""

import pytest

from srl_jax.data.messages import chat_of, encode_messages
from srl_jax.data.templates import make_template, system_prompt
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.domains.math import MATH
from srl_jax.tokenizers import (
  TokenizerConfig,
  make_tokenizer,
  tokenizer_folder,
  train_sentencepiece,
)
from srl_jax.tokenizers.to_json import tokenizer_json
from srl_jax.trajectory import Step, Trajectory
from tests.support import checkpoints
from tests.support.trajectories import word_problems

pytestmark = pytest.mark.parity

# In several languages, LaTeX and code, too; no step has a think tag.
TRAJECTORIES = word_problems(20) + [
  Trajectory(f"sample-{i}", "math", text, (Step(step), Step(f"{step}!")))
  for i, text in enumerate(checkpoints.SAMPLES)
  for step in [text.replace("think>", "b>")]
]


@pytest.fixture(scope="module", params=checkpoints.FAMILIES)
def checkpoint(request, families):
  """(family, tokenizer, what is known of the checkpoint, their tokenizer)."""
  transformers = pytest.importorskip("transformers")
  folder = str(families(request.param))
  config = TokenizerConfig(kind="huggingface", path=folder)
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  return request.param, make_tokenizer(config), tokenizer_folder(config), theirs


def test_texts_have_their_ids(checkpoint):
  _, tokenizer, _, theirs = checkpoint
  for text in checkpoints.SAMPLES:
    want = theirs(text, add_special_tokens=False).input_ids
    assert tokenizer.encode(text) == want


def test_tokens_have_their_roles(checkpoint):
  _, tokenizer, files, theirs = checkpoint
  assert tokenizer.pad_id == theirs.pad_token_id
  assert theirs.eos_token_id in files.stop_ids
  first = [tokenizer.special_id(x) for x in (files.first_token(),) if x]
  assert theirs("x").input_ids == [*first, *tokenizer.encode("x")]


def test_prompts_of_a_chat_have_their_ids(checkpoint):
  family, tokenizer, files, theirs = checkpoint
  template = make_template("chat", tokenizer, files)
  system = system_prompt(MATH, "step")
  for prompt, user in prompts(template, tokenizer):
    messages = [{"role": "user", "content": user}]
    if family == "gemma2":  # has no system role
      messages[0]["content"] = f"{system}\n\n{user}"
    else:
      messages.insert(0, {"role": "system", "content": system})
    assert prompt == theirs.apply_chat_template(
      messages,
      tokenize=True,
      return_dict=False,
      add_generation_prompt=True,
      date_string="26 Jul 2024",
    )


def test_prompts_for_a_base_model_have_their_ids(checkpoint):
  _, tokenizer, files, theirs = checkpoint
  template = make_template("text", tokenizer, files)
  system = system_prompt(MATH, "step")
  for prompt, user in prompts(template, tokenizer):
    assert prompt == theirs(f"{system}\n\n{user}\n").input_ids


def test_texts_have_the_ids_of_a_tokenizer_of_ours(tmp_path):
  transformers = pytest.importorskip("transformers")
  ours = train_sentencepiece(
    checkpoints.corpus(), 900, ("<step>",), tmp_path / "tokenizer.model"
  )
  (tmp_path / "tokenizer.json").write_text(tokenizer_json(ours))
  settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
  checkpoints.write_json(tmp_path / "tokenizer_config.json", settings)
  # Without a config.json beside it; see docs/models.md.
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  for text in checkpoints.SAMPLES:
    ids = theirs(text).input_ids
    assert ids == ours.encode(text)
    assert theirs.decode(ids, skip_special_tokens=True) == text


def prompts(template, tokenizer):
  """Yields the ids of a prompt, and the user's text in it."""
  trunks, _ = build_trunks(TRAJECTORIES, template, tokenizer, TrunkConfig())
  for trajectory, trunk in zip(TRAJECTORIES, trunks, strict=True):
    for point in trunk.points:
      steps = trajectory.steps[: point.step]
      parts = [f"Problem:\n{trajectory.problem.strip()}", "Solution so far:"]
      parts += [step.text.strip() for step in steps]
      user = "\n\n".join([*parts, "Write the next step."])
      yield [*trunk.tokens[: point.at].tolist(), *point.stem.tolist()], user


def test_conversations_have_their_ids(checkpoint):
  family, tokenizer, files, theirs = checkpoint
  chat = chat_of("chat", make_template("chat", tokenizer, files))
  talk = [
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "It is 5."},
    {"role": "user", "content": "Why?\n"},
  ]
  if family != "gemma2":  # has no system role
    talk.insert(0, {"role": "system", "content": "Be short."})
  assert encode_messages(chat, tokenizer, talk) == theirs.apply_chat_template(
    talk,
    tokenize=True,
    return_dict=False,
    add_generation_prompt=True,
    date_string="26 Jul 2024",
  )
