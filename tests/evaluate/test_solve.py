# SPDX-License-Identifier: Apache-2.0
"""Evaluation matches hand-computed estimates, steps and whole solutions."""

import math
import types

import numpy as np
import pytest

from srl_jax.data import batching
from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import (
  TrunkConfig,
  build_trunks,
  of_first_trajectories,
)
from srl_jax.evaluate.estimates import bootstrap, pass_at_k, share
from srl_jax.evaluate.solve import (
  EvalConfig,
  solve_problems,
  summarise,
)
from srl_jax.evaluate.steps import evaluate_steps
from srl_jax.rewards import FAILURES, Completion, RewardConfig, Scorer
from srl_jax.rollout import scoring
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.episodes import Episode
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.trajectory import Step, Trajectory
from tests.support.scripted import ScriptedSampler, ScriptedStream
from tests.support.trajectories import sums

TOKENIZER = ByteTokenizer()
TEMPLATE = PlainTemplate()
STOP = TOKENIZER.special_id("</s>")
KEY = None  # Scripted samplers draw nothing.


@pytest.mark.parametrize(
  ("correct", "samples", "k", "want"),
  [
    # 1 - C(3,2) / C(4,2); the biased 1 - (1 - 1/4)^2 would be 0.4375.
    (1, 4, 2, 0.5),
    (1, 4, 1, 0.25),
    (1, 4, 4, 1.0),
    (0, 4, 2, 0.0),
    (4, 4, 2, 1.0),
    # Two of four are wrong, so one pair of six is all wrong.
    (2, 4, 2, 5 / 6),
    (3, 4, 2, 1.0),
    # 1 - C(30,8) / C(32,8).
    (2, 32, 8, 1 - (24 * 23) / (32 * 31)),
  ],
)
def test_pass_at_k_by_hand(correct, samples, k, want):
  assert math.isclose(pass_at_k(correct, samples, k), want)


def test_the_interval_of_a_share_is_about_that_of_the_binomial():
  # For 30 of 100: 0.3 +- 1.96 * sqrt(0.21 / 100) = 0.21 to 0.39.
  estimate = bootstrap([1.0] * 30 + [0.0] * 70)
  assert estimate.value == 0.3
  # Resampling 2000 times leaves an error of about 0.01.
  np.testing.assert_allclose(
    [estimate.low, estimate.high], [0.21, 0.39], atol=0.02
  )
  assert str(bootstrap([0.5, 0.5])) == "0.500 [0.500, 0.500]"


def test_a_ratio_is_of_sums_and_its_interval_is_over_problems():
  # The sums are 3 and 12; the mean of ratios would be (1/2 + 2/10) / 2 = 0.35.
  estimate = bootstrap([1, 2], [2, 10])
  assert estimate.value == 0.25
  # A resample holds only one problem, only the other, or both.
  assert (estimate.low, estimate.high) == (0.2, 0.5)
  # Few trajectories have a tenth step; a resample without one gives no ratio.
  rare = bootstrap([0.9, 0.95, 1.0] + [0] * 197, [1, 1, 1] + [0] * 197)
  assert (rare.value, rare.low, rare.high) == (pytest.approx(0.95), 0.9, 1)


def test_of_nothing_there_is_no_estimate():
  assert math.isnan(bootstrap([], []).value)
  assert math.isnan(bootstrap([0.0], [0.0]).value)


def test_the_summary_of_episodes():
  correct = {0: (True, False, False, False), 1: (False,) * 4}
  episodes = [
    Episode(problem, sample, ("x",), ("x",), (), "answered", is_correct, 2)
    for problem, samples in correct.items()
    for sample, is_correct in enumerate(samples)
  ]
  got = {k: e.value for k, e in summarise(episodes, 2, 4).items()}
  # The second problem, never solved, halves every number.
  assert got == {"avg@4": 0.125, "pass@2": 0.25, "pass@4": 0.5}
  first = [a for a in episodes if a.sample == 0]
  got = summarise(first, 2, 1)
  assert {k: e.value for k, e in got.items()} == {"accuracy": 0.5}


