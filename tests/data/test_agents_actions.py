# SPDX-License-Identifier: Apache-2.0
"""Which actions of a record are steps, and which answers are theirs."""

import json

import pytest

from srl_jax.data.agents import parse
from srl_jax.trajectory import Step
from tests.support import agents
from tests.support.agents import chat

LS = "<function=bash>\n<parameter=command>ls</parameter>\n</function>"


def test_an_action_is_no_thought_however_it_is_spelled_beside_its_command():
  """As mini-swe-agent's files have it, with the calls of SWE-smith."""
  record = chat("Fix it.", f"I look.\n{LS}", "a.py", LS)
  record["messages"][1]["extra"] = {"actions": [{"command": "ls"}]}
  steps = parse(record, "f-1").steps
  assert [s.thought for s in steps] == ["I look.", None]
  assert [s.text for s in steps] == [LS, LS]


def test_a_block_of_code_is_no_action_of_an_agent_whose_calls_are_recorded():
  record = agents.smith_tool()
  messages = json.loads(record["messages"])
  closing = {"role": "assistant", "content": "Run it:\n```bash\npytest\n```"}
  record["messages"] = json.dumps([*messages, closing])
  trajectory = parse(record, "f-1")
  assert len(trajectory.steps) == len(agents.TURNS)
  assert trajectory.metadata["turns_without_action"] == "1"


def test_an_action_that_was_refused_is_no_step():
  refused = "<function=foo>\n</function>"
  record = chat("Fix it.", refused, "There is no foo.", LS, "a.py", LS)
  record["messages"][2]["extra"] = {"interrupt_type": "FormatError"}
  assert [s.text for s in parse(record, "f-1").steps] == [LS, LS]


def test_of_several_actions_in_a_text_the_one_that_ran_is_a_step():
  pwd = LS.replace("ls", "pwd")
  steps = parse(chat("Fix it.", f"So.\n{LS}\nThen:\n{pwd}", "a.py"), "f").steps
  assert steps == (Step(LS, observation="a.py", thought="So.\n\nThen:"),)
  log = agents.traj_without_history()
  log["trajectory"] = [{"action": f"{LS}\n{pwd}", "observation": "a.py"}]
  log["problem_statement"] = "Fix it."
  assert [s.text for s in parse(log, "f").steps] == [LS]
  # The parser of SWE-agent 0.7 takes the last.
  text = "<command>ls</command> or <command>pwd</command>"
  assert [s.text for s in parse(chat("Fix it.", text), "f").steps] == [pwd]


def test_an_action_that_mini_swe_agent_refused_is_no_step():
  refused = "```bash\nls\n```\n```bash\npwd\n```"
  answer = "Please always provide EXACTLY ONE action in triple backticks, found"
  record = chat("Fix it.", refused, f"{answer} 2 actions.", "```bash\nls\n```")
  trajectory = parse(record, "f-1")
  assert [s.text for s in trajectory.steps] == [LS]
  assert trajectory.metadata == {"turns_without_action": "1"}


def test_an_action_in_a_thought_is_no_step():
  for thought in (f"<think>Not {LS}!</think>", f"Not {LS}!</think>"):
    record = chat("Fix it.", f"{thought}\nSo.\n{LS.replace('ls', 'pwd')}")
    [step] = parse(record, "f-1").steps
    assert step.text == LS.replace("ls", "pwd")
    assert step.thought == f"Not {LS}!\n\nSo."
  record = chat("Fix it.", f"<think>Or {LS}</think>", "No action.", LS)
  assert len(parse(record, "f-1").steps) == 1


def test_actions_have_line_feeds_like_all_else():
  edit = agents.smith_xml()
  messages = json.loads(edit["messages"])
  for message in messages:
    with_feeds = message["content"].replace("\r\n", "\n")
    message["content"] = with_feeds.replace("\n", "\r\n")
  assert parse(edit | {"messages": messages}, "f") == parse(edit, "f")
  calls = agents.smith_tool()
  expected = parse(calls, "f")
  messages = json.loads(calls["messages"])
  for message in messages:
    for call in message.get("tool_calls", ()):
      function = call["function"]
      function["arguments"] = function["arguments"].replace(r"\n", r"\r\n")
  assert parse(calls | {"messages": messages}, "f") == expected
  log = agents.traj_without_history()
  expected = parse(log, "f")
  for turn in log["trajectory"]:
    turn["action"] = turn["action"].replace("\n", "\r\n")
  assert parse(log, "f") == expected


