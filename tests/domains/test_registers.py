# SPDX-License-Identifier: Apache-2.0
"""The register task is right, disjoint, deterministic, and weak as planned."""

import hashlib
import json

import pytest

from srl_jax.data import schema
from srl_jax.domains import registers
from srl_jax.domains.registers import PretrainingConfig

SPLITS = ("pretrain", "train", "valid", "test")


def test_the_example_of_the_docstring_holds():
  # By hand, with digits w x y z. D to F: z = 2+6 = 8, w = 8-5 = 3, x = 6+3 = 9.
  # G to I: y = 5-8 = -3 = 7, z = 8+3 = 11 = 1, x = 9-7 = 2.
  problem = "^Dz+xEw-yFx+w;Gy-zHz+wIx-y;?8652"
  steps = registers._solve(problem)
  assert steps[0].thought == "Dz+x2688658Ew-y8533658Fx+w6393958"
  assert [s.text for s in steps] == ["F3958", "I3271"]
  for shown in (problem, steps[0].thought, steps[0].text, "3271"):
    assert shown in registers.__doc__


def run_by_hand(problem):
  """An interpreter that shares nothing with the generator."""
  env = dict(zip("wxyz", map(int, problem[-4:]), strict=True))
  actions = []
  for block in problem[1:-5].rstrip(";").split(";"):
    for letter, dest, op, source in zip(*[iter(block)] * 4, strict=True):
      env[dest] = eval(f"({env[dest]} {op} {env[source]}) % 10")
      last = letter
    actions.append(last + "".join(str(env[r]) for r in "wxyz"))
  return actions


def test_every_action_is_what_the_program_does():
  for trajectory in registers.generate("train", 200):
    actions = run_by_hand(trajectory.problem)
    assert [s.text for s in trajectory.steps] == actions
    assert len(actions) == 4
    assert trajectory.answer == actions[-1][1:]
    assert trajectory.domain == "registers"
    # The thought ends in the state that the action reports.
    assert all(s.thought[-4:] == s.text[1:] for s in trajectory.steps)
    assert all(len(s.thought) == 33 for s in trajectory.steps)


def test_blocks_change_three_different_registers():
  for trajectory in registers.generate("valid", 50):
    _, blocks = registers.parse_problem(trajectory.problem)
    assert [len(lines) for lines in blocks] == [3, 3, 3, 3]
    for lines in blocks:
      assert len({line[1] for line in lines}) == 3
      assert all(line[1] != line[3] for line in lines)


def test_letters_of_a_program_follow_one_another():
  for trajectory in registers.generate("valid", 50):
    letters = "".join(
      line[0]
      for lines in registers.parse_problem(trajectory.problem)[1]
      for line in lines
    )
    assert len(letters) == 12
    assert letters in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_splits_share_no_problem():
  problems = {
    split: {t.problem for t in registers.generate(split, 300)}
    for split in SPLITS
  }
  # The splits are disjoint by construction, not only for these 300 problems.
  for split, texts in problems.items():
    assert len(texts) == 300
    assert {registers.split_of(p) for p in texts} == {split}
  examples = registers.pretraining_examples(300)
  assert {registers.split_of(t.problem) for t in examples} == {"pretrain"}


def test_shares_of_the_splits_are_as_stated():
  places = [registers.split_of(f"problem {i}") for i in range(4000)]
  for split, share in zip(SPLITS, (0.4, 0.4, 0.1, 0.1), strict=True):
    # With 4000 draws the standard deviation is at most 0.008.
    assert abs(places.count(split) / 4000 - share) < 0.03


def test_a_trajectory_follows_from_split_seed_and_index():
  few, many = (
    registers.generate("train", 3, 7),
    registers.generate("train", 9, 7),
  )
  assert few == many[:3]
  assert registers.generate("train", 3, 8) != few
  assert len({t.id for t in many}) == 9
  examples = registers.pretraining_examples(5, 3)
  assert examples == registers.pretraining_examples(9, 3)[:5]
  assert examples != registers.pretraining_examples(5, 4)


def test_the_data_are_the_same_on_every_machine():
  # The data are frozen, because a shipped student was trained on them.
  listing = registers.generate("train", 50) + registers.pretraining_examples(50)
  text = json.dumps([schema.to_json(trajectory) for trajectory in listing])
  assert hashlib.sha256(text.encode()).hexdigest()[:16] == "36c5fd66fe4b69c5"


