# SPDX-License-Identifier: Apache-2.0
"""What a user of the command gets wrong ends in one line and status 1."""

import json
import subprocess
import sys

import pytest

from tests.support.commands import error_of, serve

SUITE = {"id": "p", "problem": "1 + 1?", "answer": "2"}


@pytest.fixture(scope="module")
def command(runs, tmp_path_factory):
  said = tmp_path_factory.mktemp("refusals") / "said"
  environment = runs.environment() | {"HF_HUB_OFFLINE": "1"}
  with serve("srl_jax.evaluate.__main__", said, environment) as server:
    yield server


@pytest.fixture
def suite(tmp_path):
  path = tmp_path / "exam.jsonl"
  lines = [SUITE, SUITE | {"id": "q"}]
  path.write_text("".join(json.dumps(x) + "\n" for x in lines))
  return path


@pytest.fixture
def refused(command, tmp_path, suite):
  """Returns the message by which a command line is refused."""

  def run(*arguments, **flags):
    flags = {
      "weights": "registers_student",
      "suites": suite,
      "out": tmp_path / "out",
      "samples": 2,
      "max_new_tokens": 8,
    } | flags
    given = [f"--{k}={v}" for k, v in flags.items() if v is not None]
    return error_of(*command(*given, *arguments))

  return run


def test_flags_that_make_no_sense_are_refused(refused, tmp_path):
  for flags, said in (
    ({"samples": -1}, "--samples=-1 is too low; give 0 or more"),
    ({"limit": -1}, "--limit=-1 is too low; give 0 or more"),
    ({"answers_per_batch": 0}, "--answers_per_batch=0 is too low; give 1"),
    ({"temperature": 0}, "the temperature of sampled answers is 0.0; give 0 s"),
    ({"temperature": "nan"}, "the temperature of sampled answers is nan; give"),
    ({"top_p": 0}, "top_p is 0.0 and top_k 0; give a top_p above 0"),
    (
      {"samples": 0, "top_p": 0.9},
      "with 0 samples, which is greedy on",
    ),
    ({"samples": "x"}, "argument --samples: invalid int value: 'x'"),
    ({"limt": 3}, "--limt is no option of this command; did you mean --limit?"),
    ({"config.seed": 3}, "--config.seed is no option of this command"),
    ({"protocol": "papre"}, "there is no protocol 'papre' (did you mean 'pap"),
    ({"weights": None}, "give --weights=PATH, or --config with the weights"),
    ({"out": None}, "the following arguments are required: --out"),
    ({"out": ""}, "--out is empty; give a folder for the results"),
    ({"train_format": "gsm8k"}, "--train_format=gsm8k says how to read --tra"),
    ({"compare": tmp_path / "out"}, "--compare and --out are the same folder"),
  ):
    assert refused(**flags).startswith(said)
  assert not (tmp_path / "out" / "answers.jsonl").exists()


def test_suites_that_cannot_be_used_are_refused(refused, tmp_path):
  path = tmp_path / "mine.jsonl"
  assert (
    refused(suites=path) == f"there is no file '{path}' for the suite 'mine'"
  )
  assert "(did you mean 'aime25'?)" in refused(suites="aime42")
  path.write_text('{"problem": "?"}\n')
  said = refused(suites=path)
  assert said.endswith("a suite without answers cannot be judged")
  said = refused(suites="aime24")
  assert "the suite 'aime24' was not found" in said and "aime24=PATH" in said
  path.write_text(json.dumps(SUITE | {"problem": "1 + " * 999 + "1?"}) + "\n")
  said = refused(suites=path)
  assert "leaves no room for an answer in a context of 512 tokens" in said


def test_limits_above_the_context_are_refused_with_the_highest(refused):
  said = refused(max_new_tokens=1000)
  assert said.startswith(
    "--max_new_tokens=1000 is too much for a context of 51"
  )
  limit = said.split("give --max_new_tokens=")[1].split()[0]
  assert 400 < int(limit) < 512
  assert f"={int(limit) + 1} is" in refused(max_new_tokens=int(limit) + 1)


def test_weights_that_are_none_are_refused(refused, tmp_path):
  said = refused(weights=tmp_path / "nothing")
  assert said.startswith("there is no checkpoint folder")
  assert "it has no config.json" in refused(weights=tmp_path)
  said = refused(weights="nobody/has-this")
  assert "the Hugging Face hub did not give it" in said
  said = refused(protocol="lm-eval")
  assert (
    "registers_student has no chat template; use --protocol=paper or turns"
    in said
  )


def test_a_run_that_is_not_finished_is_refused(refused, whole, tmp_path):
  for name in ("config.json", "versions.json"):
    (tmp_path / name).write_bytes((whole.workdir / name).read_bytes())
  said = refused(weights=tmp_path)
  assert said.startswith(f"the run in {tmp_path} is not finished")
  assert "srl_jax export" in said


