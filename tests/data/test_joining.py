# SPDX-License-Identifier: Apache-2.0
"""Consecutive steps of an expert become one action, and keep what they say."""

import json
import re

import pytest

from srl_jax.data import schema, trunks
from srl_jax.data.joining import join_steps
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.data.templates import PlainTemplate
from srl_jax.domains import registers
from srl_jax.rewards.answers import answer_reward
from srl_jax.tokenizers.byte import ByteTokenizer
from srl_jax.trajectory import Step, Trajectory

EXPERT = Trajectory(
  "a",
  "math",
  "What is 2 + 3 + 4 + 5 + 6?",
  (
    Step("2 + 3 = 5", title="Begin", thought="two and three"),
    Step("5 + 4 = 9", thought="and four"),
    Step("9 + 5 = 14", thought="and five", is_target=False),
    Step("14 + 6 = 20", title="End", thought=None, is_target=False),
    Step("So 20.", thought="done"),
  ),
  answer="20",
)


def test_steps_are_joined_in_pairs_and_the_last_is_left_alone():
  assert join_steps(EXPERT, 2).steps == (
    Step(
      "1. **Begin**\n2 + 3 = 5\n\n5 + 4 = 9",
      thought="two and three\n\nand four",
    ),
    Step("9 + 5 = 14\n\n4. **End**\n14 + 6 = 20", is_target=False),
    Step("So 20.", thought="done"),
  )


def test_an_action_is_learnt_if_one_of_its_steps_is():
  assert [s.is_target for s in join_steps(EXPERT, 3).steps] == [True, True]


def test_no_number_makes_one_action_of_the_whole_solution():
  joined = join_steps(EXPERT, 0)
  assert joined.steps == join_steps(EXPERT, 9).steps
  [whole] = joined.steps
  assert [line for line in whole.text.split("\n") if line] == [
    *("1. **Begin**", "2 + 3 = 5", "5 + 4 = 9", "9 + 5 = 14"),
    *("4. **End**", "14 + 6 = 20", "So 20."),
  ]
  assert whole.thought is None and whole.is_target
  assert (joined.id, joined.problem, joined.answer) == (
    "a",
    EXPERT.problem,
    "20",
  )


def test_one_step_to_an_action_changes_nothing():
  assert join_steps(EXPERT, 1) is EXPERT


def test_steps_that_an_environment_answers_stay_apart():
  run = Trajectory(
    "run", "general", "p", (Step("ls", observation="x"), Step("rm"))
  )
  assert join_steps(run, 1) is run
  with pytest.raises(ValueError, match="run: an environment answers each"):
    join_steps(run, 2)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"steps_per_action": -1}, "steps_per_action=-1"),
    (
      {"format": "tfds", "path": "x", "steps_per_action": 2},
      "have their actions already; set it to 1, or prepare the data again",
    ),
  ],
)
def test_what_cannot_be_joined_is_refused(settings, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    DataConfig(**settings)


def test_a_file_is_read_in_longer_actions(tmp_path):
  path = tmp_path / "data.jsonl"
  path.write_text(json.dumps(schema.to_json(EXPERT)) + "\n")
  config = DataConfig("jsonl", str(path), steps_per_action=2)
  [read] = load_trajectories(config).splits["train"]
  assert read.steps == join_steps(EXPERT, 2).steps


def test_each_longer_action_is_one_branch_point_and_ends_in_the_answer():
  config = DataConfig(train_size=3, steps_per_action=2)
  joined = load_trajectories(config).splits["train"]
  steps = [x.steps for x in registers.generate("train", 3)]
  tokenizer = ByteTokenizer()
  built, _ = trunks.build_trunks(
    joined, PlainTemplate(), tokenizer, trunks.TrunkConfig()
  )
  assert [[p.target for p in trunk.points] for trunk in built] == [
    ["\n\n".join(s.text for s in x[at : at + 2]) for at in (0, 2)]
    for x in steps
  ]
  for trajectory in joined:
    assert answer_reward(trajectory.steps[-1].text, trajectory.answer) == 1
