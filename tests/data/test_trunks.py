# SPDX-License-Identifier: Apache-2.0
"""Trunks share prefixes and have the right targets, drops and token counts."""

import dataclasses
import itertools
import zlib

import numpy as np
import pytest

from srl_jax.data.templates import PlainTemplate, encode_segment, make_template
from srl_jax.data.trunks import (
  ExpertTrunkConfig,
  TrunkConfig,
  build_trunks,
)
from srl_jax.rewards import format
from srl_jax.tokenizers import ByteTokenizer, UnspellableError
from srl_jax.tokenizers.byte import BYTE_SPECIALS
from srl_jax.trajectory import Step
from tests.support.trajectories import AGENT, TITLED, sums

TOKENIZER = ByteTokenizer()


def build(*trajectories, template=None, **config):
  return build_trunks(
    trajectories,
    template or PlainTemplate(),
    TOKENIZER,
    ExpertTrunkConfig(**config),
  )


def seen(trunk, point):
  """Context and stem of a branch point, as text."""
  return TOKENIZER.decode([*trunk.tokens[: point.at], *point.stem])


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_each_branch_sees_the_tokens_of_its_own_prompt(template):
  template = make_template(template, TOKENIZER)
  trajectory = sums(4)
  [trunk], _ = build(trajectory, template=template)
  assert [p.step for p in trunk.points] == [0, 1, 2, 3]
  for k, point in enumerate(trunk.points):
    segments = [template.problem(trajectory, "step")]
    segments += [
      template.step(s, i + 1) for i, s in enumerate(trajectory.steps[:k])
    ]
    flat = [t for s in segments for t in encode_segment(TOKENIZER, s)]
    assert trunk.tokens[: point.at].tolist() == flat
    assert point.target == trajectory.steps[k].text
  assert len(trunk.tokens) == trunk.points[-1].at


def test_targets_end_in_the_stop_token_and_may_begin_with_the_thought():
  [bare], _ = build(sums(2))
  [thought], _ = build(sums(2), include_thoughts=True)
  assert TOKENIZER.decode(bare.points[1].target_tokens) == "step 1 +1</s>"
  assert bare.points[1].target_tokens[-1] == TOKENIZER.special_id("</s>")
  assert (
    TOKENIZER.decode(thought.points[1].target_tokens)
    == "<think>thought 1</think>step 1 +1</s>"
  )
  assert thought.points[1].target == "step 1 +1"


@pytest.mark.parametrize("task", ["step", "solve"])
@pytest.mark.parametrize("are_control", [True, False])
def test_think_tags_of_targets_are_the_tokens_the_model_has_for_them(
  task, are_control
):
  tags = ("<think>", "</think>") if are_control else ()
  tokenizer = ByteTokenizer((*BYTE_SPECIALS, *tags))
  config = ExpertTrunkConfig(task=task, include_thoughts=True)
  [trunk], _ = build_trunks([sums(2)], PlainTemplate(), tokenizer, config)
  target = trunk.points[0].target_tokens.tolist()
  assert tokenizer.decode(target).startswith("<think>thought 0</think>step 0")
  start = [tokenizer.special_id(tag) for tag in tags[:1]] or [*b"<think>"]
  assert target[: len(start)] == start
  for tag in tags:
    blocks = 1 if task == "step" else 2
    assert target.count(tokenizer.special_id(tag)) == blocks
  # Rewards read either spelling alike.
  parsed = format.split_lenient(tokenizer.decode(target[:-1]))
  assert parsed.thought.startswith("thought 0")
  assert parsed.action.startswith("step 0")


def test_solve_is_one_branch_at_the_problem_with_the_whole_solution():
  [trunk], _ = build(sums(2), task="solve", include_thoughts=True)
  [point] = trunk.points
  assert seen(trunk, point) == "What is sum?\n<solve>"
  assert point.target == "2"
  assert TOKENIZER.decode(point.target_tokens) == (
    "<think>thought 0</think>step 0\n<think>thought 1</think>step 1 +1</s>"
  )


@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_solutions_may_begin_after_each_of_the_experts_steps(name):
  template = make_template(name, TOKENIZER)
  [trunk], _ = build(
    sums(3), template=template, task="solve", starts="every_step"
  )
  [alone], _ = build(sums(3), template=template, task="solve")
  assert [p.step for p in trunk.points] == [0, 1, 2]
  assert {p.target for p in trunk.points} == {"3"}
  first, _, last = trunk.points
  # The first is the one of starts="problem", its random numbers included.
  [whole] = alone.points
  assert seen(trunk, first) == seen(alone, whole)
  assert first.point_id == whole.point_id
  assert len({p.point_id for p in trunk.points}) == 3
  assert "step 0\n" in seen(trunk, last) and "step 1 +1" in seen(trunk, last)
  assert "step 2" not in seen(trunk, last)
  assert TOKENIZER.decode(last.target_tokens[:-1]).startswith("step 2")
  # Else untitled steps read as part of the problem.
  heading = "Solution so far:\n\nstep 0" if name == "chatml" else "sum?\nstep 0"
  assert heading in seen(trunk, last) and "so far" not in seen(trunk, first)
  *_, window = build(
    sums(3),
    template=template,
    task="solve",
    starts="every_step",
    context_turns=1,
  )[0]
  assert heading.replace("0", "1") in seen(window, window.points[0])


