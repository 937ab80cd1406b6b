# SPDX-License-Identifier: Apache-2.0
"""Processes agree on which calls are done, and compile no program for each."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
# Each process owns one of two subjects. That of process 0 waits until both have
# seen the results of the other, each of which has a size of its own.
CODE = """
import json, pathlib, sys, threading
import jax
from srl_jax.processes import joining
from srl_jax.rollout.calls import Calls

folder, *flags = sys.argv[1:]
address, count, index = (flag.partition("=")[2] for flag in flags)
joining.join(address, int(count), int(index))
programs = []
jax.monitoring.register_event_duration_secs_listener(
  lambda name, *_, **__: programs.append(name.endswith("compile_duration"))
)
seen = threading.Event()
lengths = [7 * 3**i for i in range(6)]
found = []
calls = Calls(str, print)
begin = lambda subject, call: calls.begin(
  subject, call, owner=subject, in_thread=True
)
begin(0, lambda _: seen.wait(timeout=60))
for length in lengths:
  begin(1, lambda _, length=length: "x" * length)
  for subject, result in calls.collect(wait=True):
    found.append((subject, len(result), result[:1]))
  programs.append(None)
seen.set()
found.append(calls.collect(wait=True))
calls.close()
after_first = sum(map(bool, programs[programs.index(None):]))
text = json.dumps([found, lengths, after_first])
(pathlib.Path(folder) / index).write_text(text)
"""


def test_processes_see_results_at_the_same_time_with_the_same_program(tmp_path):
  command = [sys.executable, "-c", CODE, str(tmp_path)]
  subprocess.run(
    [*(sys.executable, "-m", "launch.local", "--processes=2", "--"), *command],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": ""},
    timeout=100,
    check=True,
  )
  first, second = (json.loads((tmp_path / x).read_text()) for x in "01")
  assert first == second
  found, lengths, programs_after_first = first
  want = [[1, length, "x"] for length in lengths]
  assert found == [*want, [[0, True]]]
  assert programs_after_first == 0
