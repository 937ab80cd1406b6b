# SPDX-License-Identifier: Apache-2.0
"""Children answer messages, and end when they take too much."""

import signal
import subprocess
import sys
import time

import pytest

from srl_jax.processes.children import Child, LazyChild, Lines, Pickles


@pytest.fixture
def child():
  child = Child("tests.processes.children_for_tests", Lines)
  yield child
  child.close()


def test_a_child_answers_and_what_it_prints_is_no_answer(child):
  for value in ("é\n", [1, {"a": None}]):
    assert child.ask(["echo", value], 120) == value


def test_a_child_has_a_limit_of_memory_and_survives_it(child):
  assert child.ask(["memory", 10**10], 120) == "MemoryError"
  assert child.ask(["echo", 1], 120) == 1


def test_a_child_has_a_limit_of_cpu_time_inside_one_operation(child):
  assert child.ask(["echo", 1], 120) == 1
  start = time.monotonic()
  with pytest.raises(EOFError, match=r"exit code -27 \(its limit of CPU time"):
    child.ask(["power", 9], 120)
  assert time.monotonic() - start < 60


# A process of its own: it could not be undone in the one of the tests.
IGNORES = """
import signal
from srl_jax.processes.children import Child, Lines

signal.signal(signal.SIGPROF, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
child = Child("tests.processes.children_for_tests", Lines)
try:
  child.ask(["power", 9], 60)
except (EOFError, TimeoutError) as error:
  print(error)
child.close()
"""


def test_the_limit_of_cpu_time_holds_where_a_parent_ignores_its_signal():
  done = subprocess.run(
    [sys.executable, "-c", IGNORES], capture_output=True, text=True
  )
  assert "exit code -27 (its limit of CPU time)" in done.stdout, done


def test_signals_of_the_parents_group_never_end_a_child():
  # From its first moment: also before Python has begun, and while it imports.
  for wait_s in (0, 0.01, 0.05, 0.2, 1):
    child = Child("tests.processes.children_for_tests", Lines)
    for number in (signal.SIGTERM, signal.SIGINT):
      child._process.send_signal(number)
      time.sleep(wait_s)
    assert child.ask(["echo", wait_s], 120) == wait_s
    child.close()
  assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "the parent's"


def test_a_child_that_waits_is_killed_in_time(child):
  assert child.ask(["echo", 1], 120) == 1
  with pytest.raises(TimeoutError, match=r"took more than 0\.2 s"):
    child.ask(["sleep", 60], 0.2)


def test_an_interrupted_question_leaves_no_answer_to_the_next(monkeypatch):
  child = LazyChild("tests.processes.children_for_tests", Lines)
  assert child.ask(["echo", 1], 120) == 1
  receive = Lines.receive

  def interrupted(stream):
    monkeypatch.setattr(Lines, "receive", receive)
    raise KeyboardInterrupt

  monkeypatch.setattr(Lines, "receive", interrupted)
  with pytest.raises(KeyboardInterrupt):
    child.ask(["echo", 2], 120)
  assert child.ask(["echo", 3], 120) == 3
  child.close()


def test_a_child_that_ends_says_how(child):
  with pytest.raises(EOFError, match="exit code 7"):
    child.ask(["exit", 7], 120)


def test_messages_that_are_cut_are_no_messages(tmp_path):
  for messages in (Lines, Pickles):
    path = tmp_path / messages.__name__
    with path.open("wb") as file:
      messages.send(file, [1, 2, 3])
    whole = path.read_bytes()
    with path.open("rb") as file:
      assert messages.receive(file) == [1, 2, 3]
      with pytest.raises(EOFError):
        messages.receive(file)
    path.write_bytes(whole[:-1])
    with path.open("rb") as file, pytest.raises(EOFError):
      messages.receive(file)