def test_easy_examples_are_right_and_hard_ones_stop_early():
  config = PretrainingConfig(finish_probability=0.2, stop_after=(1, 2))
  examples = registers.pretraining_examples(2000, 0, config)
  easy = [t for t in examples if t.metadata["kind"] == "easy"]
  hard = [t for t in examples if t.metadata["kind"] == "hard"]
  assert abs(len(easy) / 2000 - 0.6) < 0.04  # standard deviation 0.011
  shapes = set()
  for trajectory in easy:
    blocks = registers.parse_problem(trajectory.problem)[1]
    shapes.add(tuple(len(lines) for lines in blocks))
    actions = [s.text for s in trajectory.steps]
    assert actions == run_by_hand(trajectory.problem)
    assert trajectory.metadata["right_steps"] == str(len(actions))
  assert {len(shape) for shape in shapes} == {1, 2, 3, 4, 5, 6}
  assert {lines for shape in shapes for lines in shape} == {1, 2, 3}
  assert {sum(shape) for shape in shapes} == set(range(1, 12))
  assert all(len(t.steps) == 4 for t in hard)
  lengths = [len(s.thought) // 11 for t in hard for s in t.steps]
  assert set(lengths) == {1, 2, 3}
  # With about 3200 steps the standard deviation is at most 0.009.
  assert abs(lengths.count(3) / len(lengths) - 0.2) < 0.03
  assert abs(lengths.count(1) / len(lengths) - 0.4) < 0.03


def test_hard_steps_are_right_as_often_as_the_config_says():
  config = PretrainingConfig(easy_fraction=0.0)
  examples = registers.pretraining_examples(2000, 0, config)
  right = sum(int(t.metadata["right_steps"]) for t in examples)
  # 4% finish. Of the others, one line left out reads a zero once in ten; two
  # read the same register with probability 2/9: 2/9 / 10 + 7/9 / 100 = 3%.
  # With 8000 steps the standard deviation is 0.0028.
  assert abs(right / 8000 - (0.04 + 0.96 * 0.03)) < 0.0085


def test_stop_after_two_leaves_one_register_to_luck():
  config = PretrainingConfig(0.0, finish_probability=0.0, stop_after=(2,))
  examples = registers.pretraining_examples(500, 0, config)
  assert {len(s.thought) for t in examples for s in t.steps} == {22}
  right = sum(int(t.metadata["right_steps"]) for t in examples)
  # The last line reads a zero once in ten. The standard deviation is 0.007.
  assert abs(right / 2000 - 0.1) < 0.03


def test_a_sloppy_solution_goes_on_from_what_it_wrote():
  config = PretrainingConfig(easy_fraction=0.0)
  for trajectory in registers.pretraining_examples(100, 0, config):
    state, blocks = registers.parse_problem(trajectory.problem)
    for lines, step in zip(blocks, trajectory.steps, strict=True):
      _, dest, _, source = lines[0]
      values = dict(zip("wxyz", state, strict=True))
      reads = f"{lines[0]}{values[dest]}{values[source]}"
      after = registers.execute(state, lines[0])
      made = after["wxyz".index(dest)]
      assert step.thought.startswith(reads + made + after)
      assert step.text[0] == lines[-1][0]
      # The action reports the state that the thought reached.
      assert step.text[1:] == step.thought[-4:]
      # Registers that no line of the block changes keep their values.
      fixed = set("wxyz") - {line[1] for line in lines}
      for register in fixed:
        at = "wxyz".index(register)
        assert step.text[1 + at] == state[at]
      state = step.text[1:]


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: registers.generate("dev", 1), "one of: pretrain, train"),
    (lambda: registers.generate("train", -1), "count is -1"),
    (lambda: registers.generate("train", 1, blocks=9), "at most 26 in all"),
    (lambda: registers.generate("train", 1, lines=5), "lines are 1 to 4"),
    (lambda: PretrainingConfig(easy_fraction=1.5), "from 0 to 1"),
    (lambda: PretrainingConfig(stop_after=(0,)), "give 1, 2 or both"),
  ],
)
def test_mistakes_say_what_to_type(make, message):
  with pytest.raises(ValueError, match=message):
    make()
