# SPDX-License-Identifier: Apache-2.0
"""Small trajectories for tests: untitled, titled, agents', word problems."""

from __future__ import annotations

import random

from srl_jax.trajectory import Step, Trajectory


def sums(count: int = 3, name: str = "sum") -> Trajectory:
  """Returns a trajectory of `count` steps whose texts differ in length."""
  steps = tuple(
    Step(f"step {k}{' +1' * k}", thought=f"thought {k}") for k in range(count)
  )
  return Trajectory(name, "math", f"What is {name}?", steps, str(count))


TITLED = Trajectory(
  id="titled",
  domain="math",
  problem="Solve x + 1 = 3.",
  steps=(
    Step("Subtract 1 from both sides.", title="Isolate x"),
    Step("x = \\boxed{2}", title="Conclude"),
  ),
  answer="2",
)
AGENT = Trajectory(
  id="agent",
  domain="software",
  problem="Fix the bug.",
  steps=(
    Step("ls", observation="a.py", thought="look around"),
    Step("cat a.py", observation="1/0"),
    Step("rm a.py", observation=""),
    Step("submit"),
  ),
)


def word_problems(count: int, seed: int = 0) -> list[Trajectory]:
  """Returns problems with solutions in steps, in the style of GSM8K.

  Steps begin and end with characters that tokenizers merge: signs, brackets,
  line breaks.
  """
  draw = random.Random(seed)
  return [_word_problem(f"word-{index}", draw) for index in range(count)]


def _word_problem(name: str, draw: random.Random) -> Trajectory:
  who = draw.choice(("Weng", "José", "Natalia", "Mr. O'Hara", "The bakery"))
  what = draw.choice(("clips", "pens", "dozen eggs", "pages", "50% coupons"))
  total = draw.randint(2, 60)
  sentences = [f"{who} has {total} {what}."]
  steps = []
  for _ in range(draw.randint(1, 5)):
    n = draw.randint(2, 12)
    verb, sign = draw.choice((("sells", "-"), ("buys", "+"), ("makes", "*")))
    value = {"-": total - n, "+": total + n, "*": total * n}[sign]
    forms = (
      f"{who} then has {total}{sign}{n}={value} {what}.",
      f"So it is ${total} {sign} {n} = ${value}\n\nin all",
      f"  \\[ {total} {sign} {n} = \\boxed{{{value}}} \\]",
      f"({total} {sign} {n}) = {value}!\n",
    )
    sentences.append(f"A day later {who} {verb} {n} {what}.")
    steps.append(Step(draw.choice(forms)))
    total = value
  steps.append(Step(f"#### {total}"))
  question = draw.choice(("How many are left?", "\n\nHow many?\n"))
  return Trajectory(
    id=name,
    domain="math",
    problem=" ".join((*sentences, question)),
    steps=tuple(steps),
    answer=str(total),
  )
