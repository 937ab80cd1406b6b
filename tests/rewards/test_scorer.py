# SPDX-License-Identifier: Apache-2.0
"""Scoring: the same with and without workers, and clear about failures."""

import math
import os
import pathlib
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest

from srl_jax.rewards import (
  Completion,
  RewardConfig,
  RewardContext,
  RewardError,
  Scored,
  Scorer,
  WorkersConfig,
  difflib_ratio,
  levenshtein_ratio,
)
from srl_jax.rewards.worker_process import WorkerProcess
from srl_jax.trajectory import Step

HERE = str(pathlib.Path(__file__).parent)
USER = "reward_functions_for_tests:"


def completion(action, thought="t"):
  return Completion(f"<think>{thought}</think>{action}", True)


def score(config, completions, targets, workers=WorkersConfig()):
  with Scorer(config, workers) as scorer:
    return scorer.score(completions, targets)


def test_rewards_by_hand():
  scored = score(
    RewardConfig(),
    [
      completion("D8631", "z+x"),
      completion(" D8600\n"),
      Completion("<think>z+x</think>D8631", False),
      Completion("D8631", True),
    ],
    ["D8631", "D8631 ", "D8631", "D8631"],
  )
  assert scored[:2] == [
    Scored(1.0, 1.0, "", 3, 5),
    Scored(0.6, 0.6, "", 1, 5),
  ]
  assert [s.reward for s in scored[2:]] == [-1.0, -1.0]
  assert [s.failure for s in scored[2:]] == ["not_stopped", "no_thought"]
  assert all(math.isnan(s.value) for s in scored[2:])
  # Lengths are reported for broken outputs as well.
  assert [(s.thought_chars, s.action_chars) for s in scored[2:]] == [
    (3, 5),
    (0, 5),
  ]


def test_prediction_comes_first():
  # Swapped arguments would give 0.5.
  scored = score(RewardConfig(), [completion("tide")], ["diet"])
  assert scored[0].reward == 0.25


def test_each_function_is_the_one_it_names():
  rng = random.Random(1)
  action = "".join(rng.choices("abcdef ", k=300))
  target = "".join(rng.choices("abcdef ", k=300))

  def reward(**fields):
    config = RewardConfig(**fields)
    return score(config, [completion(action)], [target])[0].reward

  action, target = action.strip(), target.strip()
  assert reward() == difflib_ratio(action, target)
  on = difflib_ratio(action, target, autojunk=True)
  assert reward(autojunk=True) == on != reward()
  assert reward(function="levenshtein") == levenshtein_ratio(action, target)
  assert reward(function="levenshtein") != reward()


def test_the_reward_of_a_broken_format_is_a_setting():
  config = RewardConfig(broken_format_reward=-0.5)
  scored = score(config, [completion("a"), Completion("a", True)], ["a", "a"])
  assert [s.reward for s in scored] == [1.0, -0.5]
  assert scored[1].failure == "no_thought"


def test_answer_rewards_are_zero_or_one():
  scored = score(
    RewardConfig(function="answer"),
    [
      Completion("<think>a</think>D1\n<think>b</think>\\boxed{1/2}", True),
      Completion("no think block, 0.5", True),
      Completion("\\boxed{3}", True),
      Completion("\\boxed{0.5} and it goes on", False),
      Completion("<think>0.5</think>", True),
    ],
    ["0.5"] * 5,
  )
  # Never -1: RLVR keeps a group by its number of right answers.
  assert [s.reward for s in scored] == [1.0, 1.0, 0.0, 0.0, 0.0]
  failures = ["", "", "", "not_stopped", "empty_action"]
  assert [s.failure for s in scored] == failures
  assert [math.isnan(s.value) for s in scored] == [False] * 3 + [True] * 2


def test_check_can_be_chosen():
  several = Completion("<think>a</think>x<think>b</think>y", True)
  assert score(RewardConfig(), [several], ["xy"])[0].reward == -1.0
  lenient = RewardConfig(check="solution")
  assert score(lenient, [several], ["xy"])[0].reward == 1.0
  strict = RewardConfig(function="answer", check="step")
  assert score(strict, [Completion("5", True)], ["5"])[0].reward == -1.0


def many(count=200, seed=0):
  rng = random.Random(seed)
  completions, targets = [], []
  for _ in range(count):
    text = "".join(rng.choices("abc \u00e9🙂", k=rng.randrange(80)))
    completions.append(
      Completion(f"<think>t</think>{text}", rng.random() < 0.9)
    )
    targets.append("".join(rng.choices("abc \u00e9🙂", k=rng.randrange(80))))
  return completions, targets


