# SPDX-License-Identifier: Apache-2.0
"""What a real stream writes in episodes, and how often it runs a context."""

import dataclasses
import functools
import itertools
import zlib

import jax
import pytest

from srl_jax import sharding
from srl_jax.data.templates import PlainTemplate, encode_segment
from srl_jax.models import LanguageModel
from srl_jax.rewards import format
from srl_jax.rollout import scoring
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.episodes import EpisodeRules, sample_episodes
from srl_jax.rollout.requests import Request
from srl_jax.rollout.sampler import Sampler
from srl_jax.rollout.stream import Stream
from srl_jax.testing.tiny import (
  TINY,
  make_trunk,
  make_trunks,
  random_params,
  small_mesh,
)
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.trajectory import Step
from tests.support.trajectories import TITLED

TOKENIZER = ByteTokenizer()
STOP = TOKENIZER.special_id("</s>")
MODEL = LanguageModel(
  dataclasses.replace(TINY, vocab_size=TOKENIZER.vocab_size, max_positions=256)
)
KEY = jax.random.key(3)
PAIR = [
  dataclasses.replace(TITLED, id=x, problem=x)
  for x in ("1+1?", "What is three times seven?")
]


def rules_of(temperature):
  return EpisodeRules(
    task="step",
    turns=3,
    context_turns=0,
    max_positions=256,
    request=functools.partial(
      Request, max_new_tokens=9, temperature=temperature
    ),
    template=PlainTemplate(),
    tokenizer=TOKENIZER,
  )


def by_name(episodes):
  return sorted(episodes, key=lambda x: (x.problem, x.sample))


def real_stream(params, mesh, rows):
  return Stream(
    MODEL,
    params,
    rows=rows,
    slots=1,
    stop_ids=(STOP,),
    mesh=mesh,
    rules=sharding.ShardingRules(),
    key=KEY,
    segment_iterations=3,
  )


def texts_alone(sampler, params, trajectory, sample, rules):
  """The texts of an episode whose turns are sampled without a stream."""
  template, texts = rules.template, []
  tokens = encode_segment(TOKENIZER, template.problem(trajectory, "step"))
  for turn in range(rules.turns):
    stem = encode_segment(TOKENIZER, template.stem("step", turn + 1))
    name = zlib.crc32(f"{trajectory.id}/step/{turn}/{sample}".encode())
    trunks = make_trunks([make_trunk(tokens, (len(tokens), stem, name))])
    with jax.set_mesh(sampler.mesh):
      branches = sampler.sample(params, trunks, KEY)
    [[completion]] = scoring.completion_texts(branches, TOKENIZER)
    texts.append(completion.text)
    action = format.split_lenient(completion.text).action
    if not action:
      break
    segment = template.step(Step(action), turn + 1)
    tokens += encode_segment(TOKENIZER, segment)
  return tuple(texts)


@pytest.mark.slow
def test_texts_are_those_of_a_sampler_that_takes_turns_one_by_one():
  params = random_params(MODEL, seed=1)
  rules = rules_of(1.0)
  sampler = Sampler(
    MODEL,
    SamplingConfig(samples=1, max_new_tokens=9),
    stop_ids=(STOP,),
    pad_id=0,
    mesh=small_mesh(),
    rules=sharding.ShardingRules(),
  )
  names = list(itertools.product(range(2), range(3)))
  want = [texts_alone(sampler, params, PAIR[n], g, rules) for n, g in names]
  assert {len(texts) for texts in want} == {3}
  assert len(set(want)) == 6
  for mesh, rows in ((small_mesh(), 4), (small_mesh(2, 2, 2), 8)):
    stream = real_stream(params, mesh, rows)
    found = by_name(sample_episodes(stream, PAIR, names, rules))
    assert [(e.problem, e.sample) for e in found] == names
    assert [e.texts for e in found] == want


def test_equal_contexts_are_run_once():
  # Greedily, all samples of a problem do the same.
  params = random_params(MODEL, seed=1)
  rules = rules_of(0.0)
  stream = real_stream(params, small_mesh(), 6)
  contexts = []
  submit = stream.submit

  def noting(request):
    contexts.append(tuple(request.tokens))
    return submit(request)

  stream.submit = noting
  wanted = itertools.product(range(2), range(3))
  episodes = list(sample_episodes(stream, PAIR, wanted, rules))
  assert len({e.texts for e in episodes}) == 2
  assert len(contexts) == 3 * len(set(contexts)) == 18
  # The last token of a prompt is the first of its branch. Later turns go on
  # from earlier ones, so a part of their contexts is not run again.
  most = sum(len(context) - 1 for context in set(contexts))
  assert stream.work.prompt_tokens <= most
