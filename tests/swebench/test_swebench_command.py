# SPDX-License-Identifier: Apache-2.0
"""The command by both protocols: prompts, patches, tables, and going on."""

import csv

import numpy as np
import pytest

from srl_jax.evaluate.journal import read_answers, read_results
from srl_jax.rollout.stream import Stream
from srl_jax.swebench import asking
from tests.support import scripted, small_model
from tests.support.edits import BROKEN, FIX, HALF, WRONG, by_name, cell, edit
from tests.support.repositories import CUTTING, GOLD, SOURCES, git


def test_oracle_prompts_hold_the_gold_files_and_answers_become_patches(bench):
  bench.row("one")
  bench.row("two")
  bench.row("three")
  said = bench.run(by_name(one=FIX, two=f"Hm.\n{WRONG}", three="No idea."))
  assert len(bench.prompts) == 3
  for prompt in bench.prompts:
    assert f"### parts/cutting.py\n{CUTTING}" in prompt
    assert "joining" not in prompt
  patches = bench.patches()
  assert list(patches) == ["one", "two", "three"]
  assert patches["three"] == ""
  clone = bench.folder / "clones" / "acme__parts"
  for name, number in (("one", 2), ("two", 4)):
    (bench.folder / "patch").write_text(patches[name])
    git(clone, "apply", str(bench.folder / "patch"))
    text = (clone / "parts" / "cutting.py").read_text()
    assert text == CUTTING.replace("// 3", f"// {number}", 1)
    git(clone, "checkout", "--quiet", ".")
  results = bench.results()
  assert cell(results, "greedy", "patches") == pytest.approx(2 / 3)
  assert cell(results, "greedy", "gold change") == pytest.approx(1 / 3)
  assert cell(results, "greedy", "gold files") == pytest.approx(2 / 3)
  assert cell(results, "greedy", "edits") == pytest.approx(2 / 3)
  assert cell(results, "greedy", "edits applied") == 1
  assert cell(results, "greedy", "cut") == 0
  assert cell(results, "greedy", "resolved") is None
  with (bench.folder / "out" / "table.csv").open(newline="") as file:
    [row] = csv.DictReader(file)
  assert float(row["patches"]) == pytest.approx(2 / 3)
  text = (bench.folder / "out" / "table.md").read_text()
  assert text in said and "| greedy | 66.7 [9.4, 99.2] |" in text
  assert "| no edit in the answer | 33.3 [" in text


def test_every_way_to_fail_is_counted(bench):
  bench.row("one")
  bench.row("two")
  bench.row("three")
  bench.row("four")
  elsewhere = edit("a", "b", "../../etc/passwd")
  bench.run(
    by_name(
      one=FIX + elsewhere + edit("x", "y", "parts/__init__.py"),
      two=BROKEN,
      three=edit("none", "some") + elsewhere,
      four=edit(f"{HALF}3", f"\n{HALF}3\n"),
    )
  )
  results = bench.results()
  # Seven edits, of which three have an effect.
  assert cell(results, "greedy", "edits applied") == pytest.approx(3 / 7)
  for reason, count in (
    ("path outside of the repository", 2),
    ("file not shown", 1),
    ("not in the file", 1),
  ):
    found = cell(results, reason, "greedy", "failed_edits")
    assert found == pytest.approx(count / 7), reason
  for reason in (
    "a changed file does not parse",
    "no edit has an effect",
    "only blank lines changed",
  ):
    assert cell(results, reason, "greedy", "without_patch") == 0.25
  assert [x["without_patch"] for x in bench.outcomes()] == [
    "",
    "a changed file does not parse",
    "no edit has an effect",
    "only blank lines changed",
  ]
  assert bench.outcomes()[0]["edits"] == [
    *("", "path outside of the repository", "file not shown")
  ]
  assert bench.outcomes()[0]["changed_files"] == ["parts/cutting.py"]


