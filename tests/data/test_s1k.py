# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-R1's solutions split where a numbered, bold-titled step begins."""

import contextlib
import json
import re
import time

import pytest

from srl_jax.data import s1k
from srl_jax.data.readers import DataConfig, load_trajectories, read_file
from srl_jax.data.s1k import last_boxed, split_steps
from srl_jax.trajectory import RecordError, Step


def test_text_before_the_first_step_belongs_to_it_and_after_to_the_last():
  text = (
    "To find x, isolate it.\n\n1. **Set up**: write x + 1 = 3.\n\n"
    "2. **Solve:** subtract 1.\n\n\nThe answer is \\boxed{2}.\n"
  )
  assert split_steps(text) == (
    Step("To find x, isolate it.\n\nwrite x + 1 = 3.", title="Set up"),
    Step("subtract 1.\n\n\nThe answer is \\boxed{2}.", title="Solve"),
  )


def test_the_usual_indented_body_loses_its_indent():
  text = (
    "1. **A**:\n   - one\n     - deeper\n\n   \\[\n   x\n   \\]\n2. **B**\n"
  )
  assert split_steps(text) == (
    Step("- one\n  - deeper\n\n\\[\nx\n\\]", title="A"),
    Step("", title="B"),
  )


def test_only_what_is_indented_under_a_title_loses_its_indent():
  code = "```\ndef f():\n  return 1\n```"
  body = f"- one\n- two\n\nSo \\boxed{{7}}:\n{code}\n   - kept"
  text = body.replace("- one\n-", "   - one\n   -")
  assert split_steps(f"1. **A**:\n{text}") == (Step(body, title="A"),)


def test_headings_above_a_step_belong_to_it():
  text = "# Part 1\n1. **A**: a\n\n## Part 2\n### x\n\n2. **B**: b\n## End"
  assert split_steps(text) == (
    Step("# Part 1\n\na", title="A"),
    Step("## Part 2\n### x\n\nb\n## End", title="B"),
  )


INSIDE = {
  "nested bold list": "   1. **N**\n   2. **M**",
  "nested list at the number of the next step": "   2. **N**",
  "plain numbered list": "1. one\n2. two\n3. three",
  "bold list without numbers": "- **N**: x\n* **M**",
  "number in the middle of a line": "see 2. **B**",
  "bold sentence": "**2. Not a step**",
  "code block": "```python\n2. **B**\n```",
  "code block with a longer fence": "````\n```\n2. **B**\n````",
  "code block with tildes": "~~~\n```\n2. **B**\n~~~",
  "indented code block": "   ```\n2. **B**\n   ```",
  "display math": "\\[\n2. **B**\n\\]",
  "display math with a line break": "\\[ a \\\\[2pt]\n2. **B** \\]",
  "dollar math": "$$ a\n2. **B**\n$$",
  "fence inside math": "$$\n```\n$$",
  "math on one line": "$$a$$ and \\[b\\]",
  "escaped dollars": "it costs \\$$ 5",
  "math within a line, side by side": "so $a$$b$ and $c$$d$$e$ hold",
  "dollars before display math": "it costs $5: $$\n2. **B**\n$$",
}


@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE.keys())
def test_what_stands_inside_a_step_does_not_split_it(inside):
  text = f"1. **A**: a\n{inside}\n2. **B**: b\n3. **C**: c"
  steps = split_steps(text)
  assert [s.title for s in steps] == ["A", "B", "C"]
  assert inside.strip().split("\n")[-1].strip() in steps[0].text
  assert steps[1:] == (Step("b", title="B"), Step("c", title="C"))


def test_a_list_that_restarts_inside_a_step_does_not_split_it():
  restarted = "1. **N**\n2. **M**\n1. **N**"
  steps = split_steps(f"1. **A**\n2. **B**\n{restarted}\n3. **C**\n{restarted}")
  assert [s.title for s in steps] == ["A", "B", "C"]
  assert [s.text for s in steps] == ["", restarted, restarted]


def test_a_list_indented_as_a_whole_is_read():
  steps = split_steps("Intro\n  1. **A** a\n  2. **B** b\n1. **C**\n")
  assert [s.title for s in steps] == ["A", "B"]