@pytest.mark.parametrize("samples", [1, 2])
def test_problems_without_a_verdict_are_left_out_and_counted(samples):
  correct = ((True, True), (False, None), (None, False), (False, False))
  episodes = [
    Episode(problem, sample, ("x",), ("x",), (), "answered", is_correct, 2)
    for problem, of_problem in enumerate(correct)
    for sample, is_correct in enumerate(of_problem[:samples])
  ]
  got = {k: e.value for k, e in summarise(episodes, 4, samples).items()}
  # As unsolved ones, they would make 1/4 of either.
  if samples == 1:
    assert got == {"accuracy": pytest.approx(1 / 3), "no verdict": 0.25}
  else:
    assert got == {"avg@2": 0.5, "pass@2": 0.5, "no verdict": 0.5}


def scripted(table, **sampling):
  """A sampler that looks completions up by their prompts."""
  return ScriptedSampler(
    TOKENIZER,
    lambda prompt: Completion(*table[prompt]),
    stop_id=STOP,
    config=SamplingConfig(**sampling),
  )


# Trunk a has the steps "step 0" and "step 1 +1"; trunk b has only "step 0".
RECORDS, _ = build_trunks(
  [sums(2, "a"), sums(1, "b")], TEMPLATE, TOKENIZER, TrunkConfig()
)
STEP_ANSWERS = {
  "What is a?\n<step>": ("<think>t</think>step 0", True),
  # 6 of the target's 9 characters match and 3 are missing: 2 * 6 / 15.
  "What is a?\nstep 0\n<step>": ("<think>tt</think>step 1", True),
  # The format is broken: there is no thought.
  "What is b?\n<step>": ("step 0", True),
}


def estimate_steps(trunks, trunks_per_batch, samples=1, **reward):
  with Scorer(RewardConfig(**reward)) as scorer:
    return evaluate_steps(
      scripted(STEP_ANSWERS, samples=samples),
      None,
      trunks,
      key=KEY,
      tokenizer=TOKENIZER,
      scorer=scorer,
      widths=batching.widths(trunks),
      trunks_per_batch=trunks_per_batch,
    )


def evaluate_scripted_steps(*args, **kwargs):
  estimates = estimate_steps(RECORDS, *args, **kwargs)
  return {name: estimate.value for name, estimate in estimates.items()}


@pytest.mark.parametrize("trunks_per_batch", [1, 2, 5])
def test_steps_are_compared_with_the_experts(trunks_per_batch):
  got = evaluate_scripted_steps(trunks_per_batch, samples=2)
  assert set(got) == {
    *("reward", "similarity", "exact", "format_failure"),
    *("similarity_step_1", "similarity_step_2"),
  }
  # The rewards are 1, 0.8 and -1; a broken format has similarity 0.
  np.testing.assert_allclose(got["reward"], 0.8 / 3, rtol=1e-6)
  np.testing.assert_allclose(got["similarity"], 1.8 / 3, rtol=1e-6)
  np.testing.assert_allclose(got["exact"], 1 / 3)
  np.testing.assert_allclose(got["format_failure"], 1 / 3)
  np.testing.assert_allclose(got["similarity_step_1"], 0.5)
  np.testing.assert_allclose(got["similarity_step_2"], 0.8, rtol=1e-6)


def test_windows_of_a_trajectory_count_as_one():
  windows, _ = build_trunks(
    [sums(2, "a"), sums(1, "b")],
    TEMPLATE,
    TOKENIZER,
    TrunkConfig(context_turns=2),
  )
  assert len(windows) == 3 > len(RECORDS)
  # Their steps depend on each other, so intervals are over trajectories.
  estimates = estimate_steps(windows, 2)
  assert estimates == estimate_steps(RECORDS, 2)
  # One step of two is right in the first, none of one in the second.
  assert estimates["exact"] == share([1, 0], [2, 1])
  of_first = of_first_trajectories(windows, 1)
  assert [x.trajectory.id for x in of_first] == ["a", "a"]
  assert of_first_trajectories(windows, 0) == windows


def test_the_mean_of_a_users_reward_is_no_similarity():
  got = evaluate_scripted_steps(2, function="srl_jax.testing.experiment:half")
  assert set(got) == {
    *("reward", "value", "exact", "format_failure"),
    *("value_step_1", "value_step_2"),
  }
  np.testing.assert_allclose(got["value"], 0.5 * 2 / 3)
  np.testing.assert_allclose(got["value_step_2"], 0.5)
  # The first action is exactly the expert's, whatever its reward.
  np.testing.assert_allclose(got["exact"], 1 / 3)