def test_of_several_samples_the_patch_that_most_have_is_chosen(bench):
  bench.row("one")
  bench.row("two")
  bench.row("three")
  commented = FIX.replace("// 2", "// 2  # Two.")
  docs = edit("Returns half of a number.", "Returns a half.")
  said = bench.run(
    by_name(
      one=[WRONG, commented, "No.", FIX],
      # The first of as many wins; only a comment is no vote.
      two=[docs, WRONG, FIX, docs],
      three=[BROKEN, docs, "No.", "No."],
    ),
    "--samples=4",
  )
  assert "also sampled" in said
  majority = bench.patches("majority")
  assert majority["one"] == bench.patches("sample_1")["one"]
  assert "# Two." in majority["one"]
  assert majority["two"] == bench.patches("sample_1")["two"]
  assert majority["three"] == "" != bench.patches("sample_1")["three"]
  results = bench.results()
  assert cell(results, "4 sampled", "patches") == pytest.approx(8 / 12)
  assert cell(results, "4 sampled", "different patches") == pytest.approx(4 / 3)
  assert cell(results, "majority", "patches") == pytest.approx(2 / 3)
  assert cell(results, "majority", "gold change") == 0


def test_end_to_end_each_sample_edits_the_files_that_it_named(bench):
  bench.row("one")
  bench.row("two")
  named = {
    "one": ["```\nparts/cutting.py\nsetup.py\n```", "setup.py", "README.md"],
    "two": ["parts/cutting.py\ntest_all.py"] * 2 + ["setup.py"],
  }
  edited = {"one": [FIX, FIX, FIX], "two": [WRONG, FIX, "No."]}

  def answer(prompt, sample):
    said = edited if "### package/parts.py" in prompt else named
    return by_name(**said)(prompt, sample)

  said = bench.run(
    answer, *("--protocol=end-to-end", "--samples=3", "--answers_per_batch=6")
  )
  assert "1 of 8 answers are not asked for edits (no file named)" in said
  assert "patch: one, sampled answer 2: no line of the answer is a path" in said
  files = [x for x in bench.prompts if "### package/parts.py" not in x]
  edits = [x for x in bench.prompts if "### package/parts.py" in x]
  # Greedy answers, and then the three samples; one of them named no file.
  assert (len(files), len(edits)) == (2 * 4, 2 + 5)
  # All samples have the prompt for files, and at most two one for edits.
  assert bench.streams == [(2, 1), (2, 3), (2, 1), (3, 2)]
  assert all("parts/\n    __init__.py\n    cutting.py" in x for x in files)
  assert sum(CUTTING in x and SOURCES["setup.py"] in x for x in edits) == 2
  found = {(x["instance_id"], x["sample"]): x for x in bench.outcomes()[2:8]}
  assert found["one", 0]["found_files"] == ["parts/cutting.py", "setup.py"]
  assert found["one", 1]["edits"] == ["file not shown"]
  assert found["one", 2]["without_patch"] == "no file named"
  assert found["two", 0]["found_files"] == ["parts/cutting.py"]
  assert bench.patches("sample_0")["one"] == bench.patches("sample_1")["two"]
  results = bench.results()
  # The three samples named the one gold file 1 + 2 times.
  assert cell(results, "3 sampled", "gold files found") == pytest.approx(3 / 6)
  assert cell(results, "3 sampled", "patches") == pytest.approx(3 / 6)
  path = bench.folder / "out" / "found_files" / "sample_0.jsonl"
  before = bench.patches("sample_0")

  # The lists may be given again.
  bench.run(by_name(one=FIX, two=WRONG), f"--found_files={path}", out="again")
  assert bench.patches(out="again") == before
  assert "setup.py" in bench.prompts[0] + bench.prompts[1]


