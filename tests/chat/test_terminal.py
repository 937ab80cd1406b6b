# SPDX-License-Identifier: Apache-2.0
"""The chat as a process of its own, at a terminal and in a pipe."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow
COMMAND = (sys.executable, "-m", "srl_jax.chat", "--weights=registers_student")
GREEDY = ("--temperature=0", "--max_new_tokens=40")
# So many answers take minutes.
ENDLESS = ("--n=10000", "--seed=1")
PROBLEM = "Dy+wEx-yFz-y;?2981"
# A terminal that a session's first process opens becomes its own, so that
# Ctrl-C is heard there.
OPENING = (
  "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
  "os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
  """A chat at a terminal: what it shows, and what is typed."""

  def __init__(self, *arguments):
    self._main, child = pty.openpty()
    self._process = subprocess.Popen(
      [sys.executable, "-c", OPENING, *COMMAND, *arguments],
      stdin=child,
      stdout=child,
      stderr=child,
      start_new_session=True,
    )
    os.close(child)
    self._new = ""

  def type(self, keys):
    # Python shows a prompt, and then waits for keys: a signal in between is
    # noticed with the next key only.
    time.sleep(0.5)
    os.write(self._main, keys.encode())

  def wait_for(self, text, seconds=120):
    """Reads until a text is shown; returns all that is new up to it."""
    end_s = time.monotonic() + seconds
    while text not in self._new:
      left_s = max(0, end_s - time.monotonic())
      is_there, _, _ = select.select([self._main], [], [], left_s)
      assert is_there, f"{text!r} was not shown, but {self._new!r}"
      self._new += os.read(self._main, 4096).decode(errors="replace")
    before, _, self._new = self._new.partition(text)
    return before + text

  def end(self, seconds=60):
    """Returns the exit status, and what was shown last."""
    with contextlib.suppress(OSError):  # Nobody has the terminal any more.
      while True:
        self._new += os.read(self._main, 4096).decode(errors="replace")
    return self._process.wait(timeout=seconds), self._new

  def close(self):
    self._process.kill()
    self._process.wait()
    os.close(self._main)


@contextlib.contextmanager
def terminal(*arguments):
  with contextlib.closing(Terminal(*arguments)) as opened:
    opened.wait_for("\r\n> ")
    yield opened


def test_ctrl_c_ends_an_answer_and_then_the_program():
  with terminal(*ENDLESS) as chat:
    chat.type(f"{PROBLEM}\n")
    chat.wait_for("[prompt 1, answer 3]")
    chat.type("\x03")
    shown = chat.wait_for("\r\n> ")
    assert "[interrupted]" in shown and "Traceback" not in shown
    # It is ready for the next prompt.
    chat.type(f"{PROBLEM}\n")
    chat.wait_for("[prompt 2, answer 3]")
    chat.type("\x03")
    chat.wait_for("[interrupted]")
    chat.wait_for("\r\n> ")
    chat.type("half a line\x03")
    assert "(once more ends" in chat.wait_for("\r\n> ")
    chat.type("\x03")
    status, shown = chat.end()
  assert status == 130
  assert "Traceback" not in shown


def test_the_end_of_the_input_ends_the_program_on_a_line_of_its_own():
  with terminal(*GREEDY) as chat:
    chat.type("\x03")
    chat.wait_for("\r\n> ")
    chat.type(f"{PROBLEM}\n")
    assert "</think>" in chat.wait_for("\r\n> ")
    # A prompt in between, and Ctrl-C is a first one again.
    chat.type("\x03")
    assert "(once more ends" in chat.wait_for("\r\n> ")
    chat.type("\x04")
    assert chat.end() == (0, "\r\n")


def piped(*arguments):
  return subprocess.Popen(
    [*COMMAND, *arguments],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_each_line_of_a_pipe_is_answered():
  with piped(*GREEDY) as chat:
    said, complaints = chat.communicate(f"{PROBLEM}\n\n{PROBLEM}", timeout=120)
  first, second = said.splitlines()
  assert first == second and "</think>" in first
  assert (chat.returncode, complaints) == (0, "")


def test_ctrl_c_ends_a_program_in_a_pipe():
  with piped(*ENDLESS) as chat:
    chat.stdin.write(f"{PROBLEM}\n{PROBLEM}\n")
    chat.stdin.flush()
    assert chat.stdout.readline() == "[prompt 1, answer 1]\n"
    chat.send_signal(signal.SIGINT)
    said, complaints = chat.communicate(timeout=120)
  assert "[interrupted]" in said and "[prompt 2" not in said
  assert (chat.returncode, complaints) == (130, "")


def test_a_reader_that_leaves_ends_the_program_quietly():
  with piped(*ENDLESS) as chat:
    chat.stdin.write(f"{PROBLEM}\n")
    chat.stdin.close()
    chat.stdout.readline()
    chat.stdout.close()
    assert chat.wait(timeout=120) == 128 + signal.SIGPIPE
    assert chat.stderr.read() == ""