def test_folders_that_cannot_be_written_are_refused(refused, suite):
  said = refused(out=suite)
  assert said == (
    f"--out={suite} is no folder that can be written (File exists); name "
    "another"
  )
  assert "is no folder that can be written" in refused(out="/proc/there/here")


def finished(command, folder, suite):
  """Evaluates for the tests below; returns the flags."""
  status, said = command(
    *("--weights=registers_student", f"--suites={suite}", f"--out={folder}"),
    *("--samples=2", "--max_new_tokens=8"),
  )
  assert status == 0, said
  return folder


@pytest.mark.slow
def test_a_folder_of_another_or_damaged_evaluation_is_refused(
  command, refused, suite, tmp_path
):
  out = finished(command, tmp_path / "out", suite)
  holds = f"{out} holds another evaluation "
  assert refused(seed=3) == (
    f"{holds}(seed was 0 and is 3); give this one an --out of its own, or, in "
    "a run, remove that folder, which the same command answers anew"
  )
  assert refused(max_new_tokens=9).startswith(
    f"{holds}(changes of the protocol are (max_new_tokens 8 instead of 8192, "
  )
  assert refused(limit=1).startswith(f"{holds}(problems_sha256 was")
  answers = out / "answers.jsonl"
  whole = answers.read_text()
  answers.write_text(whole.replace("{", "", 1))
  assert f"{answers} line 1 is damaged" in refused()
  answers.write_text(whole)
  facts = out / "evaluation.json"
  as_written = facts.read_text()
  rules = json.loads(as_written)["protocol"]["rules_sha256"]
  facts.write_text(as_written.replace(rules, "of an older version"))
  code = "the version of the code that judges answers (rules_sha256) is"
  assert (
    f"were not measured alike: {code} 'of an older version' and "
    in refused(compare=out, out=out.with_name("new"))
  )
  (out / "evaluation.json").write_text("{")
  assert f"{out / 'evaluation.json'} is damaged" in refused()


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused_before_anything_is_sampled(
  command, refused, suite, tmp_path
):
  assert "there is no evaluation in" in refused(compare=tmp_path)
  base = finished(command, tmp_path / "base", suite)
  assert refused(compare=base, protocol="turns").startswith(
    f"--compare={base}: 'base' and 'this evaluation' were not measured alike: "
    "protocol is 'paper' and 'turns'"
  )
  said = refused(compare=base, max_new_tokens=9)
  assert "changes of the protocol are (max_new_tokens 8 instead" in said
  assert "1 problems are on one side only: 'q'" in refused(
    compare=base, limit=1
  )
  other = suite.rename(tmp_path / "other.jsonl")
  said = refused(compare=base, suites=other)
  assert "has no answers to other, but to exam" in said
  other.rename(suite)
  path = base / "answers.jsonl"
  path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
  assert "has 5 of 6 answers to exam; finish it first" in refused(compare=base)
  path.write_text("")
  said = refused(compare=base)
  assert "has 0 of 6 answers to exam; finish it first, by its own" in said
  (base / "problems.jsonl").unlink()
  assert "problems.jsonl cannot be read" in refused(compare=base)
  assert not (tmp_path / "out" / "answers.jsonl").exists()


def test_what_is_not_an_evaluations_is_left_alone(refused, suite, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  own = out / "problems.jsonl"
  own.write_text(suite.read_text())
  assert f"{out} has problems.jsonl and no evaluation.json" in refused()
  assert own.read_text() == suite.read_text()
  (out / "versions.json").write_text("{}")
  said = refused()
  assert said.startswith(f"--out={out} is the folder of a run, whose results")
  assert said.endswith(f"such as --out={out}_evaluated")


def test_what_would_fail_at_the_end_is_refused_at_the_beginning(
  refused, tmp_path
):
  assert "does not exist" in refused(train_data=tmp_path / "nothing")
  said = refused("--interventions=2", protocol="turns")
  assert said.startswith("--interventions go on from a think block")
  try:
    import inspect_ai  # noqa: F401
  except ImportError:
    assert "type: pip install inspect-ai" in refused("--inspect")
  assert not (tmp_path / "out" / "answers.jsonl").exists()


OUT_OF_MEMORY = """
import sys
import jax
from srl_jax.evaluate import __main__ as command
from srl_jax.rollout import stream

def advance(self, **_):
  raise jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\\nBuffers: many"
  )

stream.Stream.advance = advance
command.main(sys.argv[1:])
"""


def test_too_little_memory_says_what_to_change(runs, suite, tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-c", OUT_OF_MEMORY, "--weights=registers_student"),
      *(f"--suites={suite}", f"--out={tmp_path / 'out'}"),
    ],
    env=runs.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stderr.startswith(
    "error: the devices have too little memory for the model and the keys and "
    "values of 64 answers at once; give a lower --answers_per_batch"
  )
  assert done.stderr.count("\n") == 1 and "Buffers" not in done.stderr
