# SPDX-License-Identifier: Apache-2.0
"""Small trajectories to test on: untitled, titled, and of an agent."""

from srl_jax.data.schema import Step, Trajectory


def sums(count: int = 3, name: str = "sum") -> Trajectory:
  """A trajectory of `count` steps whose texts differ in length."""
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
