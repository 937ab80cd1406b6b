# SPDX-License-Identifier: Apache-2.0
"""A run of several processes that hangs ends, and shows where."""

import pathlib
import subprocess
import sys
import time

import pytest

from srl_jax import config as config_lib
from srl_jax import progress, run
from srl_jax.processes import watchdog

ROOT = pathlib.Path(__file__).parents[2]
# Three update steps are well; then one process stays on its host, and the other
# waits for it.
HANGS = """
import sys, time
import jax, numpy as np
from jax.experimental import multihost_utils
from srl_jax import progress
from srl_jax.processes import joining, watchdog

def reads_a_dead_disk():
  time.sleep(600)

address, count, index = (flag.partition("=")[2] for flag in sys.argv[1:])
joining.join(address, int(count), int(index))
with watchdog.watching(watchdog.WatchdogConfig(limit_s=4)):
  with progress.task("srl: update steps"):
    for step in range(4):
      multihost_utils.process_allgather(np.array(step))
      progress.advance(step + 1, 8)
      time.sleep(2)
    if jax.process_index() == 1:
      reads_a_dead_disk()
    multihost_utils.process_allgather(np.array(0))
"""


@pytest.mark.slow
def test_a_hang_ends_all_processes_with_the_stack_of_each():
  begin_s = time.monotonic()
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launch.local", "--processes=2", "--"),
      *(sys.executable, "-c", HANGS),
    ],
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    timeout=300,
    check=False,
  )
  assert done.returncode == 1, done.stdout
  # Of the collective, which would wait for ten minutes.
  assert time.monotonic() - begin_s < 200
  for index, place in enumerate(("process_allgather", "reads_a_dead_disk")):
    lines = [
      line for line in done.stdout.splitlines() if line.startswith(f"[{index}]")
    ]
    [said] = [i for i, line in enumerate(lines) if "made no progress" in line]
    assert f"process {index} of 2 made no progress for 4 s" in lines[said]
    assert "in: srl: update steps  4/8" in lines[said]
    assert any(place in line for line in lines[said:]), done.stdout


@pytest.fixture
def ended(monkeypatch):
  """Lists what would have ended this process, as one of two."""
  found = []
  monkeypatch.setattr(watchdog, "_end", lambda *what: found.append(what))
  monkeypatch.setattr(watchdog.jax, "process_count", lambda: 2)
  return found


def watch(limit_s, progresses=1):
  with (
    watchdog.watching(watchdog.WatchdogConfig(limit_s=limit_s)),
    progress.task("training"),
  ):
    for done in range(progresses):
      progress.advance(done, progresses)
      time.sleep(0.5)


def test_only_a_standstill_ends_a_process(ended):
  watch(limit_s=2, progresses=6)
  assert not ended
  watch(limit_s=0.2)
  limit_s, what = ended[0]
  assert limit_s == 0.2
  assert what.startswith("training")


def test_zero_is_no_limit(ended):
  watch(limit_s=0.0)
  assert not ended


def test_one_process_waits_for_nobody(ended, monkeypatch):
  monkeypatch.setattr(watchdog.jax, "process_count", lambda: 1)
  watch(limit_s=0.01)
  assert not ended


def test_a_run_is_watched_with_its_limit(monkeypatch, tmp_path):
  class Seen(Exception):  # noqa: N818 (nothing went wrong)
    pass

  def watching(config):
    raise Seen(config.limit_s)

  monkeypatch.setattr(run.watchdog, "watching", watching)
  config = config_lib.to_config(config_lib.default_config())
  with pytest.raises(Seen, match="3600"):
    run.train_and_evaluate(config, tmp_path)


def test_a_limit_below_zero_is_refused():
  with pytest.raises(ValueError, match=r"limit_s=-1.*0 or more"):
    watchdog.WatchdogConfig(limit_s=-1)
