# SPDX-License-Identifier: Apache-2.0
"""Files of suites are found and read, and a wrong file does not pass."""

import dataclasses
import gzip
import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from srl_jax import domains
from srl_jax.data import folders, suites
from srl_jax.domains import Domain, find_suite
from srl_jax.domains.math import AIME24, AMC23, GSM8K, MATH500, MINERVA
from srl_jax.domains.suite import Suite

# A folder with the suites' own files, such as aime24.jsonl, if there is one.
REAL = os.environ.get("SRL_JAX_SUITES", "")
BOXED = "The mass is \\boxed{2} g, so \\[ v = \\boxed{\\frac{3}{4}} \\]"
GSM = "48/2 = <<48/2=24>>24\nIn all 1,024.\n#### 1,024"


def write(path, records, form=".jsonl"):
  path = path.with_name(path.name + form)
  if form == ".parquet":
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
  elif form == ".json":
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")
  elif form == ".jsonl.gz":
    lines = (json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress("".join(lines).encode()))
  else:
    lines = (json.dumps(record) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
  return path


def read(suite, path):
  return suites.read_problems(dataclasses.replace(suite, size=0), path)


@pytest.mark.parametrize("form", [".jsonl", ".json", ".parquet", ".jsonl.gz"])
def test_every_format_gives_the_same_problems(tmp_path, form):
  records = [
    {"id": 60, "problem": "One?", "answer": "204", "url": "u"},
    {"id": 61, "problem": "Two?\n", "answer": "025", "url": "u"},
  ]
  one, two = read(AIME24, write(tmp_path / "x", records, form))
  assert (one.id, one.text, one.answer) == ("60", "One?", "204")
  # What harnesses put into prompts is the text as it stands in the file.
  assert (two.id, two.text, two.answer) == ("61", "Two?\n", "25")
  assert one.suite == "aime24"


@pytest.mark.parametrize(
  ("suite", "record", "answer"),
  [
    (AMC23, {"problem": "?", "question": "?", "answer": 27.0}, "27"),
    (AMC23, {"question": "?", "answer": "27"}, "27"),
    (AMC23, {"question": "?", "answer": -1.0}, "-1"),
    (AIME24, {"problem": "?", "answer": 25}, "25"),
    (AIME24, {"problem": "?", "answer": "025"}, "25"),
    (AMC23, {"problem": "?", "answer": "$3,159$"}, "3159"),
    (AIME24, {"problem": "?", "answer": "$336^\\circ$"}, "336"),
    (AIME24, {"problem": "?", "answer": "336^{\\circ}"}, "336"),
    (AIME24, {"problem": "?", "answer": "\\boxed{204}"}, "204"),
    (AIME24, {"ID": "2024-I-1", "Problem": "?", "Answer": 33}, "33"),
    (AIME24, {"Problem": "", "problem": "?", "Answer": 1, "answer": 2}, "2"),
    (AIME24, {"problem": "?", "solution": "\\boxed{007}"}, "007"),
    (MINERVA, {"problem": "?", "solution": BOXED, "idx": 0}, "\\frac{3}{4}"),
    (MINERVA, {"question": "?", "answer": "1.6"}, "1.6"),
    (MATH500, {"problem": "?", "answer": "90^\\circ"}, "90^\\circ"),
    (GSM8K, {"question": "?", "answer": GSM}, "1024"),
  ],
)
def test_the_reference_is_read_as_the_suite_says(
  tmp_path, suite, record, answer
):
  [problem] = read(suite, write(tmp_path / "x", [record]))
  assert problem.answer == answer


def test_level_subject_and_solution_are_kept(tmp_path):
  record = {
    "problem": "?",
    "solution": "So \\boxed{1}.",
    "answer": "1",
    "subject": "Precalculus",
    "level": 2,
    "unique_id": "test/precalculus/807.json",
  }
  [problem] = read(MATH500, write(tmp_path / "x", [record]))
  assert problem.id == "test/precalculus/807.json"
  assert (problem.level, problem.subject) == ("2", "Precalculus")
  assert problem.solution == "So \\boxed{1}."
  [problem] = read(
    GSM8K, write(tmp_path / "y", [{"question": "?", "answer": GSM}])
  )
  assert problem.solution == GSM


def test_a_number_of_problems_that_is_not_the_suites_is_said(tmp_path):
  path = write(tmp_path / "x", [{"problem": "?", "answer": "1"}])
  said = []
  assert len(suites.read_problems(AIME24, path, said.append)) == 1
  [line] = said
  assert "holds 1 problems" in line and "has 30" in line
  said.clear()
  suites.read_problems(dataclasses.replace(AIME24, size=1), path, said.append)
  assert not said


GOOD = {"id": 1, "problem": "?", "answer": "1"}


@pytest.mark.parametrize(
  ("suite", "records", "message"),
  [
    (AIME24, [], "holds no problems; the suite is AIME 2024 I and II"),
    (AIME24, [GOOD, GOOD], "record 2: the id '1' is taken by record 1"),
    (
      AIME24,
      [{"id": 1, "problem": "?"}],
      "no reference answer in .* to answer:",
    ),
    (AIME24, [GOOD | {"answer": "3/4"}], "'answer' is no whole number"),
    (AIME24, [GOOD | {"problem": " "}], "no question in the field problem or"),
    (
      AIME24,
      [{"Prompt": "?"}],
      r"no question .*\(it has prompt\); rename the one with it to problem",
    ),
    (AIME24, [[7]], "record 1: is no object"),
    (MINERVA, [GOOD | {"level": "Level 5"}], "'level' is one of MATH"),
    (MINERVA, [{"problem": "?", "solution": "1"}], r"has no \\boxed"),
    (GSM8K, [{"question": "?", "answer": "72"}], "has no answer after ####"),
    (
      Suite("own", "own"),
      [{"question": "2 + 2? A. 4", "choices": ["3", "4"], "answer": "A"}],
      "record 1: the field 'choices' has choices that the question does not",
    ),
    (
      Suite("own", "own"),
      [{"question": "2 + 2?", "options": {"A": "3", "B": "4"}, "answer": "B"}],
      "record 1: the field 'options' has choices that the question does not",
    ),
  ],
)
def test_a_file_that_is_not_the_suites_is_refused(
  tmp_path, suite, records, message
):
  with pytest.raises(ValueError, match=message):
    read(suite, write(tmp_path / "x", records))


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("x.jsonl", b'{"id": 1}\n{', "x.jsonl, line 2 is not JSON"),
    ("x.json", b"[1, ", "x.json begins as a JSON list, and its brackets"),
    ("x.parquet", b"PAR1", "x.parquet is cut off or damaged"),
    ("x.jsonl", b"\xff\xfe{\0}\0", "x.jsonl is UTF-16 text; only UTF-8"),
    ("x.csv", b"a,b", "x.csv begins with b'a,b' and is neither JSON"),
  ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=f"^{tmp_path}/{message}"):
    read(AIME24, tmp_path / name)


