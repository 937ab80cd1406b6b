# SPDX-License-Identifier: Apache-2.0
"""The look-up task: experts, splits, the planted habit."""

import collections

import pytest

from srl_jax.domains.lookup import (
  LOOKUP,
  LookupEnvironment,
  experts,
  rewards,
)
from srl_jax.domains.lookup.experts import (
  HARD_BUGS,
  HARD_CALL,
  STYLES,
  PretrainingConfig,
  generate,
  pretraining_examples,
  solve,
)
from srl_jax.domains.lookup.repository import (
  KEYS,
  VALUES,
  Interpreter,
  Repository,
  draw,
)
from srl_jax.rollout.scoring import reward_context


def play(trajectory, actions):
  environment = LOOKUP.environment()
  environment.reset(trajectory)
  answers = [environment.step(action) for action in actions]
  return environment, answers


@pytest.mark.parametrize("style", STYLES)
def test_experts_repair_every_hard_repository(style):
  for index in range(60):
    repository = draw("train", 0, index, HARD_CALL, HARD_BUGS[index % 3])
    shell = Interpreter(repository)
    for step in solve(repository, style):
      assert not shell.solved()
      assert shell.step(step.text)[0] == step.observation
      assert step.thought
    assert shell.solved()


def test_the_styles_differ_on_the_same_repository():
  repository = draw("train", 0, 0, HARD_CALL, (1, 3))
  texts = {s: [x.text for x in solve(repository, s)] for s in STYLES}
  assert texts["reproduce"][0] == "!"
  assert texts["read"][:5] == texts["backward"][:5]
  assert texts["read"][5:7] == texts["backward"][6:4:-1]


def test_a_trace_shows_name_argument_finding_and_documentation():
  repository = Repository(
    call="ab",
    argument="w",
    passes_to={"a": "b", "b": "-"},
    tables={"a": "xwyz", "b": "wyxz"},
    right={"a": "xwyz", "b": "wzxy"},
    documented={"a": "x", "b": "z"},
  )
  assert repository.problem == "aWyz"
  steps = [
    (s.thought, s.text, s.observation) for s in solve(repository, "read")
  ]
  assert steps == [
    ("a", "?a", "bWxXwYyZz.x"),
    ("b", "?b", "-WwXyYxZz.z"),
    ("aWxxbXyz", "b=Xz", "-"),
    ("aWxxbXzz!", "!", "z"),
    ("zz", ".", "."),
  ]
  # The repair of the issue leaves another wrong entry: z and y are exchanged.
  shell = Interpreter(repository)
  for _, action, _ in steps:
    shell.step(action)
  assert not shell.solved()


def test_a_reward_by_effect_takes_any_repair_and_nothing_else():
  trajectory = next(
    t for t in generate("train", 40) if t.metadata["style"] == "read"
  )
  texts = [step.text for step in trajectory.steps]
  first, second = (i for i, text in enumerate(texts) if "=" in text)

  def reward(step, action):
    context = reward_context(trajectory, step)
    return rewards.same_effect(action, texts[step], context=context)

  assert all(reward(i, f" {text}\n") == 1 for i, text in enumerate(texts))
  assert reward(first, texts[second]) == 1
  # That entry is right by then.
  assert reward(second, texts[first]) == 0
  wrong = next(v for v in VALUES if v != texts[first][-1])
  assert reward(first, texts[first][:-1] + wrong) == 0
  assert reward(first, "!") == reward(first, "?a") == reward(first, "") == 0
  assert reward(len(texts) - 1, "!") == 0
  assert rewards.same_action(texts[second], texts[first]) == 0


def test_a_repository_that_is_not_submitted_is_not_solved():
  trajectory = generate("train", 1)[0]
  actions = [step.text for step in trajectory.steps]
  assert play(trajectory, actions)[0].solved()
  assert not play(trajectory, actions[:-1])[0].solved()
  assert play(trajectory, actions)[1][-1] == (".", True)


@pytest.mark.parametrize(
  "action",
  ["", "?", "?z", "??a", "a=Wxy", "a=1w", "a=W1", "a=wx", "a=WX", "! ", "é"],
)
def test_what_is_no_action_is_answered_and_changes_nothing(action):
  repository = draw("train", 0, 0, HARD_CALL, (1, 3))
  shell = Interpreter(repository)
  assert shell.step(action) == ("E", False)
  assert shell.tables == repository.tables


def test_guesses_hardly_ever_repair_a_hard_repository():
  """The best of guesses writes documented values into the right functions."""
  trajectories = generate("valid", 300)
  solved = 0
  for number, trajectory in enumerate(trajectories):
    repository = Repository.from_json(trajectory.metadata["repository"])
    environment = LookupEnvironment()
    environment.reset(trajectory)
    assert not environment.solved()
    for place in range(2):
      name = repository.call[(number + place * 2) % HARD_CALL]
      key = KEYS[(number + place) % 4]
      environment.step(f"{name}={key}{repository.documented[name]}")
    environment.step(".")
    solved += environment.solved()
  assert solved / len(trajectories) < 0.03


def test_writing_all_that_is_documented_repairs_without_a_look_at_tables():
  for trajectory in generate("valid", 20):
    repository = Repository.from_json(trajectory.metadata["repository"])
    actions, argument = [], repository.argument
    for name in repository.call:
      value = repository.documented[name]
      actions.append(f"{name}={argument.upper()}{value}")
      argument = value
    assert play(trajectory, [*actions, "."])[0].solved()


def test_no_repository_is_in_two_splits():
  seen = collections.defaultdict(set)
  for split in ("train", "valid", "test"):
    for trajectory in generate(split, 100):
      seen[trajectory.metadata["repository"]].add(split)
  for example in pretraining_examples(300):
    seen[example.metadata["repository"]].add("pretrain")
  assert all(len(splits) == 1 for splits in seen.values())


def test_the_student_is_hasty_on_hard_issues_as_often_as_planted():
  config = PretrainingConfig(easy_fraction=0, finish_probability=0.3)
  examples = pretraining_examples(400, config=config)
  edits = [first_edit(example) for example in examples]
  hasty = sum(len(edit.thought) == 4 for edit in edits) / len(edits)
  # Four standard deviations of 400 draws.
  assert hasty == pytest.approx(0.7, abs=0.1)
  for edit in edits:
    if len(edit.thought) == 4:
      # It writes what the table holds already.
      assert edit.thought[2] == edit.thought[3] == edit.text[3]


def first_edit(trajectory):
  return next(step for step in trajectory.steps if "=" in step.text)


def test_easy_issues_are_repaired_right():
  config = PretrainingConfig(easy_fraction=1)
  for example in pretraining_examples(200, config=config):
    assert play(example, [s.text for s in example.steps])[0].solved()


def test_examples_are_the_same_whatever_their_number():
  assert pretraining_examples(3) == pretraining_examples(9)[:3]
  assert generate("test", 2) == generate("test", 5)[:2]
  assert experts.make_splits({"train": 2, "valid": 1}, 3)["train"] == generate(
    "train", 2, 3
  )
