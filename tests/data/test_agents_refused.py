# SPDX-License-Identifier: Apache-2.0
"""Records of agents that cannot be used are refused, and cost no others."""

import collections
import copy
import json
import random

import pytest

from srl_jax.data.agents import parse
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.data.schema import from_json, to_json
from srl_jax.trajectory import RecordError
from tests.support import agents
from tests.support.agents import chat

LS = "<function=bash>\n<parameter=command>ls</parameter>\n</function>"


def broken(**changes):
  """A good record with a change in its first call."""
  record = copy.deepcopy(agents.openhands())
  call = record["trajectory"][2]["tool_calls"][0]
  call["function"] |= changes
  return record


BOTH = (
  "<function=execute_bash>\n<parameter=cmd>ls</parameter>\n"
  "<parameter=command>ls</parameter>\n</function>"
)
FIRST_CALL = "trajectory[2].tool_calls[0]"
BROKEN = [
  ("text", "(record)", "is no object"),
  ({"rows": 1}, "messages", "is missing (found: rows)"),
  ({"role": "user", "content": ""}, "messages", "this record is a single mess"),
  ({"messages": "[{"}, "messages", "which is no JSON (Expecting"),
  ({"messages": {"a": 1}}, "messages", "is no list of messages"),
  ({"messages": [1]}, "messages[0]", "is 1; an object is expected"),
  ({"messages": [{"a": 1}]}, "messages[0]", "has the fields a; it must be"),
  ({"messages": [{"role": "bot"}]}, "messages[0].role", "is 'bot'; use one of"),
  (chat("Fix it."), "messages", "are none of an agent"),
  (chat("Fix it.", "Hm.", "?", "Bye."), "messages[1]", "hold no action; read"),
  (chat("Fix it.", "ls", "", 3), "messages[3].content", "is 3; write a text"),
  (chat(" ", LS), "problem", "is empty"),
  (chat("Fix \ud800", LS), "problem", "half a surrogate pair"),
  (
    chat("Fix.", LS.replace("ls", "\udfff")),
    "messages[1]",
    "half a surrogate pair",
  ),
  (broken(name=""), f"{FIRST_CALL}.name", "is missing or empty"),
  (
    chat("Fix it.", ["Hm.", {"type": "tool_use", "name": "a", "input": [1]}]),
    "messages[1].content[1].arguments",
    "is [1]; write an obj",
  ),
  (
    broken(arguments={"command": "a</parameter></function>"}),
    "trajectory[2]",
    "'bash' hold the tags of this grammar",
  ),
  (
    broken(arguments={"command": "ls", "cmd": "ls"}),
    "trajectory[2]",
    "the parameter 'command' is given 2 times",
  ),
  (
    chat("Fix it.", "Look.", "?", BOTH),
    "messages[3]",
    "the parameter 'command' is given 2 times",
  ),
  (
    agents.atif() | {"schema_version": "ATIF-v2.0"},
    "schema_version",
    "is 'ATIF-v2.0'; documents of ATIF-v1.0 to ATIF-v1.8 are read",
  ),
  (agents.atif() | {"steps": []}, "steps", "is no list of steps, or empty"),
  (
    {"messages": [{"role": "assistant", "tool_calls": 3}]},
    "messages[0].tool_calls",
    "is 3; write a list there",
  ),
]


@pytest.mark.parametrize(("record", "field", "words"), BROKEN)
def test_a_broken_record_is_refused_with_its_place_and_reason(
  record, field, words
):
  with pytest.raises(RecordError) as error:
    parse(record, "f-1")
  assert error.value.field == field
  assert words in error.value.problem


