# SPDX-License-Identifier: Apache-2.0
"""Judges work in processes that may die, and that end with their parent."""

import pathlib
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.judges import JudgeError, Judges, domain_verdict
from tests.support.answers import fatal

PROBLEM = Problem("p", "?", "c", suite="mine")


def verdict(**fields):
  return fields["final"], fields["is_correct"]


def test_verdicts_come_in_the_order_of_the_texts():
  with Judges(fatal, 2) as judges:
    for text in ("abc", "d", "c"):
      judges.put(text, PROBLEM, verdict)
    assert list(judges.take(0)) == [("c", True), ("d", False), ("c", True)]
    assert list(judges.take(0)) == []


def test_a_process_that_dies_once_is_started_again(tmp_path):
  with Judges(fatal, 1) as judges:
    judges.put(f"once {tmp_path / 'c'}", PROBLEM, verdict)
    assert list(judges.take(0)) == [("c", True)]
  assert (tmp_path / "c").exists()


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    (
      "die",
      r"twice the judge ended its process with exit code -9 \(-9: killed",
    ),
    ("fail", r"KeyError: 'fail' \(answers.py:\d+\)"),
  ],
)
def test_a_text_that_cannot_be_judged_is_named_and_costs_no_other(text, reason):
  with Judges(fatal, 1) as judges:
    for each in ("abc", text, text, "ab"):
      judges.put(each, PROBLEM, verdict)
    found = []
    message = f"an answer to the problem 'p' of 'mine' could not .*{reason}"
    with pytest.raises(JudgeError, match=message) as error:
      found += judges.take(0)
    # Only what its machine did to it may pass.
    assert error.value.passes == (text == "die")
    assert [*found, *judges.take_good()][-1:] == [("b", False)]


def test_a_verdict_may_be_a_number_of_numpy(monkeypatch):
  module = types.SimpleNamespace(verdict=lambda text, answer: np.float64(1))
  monkeypatch.setitem(sys.modules, "verdicts_of_test", module)
  _, is_correct = domain_verdict(
    {"mine": "verdicts_of_test:verdict"}, "c", PROBLEM
  )
  # Journals are JSON.
  assert is_correct is True


def children_of(pid):
  """Ids of the processes that a process has started."""
  return [
    int(child)
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir()
    for child in (thread / "children").read_text().split()
  ]


PARENT = """
import os, time
from srl_jax.domains.suite import Problem
from srl_jax.evaluate.judges import Judges
from tests.support.answers import fatal
judges = Judges(fatal, 1)
judges.put("abc", Problem("p", "?", "c"), lambda **fields: fields)
print(list(judges.take(0)), flush=True)
time.sleep(600)
"""


def test_a_killed_parent_leaves_no_judge_behind_and_none_loads_jax():
  with subprocess.Popen(
    [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
  ) as parent:
    assert "'is_correct': True" in parent.stdout.readline()
    [child] = children_of(parent.pid)
    with open(f"/proc/{child}/maps") as file:
      assert "jaxlib" not in file.read()
    parent.kill()
  deadline = time.monotonic() + 30
  while time.monotonic() < deadline:
    try:
      with open(f"/proc/{child}/stat") as file:
        # A zombie that nobody waits for has ended, too.
        if file.read().split()[2] == "Z":
          return
    except FileNotFoundError:
      return
    time.sleep(0.05)
  pytest.fail("the judge is still there")
