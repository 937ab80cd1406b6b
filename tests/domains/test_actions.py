# SPDX-License-Identifier: Apache-2.0
"""Actions are written in one grammar, and what is written is read again."""

import itertools

import pytest

from srl_jax.domains.software.actions import (
  Action,
  ActionError,
  find,
  parse,
  render,
)

EDIT = Action(
  "str_replace_editor",
  (
    ("command", "str_replace"),
    ("path", "/testbed/a.py"),
    ("old_str", "a = 1"),
    ("new_str", ""),
  ),
)
EDIT_TEXT = """<function=str_replace_editor>
<parameter=command>str_replace</parameter>
<parameter=path>/testbed/a.py</parameter>
<parameter=old_str>
a = 1
</parameter>
<parameter=new_str>

</parameter>
</function>"""
SUBMIT_TEXT = "<function=submit>\n</function>"


def test_an_action_has_the_text_that_swe_smith_gives_it():
  assert render(EDIT) == EDIT_TEXT
  assert render(Action("submit")) == SUBMIT_TEXT


VALUES = [
  *("", " ", "\n", "\n\n", "ls", "\nls\n", "a\r\nb\r\n", "好 🙂", "<b>"),
  *("</function>", "</parameter>", "<function=x>", "<parameter=x>"),
  *("cat <<E\nE\n</parameter> </parameter>", "\t<function=a>\n</function>"),
]


@pytest.mark.parametrize("name", ["command", "old_str"])
def test_values_come_back_as_they_were(name):
  for first, second in itertools.product(VALUES, VALUES):
    action = Action("tool", ((name, first), ("file_text", second)))
    assert parse(f"\n{render(action)} ") == action


def test_one_line_break_on_each_side_of_a_value_is_not_its_own():
  """As SWE-agent reads every value, and models write them."""
  text = (
    "<function=str_replace_editor>\n<parameter=command>\nview\n</parameter>\n"
    "<parameter=path>/a\n\n</parameter>\n</function>"
  )
  action = parse(text)
  assert action.values == {"command": "view", "path": "/a\n"}
  assert render(action) == (
    "<function=str_replace_editor>\n<parameter=command>view</parameter>\n"
    "<parameter=path>\n/a\n\n</parameter>\n</function>"
  )


def test_a_value_that_would_end_too_early_is_refused():
  for value in ("a</parameter>\n</function>", "</parameter><parameter=b>"):
    with pytest.raises(ActionError, match="'bash' hold the tags"):
      render(Action("bash", (("command", value),)))


def test_actions_are_found_in_prose_and_no_value_spans_two_of_them():
  bash = render(Action("bash", (("command", "ls"),)))
  text = f"First <function=bash>, then\n\n{bash}\n\nand {EDIT_TEXT} end"
  found = list(find(text))
  assert [text[f.start : f.end] for f in found] == [bash, EDIT_TEXT]
  assert [f.action.name for f in found] == ["bash", "str_replace_editor"]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("ls -l", "no action in 'ls -l'; write <function=NAME>"),
    (f"Now.\n{SUBMIT_TEXT}", "text before or after the action"),
    (f"{SUBMIT_TEXT}\n{SUBMIT_TEXT}", "2 actions; write exactly one"),
    ("<function=bash>\n<parameter=command>ls", "not end its parameter 'com"),
    ("<function=bash>\nls\n</function>", r"'bash' goes on with 'ls\\n</f"),
    (
      "<function=a><parameter=b>1</parameter><parameter=b>2</parameter>"
      "</function>",
      "'b' is given 2 times; give it once",
    ),
  ],
)
def test_what_is_no_single_action_is_named(text, words):
  with pytest.raises(ActionError, match=words):
    parse(text)


def test_arguments_of_a_call_become_texts():
  arguments = {
    "path": "/a",
    "view_range": [1, 20],
    "x": None,
    "on": ["é", True],
  }
  assert Action.of_call("view", arguments).values == {
    "path": "/a",
    "view_range": "[1, 20]",
    "on": '["é", true]',
  }


def test_names_that_cannot_be_written_are_refused():
  for name in ("", "a b", "a>", "a=b"):
    with pytest.raises(ActionError, match="write a name such as bash"):
      Action(name)
