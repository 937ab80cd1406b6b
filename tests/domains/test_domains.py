# SPDX-License-Identifier: Apache-2.0
"""Domains are found by name, and a data file cannot import one."""

import json
import pathlib
import sys

import pytest

from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.data.templates import Special, make_template
from srl_jax.domains import DOMAINS, domain_of, find_domain
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.trajectory import Step, Trajectory
from tests.support.trajectories import AGENT, TITLED

HERE = str(pathlib.Path(__file__).parent)
TOY = "toy_domain_for_tests:TOY"
MOVE = Trajectory("move", TOY, "from 1 to 0", (Step("-", observation="0"),))


@pytest.fixture(autouse=True)
def nothing_is_imported(monkeypatch, imported_domains):
  monkeypatch.syspath_prepend(HERE)
  monkeypatch.delitem(sys.modules, "toy_domain_for_tests", raising=False)


def test_every_domain_has_its_own_name_and_wording():
  assert {"general", "math", "registers", "software"} <= DOMAINS.keys()
  assert all(name == domain.name for name, domain in DOMAINS.items())
  assert len({d.step_prompt for d in DOMAINS.values()}) == len(DOMAINS)
  assert len({d.solve_prompt for d in DOMAINS.values()}) == len(DOMAINS)


def test_a_users_domain_is_imported_once(monkeypatch):
  domain = find_domain(TOY)
  assert domain.name == "toy"
  # A module that is gone by now is not missed.
  monkeypatch.setitem(sys.modules, "toy_domain_for_tests", None)
  assert find_domain(TOY) is domain


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("maths", r"no domain 'maths' \(did you mean 'math'\?\); choose one"),
    ("no_such:TOY", "cannot be imported: ModuleNotFoundError: .*PYTHONPATH"),
    ("toy_domain_for_tests:TOYS", "has no attribute 'TOYS'"),
    ("toy_domain_for_tests:NOT_A_DOMAIN", "is a int; name a srl_jax.domains.D"),
  ],
)
def test_a_domain_that_cannot_be_had_is_an_error(name, message):
  with pytest.raises(ValueError, match=message):
    find_domain(name)
  with pytest.raises(ValueError, match=message):
    load_trajectories(DataConfig("registers", domain=name, train_size=1))


def test_the_domain_of_a_trajectory_is_looked_up_and_never_imported():
  assert domain_of(TITLED) is DOMAINS["math"]
  with pytest.raises(ValueError, match="'move' is of the domain 'toy_domain_f"):
    domain_of(MOVE)
  assert "toy_domain_for_tests" not in sys.modules
  assert find_domain(TOY) is domain_of(MOVE)


def load(tmp_path, *names, **config):
  path = tmp_path / "data.jsonl"
  records = [
    {"id": f"r{i}", "problem": f"{i}?", "steps": ["x"]}
    | ({"domain": name} if name else {})
    for i, name in enumerate(names)
  ]
  path.write_text("\n".join(map(json.dumps, records)))
  return load_trajectories(DataConfig("jsonl", str(path), **config))


def test_records_of_unknown_domains_are_general_and_counted(tmp_path):
  report = load(tmp_path, "math", None, "maths", TOY, "maths", "registers")
  assert [t.domain for t in report.trajectories] == [
    *("math", "general", "general", "general", "general", "registers")
  ]
  [warning] = report.warnings
  assert warning == (
    "3 records name domains that do not exist, which are taken for 'general': "
    f"'maths' (2), {TOY!r} (1); write one of {', '.join(DOMAINS)} there, or "
    "set c.data.domain to the domain of all of them"
  )
  # Else opening a file would be running it.
  assert "toy_domain_for_tests" not in sys.modules


def test_a_record_cannot_name_a_domain_of_code_even_if_it_is_imported(tmp_path):
  find_domain(TOY)
  report = load(tmp_path, TOY)
  assert [t.domain for t in report.trajectories] == ["general"]
  assert len(report.warnings) == 1


def test_the_config_names_the_domain_of_all_records(tmp_path):
  report = load(tmp_path, "math", None, "maths", domain=TOY)
  assert [t.domain for t in report.trajectories] == [TOY] * 3
  assert report.warnings == ()
  report = load(tmp_path, "math", domain="software")
  assert [t.domain for t in report.trajectories] == ["software"]


def test_a_chat_is_worded_by_the_domain():
  template = make_template("chatml", ByteTokenizer())
  find_domain(TOY)

  def text(*segments):
    return "".join(
      part.name if isinstance(part, Special) else part
      for segment in segments
      for part in segment
    )

  for _ in range(2):  # Cut, and remembered.
    segments = template.problem(MOVE, "step"), template.stem("step", 1)
    assert text(*segments) == (
      "<|im_start|>system\nMove the counter by one.<|im_end|>\n"
      "<|im_start|>user\nProblem:\nfrom 1 to 0\n\nMoves so far:\n\n"
      "Write the next step.<|im_end|>\n<|im_start|>assistant\n"
    )
  assert template.whole(MOVE, "step", text(*segments)) == text(*segments)
  head = text(template.problem(MOVE, "solve"))
  assert head.startswith("<|im_start|>system\nMove the counter to its goal.<")
  assert "Moves so far" not in head


@pytest.mark.parametrize(
  ("domain", "final", "not_final"),
  [
    ("general", ["#### 3", "so \\boxed{3}"], ["3", "\\boxed{3", "submit"]),
    (
      "software",
      ["submit", " submit\n", "Done.\n<function=submit>\n</function>"],
      ["#### 3", "\\boxed{3}", "git submit", "cat submit.py"],
    ),
  ],
)
def test_the_domain_knows_a_final_action(domain, final, not_final):
  is_final = DOMAINS[domain].is_final
  assert all(map(is_final, final))
  assert not any(map(is_final, not_final))


def test_an_agent_ends_with_its_experts_last_action():
  is_final = domain_of(AGENT).is_final
  assert [is_final(s.text) for s in AGENT.steps] == [False] * 3 + [True]
