# SPDX-License-Identifier: Apache-2.0
"""Protocols named after a harness say what the harness said.

harness_verdicts.json holds its prompts and verdicts; make_harness_verdicts.py
made it.
"""

import functools
import json
import pathlib

import pytest

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.protocols import find_protocol
from srl_jax.rewards import harnesses

FILE = pathlib.Path(__file__).with_name("harness_verdicts.json")
# Protocol -> (harness, which of its verdicts).
JUDGED = {
  "lm-eval": ("lm_eval", 0),
  "lm-eval-strict": ("lm_eval", -1),
  "lighteval": ("lighteval", 0),
  "qwen2.5-math": ("qwen_math", 0),
}
# A chain of equations, of which math-verify takes the last side only if the
# reference is no equation. lighteval's code takes it in both cases.
KNOWN = {("lighteval", "y = 2x + 1", "x = y = 2x + 1")}


@functools.cache
def stored():
  return json.loads(FILE.read_text(encoding="utf-8"))


def problems():
  fields = enumerate(stored()["problems"])
  return [Problem(id=str(i), **problem) for i, problem in fields]


def different(name, is_quick):
  """Returns the cases whose verdicts are not the harness's, and the number.

  Two in five cases, spread over all problems, are the quick ones.
  """
  protocol = find_protocol(name)
  harness, which = JUDGED[name]
  asked = problems()
  everything = zip(
    stored()["cases"], stored()["verdicts"][harness], strict=True
  )
  pairs = [
    pair for i, pair in enumerate(everything) if (i % 5 in (0, 2)) == is_quick
  ]
  wrong = []
  for (number, text), verdicts in pairs:
    problem = asked[number]
    _, is_correct = protocol.verdict(text, problem)
    is_known = any(
      harness == h and problem.answer == answer and end in text
      for h, answer, end in KNOWN
    )
    if is_correct != (bool(int(verdicts[which])) != is_known):
      wrong.append((problem.answer, text, verdicts))
  return wrong, len(pairs)


@pytest.mark.parametrize(
  "name",
  # The strict one differs in how answers are found, and takes the longest.
  [
    pytest.param(x, marks=pytest.mark.slow if x == "lm-eval-strict" else ())
    for x in JUDGED
  ],
)
def test_verdicts_are_those_of_the_harness(name):
  wrong, count = different(name, is_quick=True)
  assert not wrong
  assert count > 200


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGED)
def test_the_other_verdicts_are_those_of_the_harness(name):
  wrong, _ = different(name, is_quick=False)
  assert not wrong


def test_prompts_are_those_of_the_harness():
  def chatml(messages):
    turns = (
      f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages
    )
    return "".join(turns) + "<|im_start|>assistant\n"

  prompts = stored()["prompts"]
  assert len(prompts) == 3
  for i, problem in enumerate(problems()):
    qwen = find_protocol("qwen2.5-math").messages(problem)
    assert chatml(qwen) == prompts["qwen_math"][i]
    for name, harness in (("lighteval", "lighteval"), ("lm-eval", "lm_eval")):
      [message] = find_protocol(name).messages(problem)
      assert message == {"role": "user", "content": prompts[harness][i]}


def test_recorded_verdicts_are_of_both_kinds_for_every_suite():
  suites = {problem.suite for problem in problems()}
  assert len(suites) == 6
  for verdicts in stored()["verdicts"].values():
    found = {
      (problems()[number].suite, verdict[0])
      for (number, _), verdict in zip(stored()["cases"], verdicts, strict=True)
    }
    assert found == {(suite, x) for suite in suites for x in "01"}


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGED)
def test_an_answer_that_nobody_can_compute_is_wrong(name):
  problem = Problem("1", "?", "3", suite="minerva")
  endless = (
    "Final Answer: The final answer is $9^{9^{9^{9^{9}}}}$. I hope it is"
  )
  text = f"{endless} correct. $\\boxed{{9^{{9^{{9^{{9^{{9}}}}}}}}}}$"
  _, is_correct = find_protocol(name).verdict(text, problem)
  assert not is_correct
  # The next one gets a process that works.
  assert find_protocol("lm-eval").verdict("\\boxed{3}", problem) == ("3", True)


def test_what_a_model_writes_is_not_run_as_python(tmp_path):
  trace = tmp_path / "trace"
  problem = Problem("1", "?", "7", suite="aime24")
  for call in (
    f"open('{trace}', 'w')",
    f"__import__('os').system('touch {trace}')",
    f"[x for x in [exec('open(\\'{trace}\\', \\'w\\')')]]",
  ):
    text = f"So $\\boxed{{{call}}}$. The answer is {call}"
    for name in JUDGED:
      assert not find_protocol(name).verdict(text, problem)[1]
  assert not trace.exists()


@pytest.mark.parametrize(
  ("suite", "is_correct"),
  # lighteval takes thoughts away for all its metrics but AIME's avg_at_n.
  [("math500", False), ("gsm8k", False), ("aime24", True)],
)
def test_lighteval_reads_thoughts_of_aime_only(suite, is_correct):
  judge = find_protocol("lighteval").verdict
  problem = Problem("1", "?", "3", suite=suite)
  thought = "<think>I try $\\boxed{3}$.</think>"
  assert judge(f"{thought} It is $4$.", problem)[1] == is_correct
  # A thought that does not close stays.
  assert judge("<think>I try $\\boxed{3}$.", problem)[1]


def test_an_unknown_task_of_a_harness_is_refused():
  with pytest.raises(ValueError, match="no task 'chess' of 'lm_eval'"):
    harnesses.verdict("lm_eval", "chess", "1", "1")
  with pytest.raises(ValueError, match="choose one of"):
    harnesses.verdict("helm", "math", "1", "1")


def test_a_judge_that_fails_is_not_taken_for_a_verdict(monkeypatch):
  monkeypatch.setitem(harnesses.TASKS, "no_such_module", ("math",))
  with pytest.raises(RuntimeError, match=r"judge of .* exit code 1"):
    harnesses.verdict("no_such_module", "math", "1", "1")
