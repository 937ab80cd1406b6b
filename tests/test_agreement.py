# SPDX-License-Identifier: Apache-2.0
"""Two processes that see different files, or were started differently."""

import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# Process 1 sees the files of process 0 as they were before.
CODE = """
import json, os, pathlib, shutil, sys
import jax
import numpy as np
from srl_jax import agreement
from srl_jax.checkpoint import CheckpointConfig, Checkpointer
from srl_jax.processes import joining

folder, *flags = sys.argv[1:]
address, count, index = (flag.partition("=")[2] for flag in flags)
joining.join(address, int(count), int(index))
folder = pathlib.Path(folder)
own = folder / index
found = {"sees": json.loads((own / "results.json").read_text())}
found["reads"] = agreement.read_json(own / "results.json")
found["missing"] = agreement.read_json(own / "none.json")

agreement._SEEN_AFTER_S = 1.0
def refusal(check, value):
  try:
    check(value)
  except ValueError as error:
    return str(error)
found["shared"] = refusal(agreement.check_shared, folder)
found["not shared"] = refusal(agreement.check_shared, own)
same = {"config": {"seed": 0, "mesh": {"data": 1}}}
found["same"] = refusal(agreement.check_same, same)
other = {"config": {"seed": int(index), "mesh": {"data": 1}}}
found["different"] = refusal(agreement.check_same, other)


big = np.ones((1500, 1500), np.float32)
work = jax.jit(lambda x: jax.lax.fori_loop(0, 50, lambda _, x: x @ x, x))
work = work.lower(big).compile()
result = work(big)
votes = (False, index == "1", False)
found["votes"] = [agreement.any_process(vote) for vote in votes]
found["has waited for devices"] = result.is_ready()
(own / "found.json").write_text(json.dumps(found))

steps = folder / "stage"
with Checkpointer(steps, CheckpointConfig()) as saver:
  for step in (1, 2):
    saver.save(step, {"w": np.full(3, step)}, {}, {})
if index == "1":
  shutil.copytree(steps, own / "stage")
  shutil.rmtree(own / "stage" / "steps" / "2")
  steps = own / "stage"
try:
  with Checkpointer(steps, CheckpointConfig()) as saver:
    print("the latest is", saver.latest_step(), flush=True)
except FileNotFoundError:
  os._exit(3)
"""


def launch(*command, environment=None):
  """Runs a command as two processes; returns status and what was said."""
  done = subprocess.run(
    [*(sys.executable, "-m", "launch.local", "--processes=2", "--"), *command],
    cwd=ROOT,
    env=(environment or os.environ) | {"XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=100,
    check=False,
  )
  return done.returncode, done.stdout


def test_what_process_0_reads_holds_for_all(tmp_path):
  for index, text in enumerate(('{"before": 1}', "{}")):
    (tmp_path / str(index)).mkdir()
    (tmp_path / str(index) / "results.json").write_text(text)
  status, said = launch(sys.executable, "-c", CODE, str(tmp_path))
  # Process 1 does not see the latest checkpoint, and must not take another.
  assert status == 3, said
  found, of_other = (
    json.loads((tmp_path / x / "found.json").read_text()) for x in "01"
  )
  assert found.pop("sees") != of_other.pop("sees")
  refused = found.pop("not shared"), of_other.pop("not shared")
  for index, message in enumerate(refused):
    assert message == (
      "process 1 of 2 does not see what process 0 writes to "
      f"--workdir={tmp_path / str(index)}; give gs://BUCKET/FOLDER, or a "
      "folder on a disk that all hosts share"
    )
  assert found == of_other
  assert found == {
    "reads": {"before": 1},
    "missing": None,
    "shared": None,
    "same": None,
    "votes": [False, True, False],
    "has waited for devices": False,
    "different": "process 1 does not run what process 0 runs: config.seed is 1 "
    "there and 0 in process 0; start the same command on every host, with the "
    "same files and the same version of srl_jax",
  }
  assert not list(tmp_path.rglob("shared.txt"))


STARTS = """
import os, sys
from srl_jax import main
folder, change, *arguments = sys.argv[1:]
index = arguments[-1][-1]
os.chdir(os.path.join(folder, index))
main.command([sys.argv[0], *arguments, change.replace("INDEX", index)])
"""


def test_no_module_needs_a_private_part_of_jax_to_be_imported():
  # It may move, and most runs have a single process, which does not use it.
  for path in (ROOT / "srl_jax").rglob("*.py"):
    private = re.search(r"^(from|import) jax\._src", path.read_text(), re.M)
    assert not private, path


def test_processes_that_were_started_differently_are_refused(runs, tmp_path):
  lines = pathlib.Path(runs.data).read_text().splitlines()
  for index in range(2):
    (tmp_path / str(index)).mkdir()
    # The last record is missing on one host.
    (tmp_path / str(index) / "data.jsonl").write_text(
      "\n".join(lines[: len(lines) - index]) + "\n"
    )
  _, _, _, *flags = runs.command(tmp_path / "run", "sft")
  for change, message in (
    ("--config.seed=INDEX", "config.seed is 1 there and 0 in process 0"),
    ("--config.data.path=data.jsonl", "data.train is "),
  ):
    status, said = launch(
      *(sys.executable, "-c", STARTS, str(tmp_path), change, *flags),
      environment=runs.environment(),
    )
    assert status == 2, said
    assert "error: process 1 does not run what process 0 runs: " in said
    assert message in said