def test_names_paths_and_own_files_are_told_apart(tmp_path):
  own = write(
    tmp_path / "exam",
    [
      {"question": "?", "answer": 3.0},
      {"question": "??", "answer": GSM},
      {"question": "!", "answer": "1 + 2 = 3. So \\boxed{3}."},
    ],
  )
  found = suites.parse_suites(f"aime24, amc23=/data/a.jsonl,{own}")
  assert [(suite.name, path) for suite, path in found] == [
    ("aime24", ""),
    ("amc23", "/data/a.jsonl"),
    ("exam", str(own)),
  ]
  problems = suites.read_problems(found[2][0], own)
  assert [(p.id, p.answer, p.suite) for p in problems] == [
    ("0", "3", "exam"),
    ("1", "1,024", "exam"),
    ("2", "3", "exam"),
  ]


def test_choices_that_the_question_shows_are_no_fault(tmp_path):
  record = {"question": "A. 3 B. 4", "choices": ["3", "4"], "answer": "B"}
  assert len(read(suites.own_suite("x"), write(tmp_path / "x", [record]))) == 1


@pytest.mark.parametrize(
  ("part", "name", "path"),
  [
    ("runs/lr=1e-5/exam.jsonl", "exam", "runs/lr=1e-5/exam.jsonl"),
    ("gs://b/exam.ndjson", "exam", "gs://b/exam.ndjson"),
    ("exam.JSONL.zstd", "exam", "exam.JSONL.zstd"),
    ("mine=a/test.jsonl", "mine", "a/test.jsonl"),
  ],
)
def test_own_files_are_named_by_themselves_or_by_the_user(part, name, path):
  [(suite, found), other] = suites.parse_suites(f"{part},theirs=b/test.jsonl")
  assert (suite.name, found) == (name, path)
  assert other[0].name == "theirs"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("aime42", r"no suite 'aime42' \(did you mean 'aime2\d'\?\); choose among"),
    ("aime42=x.jsonl", "no suite 'aime42'"),
    ("aime24=", "'aime24=' gives no path; write aime24=PATH"),
    ("aime24,aime24=x.jsonl", "two suites are named 'aime24'"),
    (" ,", "no suite is named"),
  ],
)
def test_a_wrong_list_of_suites_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    suites.parse_suites(text)


