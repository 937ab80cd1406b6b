# SPDX-License-Identifier: Apache-2.0
"""The whole command on small models: its folder, its tables, its going on."""

import collections
import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from srl_jax.domains import registers
from srl_jax.evaluate.journal import read_answers
from tests.support import small_model
from tests.support.commands import serve

MODULE = "srl_jax.evaluate.__main__"
SHORT = ("--max_new_tokens=100", "--answers_per_batch=8")


def write_suite(path, answers=()):
  """Writes six problems with these answers, or answers that are wrong."""
  sizes = {"train": 0, "valid": 0, "test": 6, "pretrain": 0}
  lines = [
    json.dumps(
      {
        "id": f"p{i}",
        "problem": x.problem,
        "answer": answers[i] if answers else "none of these",
        "level": 1 + i % 2,
      }
    )
    for i, x in enumerate(registers.make_splits(sizes, 0)["test"])
  ]
  path.write_text("".join(line + "\n" for line in lines))
  return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("evaluations")


@pytest.fixture(scope="module")
def command(runs, folder):
  """Runs the command; returns what it said if it succeeded."""
  with serve(MODULE, folder / "said", runs.environment()) as server:

    def run(*arguments, weights="registers_student"):
      status, said = server(f"--weights={weights}", *SHORT, *arguments)
      assert status == 0, said
      return said

    yield run


@pytest.fixture(scope="module")
def exam(command, folder):
  """A suite of which the student solves the first two greedily."""
  wrong = write_suite(folder / "wrong.jsonl")
  command(f"--suites={wrong}", "--samples=0", f"--out={folder / 'wrong'}")
  finals = {a.problem: a.final for a in read_answers(folder / "wrong")}
  assert all(finals.values())
  answers = [finals[f"p{i}"] if i < 2 else "nothing" for i in range(6)]
  return write_suite(folder / "exam.jsonl", answers)


@pytest.fixture(scope="module")
def paper(command, folder, exam):
  """A finished evaluation, and what was said."""
  out = folder / "paper"
  return out, command(f"--suites={exam}", "--samples=3", f"--out={out}")


@pytest.fixture(scope="module")
def turns(command, folder, exam):
  """A finished evaluation turn by turn."""
  out = folder / "turns"
  ask = (f"--suites={exam}", "--protocol=turns", "--samples=2", f"--out={out}")
  return out, command(*ask), ask


def by_decoding(out, decoding):
  """The answers to each problem, p0 first."""
  rows = collections.defaultdict(dict)
  for answer in read_answers(out):
    if answer.decoding == decoding:
      assert answer.sample not in rows[answer.problem]
      rows[answer.problem][answer.sample] = answer
  return [list(rows[f"p{i}"].values()) for i in range(6)]


def results_of(out):
  return json.loads((out / "results.json").read_text())


def test_the_tables_hold_what_the_answers_say(paper):
  out, said = paper
  greedy, sampled = (by_decoding(out, x) for x in ("greedy", "sampled"))
  assert [len(row) for row in (*greedy, *sampled)] == [1] * 6 + [3] * 6
  assert [row[0].is_correct for row in greedy] == [True] * 2 + [False] * 4
  rights = [sum(a.is_correct for a in row) for row in sampled]
  tokens = np.mean([a.tokens for row in sampled for a in row])
  [row] = results_of(out)["suites"]
  assert row["suite"] == "exam"
  assert row["greedy"]["value"] == pytest.approx(2 / 6)
  assert row["avg@3"]["value"] == pytest.approx(sum(rights) / 18)
  solved = sum(right > 0 for right in rights)
  assert row["pass@3"]["value"] == pytest.approx(solved / 6)
  assert row["tokens"]["value"] == pytest.approx(tokens)
  with (out / "table.csv").open(newline="") as file:
    [cells] = csv.DictReader(file)
  assert float(cells["greedy low"]) == row["greedy"]["low"]
  text = (out / "table.md").read_text()
  assert text in said
  assert "registers_student by protocol paper, seed 0" in text
  assert "- sampled samples 3 instead of 32" in text
  [line] = [x for x in text.splitlines() if x.startswith("| exam | 33.3 [")]
  assert f"| {tokens:.1f} [{float(cells['tokens low']):.1f}, " in line
  # p0, p2 and p4 are of level 1, and p0 is the only one solved.
  assert "| exam | 1 | 33.3 [" in text and "| exam | 2 | 33.3 [" in text