def test_workers_give_the_same_in_the_same_order():
  completions, targets = many()
  alone = score(RewardConfig(), completions, targets)
  assert len({s.reward for s in alone}) > 100  # so order is visible
  with Scorer(RewardConfig(), WorkersConfig(2)) as scorer:
    # By text, because nan is not equal to itself.
    assert repr(scorer.score(completions, targets)) == repr(alone)
    assert repr(scorer.score(completions[:1], targets[:1])) == repr(alone[:1])
    assert scorer.score([], []) == []


def test_work_is_spread_over_the_workers():
  config = RewardConfig(function=USER + "process_id")
  scored = score(config, [completion("a")] * 64, [""] * 64, WorkersConfig(2))
  ids = {s.reward for s in scored}
  assert len(ids) == 2 and os.getpid() not in ids


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_function_may_print_and_read(workers, monkeypatch, capfd):
  monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
  config = RewardConfig(function=USER + "length")
  scored = score(
    config,
    [completion("four"), completion("x")],
    ["", ""],
    WorkersConfig(workers),
  )
  assert [s.reward for s in scored] == [4.0, 1.0]
  sys.stdin.close()
  out, err = capfd.readouterr()
  assert "may print" in out + err


@pytest.mark.parametrize("workers", [0, 2])
def test_a_raising_function_names_its_completion(workers):
  config = RewardConfig(function=USER + "raises_on_bad")
  completions = [completion("good")] * 9 + [completion("bad 17")]
  with Scorer(config, WorkersConfig(workers)) as scorer:
    with pytest.raises(RewardError) as error:
      scorer.score(completions, ["the target"] * 10)
    message = str(error.value)
    for part in (
      "raises_on_bad' failed",
      "KeyError: 'no such key'",
      'raise KeyError("no such key")',  # where, in the user's code
      "<think>t</think>bad 17",
      "'the target'",
    ):
      assert part in message
    assert not error.value.passes, "it would come again"
    # The scorer can still be used.
    assert len(scorer.score(completions[:9], [""] * 9)) == 9