def test_a_users_domain_brings_its_suites(imported_domains):
  mine = Suite("mine", "My exam")
  imported_domains["m:D"] = Domain("d", "", "", suites=(mine,))
  assert find_suite("mine") is mine


def test_a_given_path_comes_before_the_folder_and_the_folder_before_the_hub(
  tmp_path, monkeypatch
):
  asked = []

  def download(repository, file, *, repo_type, revision):
    asked.append((repository, file, repo_type, revision))
    return str(tmp_path / "from_the_hub")

  monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
  here = write(tmp_path / "minerva_math", [GOOD])
  given = write(tmp_path / "given", [GOOD])
  folder = str(tmp_path)
  assert suites.find_file(MINERVA, str(given), folder) == given
  assert suites.find_file(MINERVA, "", folder) == here
  assert not asked
  assert suites.find_file(AMC23, "", folder) == tmp_path / "from_the_hub"
  # A pod has no such folder at all.
  assert suites.find_file(AMC23, "", "data") == tmp_path / "from_the_hub"
  assert asked == 2 * [
    (AMC23.repository, AMC23.file, "dataset", AMC23.revision)
  ]


def test_what_is_nowhere_says_where_to_put_it(tmp_path, monkeypatch):
  def refuse(*args, **more):
    raise OSError("no route\nto the host")

  monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
  with pytest.raises(ValueError) as error:
    suites.find_file(AMC23, "", str(tmp_path))
  text = str(error.value)
  assert "\n" not in text and f"it is not in {tmp_path}" in text
  assert "OSError: no route" in text and text.endswith("name it: amc23=PATH")
  with pytest.raises(ValueError, match=r"there is no file 'x.jsonl'"):
    suites.find_file(AMC23, "x.jsonl")
  with pytest.raises(ValueError, match="it is not in nowhere, and the Hugging"):
    suites.find_file(AMC23, "", "nowhere")
  with pytest.raises(ValueError, match="'exam' is not on the hub"):
    suites.find_file(suites.own_suite("exam.jsonl"))


def test_every_suite_is_pinned_to_a_commit():
  declared = [s for d in domains.DOMAINS.values() for s in d.suites]
  assert {s.name for s in declared} == {
    *("aime24", "aime25", "amc23", "minerva", "math500", "gsm8k"),
  }
  for suite in declared:
    assert len(suite.revision) == 40 and int(suite.revision, 16)
    assert suite.size and folders.FORM.search(suite.file)


@pytest.mark.skipif(not REAL, reason="SRL_JAX_SUITES names no folder")
@pytest.mark.parametrize(
  ("name", "size"),
  [
    *(("aime24", 30), ("aime25", 30), ("amc23", 40)),
    *(("minerva", 272), ("math500", 500)),
  ],
)
def test_the_real_files_are_read_as_they_are(name, size):
  said = []
  suite = find_suite(name)
  path = suites.find_file(suite, "", REAL)
  problems = suites.read_problems(suite, path, said.append)
  assert len(problems) == size and not said
  if name in ("aime24", "aime25", "amc23"):
    assert all(str(int(p.answer)) == p.answer for p in problems)


def test_a_suite_is_named_after_its_file_without_its_endings(tmp_path):
  path = write(tmp_path / "exam.v2", [GOOD], ".jsonl.gz")
  [(suite, found)] = suites.parse_suites(str(path))
  assert (suite.name, found) == ("exam.v2", str(path))
  assert len(read(suite, path)) == 1
  packed = write(tmp_path / "aime24", [GOOD], ".jsonl.gz")
  assert suites.find_file(AIME24, "", str(tmp_path)) == packed


@pytest.mark.parametrize(
  ("record", "message"),
  [
    ({"answer": ["5", "6"]}, r"'answer' is \['5', '6'\], and a reference ans"),
    ({"answer": float("nan")}, "'answer' is nan, and a reference answer is a"),
    ({"answer": {"a": 1}}, "'answer' is .*a string or a finite number"),
    ({"problem": "a\ud800"}, "'problem' has half a surrogate pair at charact"),
    ({"answer": "\ud800"}, "'answer' has half a surrogate pair at character 0"),
  ],
)
def test_what_is_no_text_or_no_answer_is_told(tmp_path, record, message):
  whole = {"problem": "2 + 3?", "answer": "5"} | record
  path = write(tmp_path / "x", [{"problem": "1?", "answer": 1.0}, whole])
  with pytest.raises(ValueError, match=f"x.jsonl, record 2: .*{message}"):
    suites.read_problems(Suite("own", "own"), path)
