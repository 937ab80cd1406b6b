# SPDX-License-Identifier: Apache-2.0
"""One contender in its own process, which takes update steps on command.

engine.py starts it, so that threads and peaks of memory do not mix. The
argument is JSON. Every input line is a command ("step", "reset" or "stop");
every output line is a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from benchmarks.turns import Turns
from benchmarks.workload import Workload


def run_ours(turns: Turns, spec: dict[str, Any], work: Workload) -> None:
  """Runs this package; its first report is the time of prefill alone."""
  import jax

  from benchmarks import measuring, ours
  from srl_jax import strict
  from srl_jax.models import ModelConfig

  settings = ours.Settings(**spec["settings"])
  model = strict.to_dataclass(ModelConfig, spec["model"], path="model")
  contender = ours.Ours(model, work, settings)
  jax.block_until_ready(contender.prefill())
  cost = measuring.timed(contender.prefill)
  turns.send(prefill_s=cost.wall_s, prefill_cpu_s=cost.cpu_s)
  while turns.begin():
    turns.end(**contender.step())


def run_peer(turns: Turns, spec: dict[str, Any], work: Workload) -> None:
  """Runs another system."""
  from benchmarks import peers

  peers.RUN[spec["peer"]](turns, spec["model"], work, spec["settings"])


def run_rate(turns: Turns, spec: dict[str, Any], work: Workload) -> None:
  """Measures matrix products again in each turn."""
  del spec, work
  from benchmarks import floor

  turns.send()
  while turns.begin():
    turns.end(rate=floor.matrix_rate())


RUN = {"ours": run_ours, "peer": run_peer, "rate": run_rate}


def main() -> None:
  spec = json.loads(sys.argv[1])
  if spec["cores"]:
    os.sched_setaffinity(0, spec["cores"])
  # Output of libraries must not reach the parent's pipe.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  RUN[spec["kind"]](Turns(sys.stdin, answers), spec, Workload(**spec["work"]))


if __name__ == "__main__":
  main()
