# SPDX-License-Identifier: Apache-2.0
"""The server as OpenAI's Python client sees it."""

import concurrent.futures
import math

import jax
import numpy as np
import openai
import pytest

from srl_jax.data.messages import encode_messages
from srl_jax.rollout.completions import complete
from srl_jax.rollout.requests import Request

TALK = [
  {"role": "system", "content": "Be brief."},
  {"role": "user", "content": "What is 2+3*4?"},
]


@pytest.fixture(scope="module")
def sampled(ready):
  """Tokens that the sampler itself draws for a prompt."""
  stream = ready.stream(rows=1, slots=1, key=jax.random.key(0))

  def sample(tokens, **settings):
    settings = {"max_new_tokens": 12} | settings
    [done] = complete(stream, [Request(tokens, **settings)])
    return done

  return sample


def text_of(ready, done):
  tokens = done.tokens[:-1] if done.is_stopped else done.tokens
  return ready.run.tokenizer.decode(tokens)


def test_a_completion_is_what_the_sampler_draws(ready, served, sampled):
  tokens = ready.run.tokenizer.encode("Natalia sold 48")
  done = sampled(tokens, point_id=7, temperature=0.8, top_p=0.9)
  asked = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 12, "seed": 7}
  texts = [
    served.client.completions.create(model="tiny", prompt=prompt, **asked)
    for prompt in ("Natalia sold 48", tokens)
  ]
  for answer in texts:
    assert answer.choices[0].text == text_of(ready, done)
    assert answer.usage.completion_tokens == len(done.tokens)
    assert answer.usage.prompt_tokens == len(tokens)
    want = "stop" if done.is_stopped else "length"
    assert answer.choices[0].finish_reason == want


def test_an_answer_is_what_the_sampler_draws(ready, served, sampled):
  tokens = encode_messages(ready.chat, ready.run.tokenizer, TALK)
  done = sampled(tokens, point_id=3)
  answer = served.client.chat.completions.create(
    model="tiny", messages=TALK, max_tokens=12, seed=3
  )
  assert answer.choices[0].message.content == text_of(ready, done)
  assert answer.choices[0].message.role == "assistant"
  assert answer.usage.prompt_tokens == len(tokens)
  parts = [
    {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]}
    for m in TALK
  ]
  again = served.client.chat.completions.create(
    model="tiny", messages=parts, max_completion_tokens=12, seed=3
  )
  assert again.choices[0].message.content == answer.choices[0].message.content


def test_prompts_and_samples_are_numbered_prompt_by_prompt(ready, served):
  prompts = ["Natalia sold", "What is 2+3*4?"]
  ask = {"model": "tiny", "max_tokens": 6, "seed": 5}
  both = served.client.completions.create(prompt=prompts, n=3, **ask)
  assert [choice.index for choice in both.choices] == list(range(6))
  for i, prompt in enumerate(prompts):
    one = served.client.completions.create(prompt=prompt, n=3, **ask)
    texts = [choice.text for choice in one.choices]
    assert texts == [c.text for c in both.choices[3 * i : 3 * i + 3]]
    assert len(set(texts)) == 3
  # Asked several times in one request, a prompt has other samples.
  again = served.client.completions.create(prompt=prompts[:1] * 3, **ask)
  one = served.client.completions.create(prompt=prompts[0], n=3, **ask)
  assert [c.text for c in again.choices] == [c.text for c in one.choices]