def test_only_solutions_begin_after_steps():
  with pytest.raises(ValueError, match="set task='solve', or starts to 'prob"):
    TrunkConfig(starts="every_step")


def test_solve_leaves_out_what_the_environment_answered():
  [trunk], report = build(AGENT, task="solve")
  [point] = trunk.points
  assert TOKENIZER.decode(point.target_tokens) == (
    "ls\ncat a.py\nrm a.py\nsubmit</s>"
  )
  assert point.target == "" and report.without_answer == 1


def test_excluding_the_last_step_gives_n_minus_one_instances():
  [trunk], report = build(sums(3), sums(1, "one"), last_step="exclude")
  assert [p.step for p in trunk.points] == [0, 1]
  assert "step 1" not in seen(trunk, trunk.points[-1])
  assert report.drops == {
    "no step is left by last_step='exclude'": ("one/step/0",)
  }


def test_title_hint_moves_the_title_from_target_to_stem():
  untitled = dataclasses.replace(TITLED, id="u", steps=(Step("x = 2"),))
  [trunk, plain], _ = build(TITLED, untitled, step_title_hint=True)
  assert seen(trunk, trunk.points[0]).endswith("1. **Isolate x**\n<step>")
  assert trunk.points[0].target == "Subtract 1 from both sides."
  assert plain.points[0].target == "x = 2"
  assert "**" not in seen(plain, plain.points[0])


def test_a_title_without_text_leaves_nothing_to_predict_under_the_hint():
  steps = (Step("", title="Think"), *TITLED.steps)
  bare = dataclasses.replace(TITLED, steps=steps)
  [trunk], report = build(bare, step_title_hint=True)
  assert [p.step for p in trunk.points] == [1, 2]
  assert report.drops == {
    "nothing to predict beyond the title": ("titled/step/0",)
  }
  [trunk], report = build(bare)
  assert trunk.points[0].target == "1. **Think**" and not report.drops


@pytest.mark.parametrize("context_turns", [0, 1])
def test_no_target_lacks_a_thought_where_thoughts_are_included(context_turns):
  bare = dataclasses.replace(sums(3).steps[1], thought=None)
  steps = (sums(3).steps[0], bare, sums(3).steps[2])
  mixed = dataclasses.replace(sums(3), steps=steps)
  config = {"include_thoughts": True, "context_turns": context_turns}
  trunks, report = build(mixed, **config)
  points = [(trunk, point) for trunk in trunks for point in trunk.points]
  assert [point.step for _, point in points] == [0, 2]
  # It is still shown.
  assert bare.text in seen(*points[1])
  assert report.drops == {
    "no thought, with include_thoughts=True": ("sum/step/1",)
  }
  [solution], report = build(mixed, task="solve", include_thoughts=True)
  assert len(solution.points) == 1 and not report.drops


def test_a_think_tag_in_a_target_is_no_single_step():
  """The format would take it for a second thought."""
  tagged = dataclasses.replace(TITLED, steps=(Step("a <think> b"), Step("c")))
  [trunk], report = build(tagged)
  assert [p.step for p in trunk.points] == [1]
  assert report.drops == {"a think tag in the target": ("titled/step/0",)}


def test_windowed_context_is_the_problem_and_the_last_turns():
  trunks, report = build(AGENT, context_turns=2)
  assert [len(r.points) for r in trunks] == [1, 1, 1, 1]
  assert [seen(r, r.points[0]) for r in trunks] == [
    "Fix the bug.\n<step>",
    "Fix the bug.\nls\na.py\n<step>",
    "Fix the bug.\nls\na.py\ncat a.py\n1/0\n<step>",
    "Fix the bug.\ncat a.py\n1/0\nrm a.py\n\n<step>",
  ]
  assert report.trunks == report.points == 4
  assert {r.trajectory.id for r in trunks} == {"agent"}


def test_window_as_long_as_the_trajectory_changes_no_instance():
  [shared], _ = build(AGENT)
  windowed, _ = build(AGENT, context_turns=9)
  for point, trunk in zip(shared.points, windowed, strict=True):
    assert seen(shared, point) == seen(trunk, trunk.points[0])
    assert point.point_id == trunk.points[0].point_id


