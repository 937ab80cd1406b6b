# SPDX-License-Identifier: Apache-2.0
"""The error of an unusable record says which field is wrong and what to do."""

import json
import re

import pytest

from srl_jax.data import schema
from srl_jax.trajectory import RecordError, Step, Trajectory

GOOD = {"id": "a", "problem": "1+1?", "steps": ["2"]}


@pytest.mark.parametrize(
  ("change", "field", "words"),
  [
    ({"problem": None}, "problem", "missing (found: id, problem, steps)"),
    ({"problem": 3}, "problem", "is 3 (a number); write it as a string"),
    ({"problem": "  "}, "problem", "empty"),
    ({"problem": "a\ud800"}, "problem", "surrogate pair at character 1"),
    ({"steps": "2"}, "steps", "is a string; write it as a list"),
    ({"steps": []}, "steps", "at least one step"),
    ({"steps": ["1", 2]}, "steps[1]", "is 2 (a number); an object with text"),
    ({"steps": [{"thought": "t"}]}, "steps[0].text", "missing (found: though"),
    ({"steps": ["1", " "]}, "steps[1].text", "is empty; write it there"),
    ({"steps": [{"text": " ", "title": ""}]}, "steps[0].text", "is empty"),
    (
      {"steps": [{"text": "1", "obervation": "x"}]},
      "steps[0].obervation",
      "did you mean 'observation'?",
    ),
    ({"answer": 2}, "answer", "is 2 (a number); write it as a string"),
    ({"answr": "2"}, "answr", "did you mean 'answer'?"),
    ({"source": "x"}, "source", "move it to 'metadata'"),
    ({"metadata": {"n": True}}, "metadata.n", "is true (a boolean)"),
    ({"id": ""}, "id", "is empty"),
    ({"problem": float("nan")}, "problem", "is missing"),
    ({"steps": ["1", None, "2"]}, "steps[1]", "is null between other steps"),
    ({"steps": [{}]}, "steps[0].text", "is missing"),
    (
      {"steps": [{"text": "1", "is_target": 0}]},
      "steps[0].is_target",
      "is 0 (a number); write it as true or false",
    ),
    (
      {"steps": [{"text": "1", "thought": "a</think>b"}]},
      "steps[0].thought",
      "holds a think tag; leave the tags out",
    ),
    (
      {"steps": [{"text": "1", "title": "A\nB"}]},
      "steps[0].title",
      "has a line break; write the title in one line",
    ),
    ({"steps": "{"}, "steps", "is a string; write it as a list"),
    (
      {"steps": ["<think>hm</think>So 2"]},
      "steps[0].text",
      "begins with a think block; move it to 'thought'",
    ),
    ({"steps": '{"text": "1"}'}, "steps", "is a string; write it as a list"),
    ({"metadata": "[1]"}, "metadata", "is a string; write it as an object"),
  ],
)
def test_a_bad_record_names_field_and_cure(change, field, words):
  with pytest.raises(RecordError, match=re.escape(words)) as caught:
    schema.from_json({**GOOD, **change})
  assert caught.value.field == field


ROWS = [{"problem": "1+1?", "steps": ["2"]}]


@pytest.mark.parametrize(
  ("record", "field", "words"),
  [
    ({"question": "1+1?", "answer": "2"}, "question", "rename it to 'problem'"),
    (
      {"problem": "1+1?", "solution": "2"},
      "steps",
      "is missing (found: problem, solution)",
    ),
    ({"text": "2", "source": "x"}, "steps", "is missing (found: text, source)"),
    (
      {"problem": "1+1?", "steps": [{"content": "2"}]},
      "steps[0].content",
      "rename it to 'text'",
    ),
    (
      {"problem": "1+1?", "steps": [{"text": "2", "score": 1}]},
      "steps[0].score",
      "observation, thought, is_target); remove it",
    ),
    (
      {"id": "a", "messages": [{"role": "user", "content": "1+1?"}]},
      "messages",
      "set data.format=agents",
    ),
    ({"data": ROWS}, "data", "type jq -c '.data[]' FILE > data.jsonl"),
    ({"train": ROWS, "test": ROWS}, "train", "jq -c '.train[]' FILE > train"),
  ],
)
def test_records_of_another_form_are_told_what_to_change(record, field, words):
  with pytest.raises(RecordError, match=re.escape(words)) as caught:
    schema.from_json(record)
  assert caught.value.field == field


@pytest.mark.parametrize(
  ("written", "title"),
  [
    ("2. Set up", "Set up"),
    ("**Solve**", "Solve"),
    ("2) ***Solve*** ", "Solve"),
    ("**2. Solve**", "Solve"),
    ("2. **2) Solve**", "Solve"),
    (" ", None),
    ("C\n", "C"),
    ("5. Juni", "5. Juni"),
    ("**A** and **B**", "**A** and **B**"),
  ],
)
def test_titles_come_without_what_the_form_adds(written, title):
  steps = ["1", {"text": "2", "title": written}]
  found = schema.from_json({**GOOD, "steps": steps})
  assert found.steps[1].title == title
  assert schema.from_json(schema.to_json(found)) == found


@pytest.mark.parametrize(
  ("written", "thought"),
  [("<think>\nhm\n</think>", "hm"), (" \n", None), (" so ", " so ")],
)
def test_thoughts_come_without_the_tags_that_teachers_write(written, thought):
  step = {"text": "1", "thought": written}
  [found] = schema.from_json({**GOOD, "steps": [step]}).steps
  assert found.thought == thought


@pytest.mark.parametrize("record", [[], "x", None, 3])
def test_a_record_that_is_no_object_is_named(record):
  with pytest.raises(RecordError, match="an object with id, domain"):
    schema.from_json(record)


def test_json_round_trip_keeps_everything():
  trajectory = Trajectory(
    id="x",
    domain="software",
    problem="Naïve 🙂 \u2028?",
    steps=(
      Step("", title="Only a title"),
      Step("a", observation="b", thought="c"),
      Step("d", is_target=False),
    ),
    answer="7",
    metadata={"source": "here"},
  )
  line = json.dumps(schema.to_json(trajectory))
  assert schema.from_json(json.loads(line)) == trajectory


def test_optional_fields_may_be_absent_null_or_empty():
  full = {**GOOD, "domain": None, "answer": "", "metadata": None}
  del full["id"]
  trajectory = schema.from_json(full, default_id="file-3")
  assert trajectory.id == "file-3"
  assert trajectory.domain == "general"
  assert trajectory.answer is None
  assert trajectory.metadata == {}


def test_null_and_nan_are_absent_wherever_tables_leave_them():
  nan = float("nan")
  full = {
    **GOOD,
    "answer": nan,
    "extra": None,
    "more": {"a": None},
    "steps": ["2", {"text": "3", "other": nan}, None, {"text": None}],
    "metadata": {"a": None, "b": "x", "c": nan},
  }
  trajectory = schema.from_json(full)
  assert trajectory.steps == (Step("2"), Step("3"))
  assert trajectory.metadata == {"b": "x"}
  assert trajectory.answer is None
