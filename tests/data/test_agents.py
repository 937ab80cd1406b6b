# SPDX-License-Identifier: Apache-2.0
"""Trajectories of software agents are read alike, whoever recorded them."""

import collections
import copy
import json
import random

import pyarrow as pa
import pyarrow.parquet
import pytest

from srl_jax.data.agents import parse, to_atif
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.domains.software.actions import Action
from srl_jax.domains.software.actions import parse as parse_action
from srl_jax.testing import agents
from srl_jax.trajectory import RecordError, Step

LS = "<function=bash>\n<parameter=command>ls</parameter>\n</function>"


def chat(*texts, **fields):
  """A record of messages: the user's, then agent and user in turns."""
  roles = ["user", *["assistant", "user"] * len(texts)]
  messages = [
    {"role": role, "content": text}
    for role, text in zip(roles, texts, strict=False)
  ]
  return {"messages": messages} | fields


@pytest.mark.parametrize("shape", agents.SHAPES)
def test_every_shape_tells_of_the_same_steps(shape):
  trajectory = parse(agents.SHAPES[shape](), "file-1")
  assert trajectory.problem == agents.PROBLEM
  assert trajectory.domain == "software"
  assert [parse_action(step.text) for step in trajectory.steps] == [
    Action.of_call(tool, arguments) for _, tool, arguments, _ in agents.TURNS
  ]
  answers = [answer for *_, answer in agents.TURNS]
  answered = [step.observation for step in trajectory.steps]
  assert answered[:-1] == answers[:-1]
  # Nothing answers the last action; a log has a place for it all the same.
  assert answered[-1] == ("" if shape == "traj_without_history" else None)
  thoughts = [step.thought for step in trajectory.steps]
  if shape in ("smith_ticks", "nebius"):
    assert thoughts.pop(0) == "As in\n```python\n1\n```\nLet me look."
    assert thoughts == [t or None for t, *_ in agents.TURNS[1:]]
  else:
    assert thoughts == [t or None for t, *_ in agents.TURNS]
  assert all(step.is_target for step in trajectory.steps)
  known = {"task": agents.TASK, "resolved": "true", "model": "expert"}
  if "traj" in shape:
    known = {"task": agents.TASK}
  if shape == "events":
    del known["model"]
  assert trajectory.metadata == known
  name = "traj-1" if shape == "smith_xml" else f"{agents.TASK}@file-1"
  assert trajectory.id == name


def test_the_action_has_the_text_of_swe_smith_whatever_the_source():
  xml = json.loads(agents.smith_xml()["messages"])
  written = [m["content"] for m in xml if m["role"] == "assistant"]
  for make in agents.SHAPES.values():
    for step, text in zip(parse(make(), "f-1").steps, written, strict=True):
      assert text.endswith(step.text)


def test_mini_swe_agent_ends_by_a_submission():
  trajectory = parse(agents.mini_swe_agent(), "f-1")
  assert trajectory.problem == agents.ISSUE
  assert [s.text for s in trajectory.steps] == [
    LS,
    LS.replace("ls", "sed -i s/-/+/ calc.py"),
    "<function=submit>\n</function>",
  ]
  assert [s.thought for s in trajectory.steps] == [None, "the sign.", None]
  assert trajectory.steps[0].observation == (
    "<returncode>0</returncode>\n<output>\ncalc.py"
  )
  assert trajectory.steps[1].observation == ""
  assert "turns_without_action" not in trajectory.metadata


def test_mini_swe_agent_is_read_from_its_text_too():
  record = agents.mini_swe_agent()
  for message in record["messages"]:
    for call in message.pop("tool_calls", ()):
      command = json.loads(call["function"]["arguments"])["command"]
      fence = f"```mswea_bash_command\n{command}\n```"
      message["content"] = f"{message['content'] or ''}\n\n{fence}\n"
    if message["role"] == "tool":
      message["role"] = "user"
  expected = parse(agents.mini_swe_agent(), "f-1").steps
  assert parse(record, "f-1").steps == expected
  for message in record["messages"]:
    message.get("extra", {}).pop("actions", None)
  assert parse(record, "f-1").steps == expected


@pytest.mark.parametrize(
  ("value", "solved"),
  [
    (True, "true"),
    (1, "true"),
    (1.0, "true"),
    ("True", "true"),
    (False, "false"),
    (0, "false"),
    (-1, "false"),
    (0.4, "false"),
    (None, None),
    (float("nan"), None),
  ],
)
@pytest.mark.parametrize("name", ["resolved", "target", "reward"])
def test_a_record_says_in_many_ways_whether_it_is_solved(name, value, solved):
  record = chat("Fix it.", LS, **{name: value})
  assert parse(record, "f-1").metadata.get("resolved") == solved


