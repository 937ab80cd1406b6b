# SPDX-License-Identifier: Apache-2.0
"""Trajectories of software agents are read alike, whoever recorded them."""

import copy
import json
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet
import pytest

from srl_jax.data.agents import parse
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.domains.software.actions import Action
from srl_jax.domains.software.actions import parse as parse_action
from srl_jax.trajectory import Step
from tests.support import agents
from tests.support.agents import chat

REAL = pathlib.Path(os.environ.get("SRL_JAX_SUITES", ""))
LS = "<function=bash>\n<parameter=command>ls</parameter>\n</function>"


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
  if shape.startswith("events"):
    del known["model"]
  if shape == "events_of_sdk":
    known["turns_without_action"] = "1"
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


def test_what_is_done_before_the_submission_is_a_step_of_its_own():
  record = agents.mini_swe_agent()
  [last] = [m for m in record["messages"] if "echo COMPLETE" in json.dumps(m)]
  call, command = last["tool_calls"][0]["function"], "sed -i s/a/b/ f"
  mark = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
  call["arguments"] = json.dumps({"command": f"{command} && {mark}"})
  texts = [step.text for step in parse(record, "f-1").steps]
  assert texts[-2:] == [
    LS.replace("ls", command),
    "<function=submit>\n</function>",
  ]


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


EXITS = [
  ("Exit due to cost limit", "exit_cost", "Exit due to cost limit"),
  ("I look.\n```\nls\n```\n```\npwd\n", "exit_format", "exit_format"),
  ("I give up.\n```\nexit_forfeit\n```", "exit_forfeit", "exit_forfeit"),
  ("I give up.\n```\nexit_forfeit\n```", None, "exit_forfeit"),
]


@pytest.mark.parametrize(("text", "action", "ending"), EXITS)
def test_how_swe_agent_notes_its_end_is_no_action(text, action, ending):
  acts = "```\nls\n```"
  record = chat("Fix it.", acts, "a.py", acts, "b.py", text)
  record["messages"][-1]["action"] = action
  trajectory = parse(record, "f-1")
  assert [s.text for s in trajectory.steps] == [LS, LS]
  assert trajectory.metadata == {"cut_off": ending}
  log = agents.traj_without_history()
  log["trajectory"][-1] |= {"thought": text, "action": "exit_cost"}
  trajectory = parse(log, "f-1")
  assert len(trajectory.steps) == len(agents.TURNS) - 1
  assert trajectory.metadata["cut_off"]


def test_a_thought_keeps_no_tags_that_templates_write():
  record = chat("Fix it.", f"<think>Look.</think>\n\n{LS}")
  assert parse(record, "f-1").steps[0].thought == "Look."
  record = chat("Fix it.", f"<think>Look.</think>I run ls.\n{LS}")
  assert parse(record, "f-1").steps[0].thought == "Look.\n\nI run ls."
  record = chat("Fix it.", f"THOUGHT: Then ls.\n{LS}")
  record["messages"][1]["reasoning_content"] = "Look."
  assert parse(record, "f-1").steps[0].thought == "Look.\n\nThen ls."


def test_thoughts_and_results_in_parts_are_read():
  result = [{"type": "text", "text": "a.py"}, {"type": "image"}]
  messages = [
    {"role": "user", "content": "Fix it."},
    {
      "role": "assistant",
      "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": f"I look.\n{LS}"},
      ],
    },
    {"role": "user", "content": [{"type": "tool_result", "content": result}]},
    {"role": "assistant", "content": LS},
    {"role": "user", "content": [{"type": "tool_result", "content": "b.py"}]},
  ]
  assert parse({"messages": messages}, "f-1").steps == (
    Step(LS, observation="a.py\n[image left out]", thought="Hm.\n\nI look."),
    Step(LS, observation="b.py"),
  )
  document = agents.atif()
  document["steps"][3]["message"] = messages[1]["content"]
  assert parse(document, "f-1").steps[1].thought.startswith("Hm.\n\nI look.")


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
  # The second is OpenAI's word for it.
  for mark in ({"train": False}, {"weight": 0}):
    marked = copy.deepcopy(record)
    marked["messages"][2] |= mark
    trajectory = parse(marked, "f-1")
    assert trajectory.problem == "Fix it."
    assert [s.is_target for s in trajectory.steps] == [False, True]
  document = agents.atif()
  document["steps"][2]["is_copied_context"] = True
  document["steps"][3] |= {"llm_call_count": 0}
  steps = parse(document, "f-1").steps
  assert [s.is_target for s in steps] == [False, False, True, True, True]


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
  # XML of the issue itself.
  ("It writes\n<issue>\n1\n</issue>", "It writes\n<issue>\n1\n</issue>"),
  (
    "ISSUE:\nIt has\n<github_issue>\n1\n</github_issue>\n\nINSTRUCTIONS:\nGo.",
    "It has\n<github_issue>\n1\n</github_issue>",
  ),
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


@pytest.mark.parametrize("version", [f"ATIF-v1.{minor}" for minor in range(9)])
def test_atif_of_these_versions_is_read(version):
  document = agents.atif() | {"schema_version": version}
  assert parse(document, "f-1") == parse(agents.atif(), "f-1")


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


@pytest.mark.skipif(
  not (REAL / "swe_smith_xml.jsonl").is_file(),
  reason="SRL_JAX_SUITES names no folder with swe_smith_xml.jsonl",
)
def test_real_trajectories_of_swe_smith_keep_their_actions_to_the_letter():
  with open(REAL / "swe_smith_xml.jsonl", encoding="utf-8") as file:
    records = [json.loads(line) for line in file]
  found = [parse(record, "f-1") for record in records]
  assert [len(t.steps) for t in found] == [37, 44, 22]
  for record, trajectory in zip(records, found, strict=True):
    said = [m["content"] for m in record["messages"] if m["role"] != "system"]
    for step, text in zip(trajectory.steps, said[1::2], strict=True):
      assert text.endswith(step.text)
  # The same work as SWE-agent's own file tells of it.
  with open(REAL / "pydantic_8316.traj", encoding="utf-8") as file:
    recorded = parse(json.load(file), "f-1")
  assert recorded.problem == found[2].problem
  assert [(s.text, s.thought) for s in recorded.steps] == [
    (s.text, s.thought) for s in found[2].steps
  ]
