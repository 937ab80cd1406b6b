# SPDX-License-Identifier: Apache-2.0
"""Episodes of a sampler act in sandboxes, by a domain of one's own."""

import functools
import json

import pytest

from srl_jax.data.templates import PlainTemplate
from srl_jax.domains.software.environment import AgentConfig, repair_domain
from srl_jax.domains.software.tasks import read_tasks
from srl_jax.rewards import Completion
from srl_jax.rollout.episodes import EpisodeRules, sample_episodes
from srl_jax.rollout.requests import Request
from srl_jax.tokenizers import ByteTokenizer
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  CONFIG,
  FAIL_TO_PASS,
  HIDDEN,
  write_repository,
)
from tests.support.scripted import ScriptedStream

TOKENIZER = ByteTokenizer()
REPAIR = """<think>a minus is wrong</think><function=bash>
<parameter=command>sed -i 's/a - b/a + b/' calc.py; cat README.md</parameter>
</function>"""
SUBMIT = "<think>done</think><function=submit>\n</function>"


@pytest.fixture
def tasks(tmp_path):
  write_repository(tmp_path / "toy")
  record = {
    "instance_id": "toy-1",
    "repository": "toy",
    "problem_statement": "add(1, 2) is wrong.",
    "FAIL_TO_PASS": FAIL_TO_PASS,
    "test_files": {"tests/test_calc.py": HIDDEN},
  }
  path = tmp_path / "tasks.jsonl"
  path.write_text(json.dumps(record) + "\n")
  return path


@needs_sandbox
def test_a_sampler_repairs_a_repository_turn_by_turn(tasks, imported_domains):
  name = "my_repairs:REPAIRS"
  agent = AgentConfig("swe-smith-once", format_errors=1)
  domain = repair_domain(tasks, sandbox=CONFIG, agent=agent)
  imported_domains[name] = domain
  [task] = read_tasks(tasks).values()
  # Two samples; the second one never writes an action.
  texts = iter([REPAIR, "<think>?</think>I do not know", SUBMIT])
  stream = ScriptedStream(
    TOKENIZER,
    lambda _: Completion(next(texts), True),
    stop_id=TOKENIZER.special_id("</s>"),
  )
  rules = EpisodeRules(
    task="step",
    turns=3,
    context_turns=0,
    max_positions=2048,
    request=functools.partial(Request, max_new_tokens=20),
    template=PlainTemplate(),
    tokenizer=TOKENIZER,
  )
  wanted = [(0, 0), (0, 1)]
  ended = sample_episodes(stream, [task.trajectory(name)], wanted, rules)
  repaired, lost = sorted(ended, key=lambda episode: episode.sample)
  assert repaired.observations == ("Adds and doubles.\n", "")
  assert (repaired.ending, repaired.is_correct) == ("environment done", True)
  assert lost.observations[0].startswith("There are 0 actions")
  assert (lost.ending, lost.is_correct) == ("environment done", False)