def test_turns_without_an_action_are_left_out_and_counted():
  record = chat("Fix it.", "Hm.", "Go on.", f"Well.\n\n{LS}", "a.py", "Bye.")
  trajectory = parse(record, "f-1")
  assert trajectory.steps == (Step(LS, observation="a.py", thought="Well."),)
  assert trajectory.metadata == {"turns_without_action": "2"}


def test_a_submission_that_nobody_decided_is_left_out():
  written = (
    "Since we have successfully fixed the issue and verified it works, let's"
    " submit the changes:\n\n<function=submit>\n</function>"
  )
  for last in (written, "Exit due to cost limit"):
    trajectory = parse(chat("Fix it.", LS, "a.py", last), "f-1")
    assert [s.text for s in trajectory.steps] == [LS]
    assert trajectory.metadata == {"cut_off": "Exit due to cost limit"}
  own = parse(chat("Fix it.", LS, "a.py", f"So: {written}"), "f-1")
  assert len(own.steps) == 2


def test_notes_to_oneself_join_the_next_thought():
  def call(number, name, **arguments):
    function = {"name": name, "arguments": arguments}
    return {"id": f"c{number}", "function": function}

  messages = [
    {"role": "user", "content": "Fix it."},
    {"role": "assistant", "tool_calls": [call(0, "think", thought="Hm.")]},
    {"role": "tool", "content": "Logged.", "tool_call_id": "c0"},
    {"role": "assistant", "content": "Well."},
    {
      "role": "assistant",
      "content": "Now.",
      "tool_calls": [
        call(1, "think", thought="Or not?"),
        call(2, "bash", command="ls"),
        call(3, "bash", command="pwd"),
      ],
    },
    {"role": "tool", "content": "/", "tool_call_id": "c3"},
    {"role": "tool", "content": "Logged.", "tool_call_id": "c1"},
    {"role": "tool", "content": "a.py", "tool_call_id": "c2"},
  ]
  trajectory = parse({"messages": messages}, "f-1")
  assert trajectory.steps == (
    Step(LS, observation="a.py", thought="Hm.\n\nNow.\n\nOr not?"),
    Step(LS.replace("ls", "pwd"), observation="/"),
  )
  assert trajectory.metadata == {"turns_without_action": "1"}


def test_a_thought_keeps_no_tags_that_templates_write():
  record = chat("Fix it.", f"<think>Look.</think>\n\n{LS}")
  assert parse(record, "f-1").steps[0].thought == "Look."


def test_an_observation_loses_its_label_and_what_no_tokenizer_reads():
  for label in (
    "OBSERVATION:\n",
    "Observation: ",
    "EXECUTION RESULT of [execute_bash]:\n",
    "Execution output of [bash]:\n",
  ):
    record = chat("Fix it.", LS, f"{label}a\r\nb\0\ud800\rc", LS)
    assert parse(record, "f-1").steps[0].observation == "a\nb\0\ufffd\rc"


def test_demonstrations_and_what_others_copied_are_not_learnt():
  record = chat("Fix it.", LS, "a.py", LS)
  record["messages"].insert(
    0, {"role": "user", "content": "?", "is_demo": True}
  )
  record["messages"][2]["train"] = False
  trajectory = parse(record, "f-1")
  assert trajectory.problem == "Fix it."
  assert [s.is_target for s in trajectory.steps] == [False, True]
  document = agents.atif()
  document["steps"][2]["is_copied_context"] = True
  document["steps"][3] |= {"llm_call_count": 0}
  steps = parse(document, "f-1").steps
  assert [s.is_target for s in steps] == [False, False, True, True, True]
  again = parse(to_atif(parse(document, "f-1")), "f-1").steps
  assert again == steps


def test_an_action_that_nothing_answered_has_an_empty_observation():
  record = chat("Fix it.", LS, "a.py", LS, "b.py", LS)
  del record["messages"][2]  # What was answered to the first action.
  answers = [step.observation for step in parse(record, "f-1").steps]
  assert answers == ["", "b.py", None]


def test_a_name_of_the_environment_that_names_no_task_is_no_task():
  for name, task in (("main", None), ("swe_main", None), ("a__b-1", "a__b-1")):
    record = agents.traj() | {"environment": name}
    assert parse(record, "f-1").metadata.get("task") == task