def test_scores_are_laid_out_as_the_branches_are():
  batch = batching.collate(RECORDS, trunk_width=30, points=3, stem_width=1)
  table = STEP_ANSWERS | {"What is b?\n<step>": ("<think>ttt</think>st", False)}
  sampler = scripted(table, samples=2)
  branches = sampler.sample(None, batch.trunks, KEY)
  with Scorer(RewardConfig()) as scorer:
    scores = scoring.score_branches(batch, branches, TOKENIZER, scorer)
  nan = np.nan
  np.testing.assert_allclose(
    scores.reward_NKG,
    [[[1, 1], [0.8, 0.8], [nan, nan]], [[-1, -1], [nan, nan], [nan, nan]]],
    rtol=1e-6,
  )
  np.testing.assert_array_equal(
    scores.thought_chars_NKG[:, :, 0], [[1, 2, nan], [3, nan, nan]]
  )
  np.testing.assert_array_equal(
    scores.action_chars_NKG[:, :, 0], [[6, 6, nan], [2, nan, nan]]
  )
  assert np.isnan(scores.value_NKG[1]).all()
  not_stopped = FAILURES.index("not_stopped")
  assert scores.failure_NKG[:, :, 0].tolist() == [
    [0, 0, 0],
    [not_stopped, 0, 0],
  ]


def test_the_stop_token_is_not_part_of_the_text_and_others_are():
  branches = types.SimpleNamespace(
    tokens_NRC=np.array([[[65, 66, STOP, 0], [65, 66, 67, 68]]]),
    is_completion_NRC=np.array([[[0, 1, 1, 0], [0, 1, 1, 1]]], bool),
    stopped_NR=np.array([[True, False]]),
  )
  assert scoring.completion_texts(branches, TOKENIZER) == [
    [Completion("B", True, 2), Completion("BCD", False, 3)]
  ]


ADD = Trajectory("add", "math", "1+2+3?", (Step("1+2=3"), Step("x")), "6")
CUT = Trajectory("cut", "math", "2*2?", (Step("x"),), "4")
NONE = Trajectory("none", "math", "7?", (Step("x"),), "7")
LONG = Trajectory("long", "math", "8?", (Step("x"),), "8")


class LongStem(PlainTemplate):
  def stem(self, task, number, title=None):
    return ("s" * 40, *super().stem(task, number, title))


def solve(mode, table, *, samples=1, template=TEMPLATE, **limits):
  """Episodes, (task, sizes) of the stream that was made, and the stream."""
  config = EvalConfig(**{"max_turns": 3, "answers_per_batch": 2, **limits})
  made = []

  def make_stream(task, **sizes):
    stream = ScriptedStream(
      TOKENIZER,
      lambda prompt: Completion(*table[prompt]),
      stop_id=STOP,
      capacity=sizes["rows"] * sizes["slots"],
    )
    made.append((task, sizes, stream))
    return stream

  episodes = solve_problems(
    make_stream,
    [ADD, CUT, NONE, LONG],
    mode=mode,
    samples=samples,
    temperature=0.5,
    config=config,
    context_turns=0,
    template=template,
    tokenizer=TOKENIZER,
    max_positions=512,
  )
  [(task, sizes, stream)] = made
  return episodes, (task, sizes), stream


TURNS = {
  "1+2+3?\n<step>": ("<think>one and two</think>1+2=3", True),
  "1+2+3?\n1+2=3\n<step>": ("<think>add three</think>#### 6", True),
  # The limit cuts this completion, but its boxed answer counts.
  "2*2?\n<step>": ("<think>four</think>so \\boxed{5}", False),
  # The model thinks and writes no action.
  "7?\n<step>": ("<think>7 is 7</think>", True),
  # The model never marks an answer.
  "8?\n<step>": ("<think>a</think>go", True),
  "8?\ngo\n<step>": ("on", True),
  "8?\ngo\non\n<step>": ("<think>b</think>8", True),
}