@pytest.mark.parametrize("context_turns", [0, 2])
def test_a_step_for_the_context_only_is_shown_and_no_target(context_turns):
  steps = list(AGENT.steps)
  steps[1] = dataclasses.replace(steps[1], is_target=False)
  partial = dataclasses.replace(AGENT, steps=tuple(steps))

  def instances(trajectory):
    trunks, report = build(trajectory, context_turns=context_turns)
    found = {p.step: seen(r, p) for r in trunks for p in r.points}
    return found, report

  every, _ = instances(AGENT)
  rest, report = instances(partial)
  assert rest == {step: every[step] for step in (0, 2, 3)}
  assert report.drops == {"steps for the context only": ("agent/step/1",)}


def test_instance_names_are_crc32_of_id_task_and_step():
  [trunk], _ = build(sums(2))
  assert trunk.points[1].point_id == zlib.crc32(b"sum/step/1")


def test_long_instances_are_dropped_one_by_one_and_listed():
  [full], _ = build(sums(4))
  limit = full.points[2].at
  [trunk], report = build(sums(4), max_trunk_tokens=limit)
  assert [p.step for p in trunk.points] == [0, 1, 2]
  assert len(trunk.tokens) == limit
  assert report.drops == {
    f"context over max_trunk_tokens={limit}": ("sum/step/3",)
  }
  size = len(full.points[1].target_tokens)
  [trunk], report = build(sums(4), max_target_tokens=size)
  assert [p.step for p in trunk.points] == [0, 1]
  assert report.drops == {
    f"target over max_target_tokens={size}": ("sum/step/2", "sum/step/3")
  }
  trunks, report = build(sums(4), max_trunk_tokens=1)
  assert not trunks and report.lengths["trunk"].max == 0


def test_report_counts_flat_and_shared_prompt_tokens():
  [trunk], report = build(sums(3))
  at = [p.at for p in trunk.points]
  assert at == [13, 20, 30]  # "What is sum?\n", "step 0\n", "step 1 +1\n"
  # Four samples with one stem token each. Flat: 4 * (13+20+30 + 3) = 264.
  # Shared: 30 + 4 * 3 = 42.
  assert report.prompt_tokens(4) == (264, 42)


@pytest.mark.parametrize("drawn", [1, 2, 3, 4])
def test_expected_trunk_tokens_equal_the_mean_over_all_draws(drawn):
  [trunk], report = build(sums(4), points_per_trunk=drawn)
  at = [p.at for p in trunk.points]
  visits = [max(c) for c in itertools.combinations(at, drawn)]
  want = np.mean(visits) * 4 / drawn
  np.testing.assert_allclose(report.trunk_tokens, want, rtol=1e-12)


def test_length_statistics_are_actual_lengths():
  _, report = build(*(sums(1, "x" * n) for n in range(1, 21)))
  stats = report.lengths["trunk"]
  # The lengths are len("What is ?\n") + n for n = 1..20.
  assert (stats.min, stats.median, stats.p95, stats.max) == (11, 20, 29, 30)


@pytest.mark.parametrize(
  "bad",
  [
    {"task": "all"},
    {"last_step": "no"},
    {"context_turns": -1},
    # Each branch point has a trunk of its own then.
    {"points_per_trunk": 2, "context_turns": 1},
  ],
)
def test_impossible_config_is_refused(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    TrunkConfig(**bad)


def test_a_trajectory_that_the_tokenizer_cannot_spell_is_dropped_and_named():
  class Ascii(ByteTokenizer):
    def encode(self, text):
      if not text.isascii():
        raise UnspellableError("no token for the byte 0xC3 of 'é'")
      return super().encode(text)

  first, last = TITLED.steps
  bad = dataclasses.replace(TITLED, id="bad", problem="Qué?")
  steps = (dataclasses.replace(first, is_target=False), Step("é"), last)
  late = dataclasses.replace(TITLED, id="late", steps=steps)

  def dropped(**config):
    with pytest.warns(UserWarning, match=r"bad and every .* byte 0xC3 of 'é'"):
      trunks, report = build_trunks(
        [TITLED, bad, late], PlainTemplate(), Ascii(), TrunkConfig(**config)
      )
    assert {trunk.trajectory.id for trunk in trunks} == {TITLED.id}
    return [name for names in report.drops.values() for name in names]

  # All branch points that are lost are counted.
  of_late = ["late/step/1", "late/step/2"]
  assert dropped() == ["bad/step/0", "bad/step/1", *of_late]
  # The one for the context only has a reason of its own.
  of_late = ["late/step/1", "late/step/0"]
  assert dropped(last_step="exclude") == ["bad/step/0", *of_late]
  assert dropped(task="solve") == ["bad/solve/0", "late/solve/0"]
