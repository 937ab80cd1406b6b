# SPDX-License-Identifier: Apache-2.0
"""Other rules of verdicts are told from those that answers were judged by."""

import pathlib

from srl_jax.evaluate import protocols, rules
from srl_jax.rewards import equality


def test_a_verdict_of_ones_own_counts_with_its_file(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  own = tmp_path / "own_exam_verdict.py"
  own.write_text("def verdict(action, reference):\n  return 0.0\n")
  names = ["own_exam_verdict:verdict"]
  before = rules.checksum(names, rules.FILES)
  assert before == rules.checksum(names, rules.FILES)
  assert before != rules.checksum([], rules.FILES)
  own.write_text("def verdict(action, reference):\n  return 1.0\n")
  assert before != rules.checksum(names, rules.FILES)


def test_the_files_are_those_that_judge():
  for module in (protocols, equality):
    assert pathlib.Path(module.__file__) in rules.FILES
  assert rules.checksum([], rules.FILES) != rules.checksum([], rules.FILES[1:])


def test_another_version_of_a_library_is_another_rule(monkeypatch):
  before = rules.checksum([], [])
  changed = rules.versions() | {"sympy": "0.1"}
  monkeypatch.setattr(rules, "versions", lambda: changed)
  assert rules.checksum([], []) != before
