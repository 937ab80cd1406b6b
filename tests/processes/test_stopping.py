# SPDX-License-Identifier: Apache-2.0
"""Signals end a process at once, or let it save."""

import os
import signal
import subprocess
import sys
import time

import pytest

# Minutes in C, as in a compilation: a handler in Python would not run.
BUSY = """
import hashlib
from srl_jax.processes import stopping
stopping.listen()
print("started", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
SAVES = """
import sys, time
from srl_jax.processes import stopping
stopping.listen()
with stopping.saving() as is_asked:
  print("started", flush=True)
  while not is_asked():
    time.sleep(0.01)
  print("saved", flush=True)
  if sys.argv[1] == "raise":
    sys.exit(stopping.status())
"""
# Python imports this module before anything else. It says when one is about to
# be imported, and stays there for a while, in Python or in C.
SITE = """
import os, sys

class Finder:
  def find_spec(self, name, *_):
    if name != os.environ["AT"]:
      return
    import hashlib, time
    print("started", flush=True)
    if os.environ["STAY"] == "c":
      hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    time.sleep(float(os.environ["STAY"]))

sys.meta_path.insert(0, Finder())
"""
NUMBERS = pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
TRAINS = ("-m", "srl_jax.main", "--config=experiments/registers.py")


@pytest.fixture
def start(tmp_path):
  started = []
  (tmp_path / "sitecustomize.py").write_text(SITE)
  path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])

  def call(*arguments, at="", stay="100"):
    process = subprocess.Popen(
      [sys.executable, *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env={**os.environ, "PYTHONPATH": path, "AT": at, "STAY": stay},
    )
    started.append(process)
    assert process.stdout.readline() == "started\n"
    return process

  yield call
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()


@NUMBERS
def test_a_signal_ends_what_cannot_be_saved_at_once(start, number, status):
  process = start("-c", BUSY)
  process.send_signal(number)
  # It would be busy for minutes.
  output, _ = process.communicate(timeout=60)
  assert process.returncode == status
  assert output == "asked to stop: ended at once\n"


@pytest.mark.parametrize("end", ["raise", "return"])
@NUMBERS
def test_a_signal_lets_training_save(start, number, status, end):
  process = start("-c", SAVES, end)
  process.send_signal(number)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == status
  assert output.splitlines()[0].startswith("asked to stop: saving after this")
  assert "saved" in output.splitlines()


COMPILES = """
import hashlib, sys
from srl_jax.processes import stopping
stopping.listen()
with stopping.interruptible() as is_interrupted:
  print("started", flush=True)
  hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1]))
  print(is_interrupted(), flush=True)
"""


def test_an_interruption_waits_for_c_and_a_second_one_does_not(start):
  process = start("-c", COMPILES, str(10**6))
  process.send_signal(signal.SIGINT)
  assert process.stdout.read() == "True\n"
  assert process.wait(60) == 0
  process = start("-c", COMPILES, str(10**9))
  process.send_signal(signal.SIGINT)
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=30)
  assert (process.returncode, output) == (130, "asked twice: ended at once\n")


def assert_ended(process, number, status):
  process.send_signal(number)
  # Far more than it takes, and less than all that the process would do.
  output, _ = process.communicate(timeout=60)
  assert process.returncode == status, output
  assert output.startswith("asked to stop") and output.count("\n") == 1, output


@NUMBERS
@pytest.mark.parametrize("stay", ["100", "c"])
@pytest.mark.parametrize("at", ["srl_jax.main", "jax"])
def test_a_signal_ends_a_command_that_still_imports(
  start, number, status, at, stay
):
  assert_ended(start(*TRAINS, at=at, stay=stay), number, status)


@pytest.mark.slow
@NUMBERS
@pytest.mark.parametrize(
  "at",
  [
    *("absl", "numpy", "jaxlib.xla_client", "jax.numpy", "flax.linen", "grain"),
    *("optax", "orbax.checkpoint", "pyarrow", "tokenizers", "srl_jax.run"),
  ],
)
def test_a_signal_ends_a_command_in_each_library(start, number, status, at):
  assert_ended(start(*TRAINS, at=at), number, status)


@pytest.mark.slow
@NUMBERS
@pytest.mark.parametrize("wait_s", [0, 0.03, 0.1, 0.3, 0.6, 1, 2, 3, 5])
def test_a_signal_ends_a_command_at_any_time(
  start, tmp_path, number, status, wait_s
):
  process = start(*TRAINS, f"--workdir={tmp_path}", at="srl_jax.main", stay="0")
  time.sleep(wait_s)
  process.send_signal(number)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == status, output
  assert output.splitlines()[-1].startswith("asked to stop"), output
  assert "Traceback" not in output and output.count("asked") == 1


@pytest.mark.slow
@NUMBERS
@pytest.mark.parametrize(
  "command",
  [
    *("srl_jax.chat", "srl_jax.evaluate", "srl_jax.export", "srl_jax.report"),
    *("srl_jax.serve", "srl_jax.show", "srl_jax.data.prepare"),
    "srl_jax chat",
  ],
)
def test_every_command_says_that_it_ends(start, number, status, command):
  assert_ended(start("-m", *command.split(), at="numpy"), number, status)


@pytest.mark.parametrize(
  "program", [("-c", "import srl_jax"), ("-m", "other.program")]
)
def test_importing_the_package_takes_no_signal_over(tmp_path, program):
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "__init__.py").write_text("import srl_jax")
  (tmp_path / "other" / "program.py").write_text("")
  (tmp_path / "sitecustomize.py").write_text(
    "import atexit, signal\n"
    "find = lambda: [*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))]\n"
    "before = find()\n"
    "atexit.register(lambda: print(find() == before))"
  )
  path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
  done = subprocess.run(
    [sys.executable, *program],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, "PYTHONPATH": path},
  )
  # Not the defaults: a shell that runs the tests in the background has SIGINT
  # ignored.
  assert done.stdout == "True\n"


TAKEN = """
import signal, sys, time
from srl_jax.processes import stopping
stopping.listen()
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
# The thread that listens is late: it runs when this one lets it.
sys.setswitchinterval(100)
print("started", flush=True)
while not heard:
  pass
stopping.listen("taken back")
time.sleep(0.3)
print("heard", flush=True)
time.sleep(100)
"""


def test_a_handler_that_is_set_later_has_the_signal_to_itself(start):
  process = start("-c", TAKEN)
  process.send_signal(signal.SIGTERM)
  assert process.stdout.readline() == "heard\n"
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=30)
  assert (process.returncode, output) == (143, "taken back\n")


def test_a_signal_ends_a_process_that_nobody_reads(start):
  process = start("-c", BUSY)
  process.stdout.close()
  process.send_signal(signal.SIGTERM)
  assert process.wait(30) == 143


FORKS = """
import os, signal, sys, time
from srl_jax.processes import stopping
stopping.listen()
print("started", flush=True)
for _ in range(50):
  child = os.fork()
  if not child:
    time.sleep(20)
    os._exit(0)
  # At once: also before the fork has run anything.
  os.kill(child, int(sys.argv[1]))
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
time.sleep(0.3)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_fork_ends_the_fork_alone(start, number):
  process = start("-W", "ignore", "-c", FORKS, str(int(number)))
  # With a time limit, communicate() loses what came together with the first
  # line.
  assert process.stdout.read() == f"{-number}\n" * 50
  assert process.wait(60) == 0
