# SPDX-License-Identifier: Apache-2.0
"""What cannot be asked, shown or meant is said and counted, or refused."""

import json
import re

import pytest

from tests.support import repositories
from tests.support.edits import FIX, by_name, cell, edit
from tests.support.repositories import CUTTING, GOLD


@pytest.mark.parametrize("protocol", ["oracle", "end-to-end"])
def test_what_cannot_be_asked_is_said_and_counted(bench, protocol):
  bench.row("one")
  bench.row("no_clone", repo="acme/none")
  bench.row("no_commit", base_commit="0" * 40)
  bench.row("no_patch", patch="")
  bench.row("too_long", problem_statement="long " * 5000)
  bench.row("doc", patch=GOLD.replace("cutting.py", "cutting.rst"))

  def answer(prompt, sample):
    return FIX if "### package" in prompt else "parts/cutting.py"

  said = bench.run(answer, f"--protocol={protocol}")
  reasons = {x["instance_id"]: x["without_patch"] for x in bench.outcomes()}
  expected = {
    "one": "",
    "no_clone": "no clone",
    "no_commit": "no commit",
    "no_patch": "no gold patch",
    "too_long": "prompt too long",
    "doc": "no gold files",
  }
  if protocol == "end-to-end":
    expected |= {"no_patch": "", "doc": ""}
  assert reasons == expected
  for reason in filter(None, expected.values()):
    assert f"warning: 1 of 6 instances are not asked ({reason}), and" in said
  assert "git clone https://github.com/acme/none" in said
  assert "is too long for a context of 4096" in said
  assert "asked for edits" not in said
  results = bench.results()
  share = sum(not x for x in expected.values()) / 6
  assert cell(results, "greedy", "patches") == pytest.approx(share)
  # The means are over those that were asked.
  assert results["answers"][0]["edits"] == {"value": 1, "low": 1, "high": 1}
  assert {x["without a patch"] for x in results["without_patch"]} == {
    *filter(None, expected.values())
  }
  # A patch of nothing that is known is no agreement.
  assert cell(results, "greedy", "gold files") == pytest.approx(1 / 6)
  assert cell(results, "no clone", "greedy", "without_patch") == (
    pytest.approx(1 / 6)
  )
  # The harness gets a line for each, too.
  assert list(bench.patches()) == list(expected)


def test_if_nothing_can_be_asked_the_command_says_why(bench):
  bench.row("one", repo="acme/none")
  said = bench.refused(by_name())
  assert said.startswith("error: 1 of 1 instances are not asked (no clone), ")


def test_files_that_are_not_shown_are_counted(bench):
  clone = bench.folder / "clones" / "acme__parts"
  (clone / "linked.py").symlink_to("setup.py")
  files = {
    "latin.py": b"# \xfc\n",
    "long.py": "long(1)\n" * 400,
    "half.py": "half(1)\n" * 60,
    "rest.py": "rest(1)\n" * 60,
    "dos.py": "a = 1\r\nb = 2\r\n",
  }
  bench.commit = repositories.commit(clone, files)
  bench.row("one")
  found = ["dos.py", "latin.py", "linked.py", "gone.py", "long.py"]
  found += ["half.py", "rest.py", "setup.py"]
  path = bench.folder / "found.jsonl"
  path.write_text(json.dumps({"instance_id": "one", "found_files": found}))
  said = bench.run(
    by_name(one=edit("a = 1\nb = 2", "a = 1\nb = 3", "dos.py")),
    *(f"--found_files={path}", "--max_file_tokens=600"),
  )
  [prompt] = bench.prompts
  assert "### dos.py\na = 1\nb = 2\n" in prompt and "### setup.py\n" in prompt
  assert "half(1)" in prompt
  assert "long(1)" not in prompt and "rest(1)" not in prompt
  [outcome] = bench.outcomes()
  assert outcome["left_out"] == {
    "latin.py": "binary, or not UTF-8",
    "linked.py": "symbolic link",
    "gone.py": "not at the base commit",
    "long.py": "over the limit of tokens",
    "rest.py": "over the limit of tokens",
  }
  assert "- 2 files not shown: over the limit of tokens" in said
  assert "-b = 2\r\n+b = 3\r\n" in bench.patches()["one"]


def test_a_first_file_over_the_limit_is_shown_alone(bench):
  bench.row("one")
  bench.run(by_name(one=FIX), "--max_file_tokens=1")
  assert CUTTING in bench.prompts[0]
  assert bench.patches()["one"]


def test_a_long_prompt_leaves_less_room_for_the_answer(bench):
  # The context has 4,096 tokens.
  bench.row("one", problem_statement="This is one." + " a" * 1200)
  said = bench.run(by_name(one=FIX + "!" * 9999))
  assert "leaves 1 of 1 instances less than 4096 tokens for an answer" in said
  prompt = int(re.search(r"to prompts of up to (\d+) tokens", said)[1])
  results = bench.results()
  assert cell(results, "greedy", "cut") == 1
  assert cell(results, "greedy", "tokens") == 4096 - prompt > 0
  assert bench.patches()["one"]


def test_flags_that_make_no_sense_are_refused(bench):
  bench.row("one")
  for flags, said in (
    (["--samples=-1"], "--samples=-1 is too low; give 0 or more"),
    (["--max_file_tokens=0"], "--max_file_tokens=0 is too low; give 1"),
    (["--protocol=orcale"], "argument --protocol: invalid choice: 'orcale'"),
    (["--sample=3"], "--sample is no option of this command; did you mean --s"),
    (["--temperature=0"], "the temperature of sampled answers is 0.0; give 0"),
    (["--repositories=none"], "there is no folder 'none' of repositories"),
    (["--suite=math500"], "'math500' is no suite of software issues"),
    (
      ["--found_files=x", "--protocol=end-to-end"],
      "--found_files has no effect where the model names the files",
    ),
    (["--harness=x", "--multi_host"], "--harness is for one process"),
  ):
    assert bench.refused(by_name(), *flags).startswith(f"error: {said}")