# Each text holds the steps A, B and C, and maybe titles X inside of them.
MARKDOWN = {
  "code in one line": (
    "1. **A**\n```x = 1```\n2. **B**\n```py\nx\n```\n3. **C**"
  ),
  "tildes with backticks": (
    "1. **A**\n~~~ `x`\n2. **X**\n~~~\n2. **B**\n3. **C**"
  ),
  "tildes in backticks": (
    "1. **A**\n```\n~~~\n2. **X**\n```\n2. **B**\n3. **C**"
  ),
  "code in a bullet": (
    "1. **A**\n   - ```py\n     2. **X**\n     ```\n2. **B**\n3. **C**"
  ),
  "code in a quote": "1. **A**\n> ```\n> 2. **X**\n> ```\n2. **B**\n3. **C**",
  "code in a numbered item": (
    "1. ```\n   1. **X**\n   ```\n1. **A**\n2. **B**\n3. **C**"
  ),
  "brackets": "1) **A**\n   1. **X**\n2) **B**\n3) **C**",
  "another list with brackets": (
    "1. **A**\n1) **X**\n2) **X**\n2. **B**\n3. **C**"
  ),
  "one space more": "1. **A**\na\n 2. **B**\nb\n 3. **C**",
  "two spaces more, then none": "1. **A**\n  2. **B**\n3. **C**",
  "numbers in one column": "  1. **A**\n 2. **B**\n3. **C**",
  "nested by two spaces": (
    "1. **A**\n  1. **X**\n  2. **X**\n2. **B**\n  1. **X**\n3. **C**"
  ),
  "nested by four spaces": (
    "1. **A**\n    1. **X**\n    2. **X**\n2. **B**\n3. **C**"
  ),
  "nested in a bullet": (
    "1. **A**\n   - a\n     2. **X**\n   2. **X**\n2. **B**\n3. **C**"
  ),
  "tabs": "1.\t**A**\n\t2. **X**\n2.\t**B**\n\n\t- b\n3.\t**C**",
  "lines without indent": "1. **A**\na\nb\n2. **B**\n\ntext\n3. **C**",
  "rules and underlines": "1. **A**\n===\n2. **B**\n---\n3. **C**\n***",
  "heading before": "Title\n---\n1. **A**\n\ntext\n===\n2. **B**\n3. **C**",
  "HTML": "1. **A**\n\n<div>\n2. **X**\n</div>\n\n2. **B**\n3. **C**",
  "comment": "1. **A**\n<!--\n2. **X**\n-->\n2. **B**\n3. **C**",
  "indented code": "1. **A**\n\n       2. **X**\n\n2. **B**\n3. **C**",
  "indented code outside": (
    "1. **A**\n\ntext\n\n    2. **X**\n\n2. **B**\n3. **C**"
  ),
  "escaped number": "1. **A**\n2\\. **X**\n2. **B**\n3. **C**",
  "quote": "> 1. **X**\n\n1. **A**\n> 2. **X**\n\n2. **B**\n3. **C**",
  "math outside": "1. **A**\n\ntext\n\\[\n2. **X**\n\\]\n2. **B**\n3. **C**",
  "math that begins in a title": (
    "1. **A**: \\[\n2. **X**\n\\]\n2. **B**\n3. **C**"
  ),
  "blank lines in math": (
    "1. **A**\n\n$$\n\n2. **X**\n\n$$\n2. **B**\n3. **C**"
  ),
  "all by four spaces": "Text\n\n    1. **A**\n\n    2. **B**\n    3. **C**",
  "number of 5000 digits": (
    f"1. **A**\n\ntext\n{'9' * 5000}. **X**\n2. **B**\n3. **C**"
  ),
}


@pytest.mark.parametrize("text", MARKDOWN.values(), ids=MARKDOWN.keys())
def test_steps_are_found_as_in_markdown(text):
  steps = split_steps(text)
  assert [s.title for s in steps] == ["A", "B", "C"]
  inside = "\n".join(step.text for step in steps)
  assert inside.count("**X**") == text.count("**X**")


