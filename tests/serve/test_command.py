# SPDX-License-Identifier: Apache-2.0
"""The command as a process: how it begins and how it ends."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from srl_jax.serve import __main__ as command
from tests.support import small_model

BREAKS = """
import sys
from srl_jax.rollout import stream
from srl_jax.serve import __main__ as command

def advance(self):
  raise FloatingPointError("the device is gone")

stream.Stream.advance = advance
command.main(sys.argv[1:])
"""

# A device that is busy for longer than anybody waits.
SLOWS = """
import sys, time
from srl_jax.processes import stopping
stopping.listen()
from srl_jax.rollout import stream
from srl_jax.serve import __main__ as command

advance = stream.Stream.advance

def slowly(self):
  pieces = advance(self)
  time.sleep(0 if self.is_idle else 60)
  return pieces

stream.Stream.advance = slowly
command.main(sys.argv[1:])
"""

# As -m does, but by the event loop of Python.
WITHOUT_UVLOOP = """
import sys
sys.modules["uvloop"] = None
from srl_jax.processes import stopping
stopping.listen()
from srl_jax.serve import __main__ as command
command.main(sys.argv[1:])
"""

LACKS = """
import sys
sys.modules["starlette"] = sys.modules["uvicorn"] = None
from srl_jax.serve import __main__ as command
command.main(["--weights=registers_student"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return small_model.write(tmp_path_factory.mktemp("model") / "tiny")


@contextlib.contextmanager
def start(folder, *program):
  with subprocess.Popen(
    [sys.executable, *program, f"--weights={folder}", "--port=0", "--rows=1"],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      line = process.stdout.readline()
      found = re.search(r"tiny: .*(http://\S+)", line)
      assert found, line + process.stderr.read()
      yield process, found[1]
    finally:
      process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("number", "program"),
  [
    (signal.SIGTERM, ("-m", "srl_jax.serve")),
    (signal.SIGINT, ("-c", WITHOUT_UVLOOP)),
  ],
)
def test_a_signal_lets_a_request_end(folder, number, program):
  with start(folder, *program) as (process, url):
    ask = {"prompt": "a", "max_tokens": 400, "seed": 0, "n": 4}
    answers = []
    thread = threading.Thread(
      target=lambda: answers.append(
        httpx.post(f"{url}/completions", json=ask, timeout=120)
      )
    )
    thread.start()
    metrics = url.removesuffix("/v1") + "/metrics"
    while "completions_open 4" not in httpx.get(metrics, timeout=120).text:
      assert thread.is_alive()
    process.send_signal(number)
    thread.join()
    assert answers[0].status_code == 200
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and not errors, errors


def test_a_second_interrupt_ends_the_process_at_once(folder):
  with start(folder, "-c", SLOWS) as (process, url):
    ask = {"prompt": "a", "max_tokens": 400, "seed": 0}
    answers = []

    def post(**more):
      url_of = f"{url}/completions"
      answers.append(httpx.post(url_of, json=ask | more, timeout=120).text)

    threads = [
      threading.Thread(target=post, kwargs={"stream": stream})
      for stream in (False, True)
    ]
    for thread in threads:
      thread.start()
    metrics = url.removesuffix("/v1") + "/metrics"
    while "completions_open 2" not in httpx.get(metrics, timeout=120).text:
      pass
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(httpx.TransportError):
      while True:  # Until it takes no more requests.
        httpx.get(metrics, timeout=120)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    for thread in threads:
      thread.join()
    assert process.returncode == 128 + signal.SIGINT
    assert errors == "asked twice: ended at once\n"
    assert all("the server was stopped" in answer for answer in answers)


def test_a_failure_of_the_device_ends_the_process_with_status_1(folder):
  with start(folder, "-c", BREAKS) as (process, url):
    ask = {"prompt": "a", "max_tokens": 4}
    answer = httpx.post(f"{url}/completions", json=ask, timeout=120)
    assert answer.status_code == 500
    assert "device is gone" in answer.json()["error"]["message"]
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "FloatingPointError: the device is gone" in errors


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--rows=0"], "--rows=0 is too low; give 1 or more"),
    (["--context=5000"], "--context=5000 is more than .* 4096"),
    (["--weights=/nowhere"], "/nowhere"),
    (["--port=-1"], "--port=-1 is too low; give 0 or more"),
    (["--port=65536"], "--port=65536 cannot be had .*; give a port from 1 to"),
    (["--host=192.0.2.1"], "--host=192.0.2.1 --port=8000 cannot be had"),
  ],
)
def test_what_cannot_be_served_is_told(folder, arguments, words):
  with pytest.raises(SystemExit, match=words):
    command.main([f"--weights={folder}", *arguments])


def test_without_its_libraries_one_line_says_what_to_type():
  done = subprocess.run(
    [sys.executable, "-c", LACKS], capture_output=True, text=True
  )
  [line] = done.stderr.splitlines()
  assert "pip install 'srl_jax[serve]'" in line and done.returncode == 1


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(monkeypatch):
  monkeypatch.setattr(command.inference, "load", None)
  with socket.create_server(("127.0.0.1", 0)) as other:
    port = other.getsockname()[1]
    with pytest.raises(SystemExit, match=f"--port={port} cannot be had .*use"):
      command.main(["--weights=registers_student", f"--port={port}"])