def test_the_same_command_again_samples_nothing(command, folder, exam, paper):
  out, _ = paper
  before = (out / "answers.jsonl").read_bytes()
  said = command(f"--suites={exam}", "--samples=3", f"--out={out}")
  assert "going on after 24 answers" in said
  assert (out / "answers.jsonl").read_bytes() == before


def test_an_answer_that_is_gone_is_sampled_again_alike(
  command, folder, exam, paper
):
  out, _ = paper
  path = out / "answers.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:5] + lines[6:]) + lines[5][:7])
  command(f"--suites={exam}", "--samples=3", f"--out={out}")
  again = path.read_text().splitlines(keepends=True)
  assert again == lines[:5] + lines[6:] + lines[5:6]


def test_problems_may_be_limited(command, folder, exam):
  out = folder / "limit"
  command(f"--suites={exam}", "--samples=0", "--limit=2", f"--out={out}")
  assert {a.problem for a in read_answers(out)} == {"p0", "p1"}
  [row] = results_of(out)["suites"]
  assert row["greedy"]["value"] == 1 and "avg@1" not in row


@pytest.mark.slow
def test_answers_may_be_given_turn_by_turn(command, turns):
  out, said, ask = turns
  assert "Thoughts are dropped after each turn." in said
  answers = read_answers(out)
  assert len(answers) == 6 * 3
  assert max(len(a.turns) for a in answers) > 1
  for answer in answers:
    assert answer.text == "\n\n".join(answer.turns)
  # A kill in the middle of a problem's samples leaves some of them.
  path = out / "answers.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:7]))
  command(*ask)
  assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines)


def test_two_evaluations_are_compared_problem_by_problem(
  command, folder, exam, paper
):
  base, _ = paper
  out = folder / "other"
  said = command(
    *(f"--suites={exam}", "--samples=3", "--seed=1"),
    *(f"--out={out}", f"--compare={base}"),
  )
  means = [
    np.array([np.mean([a.tokens for a in row]) for row in rows])
    for rows in (by_decoding(base, "sampled"), by_decoding(out, "sampled"))
  ]
  assert (means[0] != means[1]).any()
  difference = results_of(out)["differences"]["exam"]["tokens"]
  delta = means[1] - means[0]
  assert difference["value"] == pytest.approx(delta.mean())
  # 2.5706 is the quantile of Student's t with 5 degrees of freedom.
  reach = 2.5706 * delta.std(ddof=1) / 6**0.5
  assert difference["high"] == pytest.approx(delta.mean() + reach, rel=1e-4)
  assert f"Differences to {base}, paired by problem" in said
  assert f"| exam | tokens | {means[0].mean():.1f} |" in said


def test_problems_in_the_training_data_are_named(command, folder, exam):
  problem = json.loads(exam.read_text().splitlines()[3])["problem"]
  data = folder / "data"
  data.mkdir()
  held_out = json.loads(exam.read_text().splitlines()[4])["problem"]
  for split, texts in (("train", ["another", problem]), ("test", [held_out])):
    lines = (
      json.dumps({"id": f"t{i}", "problem": text, "steps": [{"text": "1"}]})
      for i, text in enumerate(texts)
    )
    (data / f"{split}.jsonl").write_text("\n".join(lines))
  out = folder / "contaminated"
  command(
    *(f"--suites={exam}", "--samples=0", f"--out={out}"),
    f"--train_data={data}",
  )
  text = (out / "table.md").read_text()
  assert "- exam: 1 of 6 flagged, mean overlap 16.7%" in text
  assert "    - p3: 5 of 5 word sequences, most in t1" in text


def test_the_model_goes_on_from_changed_thoughts(command, folder, exam):
  out = folder / "changed"
  ask = (f"--suites={exam}", "--samples=0", f"--out={out}")
  command(*ask, "--interventions=3", "--max_new_tokens=40")
  [row] = results_of(out)["reasoning"]
  # Greedily and from the same tokens, nothing may change.
  assert row["changed, block unchanged"]["value"] == 0
  assert row["changed, block deleted"]["value"] > 0
  answers = read_answers(out / "interventions")
  originals = {a.problem: a.text for a in read_answers(out)}
  assert {a.problem.partition("/")[0] for a in answers} == {"p0", "p1", "p2"}
  for answer in answers:
    if answer.problem.endswith("/0"):
      original = originals[answer.problem.partition("/")[0]]
      assert answer.text.startswith(original)