def test_turns_go_on_from_the_actions_and_drop_the_thoughts():
  episodes, (task, sizes), stream = solve("turns", TURNS)
  # Each prompt is a key of the table: anything else in the context would be a
  # KeyError.
  assert sorted(stream.prompts) == sorted(TURNS)
  assert task == "step"
  assert (sizes["rows"], sizes["slots"]) == (2, 1)
  limit = EvalConfig().max_turn_tokens
  assert {(r.samples, r.temperature) for r in stream.requests} == {((0,), 0.5)}
  assert {r.max_new_tokens for r in stream.requests} == {limit}
  add, cut, none, long = episodes
  assert (add.is_correct, add.ending) == (True, "answered")
  assert add.texts == (
    "<think>one and two</think>1+2=3",
    "<think>add three</think>#### 6",
  )
  assert (cut.is_correct, cut.ending) == (False, "answered")
  assert (none.is_correct, none.ending) == (False, "no action")
  # The last action is the answer, even if nothing marks it as one.
  assert (long.is_correct, long.ending) == (True, "turn limit")
  assert len(long.texts) == 3


SOLVES = {
  "1+2+3?\n<solve>": ("<think>a</think>1+2=3\n<think>b</think>3+3=6", True),
  "2*2?\n<solve>": ("<think>4, or 5?</think>5", True),
  "7?\n<solve>": ("", True),
  "8?\n<solve>": ("<think>8</think>#### 8", False),
}


def test_solving_in_one_go_reads_the_answer_outside_the_thoughts():
  episodes, (task, _), stream = solve("solve", SOLVES, max_solve_tokens=300)
  assert sorted(stream.prompts) == sorted(SOLVES)
  assert task == "solve"
  assert {r.max_new_tokens for r in stream.requests} == {300}
  assert [a.is_correct for a in episodes] == [True, False, False, True]
  endings = [a.ending for a in episodes]
  assert endings == ["answered", "answered", "no action", "answered"]


def test_a_solution_that_fills_the_context_ends():
  long = "go " * 59 + "go"
  table = TURNS | {
    "8?\n<step>": (f"<think>a</think>{long}", True),
    f"8?\n{long}\n<step>": ("on", True),
  }
  # Problem and action are 183 tokens, and the stem is one. A turn of 328 tokens
  # then just fits into 512 positions; a turn of 329 does not.
  episodes, _, _ = solve("turns", table, max_turn_tokens=328, max_turns=2)
  assert episodes[3].ending == "turn limit"
  episodes, _, stream = solve("turns", table, max_turn_tokens=329)
  assert episodes[3].ending == "context full"
  assert len(episodes[3].texts) == 1
  assert not any(prompt.startswith("8?\ngo") for prompt in stream.prompts)
  assert episodes[0].is_correct


def test_limits_that_leave_no_room_for_a_problem_are_refused():
  # Otherwise every problem would end with "context full" and count as wrong.
  with pytest.raises(ValueError, match=r"lower c\.evaluate\.max_solve_tokens"):
    solve("solve", SOLVES, max_solve_tokens=511)
  with pytest.raises(ValueError, match=r"lower c\.evaluate\.max_turn_tokens"):
    solve("turns", TURNS, max_turn_tokens=512)
  # The limit leaves room for the stem, but for no token before it.
  with pytest.raises(ValueError, match="leave no room for a problem"):
    solve("turns", {}, template=LongStem(), max_turn_tokens=512 - 41)


def test_every_sample_is_an_episode_of_its_own():
  episodes, _, _ = solve("turns", TURNS, samples=2)
  assert [(a.problem, a.sample) for a in episodes] == [
    (problem, sample) for problem in range(4) for sample in range(2)
  ]
  assert [a.is_correct for a in episodes] == [
    True,
    True,
    *[False] * 4,
    True,
    True,
  ]


def test_samples_in_one_go_share_rows_with_those_of_their_problem():
  def sizes(mode, table, samples, answers_per_batch):
    _, (_, made), _ = solve(
      mode,
      table,
      samples=samples,
      answers_per_batch=answers_per_batch,
      max_solve_tokens=300,
    )
    return made["rows"], made["slots"]

  assert sizes("solve", SOLVES, 3, 8) == (2, 3)
  # No more rows than problems, so more slots.
  assert sizes("solve", SOLVES, 20, 64) == (4, 16)
  assert sizes("solve", SOLVES, 20, 16) == (2, 8)
  # No more rows than there are samples.
  assert sizes("solve", SOLVES, 3, 64) == (4, 3)
  # In turns, their contexts soon differ.
  assert sizes("turns", TURNS, 3, 8) == (8, 1)
