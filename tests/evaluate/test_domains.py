# SPDX-License-Identifier: Apache-2.0
"""Suites of a run's domain are worded and judged as the domain says."""

import dataclasses
import pickle

from srl_jax import domains
from srl_jax.evaluate import evaluator
from srl_jax.evaluate.protocols import (
  PROTOCOLS,
  our_verdict,
  qwen_verdict,
)

CHEM = """
from srl_jax.domains import Domain, Suite

def is_right(action, target):
  return float(target in action)

NAME = f"{__name__}:CHEM"
SUITE = Suite("chemq", "", domain=NAME)
CHEM = Domain("chem", "", "", verdict=f"{__name__}:is_right", suites=(SUITE,))
"""


def test_own_files_are_of_the_runs_domain(tmp_path, monkeypatch):
  monkeypatch.setattr(domains, "_IMPORTED", {})
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "chem_for_tests.py").write_text(CHEM)
  exam = tmp_path / "exam.jsonl"
  exam.write_text('{"question": "What burns to it?", "answer": "H2O"}\n')
  name = "chem_for_tests:CHEM"
  problems, found = evaluator.read_suites(f"chemq={exam},{exam}", domain=name)
  assert found == {"chemq": name, "exam": name}
  plan = evaluator.Plan(problems, found, PROTOCOLS["paper"])
  judge = pickle.loads(pickle.dumps(evaluator.judge_of(plan)))
  for text, is_right in (("2 H2O, of course", True), ("<think>H2O", False)):
    assert judge(text, problems[1])[1] is is_right
    assert not our_verdict(text, problems[1])[1]
  qwen = dataclasses.replace(plan, protocol=PROTOCOLS["qwen2.5-math"])
  assert evaluator.judge_of(qwen) is qwen_verdict
  # No file holds the problems of an environment.
  for name in ("", "lookup"):
    problems, found = evaluator.read_suites(str(exam), domain=name)
    assert found == {"exam": "math"}
    plan = evaluator.Plan(problems, found, PROTOCOLS["paper"])
    assert evaluator.judge_of(plan) is our_verdict