@pytest.mark.parametrize(
  "tokenizer", ["gemma2", pytest.param("qwen2_5", marks=pytest.mark.slow)]
)
def test_a_checkpoint_of_others_is_asked_through_its_chat_template(
  command, folder, exam, tokenizer
):
  # Gemma 2's template refuses a system message.
  model = small_model.write(folder / tokenizer, tokenizer=tokenizer)
  out = folder / f"{tokenizer}_chat"
  said = command(
    *(f"--suites={exam}", "--limit=3", f"--out={out}"),
    "--protocol=qwen2.5-math",
    weights=model,
  )
  assert "takes no system message gets the system text at the" in said
  answers = read_answers(out)
  assert [a.decoding for a in answers] == ["greedy"] * 3
  found = results_of(out)
  assert found["protocol"]["name"] == "qwen2.5-math"
  assert found["suites"][0]["tokens, greedy"]["value"] == np.mean(
    [a.tokens for a in answers]
  )


def test_logs_for_inspect_are_written(command, folder, exam):
  log = pytest.importorskip("inspect_ai.log")
  out = folder / "inspect"
  command(f"--suites={exam}", "--samples=2", f"--out={out}", "--inspect")
  found = log.read_eval_log(str(out / "inspect" / "exam_sampled.eval"))
  assert len(found.samples) == 12


def start(runs, exam, out, *more, python=(sys.executable, "-m")):
  return subprocess.Popen(
    [
      *(
        *python,
        MODULE.removesuffix(".__main__"),
        "--weights=registers_student",
      ),
      *(*SHORT, f"--suites={exam}", "--samples=40", f"--out={out}", *more),
    ],
    env=runs.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for_lines(process, out, count):
  path = out / "answers.jsonl"
  while not path.exists() or path.read_bytes().count(b"\n") < count:
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.01)


def key(answer):
  return answer.suite, answer.problem, answer.decoding, answer.sample


@pytest.mark.slow
def test_ended_in_any_way_it_goes_on_and_samples_nothing_twice(
  runs, command, folder, exam
):
  out = folder / "ended"
  for number, status in (
    (signal.SIGTERM, 143),
    (signal.SIGINT, 130),
    (signal.SIGKILL, -9),
  ):
    path = out / "answers.jsonl"
    before = path.read_bytes() if path.exists() else b""
    process = start(runs, exam, out)
    wait_for_lines(process, out, before.count(b"\n") + 3)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert path.read_bytes().startswith(before)
    if number != signal.SIGKILL:
      assert said.splitlines()[-1] == (
        f"asked to stop; the answers so far are in {out}, and the same "
        "command goes on from there"
      )
      assert "Traceback" not in said
  done = path.read_bytes()
  assert 9 <= done.count(b"\n") < 6 * 41, "all was answered before the kill"
  ask = (f"--suites={exam}", "--samples=40")
  command(*ask, f"--out={out}")
  # A cut last line is all that is sampled again.
  assert path.read_bytes().startswith(done[: done.rfind(b"\n") + 1])
  unbroken = folder / "unbroken"
  command(*ask, f"--out={unbroken}")
  ours, theirs = ({key(a): a for a in read_answers(x)} for x in (out, unbroken))
  assert len(ours) == path.read_bytes().count(b"\n") == 6 * 41
  assert ours == theirs
  assert results_of(out) == results_of(unbroken)


@pytest.mark.slow
def test_a_second_evaluation_is_kept_out_of_the_folder(runs, folder, exam):
  out = folder / "twice"
  first = start(runs, exam, out)
  wait_for_lines(first, out, 1)
  second = start(runs, exam, out)
  said, _ = second.communicate(timeout=120)
  first.kill()
  first.communicate()
  assert second.returncode == 1
  assert "is working in" in said and "--out of its own" in said


@pytest.mark.parametrize(
  "protocol",
  [
    pytest.param("paper", marks=pytest.mark.slow),
    pytest.param("turns", marks=pytest.mark.slow),
  ],
)
def test_two_processes_give_the_answers_of_one(
  runs, folder, exam, protocol, request
):
  base, *_ = request.getfixturevalue(protocol)
  out = folder / f"two_{protocol}"
  more = {
    "paper": ("--samples=3", "--interventions=2"),
    "turns": ("--samples=2", "--protocol=turns"),
  }
  launcher = (sys.executable, "-m", "launch.local", "--processes=2", "--")
  process = start(
    *(runs, exam, out, *more[protocol]),
    python=(*launcher, sys.executable, "-m"),
  )
  said, _ = process.communicate(timeout=600)
  assert process.returncode == 0, said
  ours, theirs = ({key(a): a for a in read_answers(x)} for x in (out, base))
  assert ours == theirs
  assert results_of(out)["suites"] == results_of(base)["suites"]
  assert said.count("tables and answers are in") == 1
