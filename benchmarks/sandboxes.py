# SPDX-License-Identifier: Apache-2.0
"""How many sandboxes, commands and judged repairs this machine can do.

  python -m benchmarks.sandboxes --seconds=20 --workers=2

A start is a new sandbox with one command; a repair is a whole episode at a
tiny repository: its copy, an edit, the patch, the hidden tests. The workers
are threads of this process, as sandboxes are processes of their own.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

from absl import app, flags

from srl_jax.domains.software.environment import (
  AgentConfig,
  RepairEnvironment,
)
from srl_jax.domains.software.launchers import SandboxConfig
from srl_jax.domains.software.sandbox import Sandbox
from srl_jax.domains.software.tasks import RepairTask

_SECONDS = flags.DEFINE_float("seconds", 20.0, "Seconds for each figure.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Threads.")
_CONFIG = SandboxConfig()
_EDIT = """<function=bash>
<parameter=command>sed -i 's/a - b/a + b/' calc.py</parameter>
</function>"""


def _start() -> None:
  with Sandbox(_CONFIG) as sandbox:
    assert sandbox.run(["true"]).succeeded


def _repair(task: RepairTask) -> None:
  agent = AgentConfig("swe-smith-once")
  environment = RepairEnvironment({task.id: task}, _CONFIG, agent)
  environment.reset(task.trajectory("software"))
  environment.step(_EDIT)
  environment.step("submit")
  assert environment.solved(), environment.verdict
  environment.close()


def _measure(name: str, work: Callable[[], None]) -> None:
  """Prints how often the workers do something, and the CPU that it takes."""
  begin, cpu_s = time.monotonic(), _cpu_s()

  def repeat(_: int) -> int:
    count = 0
    while time.monotonic() - begin < _SECONDS.value:
      work()
      count += 1
    return count

  with concurrent.futures.ThreadPoolExecutor(_WORKERS.value) as workers:
    count = sum(workers.map(repeat, range(_WORKERS.value)))
  minutes = (time.monotonic() - begin) / 60
  each_ms = 1000 * (_cpu_s() - cpu_s) / count
  print(
    f"{name:<24}{count / minutes:8.0f} a minute, {each_ms:8.0f} ms of CPU each",
    flush=True,
  )


def _cpu_s() -> float:
  return sum(os.times()[:4])


def main(argv: list[str]) -> None:
  """Measures starts, commands and repairs."""
  del argv
  _measure("starts of a sandbox", _start)
  with Sandbox(_CONFIG) as sandbox:
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < _SECONDS.value:
      sandbox.run(["bash", "-c", "true"])
      count += 1
    milliseconds = 1000 * (time.monotonic() - begin) / count
    print(f"{'a command':<28}{milliseconds:8.1f} ms")
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    folder.chmod(0o755)
    (folder / "calc.py").write_text("def add(a, b):\n  return a - b\n")
    test = "from calc import add\n\ndef test_add():\n  assert add(1, 2) == 3\n"
    task = RepairTask(
      id="toy",
      repository=name,
      problem="add(1, 2) returns -1.",
      fail_to_pass=("test_calc.py::test_add",),
      test_files=(("test_calc.py", test),),
    )
    _measure("judged repairs", lambda: _repair(task))


if __name__ == "__main__":
  app.run(main)