PARALLEL = [
  # Names of the calls, their ids, the answers with theirs; what is observed.
  ("bash bash", [None, None], [("a", None), ("b", None)], ["a", "b"]),
  ("bash bash", ["", ""], [("a", ""), ("b", "")], ["a", "b"]),
  ("bash bash", ["x", "x"], [("a", "x"), ("b", "x")], ["a", "b"]),
  ("think bash", [None, None], [("a", None), ("b", None)], ["b"]),
  ("bash think", [None, None], [("a", None), ("b", None)], ["a"]),
  # One answer to all, or a word of the user after the answers.
  ("bash bash", [None, None], [("a", None)], ["", "a"]),
  ("bash bash", [None] * 2, [(x, None) for x in "abc"], ["a", "b\n\nc"]),
  ("bash bash", ["x", "y"], [("b", "y"), ("a", None)], ["a", "b"]),
]


@pytest.mark.parametrize(("names", "ids", "answers", "observed"), PARALLEL)
def test_answers_without_ids_are_those_of_the_calls_in_their_order(
  names, ids, answers, observed
):
  calls = [
    {"id": i, "function": {"name": name, "arguments": {"command": "ls"}}}
    for name, i in zip(names.split(), ids, strict=True)
  ]
  messages = [
    {"role": "user", "content": "Fix it."},
    {"role": "assistant", "tool_calls": calls},
    *({"role": "tool", "content": x, "tool_call_id": i} for x, i in answers),
    {"role": "assistant", "content": LS},
  ]
  *steps, _ = parse({"messages": messages}, "f-1").steps
  assert [step.observation for step in steps] == observed


def test_calls_of_two_messages_are_answered_by_their_ids():
  def call(number):
    function = {"name": "bash", "arguments": json.dumps({"command": "ls"})}
    return {
      "role": "assistant",
      "content": None,
      "tool_calls": [
        {"id": f"c{number}", "type": "function", "function": function}
      ],
    }

  def answer(number):
    text = f"answer {number}"
    return {"role": "tool", "tool_call_id": f"c{number}", "content": text}

  user = {"role": "user", "content": "Fix it."}
  record = {"messages": [user, call(0), call(1), answer(0), answer(1), call(2)]}
  observed = [s.observation for s in parse(record, "f-1").steps]
  assert observed == ["answer 0", "answer 1", None]


def test_calls_and_results_in_parts_are_read():
  def call(number, command):
    arguments = {"id": f"c{number}", "input": {"command": command}}
    return {"type": "tool_use", "name": "bash"} | arguments

  def result(number, text):
    parts = [{"type": "text", "text": text}]
    return {"type": "tool_result", "tool_use_id": number, "content": parts}

  thought = {"type": "text", "text": "As in\n```\nfoo\n```"}
  record = chat(
    "Fix it.",
    [thought, call(0, "ls"), call(1, "pwd")],
    [result("c1", "/"), result("c0", "a.py"), {"type": "text", "text": "Go."}],
    [call(2, "ls")],
  )
  assert parse(record, "f-1").steps == (
    Step(LS, observation="a.py", thought=thought["text"]),
    Step(LS.replace("ls", "pwd"), observation="/\n\nGo."),
    Step(LS),
  )


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


JSON_CALL = (
  '<tool_call>\n{"name": "bash", "arguments": {"command": "%s"}}\n</tool_call>'
)
CODER_CALL = f"<tool_call>\n{LS.replace('ls', '%s')}\n</tool_call>"


@pytest.mark.parametrize("call", [JSON_CALL, CODER_CALL])
def test_calls_between_tags_are_actions_and_code_beside_them_is_not(call):
  fenced = "Look:\n```\nx = 1\n```\n"
  both = f"{fenced}{call % 'ls'}\n{call % 'pwd'}"
  answers = "<tool_response>\n{}\n</tool_response>"
  answered = f"{answers.format('a.py')}\n{answers.format('/')}"
  trajectory = parse(chat("Fix it.", both, answered, fenced), "f-1")
  assert trajectory.steps == (
    Step(LS, observation="a.py", thought=fenced.strip()),
    Step(LS.replace("ls", "pwd"), observation="/"),
  )
  assert trajectory.metadata == {"turns_without_action": "1"}


def test_a_call_between_tags_that_no_server_reads_is_no_step():
  good = JSON_CALL % "ls"
  for bad in ("{ls}", "3", '{"name": 3}', '{"name": "a", "arguments": [1]}'):
    text = f"{good}\n<tool_call>{bad}</tool_call>"
    trajectory = parse(chat("Fix it.", text, "No.", good), "f-1")
    assert [s.text for s in trajectory.steps] == [LS]
    assert trajectory.metadata == {"turns_without_action": "1"}
  text = good.replace('{"command": "ls"}', r'"{\"command\": \"ls\"}"')
  assert [s.text for s in parse(chat("Fix it.", text), "f").steps] == [LS]