BAD_CALLS = [
  ({"name": "browser"}, "name': is 'browser', which the record does not offer"),
  ({"name": "a b"}, "name': is 'a b', which the record does not offer"),
  ({"arguments": '{"command": ls}'}, "arguments': is '{"),
  ({"arguments": "[1]"}, "arguments': is [1]; write an object"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_CALLS)
def test_a_call_that_no_tool_takes_costs_its_turn_alone(changes, words):
  trajectory = parse(broken(**changes), "f-1")
  whole = parse(agents.openhands(), "f-1")
  assert trajectory.steps == whole.steps[1:]
  assert trajectory.metadata["turns_without_action"] == "1"
  assert trajectory.metadata["bad_call"].startswith(
    f"field '{FIRST_CALL}.{words}"
  )


def test_a_bad_call_beside_others_is_left_out_alone():
  record = copy.deepcopy(agents.openhands())
  whole = parse(record, "f-1")
  calls = record["trajectory"][2]["tool_calls"]
  bad = {"name": "browser", "arguments": "{}"}
  calls.insert(0, {"id": "bad", "type": "function", "function": bad})
  answer = {"role": "tool", "tool_call_id": "bad", "content": "no such tool"}
  record["trajectory"].insert(3, answer)
  trajectory = parse(record, "f-1")
  assert trajectory.steps == whole.steps
  assert "turns_without_action" not in trajectory.metadata
  assert "'browser'" in trajectory.metadata["bad_call"]


def test_other_shapes_take_a_bad_call_alike():
  atif, events, sdk = agents.atif(), agents.events(), agents.events_of_sdk()
  atif["steps"][2]["tool_calls"][0]["arguments"] = "{ls}"
  call = events["history"][2]["tool_call_metadata"]["model_response"]
  call["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = "["
  sdk["history"][2]["tool_call"]["arguments"] = '{"command": "ls'
  for record in (atif, events, sdk):
    trajectory = parse(record, "f-1")
    assert [s.text for s in trajectory.steps] == [
      s.text for s in parse(agents.atif(), "f-1").steps[1:]
    ]
    assert "which is no JSON" in trajectory.metadata["bad_call"]


def paths(value, path=()):
  """The paths to every value inside of a record."""
  inner = []
  if isinstance(value, dict):
    inner = list(value.items())
  elif isinstance(value, list):
    inner = list(enumerate(value))
  yield path
  for key, one in inner:
    yield from paths(one, (*path, key))


JUNK = (
  *(None, 1, -1.5, float("nan"), True, [], {}, "", "{", "[1]", '{"a": 1}'),
  *([None], {"a": None}, [[]], "\ud800", "<function=bash>", {"type": "image"}),
)


@pytest.mark.parametrize("shape", [*agents.SHAPES, "mini_swe_agent"])
def test_whatever_stands_in_a_record_it_is_read_or_refused(shape):
  draw = random.Random(shape)
  whole = getattr(agents, shape)()
  if isinstance(whole.get("messages"), str):
    whole["messages"] = json.loads(whole["messages"])
  outcomes = collections.Counter()
  for _ in range(300):
    record = copy.deepcopy(whole)
    *path, last = draw.choice(list(paths(record))[1:])
    place = record
    for key in path:
      place = place[key]
    place[last] = copy.deepcopy(draw.choice(JUNK))
    try:
      trajectory = parse(record, "f-1")
    except RecordError as error:
      outcomes["refused"] += bool(error.field and error.problem)
      continue
    outcomes["read"] += 1
    written = json.dumps(to_json(trajectory))
    assert from_json(json.loads(written)) == trajectory
  assert sum(outcomes.values()) == 300
  assert min(outcomes["read"], outcomes["refused"]) > 20


def test_a_bad_record_costs_no_good_one(tmp_path):
  lines = [json.dumps(agents.smith_xml() | {"traj_id": f"t{i}"}) for i in "ab"]
  path = tmp_path / "runs.jsonl"
  bad = json.dumps(broken(name=""))
  path.write_text("\n".join([lines[0], bad, lines[1], lines[0]]), "utf-8")
  report = load_trajectories(DataConfig("agents", str(path)))
  assert [t.id for t in report.trajectories] == ["ta", "tb"]
  assert [(r.line, r.field) for r in report.rejects] == [
    (2, f"{FIRST_CALL}.name"),
    (4, "id"),
  ]