def test_a_seed_that_was_not_given_is_told_and_gives_the_same_again(served):
  ask = {"model": "tiny", "prompt": "Natalia", "max_tokens": 12}
  first, second = (served.client.completions.create(**ask) for _ in range(2))
  assert first.choices[0].text != second.choices[0].text
  again = served.client.completions.create(**ask, seed=first.seed)
  assert again.choices[0].text == first.choices[0].text


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_tells_the_same_text_piece_by_piece(served, n):
  ask = {"model": "tiny", "max_tokens": 30, "seed": 3, "n": n}
  whole = served.client.chat.completions.create(messages=TALK, **ask)
  pieces = list(
    served.client.chat.completions.create(
      messages=TALK,
      stream=True,
      stream_options={"include_usage": True},
      **ask,
    )
  )
  assert pieces[-1].usage == whole.usage and not pieces[-1].choices
  texts, ends = [""] * n, [None] * n
  for piece in pieces[:-1]:
    [choice] = piece.choices
    texts[choice.index] += choice.delta.content or ""
    ends[choice.index] = choice.finish_reason
  assert texts == [choice.message.content for choice in whole.choices]
  assert ends == [choice.finish_reason for choice in whole.choices]
  # The engine looks every 8 tokens.
  assert len(pieces) >= 4
  told = served.client.completions.create(prompt="Natalia", **ask)
  parts = [""] * n
  for piece in served.client.completions.create(
    prompt="Natalia", stream=True, **ask
  ):
    parts[piece.choices[0].index] += piece.choices[0].text
  assert parts == [choice.text for choice in told.choices]


def test_text_ends_before_a_stop_string(served):
  ask = {"model": "tiny", "prompt": "Natalia sold", "max_tokens": 60, "seed": 1}
  whole = served.client.completions.create(**ask).choices[0].text
  # Long enough to lie in two pieces.
  stop = whole[20:32]
  for stream in (False, True):
    answer = served.client.completions.create(
      **ask, stop=["never said", stop], stream=stream, logprobs=0
    )
    choices = [x.choices[0] for x in answer] if stream else answer.choices
    text = "".join(choice.text for choice in choices)
    assert text == whole[: whole.index(stop)]
    assert choices[-1].finish_reason == "stop"
    tokens = [t for choice in choices for t in choice.logprobs.tokens]
    assert not "".join(tokens).startswith(text + stop)
  assert served.engine.open == 0


def test_echo_scores_the_prompt_as_the_sampler_scores_what_it_draws(
  ready, served
):
  tokenizer = ready.run.tokenizer
  prompt = "Natalia sold 48/2 = 24 clips. 🙂"
  ask = {"model": "tiny", "temperature": 1.0, "logprobs": 3, "seed": 2}
  drawn, echoed = (
    served.client.completions.create(
      prompt=prompt, max_tokens=12, echo=echo, **ask
    ).choices[0]
    for echo in (False, True)
  )
  prompt_tokens = tokenizer.encode(prompt)
  all_tokens = tokenizer.encode(prompt)
  # The same tokens again, given: ids, since other ids can spell the same text.
  names = {
    name: i
    for i in range(tokenizer.vocab_size)
    for name in [tokenizer.token_bytes(i)]
  }
  all_tokens += [names[bytes_of(name)] for name in drawn.logprobs.tokens]
  [scored] = served.client.completions.create(
    prompt=all_tokens, echo=True, max_tokens=0, **ask
  ).choices
  assert scored.text == prompt + drawn.text
  assert scored.finish_reason == "length"
  got, want = scored.logprobs, drawn.logprobs
  count = len(prompt_tokens)
  assert got.token_logprobs[0] is None and got.top_logprobs[0] is None
  # Float32 rounding of other widths.
  np.testing.assert_allclose(
    got.token_logprobs[count:], want.token_logprobs, atol=2e-5
  )
  assert got.tokens[count:] == want.tokens
  offset = [x + len(prompt) for x in want.text_offset]
  assert got.text_offset[count:] == offset
  assert echoed.logprobs.text_offset[count:] == offset
  for ours, theirs in zip(
    got.top_logprobs[count:], want.top_logprobs, strict=True
  ):
    assert set(ours) == set(theirs) and 3 <= len(ours) <= 4


def bytes_of(name):
  if name.startswith("bytes:"):
    return bytes.fromhex(name[6:].replace("\\x", ""))
  return name.encode()


