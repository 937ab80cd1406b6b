# SPDX-License-Identifier: Apache-2.0
"""What an author may not have meant is counted, with the first case."""

import dataclasses
import json

import pytest

from srl_jax.data import checks, s1k
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.data.schema import to_json
from srl_jax.domains import DOMAINS, Domain
from srl_jax.trajectory import Step, Trajectory
from tests.support.trajectories import AGENT, TITLED


def ending(text, answer="14", **changes):
  step = Step(text, title="End")
  return dataclasses.replace(TITLED, steps=(step,), answer=answer, **changes)


GOOD = ending(r"So \boxed{14}")


def test_nothing_is_said_of_good_data():
  fine = ["#### 14", "It is 3.\n#### 14.0", r"\boxed{\frac{28}{2}}"]
  assert checks.warnings([GOOD, *map(ending, fine)]) == []


def test_titles_of_some_steps_are_named():
  plain = dataclasses.replace(GOOD, id="p", steps=(Step(GOOD.steps[0].text),))
  [line] = checks.warnings([GOOD, plain])
  assert line.startswith("1 of 2 trajectories have steps without a title")
  assert line.endswith("'p'")
  assert checks.warnings([plain]) == []


@pytest.mark.parametrize(
  ("bad", "words"),
  [
    (
      ending("So it is 14.", id="p"),
      "1 of 2 trajectories mark no final answer in the last step",
    ),
    (
      ending("So it is fourteen or so, as seen.", id="p"),
      "1 of 2 trajectories have a last step in which the reference answer is",
    ),
    (
      ending(r"So \boxed{15}", id="p"),
      "1 of 2 trajectories have a last step in which the reference answer is",
    ),
    (
      ending("So", None, id="p"),
      "1 of 2 trajectories have no reference answer",
    ),
  ],
)
def test_a_final_answer_that_cannot_be_found_is_named(bad, words):
  [warning] = checks.warnings([GOOD, bad])
  assert warning.startswith(words)
  assert "The first: 'p', which ends in 'So" in warning
  assert ("the answer is '14'" in warning) == (bad.answer is not None)


def test_an_answer_that_is_marked_before_the_last_step_is_named():
  early = dataclasses.replace(
    GOOD, id="p", steps=(Step("So"), Step(r"First \boxed{2}"), *GOOD.steps)
  )
  warning, _ = checks.warnings([GOOD, early])  # The other is of titles.
  assert warning.startswith(
    "1 of 2 trajectories mark a final answer before the last step, where"
  )
  assert "The first: 'p/1', which ends in 'First " in warning


def test_a_domain_of_ones_own_is_checked_by_its_own_rule(monkeypatch):
  chemistry = Domain(
    "chemistry", "", "", is_final=lambda x: x.startswith("Product:")
  )
  monkeypatch.setitem(DOMAINS, "chemistry", chemistry)

  def made(name, *texts, answer="H2O"):
    return Trajectory(name, "chemistry", name, tuple(map(Step, texts)), answer)

  good = made("a", "Mix.", r"Product: \boxed{H2O}")
  assert checks.warnings([good]) == []
  for bad, words in (
    (made("b", *("Mix.", "Product: H2O"), answer=None), "have no reference"),
    (
      made("b", r"So \boxed{H2O}"),
      "have a last step that is_final of their domain",
    ),
    (made("b", "Product: NaCl"), "have a last step in which the reference"),
    (
      made("b", "Product: H2", r"Product: \boxed{H2O}"),
      "mark a final answer before",
    ),
  ):
    [warning] = checks.warnings([good, bad])
    assert warning.startswith(f"1 of 2 trajectories {words}")
  # What its own function judges need not be found by the rules for answers.
  own = dataclasses.replace(chemistry, verdict="my:verdict")
  monkeypatch.setitem(DOMAINS, "chemistry", own)
  assert checks.warnings([made("b", "Product: NaCl")]) == []


def test_domains_that_judge_otherwise_need_no_answer():
  assert checks.warnings([AGENT]) == []


@pytest.mark.parametrize(
  "inside",
  ["2. **B**", "text\n   2. **B**: b", "- 2) **B**", "> 2. **B**"],
)
def test_a_title_inside_a_step_is_named_at_any_depth(inside):
  steps = s1k.split_steps(f"1. **A**\n```\n{inside}\n```\n")
  steps += (Step(r"\boxed{2}", title="End"),)
  [warning] = checks.warnings(
    [TITLED, dataclasses.replace(TITLED, steps=steps)]
  )
  assert warning.startswith("1 of 2 trajectories hold a numbered, bold title")
  assert "The first: 'titled/0' holds " in warning and "**B**" in warning
  assert warning.endswith("--show=titled/0")


@pytest.mark.parametrize(
  ("text", "is_named"),
  [
    ("  return 1", True),
    ("\n\n\tx = 1\ny", True),
    (" So x = 1", False),
    ("```\n  x\n```", False),
    ("  \nx", False),
  ],
)
def test_a_first_line_that_loses_its_indent_is_named(text, is_named):
  steps = (Step(text, title="Begin"), *GOOD.steps)
  said = checks.warnings([dataclasses.replace(GOOD, steps=steps)])
  assert len(said) == is_named
  if is_named:
    assert said[0].startswith("1 steps begin with an indented line and lose")
    assert said[0].endswith("'titled/0'")


def test_what_readers_of_agents_left_out_is_counted():
  def run(name, **metadata):
    return dataclasses.replace(AGENT, id=name, metadata=metadata)

  said = checks.warnings(
    [
      run("a"),
      run("b", turns_without_action="2", bad_call="field 'a': is 3"),
      run("c", turns_without_action="1", cut_off="Exit due to cost limit"),
      run("d", turns_without_action="some"),
    ]
  )
  assert said == [
    "3 turns without an action are left out of 2 of 4 trajectories. The first:"
    " 'b'",
    "1 of 4 trajectories hold calls that no tool takes, which are left out. The"
    " first: 'b', field 'a': is 3",
    "1 of 4 trajectories were cut off and do not end by the expert's decision."
    " The first: 'c' (Exit due to cost limit)",
  ]


def test_observations_that_an_environment_would_give_are_missed(tmp_path):
  drawn = load_trajectories(
    DataConfig("drawn", domain="sql", train_size=2)
  ).splits["train"]
  bare = [
    dataclasses.replace(
      t, steps=tuple(dataclasses.replace(s, observation=None) for s in t.steps)
    )
    for t in drawn
  ]
  # Nobody sees what the environment answers to the last action.
  steps = (*drawn[0].steps[:-1], bare[0].steps[-1])
  whole = dataclasses.replace(drawn[0], steps=steps)

  def said(*trajectories):
    path = tmp_path / "sql.jsonl"
    lines = [json.dumps(to_json(t)) for t in trajectories]
    path.write_text("\n".join(lines), "utf-8")
    return load_trajectories(DataConfig("jsonl", str(path))).warnings

  assert said(whole, drawn[1]) == ()
  [warning] = said(whole, bare[1])
  lacking = len(bare[1].steps) - 1
  every = len(whole.steps) - 1 + lacking
  assert warning.startswith(f"{lacking} of {every} steps before the last have")
  assert warning.endswith(f"The first: '{bare[1].id}/0'")