@pytest.mark.parametrize(
  ("function", "message"),
  [
    ("returns_nan", "it returned nan"),
    ("returns_text", "could not convert"),
    # Infinite in float32, which is what the device computes in.
    ("returns_too_much", r"it returned 1e\+300"),
    # Else the run would end there, with status 0.
    ("exits", "SystemExit: 0"),
  ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_must_return_a_finite_number(function, message, workers):
  config = RewardConfig(function=USER + function)
  with pytest.raises(RewardError, match=message):
    score(config, [completion("a")], ["a"], WorkersConfig(workers))


CONTEXT = RewardContext(
  thought="",
  problem="from 1 to 9",
  steps=(Step("+", observation="2"), Step("+", observation="3")),
  step=2,
  trajectory_id="t-17",
  domain="general",
  answer="9",
  metadata={"goal": "9"},
)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_function_that_wants_a_context_gets_it_with_the_thought(workers):
  config = RewardConfig(function=USER + "in_state")
  completions = [completion("+", "up"), completion("-", "down")]
  with Scorer(config, WorkersConfig(workers)) as scorer:
    assert scorer.wants_context
    scored = scorer.score(completions, ["+"] * 2, [CONTEXT] * 2)
  # The answer, the step, the state after the action, the thought's length.
  assert [s.reward for s in scored] == [9242.0, 0.0]


def test_a_context_is_named_where_the_function_fails():
  config = RewardConfig(function=USER + "in_state")
  with Scorer(config) as scorer, pytest.raises(RewardError) as error:
    scorer.score([completion("/")], ["+"], [CONTEXT])
  message = str(error.value)
  assert "KeyError: '/'" in message
  assert message.endswith("with the target   '+'\n  at step 3 of 't-17'")


@pytest.mark.parametrize("function", ["length", "no_signature"])
def test_a_function_of_two_parameters_is_sent_no_context(function, monkeypatch):
  sent = []
  score_rows = WorkerProcess.score
  monkeypatch.setattr(
    WorkerProcess,
    "score",
    lambda self, rows: sent.extend(rows) or score_rows(self, rows),
  )
  config = RewardConfig(function=USER + function)
  with Scorer(config, WorkersConfig(1)) as scorer:
    assert not scorer.wants_context
    [scored] = scorer.score([completion("four")], ["4"], [CONTEXT])
  assert scored.reward > 0
  assert [len(row) for row in sent] == [2]


def test_a_context_goes_to_a_worker_once_per_chunk(monkeypatch):
  sizes = []

  def score_rows(self, rows):
    sizes.append(len(pickle.dumps(rows)))
    return [Scored(0.0, 0.0, "", 0, 0)] * len(rows)

  monkeypatch.setattr(WorkerProcess, "score", score_rows)
  context = CONTEXT._replace(problem="x" * 10_000)
  config = RewardConfig(function=USER + "in_state")
  with Scorer(config, WorkersConfig(1)) as scorer:
    scorer.score([completion("+")] * 64, ["+"] * 64, [context] * 64)
  # Four chunks of sixteen.
  assert len(sizes) == 4
  assert all(10_000 < size < 12_000 for size in sizes)


def test_a_worker_that_dies_is_reported_and_replaced():
  config = RewardConfig(function=USER + "dies")
  with Scorer(config, WorkersConfig(1)) as scorer:
    with pytest.raises(RewardError, match=r"code 7.*\n.*please die") as error:
      scorer.score([completion("please die")], [""])
    assert not error.value.passes
    assert scorer._free.qsize() == 1, "the next would wait forever"
    assert scorer.score([completion("live")], [""])[0].reward == 1.0


def test_a_worker_that_hangs_is_given_up():
  config = RewardConfig(function=USER + "sleeps")
  start = time.monotonic()
  with Scorer(config, WorkersConfig(1, 2.0)) as scorer:
    with pytest.raises(RewardError, match=r"more than 2 s.*\n.*sleep") as error:
      scorer.score([completion("sleep")], [""])
    assert error.value.passes, "the machine may be busy"
    assert scorer._free.qsize() == 1, "the next would wait forever"
    assert scorer.score([completion("")._replace(text="x")], [""])
  assert time.monotonic() - start < 30


def test_workers_import_neither_jax_nor_the_main_module():
  config = RewardConfig(function=USER + "modules")
  assert (
    score(config, [completion("a")], [""], WorkersConfig(1))[0].reward == 0.0
  )


def test_importing_rewards_and_tokenizers_does_not_import_jax():
  code = (
    "import sys, srl_jax.rewards, srl_jax.tokenizers\n"
    "import srl_jax.domains.registers\n"
    "print([m for m in ('jax', 'flax', 'optax', 'orbax') if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "[]"


def test_workers_outlive_signals_but_not_their_parent():
  code = f"""
import os, sys, time
sys.path.insert(0, {HERE!r})
from srl_jax.rewards import Completion, RewardConfig, Scorer, WorkersConfig
config = RewardConfig(function={USER!r} + "process_id")
scorer = Scorer(config, WorkersConfig(1))
one = [Completion("<think>t</think>a", True)]
print(int(scorer.score(one, [""])[0].reward), flush=True)
sys.stdin.readline()
print(int(scorer.score(one, [""])[0].reward), flush=True)
time.sleep(60)
"""
  parent = subprocess.Popen(
    [sys.executable, "-c", code],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  with parent:
    worker = int(parent.stdout.readline())
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGINT)
    parent.stdin.write("\n")
    parent.stdin.flush()
    assert int(parent.stdout.readline()) == worker
    parent.kill()  # no chance to clean up
  for _ in range(100):
    if not is_running(worker):
      return
    time.sleep(0.1)
  os.kill(worker, signal.SIGKILL)
  pytest.fail("the worker outlived its parent by ten seconds")


def is_running(process):
  try:
    stat = pathlib.Path(f"/proc/{process}/stat").read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"  # a zombie has ended


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"function": "diflib"},
      "levenshtein, answer, domain or your own",
    ),
    ({"function": "domain"}, "only where there are data; name the function"),
    ({"function": "answer", "autojunk": True}, "only difflib has it"),
    ({"function": "no_such_module:f"}, "No module named 'no_such_module'"),
    ({"function": USER + "nope"}, "has no attribute 'nope'"),
    ({"function": USER + "NOT_A_FUNCTION"}, "is a int, not a function"),
    ({"function": "__main__:__name__"}, "is a str, not a function"),
  ],
)
def test_mistakes_say_what_to_type(fields, message):
  with pytest.raises(ValueError, match=message):
    Scorer(RewardConfig(**fields))


def test_functions_of_a_notebook_cannot_go_to_workers(monkeypatch):
  main = sys.modules["__main__"]
  monkeypatch.setattr(main, "mine", lambda a, b: 0.5, raising=False)
  here = RewardConfig(function="__main__:mine")
  assert score(here, [completion("a")], ["a"])[0].reward == 0.5
  with pytest.raises(ValueError, match=r"set reward_workers\.count to 0"):
    Scorer(RewardConfig(function="__main__:mine"), WorkersConfig(1))


def test_every_completion_needs_a_target():
  with (
    Scorer(RewardConfig()) as scorer,
    pytest.raises(ValueError, match="2 completions, 1 targets; give one of"),
  ):
    scorer.score([completion("a")] * 2, ["a"])
  with Scorer(RewardConfig(function=USER + "in_state")) as scorer:
    for contexts in (None, [CONTEXT]):
      with pytest.raises(ValueError, match=r"2 targets, [01] contexts; give"):
        scorer.score([completion("a")] * 2, ["a"] * 2, contexts)