def test_the_text_of_steps_stays_as_its_author_wrote_it():
  body = "Since $a_1 * b_1 = 2 * 3$, \\( x_1*y \\) &amp; <b>so</b>\\\\ on"
  steps = split_steps(f"1. **A**\n   {body}\n2. **B**\n```y = 3```\n{body}")
  assert steps == (
    Step(body, title="A"),
    Step(f"```y = 3```\n{body}", title="B"),
  )


def test_a_number_below_another_indent_that_fits_nowhere_is_refused():
  with pytest.raises(RecordError, match="step 4 at line 3 that stands where"):
    split_steps("1. **A**\n  2. **B**\n  4. **C**")


SLOW = (
  *(
    "1. **a**\n",
    "1. a\n",
    "- ",
    "> ",
    "```",
    "~~~\n",
    "$$",
    "\\[",
    "\\boxed{",
  ),
  *("`", "**", "1. **a", "\n", "   a\n", "[a]: b\n", "<a\n", "#", "1. ", "\t"),
)


@pytest.mark.parametrize("text", SLOW)
def test_the_time_to_split_is_linear(text):
  # The slowest takes 2 s for 100 kB; what is quadratic takes minutes.
  solution = "1. **A**\n" + text * (100_000 // len(text))
  start = time.thread_time()
  with contextlib.suppress(RecordError):
    split_steps(solution)
  last_boxed(solution)
  assert time.thread_time() - start < 20


@pytest.mark.parametrize(
  ("head", "title"),
  [
    ("***A***", "A"),
    ("***A***:", "A"),
    ("**the *main* one**", "the *main* one"),
    ("**the *main***", "the *main*"),
    ("***The* main one**", "*The* main one"),
    ("**1. A**", "A"),
  ],
)
def test_a_title_may_hold_and_be_in_italics(head, title):
  assert split_steps(f"1. {head} text") == (Step("text", title=title),)


def test_more_bold_text_after_the_title_stays_text():
  [step] = split_steps("1. **A**: the **other** one")
  assert step == Step("the **other** one", title="A")


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("Just an answer: 7", "no numbered, bold-titled steps"),
    ("1. plain\n2. items", "no numbered, bold-titled steps"),
    ("2. **B**", "step 2 at line 1 that stands where step 1 was expected"),
    ("1. **A**\n3. **C**", "step 3 at line 2 that stands where step 2 was"),
    ("1. **A**\n1. **N**\n2. **?**", "step 2 at line 3 that could also go on"),
    (
      "1. **A**\n2. **B**\n1. **N**\n3. **C**\n2. **?**",
      "step 2 at line 5 that stands where step 4 was",
    ),
    ("1. **A**\n```\n2. **B**", "opens a code block at line 2 and never"),
    ("1. **A**\n\\[ x\n2. **B**", "opens display math at line 2 and never"),
  ],
)
def test_unclear_solutions_are_refused_with_the_reason(text, words):
  with pytest.raises(RecordError, match=re.escape(words)) as caught:
    split_steps(text)
  assert caught.value.field == "deepseek_attempt"


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("\\boxed{1} then \\boxed{2}", "2"),
    ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
    ("\\boxed {a\\}b}", "a\\}b"),
    ("\\boxed{3} and \\boxed{open", "3"),
    ("none", None),
  ],
)
def test_last_boxed_matches_braces(text, want):
  assert last_boxed(text) == want


RECORD = {
  "solution": "128",
  "question": "How many?",
  "cot_type": "math",
  "source_type": "qfq830/openaimath",
  "metadata": "{'a': 1}",
  "deepseek_attempt": "Intro.\n1. **Count**: so \\boxed{7}",
  "deepseek_grade": "Yes",
}
THOUGHT = (
  f"\n<think>1. **Guess** \\boxed{{8}}</think>\n\n{RECORD['deepseek_attempt']}"
)