def test_the_same_command_goes_on_and_asks_for_what_is_missing(
  bench, tmp_path, monkeypatch
):
  bench.row("one")
  bench.row("two")
  answers = by_name(one=[FIX, WRONG], two=[WRONG, FIX])

  def answer(prompt, sample):
    return answers(prompt, sample) if "### pa" in prompt else "parts/cutting.py"

  flags = ("--protocol=end-to-end", "--samples=2")
  bench.run(answer, *flags)
  out = bench.folder / "out"
  whole = {
    path.relative_to(out): path.read_bytes()
    for path in out.rglob("*")
    if path.is_file() and "answers" not in path.name
  }
  before = read_answers(out / "edits")
  lines = (out / "edits" / "answers.jsonl").read_bytes().splitlines(True)
  bench.run(answer, *flags)
  assert bench.prompts == []
  # As after a kill: the last line is cut, and the end is missing.
  (out / "edits" / "answers.jsonl").write_bytes(
    b"".join(lines[:3]) + lines[3][:20]
  )
  said = bench.run(answer, *flags)
  assert f"going on after 3 answers in {out / 'edits'}" in said
  assert len(bench.prompts) == 3
  assert sorted(read_answers(out / "edits"), key=str) == sorted(before, key=str)
  for path, content in whole.items():
    assert (out / path).read_bytes() == content, path
  for flag, different in (
    ("--samples=3", "also sampled, 3 at temperature 1"),
    ("--max_file_tokens=9", "max_file_tokens was 60000 and is 9"),
    ("--seed=1", "seed was 0 and is 1"),
    ("--protocol=oracle", "protocol is 'end-to-end' and 'oracle'"),
  ):
    said = bench.refused(answer, *flags, flag)
    assert "holds another evaluation" in said and different in said
  monkeypatch.setattr(asking, "_RULES", [])
  bench.model = small_model.write(tmp_path / "other", chat_template=None)
  said = bench.refused(answer, *flags)
  assert "code that judges answers" in said and "prompts_sha256 was" in said


def test_a_folder_of_others_is_refused_before_anything_is_sampled(bench):
  bench.row("one")
  bench.run(by_name(one=FIX))
  said = bench.refused(lambda *_: "parts/cutting.py", "--protocol=end-to-end")
  assert "protocol is 'oracle' and 'end-to-end'" in said
  assert bench.prompts == []
  (bench.folder / "out" / "evaluation.json").write_text("{}")
  assert "a folder of its own" in bench.refused(by_name(one=FIX))


def test_journals_can_be_read_as_those_of_other_suites(bench):
  bench.row("one")
  bench.run(by_name(one=FIX))
  [result] = read_results(bench.folder / "out" / "edits")
  assert [a.is_correct for a in result.answers] == [True]
  assert [p.answer for p in result.problems] == [GOLD]


def test_a_model_without_a_chat_template_is_asked_in_its_own_words(
  bench, tmp_path
):
  bench.model = small_model.write(tmp_path / "plain", chat_template=None)
  bench.row("one")
  bench.run(by_name(one=FIX))
  assert CUTTING in bench.prompts[0]
  assert bench.patches()["one"]


def test_the_sampler_that_the_command_uses_decodes_in_the_program(bench):
  bench.row("one")

  def stream(model, *, rows, slots, key, trunk_width):
    tokenizer, stop_ids = model.run.tokenizer, model.stop_ids
    answer = [*tokenizer.encode(FIX), stop_ids[0]]
    # The token after each position is certain; the prompt is as wide.
    table_PV = np.zeros((trunk_width + len(answer), tokenizer.vocab_size))
    for i, token in enumerate(answer):
      table_PV[trunk_width - 1 + i, token] = 30
    return Stream(
      scripted.ScriptedModel(),
      scripted.at_position(table_PV),
      rows=rows,
      slots=slots,
      stop_ids=stop_ids,
      mesh=model.run.mesh,
      rules=model.run.rollout_rules,
      key=key,
      trunk_width=trunk_width,
    )

  bench.run_with(stream)
  assert bench.patches()["one"]
  assert cell(bench.results(), "greedy", "gold change") == 1