def test_what_likelihood_evaluations_ask_is_answered_by_scores(served):
  # lm-eval asks for the prompt and one greedy token behind it.
  context = "What is 2+3*4? The answer is"
  prompts = [f"{context} {x}" for x in ("14", "20", "2", "fourteen")]
  ask = {"model": "tiny", "max_tokens": 1, "temperature": 0, "logprobs": 1}
  drawn = served.engine.gauges()["tokens_drawn_total"]
  scored = served.client.completions.create(prompt=prompts, echo=True, **ask)
  assert served.engine.gauges()["tokens_drawn_total"] == drawn
  for prompt, choice in zip(prompts, scored.choices, strict=True):
    [greedy] = served.client.completions.create(prompt=prompt, **ask).choices
    assert choice.text == prompt + greedy.text
    assert choice.finish_reason == greedy.finish_reason
    logprobs = choice.logprobs
    np.testing.assert_allclose(
      logprobs.token_logprobs[-1], greedy.logprobs.token_logprobs[0], atol=2e-5
    )
    # A token is the greedy one exactly if no other has a higher log-prob.
    for logp, top in zip(
      logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True
    ):
      assert logp <= max(top.values()) and len(top) <= 2


@pytest.mark.parametrize("ends_by", ["token", "string"])
def test_a_likelihood_has_a_log_prob_for_the_token_that_ends_the_text(
  served, monkeypatch, ends_by
):
  """lm-eval sums all log-probs of a continuation but the last one."""
  prompt = "What is 2+3*4? The answer is 14"
  ask = {"prompt": prompt, "echo": True, "model": "tiny", "max_tokens": 1}
  ask |= {"temperature": 0, "logprobs": 1}
  [free] = served.client.completions.create(**ask).choices
  assert free.finish_reason == "length"
  if ends_by == "string":
    ask["stop"] = free.text[len(prompt) :]
  else:
    monkeypatch.setattr(
      type(served.engine.model), "stop_ids", property(lambda _: range(10**6))
    )
  [ended] = served.client.completions.create(**ask).choices
  assert (ended.text, ended.finish_reason) == (prompt, "stop")
  assert ended.logprobs.token_logprobs == free.logprobs.token_logprobs
  assert ended.logprobs.tokens == free.logprobs.tokens


def test_log_probs_of_an_answer_are_those_of_temperature_one(served):
  ask = {"model": "tiny", "messages": TALK, "max_tokens": 8, "logprobs": True}
  answer = served.client.chat.completions.create(
    **ask, top_logprobs=2, temperature=0
  )
  content = answer.choices[0].logprobs.content
  data = b"".join(bytes(x.bytes) for x in content)
  text = answer.choices[0].message.content
  assert data.decode("utf-8", "replace") == text
  for x in content:
    assert x.token == x.top_logprobs[0].token
    assert x.logprob == x.top_logprobs[0].logprob
    assert bytes(x.bytes) == bytes_of(x.token)
    assert len(x.top_logprobs) == 2
  # At a temperature near 0 each draw is certain, but its log-prob is the same.
  near = served.client.chat.completions.create(**ask, temperature=1e-3)
  np.testing.assert_allclose(
    [x.logprob for x in near.choices[0].logprobs.content],
    [x.logprob for x in content],
    atol=2e-5,
  )
  assert all(math.exp(x.logprob) < 0.999 for x in content)


def test_a_flood_of_requests_is_answered_as_one_by_one(served):
  def ask(i):
    answer = served.client.completions.create(
      model="tiny", prompt=f"Problem {i % 50}", max_tokens=3 + i % 5, seed=i
    )
    return answer.choices[0].text

  alone = [ask(i) for i in range(0, 200, 20)]
  with concurrent.futures.ThreadPoolExecutor(64) as pool:
    together = list(pool.map(ask, range(200)))
  assert together[::20] == alone
  assert served.engine.open == 0
  assert served.engine.gauges()["completions_open"] == 0


def test_errors_are_those_that_the_client_knows(served):
  create = served.client.completions.create
  with pytest.raises(openai.NotFoundError, match="no model 'other'"):
    create(model="other", prompt="a")
  with pytest.raises(openai.BadRequestError, match=r"160 tokens.*1 in the"):
    create(model="tiny", prompt="a", max_tokens=160)
  with pytest.raises(openai.BadRequestError, match="presence_penalty"):
    create(model="tiny", prompt="a", presence_penalty=0.5)
  assert create(model="tiny", prompt="a", presence_penalty=0.0, user="me")
  assert [model.id for model in served.client.models.list()] == ["tiny"]
  assert served.client.models.retrieve("tiny").max_model_len == 160