@pytest.mark.parametrize(
  ("change", "answer"),
  [
    ({}, "128"),
    ({"solution": "Thus \\boxed{5}."}, "5"),
    ({"solution": "a proof\nof two lines"}, "7"),
    ({"solution": "x" * 41}, "7"),
    ({"solution": "x" * 41, "answer": "14"}, "14"),
    ({"solution": "x" * 41, "deepseek_grade": "No"}, None),
    ({"solution": None}, "7"),
    # A teacher's own thought is no part of its answer.
    ({"solution": None, "deepseek_attempt": THOUGHT}, "7"),
  ],
)
def test_the_answer_comes_from_the_best_source(change, answer):
  trajectory = s1k.parse({**RECORD, **change}, "s-1")
  assert trajectory.answer == answer
  [step] = trajectory.steps
  assert step == Step("Intro.\n\nso \\boxed{7}", title="Count")


def test_columns_become_fields():
  trajectory = s1k.parse(RECORD, "s-1")
  assert (trajectory.id, trajectory.domain) == ("s-1", "math")
  assert trajectory.problem == "How many?"
  assert trajectory.metadata == {
    "source_type": "qfq830/openaimath",
    "resolved": "true",
  }


def test_solutions_that_were_graded_right_can_be_chosen(tmp_path):
  path = tmp_path / "s.jsonl"
  grades = ("Yes", "No", None, "yes ")
  lines = [json.dumps(RECORD | {"deepseek_grade": x}) for x in grades]
  path.write_text("\n".join(lines), "utf-8")
  report = load_trajectories(DataConfig("s1k", str(path), resolved_only=True))
  assert [t.id for t in report.trajectories] == ["s-1", "s-4"]
  assert report.left_out == {
    "not resolved": ("s-2",),
    "does not say whether it is resolved": ("s-3",),
  }


def test_reasoning_is_thought_before_the_first_step(tmp_path):
  path = tmp_path / "s.jsonl"
  two = "1. **Count** a\n2. **Sum** b"
  record = RECORD | {"deepseek_attempt": two}
  thoughts = (" Hmm.\nSo 7. \n", "<think>\nHmm.\n</think>", "a</think>b")
  lines = [record]
  lines += [record | {"deepseek_thinking_trajectory": x} for x in thoughts]
  path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
  config = DataConfig("s1k", str(path), reasoning_thoughts=True)
  report = load_trajectories(config)
  found = [[s.thought for s in t.steps] for t in report.trajectories]
  assert found == [["Hmm.\nSo 7.", None], ["Hmm.", None]]
  fields = [(r.line, r.field) for r in report.rejects]
  assert fields == [(n, "deepseek_thinking_trajectory") for n in (1, 4)]
  # Nobody reads it unless it is asked for.
  others = load_trajectories(DataConfig("s1k", str(path))).trajectories
  assert [s.thought for t in others for s in t.steps] == [None] * 8


@pytest.mark.parametrize(
  ("change", "field"),
  [
    ({"deepseek_attempt": None}, "deepseek_attempt"),
    ({"deepseek_attempt": ["1."]}, "deepseek_attempt"),
    ({"deepseek_attempt": "plain"}, "deepseek_attempt"),
    ({"deepseek_attempt": "<think>1. **A**: a"}, "deepseek_attempt"),
    ({"deepseek_attempt": "1. **A**: <think>a</think>"}, "deepseek_attempt"),
    ({"deepseek_attempt": "1. **<think>** a"}, "deepseek_attempt"),
    ({"question": None}, "question"),
    ({"question": 3}, "question"),
    ({"question": ""}, "question"),
    ({"solution": 3}, "solution"),
  ],
)
def test_broken_records_are_named_and_good_ones_kept(tmp_path, change, field):
  path = tmp_path / "s.jsonl"
  lines = [RECORD, {**RECORD, **change}, RECORD]
  path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
  report = load_trajectories(DataConfig("s1k", str(path)))
  assert [t.id for t in report.trajectories] == ["s-1", "s-3"]
  assert [(r.line, r.field) for r in report.rejects] == [(2, field)]


def test_a_record_that_is_no_object_is_named(tmp_path):
  path = tmp_path / "s.jsonl"
  path.write_text("[1]\n", "utf-8")
  trajectories, [reject] = read_file(path, s1k.parse)
  assert not trajectories and reject.field == "(record)"
