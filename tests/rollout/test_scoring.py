# SPDX-License-Identifier: Apache-2.0
"""The reward of a stage, and the context that reward functions get."""

import dataclasses
import itertools
import types

import numpy as np
import pytest

from srl_jax.data import batching
from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.domains import DOMAINS, domains_of
from srl_jax.rewards import Completion, RewardConfig, Scored
from srl_jax.rewards.reward import score_one
from srl_jax.rollout.scoring import (
  resolve_reward,
  reward_context,
  score_branches,
)
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.types import Branches
from tests.support.trajectories import AGENT, sums

TOY = dataclasses.replace(
  DOMAINS["general"], name="toy", reward="a.b:steps", verdict="a.b:tests"
)
OF_DOMAIN = RewardConfig(function="domain", broken_format_reward=-2.0)


def test_the_domain_names_the_reward_of_steps_and_the_verdict_on_solutions():
  step = resolve_reward(OF_DOMAIN, "step", {"toy": TOY}, "srl")
  assert step == RewardConfig(function="a.b:steps", broken_format_reward=-2.0)
  solve = resolve_reward(OF_DOMAIN, "solve", {"toy": TOY}, "rlvr")
  # Thoughts may stand anywhere in a solution, and nothing scores below 0.
  assert solve == RewardConfig(
    function="a.b:tests", check="solution", broken_format_reward=-2.0
  )
  strict = dataclasses.replace(OF_DOMAIN, check="step")
  assert resolve_reward(strict, "solve", {"toy": TOY}, "rlvr").check == "step"


def test_built_in_domains_have_the_papers_reward_and_compare_answers():
  step = resolve_reward(OF_DOMAIN, "step", DOMAINS, "srl")
  assert step.function == "difflib"
  solve = resolve_reward(OF_DOMAIN, "solve", DOMAINS, "rlvr")
  assert solve.function == "answer"


def test_a_reward_that_the_config_names_stays():
  config = RewardConfig(function="levenshtein")
  for task in ("step", "solve"):
    assert resolve_reward(config, task, {"toy": TOY}, "srl") == config


@pytest.mark.parametrize(
  ("task", "check", "wanted"),
  [
    ("solve", "auto", "solution"),
    ("solve", "step", "step"),
    ("step", "auto", "auto"),
  ],
)
def test_a_verdict_of_ones_own_wants_the_format_of_solutions(
  task, check, wanted
):
  own = RewardConfig(function="mine.rewards:verdict", check=check)
  found = resolve_reward(own, task, {"toy": TOY}, "rlvr")
  assert (found.function, found.check) == (own.function, wanted)


def test_domains_of_different_rewards_are_an_error():
  domains = domains_of([sums(), AGENT]) | {"my.module:TOY": TOY}
  with pytest.raises(ValueError) as caught:
    resolve_reward(OF_DOMAIN, "step", domains, "srl")
  assert str(caught.value) == (
    "the domains of the data have different rewards: 'difflib' of math and "
    "software, 'a.b:steps' of my.module:TOY; set c.srl.reward.function to the "
    "one that is meant"
  )


def test_a_setting_that_the_domains_reward_lacks_is_an_error():
  on = dataclasses.replace(OF_DOMAIN, autojunk=True)
  assert resolve_reward(on, "step", DOMAINS, "srl").autojunk
  with pytest.raises(ValueError, match="only difflib has it"):
    resolve_reward(on, "step", {"toy": TOY}, "srl")


def contexts_of(wants_context):
  """Returns the contexts of two samples at each step of an agent."""
  given = []

  def score(completions, targets, contexts):
    given.extend(contexts)
    return [Scored(0.0, 0.0, "", 0, 0)] * len(completions)

  trunks, _ = build_trunks(
    [AGENT], PlainTemplate(), ByteTokenizer(), TrunkConfig()
  )
  widths = batching.widths(trunks)
  batch = batching.collate(
    trunks,
    trunk_width=widths.trunk,
    points=widths.points + 1,
    stem_width=widths.stem,
  )
  shape = (1, 2 * (widths.points + 1))
  branches = Branches(
    tokens_NRC=np.zeros((*shape, widths.stem + 5), np.int32),
    length_NR=np.ones(shape, np.int32),
    is_completion_NRC=np.zeros((*shape, widths.stem + 5), bool),
    sampler_logp_NRC=np.zeros((*shape, widths.stem + 5), np.float32),
    stopped_NR=np.zeros(shape, bool),
  )
  scorer = types.SimpleNamespace(score=score, wants_context=wants_context)
  score_branches(batch, branches, ByteTokenizer(), scorer)
  return given


def test_a_context_holds_what_came_before_and_nothing_of_what_follows():
  given = contexts_of(wants_context=True)
  assert [context.step for context in given] == [0, 0, 1, 1, 2, 2, 3, 3]
  assert {context.max_new_tokens for context in given} == {5}
  for context in given:
    # The steps contain what the environment answered.
    assert context.steps == AGENT.steps[: context.step]
    assert context.trajectory_id == "agent" and context.domain == "software"
    assert (context.problem, context.answer) == ("Fix the bug.", None)
  # All samples share a context, so a message to a worker holds it once.
  assert [a is b for a, b in itertools.pairwise(given)] == [
    *(True, False) * 3,
    True,
  ]


def test_a_context_tells_how_long_the_completion_is():
  def room_left(action, target, *, context):
    del action, target
    return context.max_new_tokens - context.completion_tokens

  context = reward_context(AGENT, 0)._replace(max_new_tokens=10)
  completion = Completion("<think>a</think>b", stopped=True, tokens=3)
  scored = score_one(RewardConfig(), room_left, completion, "b", context)
  assert scored.reward == 7


def test_no_context_is_made_for_a_function_that_wants_none():
  assert contexts_of(wants_context=False) == [None] * 8
