# SPDX-License-Identifier: Apache-2.0
"""What is said in long silences, and what is not."""

import hashlib
import time

import jax
import pytest

from srl_jax import progress


@pytest.fixture
def impatient(monkeypatch):
  monkeypatch.setattr(progress, "SILENCE_S", 0.1)


def test_a_silent_task_is_named_even_while_python_does_not_run(
  impatient, capsys
):
  with progress.task("compiling"):
    begin_s = time.monotonic()
    while time.monotonic() - begin_s < 1:
      # Releases Python's lock and takes a second, as a compilation does.
      hashlib.pbkdf2_hmac("sha256", b"", b"", 10**6)
  lines = capsys.readouterr().out.splitlines()
  assert lines and all(x.startswith("compiling  ") for x in lines)
  assert lines[0].endswith(" so far")
  time.sleep(0.3)
  assert not capsys.readouterr().out, "said after its end"


def test_nobody_is_told_of_what_is_quick_or_talks_itself(capsys, monkeypatch):
  monkeypatch.setattr(progress, "SILENCE_S", 1.0)
  with progress.task("training"):
    for _ in range(4):
      time.sleep(0.4)
      progress.say("a line")
  assert capsys.readouterr().out == 4 * "a line\n"


def test_the_innermost_task_is_said(impatient, capsys):
  with progress.task("outer"):
    with progress.task("inner"):
      time.sleep(0.5)
    assert "outer" not in capsys.readouterr().out
    time.sleep(0.5)
  assert "inner" not in capsys.readouterr().out


def test_only_the_first_process_speaks(impatient, capsys, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with progress.task("training"):
    progress.say("a line")
    progress.advance(1, 2)
    time.sleep(0.5)
  assert not capsys.readouterr().out


def test_a_line_says_how_far_how_good_and_how_much_longer(monkeypatch):
  now_s = 0.0
  monkeypatch.setattr(time, "monotonic", lambda: now_s)
  monkeypatch.setattr(progress, "_watch", lambda _: None)

  def line():
    return progress._State.tasks[-1].line(now_s)

  with progress.task("before: in turns"):
    now_s = 5.0
    assert line() == "before: in turns  5s so far"
    progress.advance(0, 200)
    progress.note("3 of 12 right so far")
    now_s = 25.0
    progress.advance(50, 200)
    # 20 s for 50, and the 5 s before are no part of it.
    assert line() == (
      "before: in turns  50/200  3 of 12 right so far  25s so far  1m00s left"
    )
    progress.advance(0, 50)
    now_s = 30.0
    progress.advance(25, 50)
    assert line() == (
      "before: in turns  25/50  3 of 12 right so far  30s so far  5s left"
    )
  with progress.task("srl: update steps", done=10, total=30):
    now_s += 5
    progress.advance(11, 30)
    # The ten before a resume took no time.
    assert line() == "srl: update steps  11/30  5s so far  1m35s left"


def test_a_run_says_what_it_evaluates_and_its_score(
  runs, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(progress, "SILENCE_S", 0.001)
  # What the thread would say if it woke at once; on a busy machine it may not
  # wake before an evaluation of milliseconds is over.
  for name in ("advance", "note"):

    def and_say(*args, change=getattr(progress, name)):
      change(*args)
      if progress._State.tasks:
        progress.say(progress._State.tasks[-1].line(time.monotonic()))

    monkeypatch.setattr(progress, name, and_say)
  runs.run(tmp_path, "sft", sft__update_steps=1)
  output = capsys.readouterr().out
  for text in (
    "sft: compiling update: accumulate",
    "before: single steps, greedy",
    "mean similarity 0.",
    "before: whole problems in turns, greedy  0/8",
    "  right so far ",
    "after sft: whole problems in turns",
    "sft: validation after step 1 of 1",
  ):
    assert text in output