ISSUES = [
  ("Hi.\n<issue_description>\nA.\n\nB.\n</issue_description>\nGo.", "A.\n\nB."),
  ("<github_issue>\nA </issue> b\n</github_issue>", "A </issue> b"),
  ("Solve this.\nISSUE:\nIt fails.\n\nINSTRUCTIONS:\nUse ls.", "It fails."),
  ("It writes <issue>1</issue> only.", "It writes <issue>1</issue> only."),
  (
    "ISSUE:\nIt fails.\n\nINSTRUCTIONS:\nUse ls.\n(Open file: n/a)\n"
    "(Current directory: /repo)\nbash-$",
    "The repository is in /repo.\n\nIt fails.",
  ),
  (
    "Please solve this issue: It fails.\n\nYou can execute bash commands.",
    "It fails.",
  ),
]


@pytest.mark.parametrize(("text", "issue"), ISSUES)
def test_the_problem_is_the_issue_without_instructions(text, issue):
  assert parse(chat(text, LS), "f-1").problem == issue


def broken(**changes):
  """A good record with a change in its first call."""
  record = copy.deepcopy(agents.openhands())
  call = record["trajectory"][2]["tool_calls"][0]
  call["function"] |= changes
  return record


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
  (
    broken(name="browser"),
    f"{FIRST_CALL}.name",
    "is 'browser', which the record does not offer; its tools are execute_ba",
  ),
  (broken(name=""), f"{FIRST_CALL}.name", "is missing or empty"),
  (
    broken(name="a b") | {"tools": None},
    f"{FIRST_CALL}.arguments",
    "the name 'a b' is empty or has white space",
  ),
  (
    broken(arguments='{"command": ls}'),
    f"{FIRST_CALL}.arguments",
    "which is no JSON (Expecting value",
  ),
  (broken(arguments="[1]"), f"{FIRST_CALL}.arguments", "is [1]; write an obj"),
  (
    broken(arguments={"command": "a</parameter></function>"}),
    "trajectory[2]",
    "'bash' hold the tags of this grammar",
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


@pytest.mark.parametrize("version", [f"ATIF-v1.{minor}" for minor in range(9)])
def test_atif_of_these_versions_is_read(version):
  document = agents.atif() | {"schema_version": version}
  assert parse(document, "f-1") == parse(agents.atif(), "f-1")


@pytest.mark.parametrize("shape", [*agents.SHAPES, "mini_swe_agent"])
def test_what_is_written_as_atif_is_read_again(shape):
  trajectory = parse(getattr(agents, shape)(), "f-1")
  document = json.loads(json.dumps(to_atif(trajectory)))
  assert parse(document, "g-7") == trajectory


def test_atif_keeps_what_was_counted():
  trajectory = parse(chat("Fix it.", "Hm.", "Go on.", LS), "f-1")
  assert trajectory.metadata == {"turns_without_action": "1"}
  assert parse(to_atif(trajectory), "f-1") == trajectory


def test_atif_has_values_as_a_tool_takes_them():
  document = to_atif(parse(agents.openhands(), "f-1"))
  assert [s["source"] for s in document["steps"]] == ["user", *["agent"] * 5]
  view = document["steps"][2]
  [call] = view["tool_calls"]
  assert (call["function_name"], call["arguments"]) == (
    "str_replace_editor",
    agents.VIEW,
  )
  assert view["observation"]["results"] == [
    {"source_call_id": call["tool_call_id"], "content": "1\tdef add(a, b):"}
  ]


@pytest.mark.parametrize(
  "shape", ["smith_xml", "smith_tool", "openhands", "nebius"]
)
def test_rows_of_tables_are_read_as_lines_are(shape, tmp_path):
  record = agents.SHAPES[shape]()
  table = pa.Table.from_pylist([record, record | {"traj_id": None}])
  pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
  config = DataConfig("agents", str(tmp_path / "t.parquet"))
  first = load_trajectories(config).trajectories[0]
  assert first == parse(record, "t-1")


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
    assert parse(to_atif(trajectory), "f-1") == trajectory
  assert sum(outcomes.values()) == 300
  assert min(outcomes["read"], outcomes["refused"]) > 20


def test_a_bad_record_costs_no_good_one(tmp_path):
  lines = [json.dumps(agents.smith_xml() | {"traj_id": f"t{i}"}) for i in "ab"]
  path = tmp_path / "runs.jsonl"
  bad = json.dumps(broken(arguments="{ls}"))
  path.write_text("\n".join([lines[0], bad, lines[1], lines[0]]), "utf-8")
  report = load_trajectories(DataConfig("agents", str(path)))
  assert [t.id for t in report.trajectories] == ["ta", "tb"]
  assert [(r.line, r.field) for r in report.rejects] == [
    (2, f"{FIRST_CALL}.arguments"),
    (4, "id"),
  ]
