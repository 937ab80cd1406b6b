# SPDX-License-Identifier: Apache-2.0
"""Command line: trains and evaluates what an experiment file describes.

  python -m srl_jax.main --config=experiments/math.py --workdir=/tmp/run
  python -m srl_jax.main --config=experiments/math.py:embedded_rlvr,seed=1
  python -m srl_jax.main --config=experiments/math.py --config.srl.steps=20

The same command goes on with a run that was interrupted.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import sys
import traceback

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from srl_jax import config as config_lib
from srl_jax import run as run_lib
from srl_jax.train import Stopped

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Experiment file, as file.py[:preset[,key=value]...]."
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of this run: checkpoints, metrics, resolved config, results. "
  "Default: runs/<name of the config>.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address",
  None,
  "host:port of process 0. On Cloud TPU it is found without this flag.",
)
_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "Number of processes of a run on several hosts."
)
_PROCESS = flags.DEFINE_integer("process_id", None, "Number of this process.")
_MULTI_HOST = flags.DEFINE_bool(
  "multi_host", False, "Join the other hosts of a TPU pod before anything else."
)


def main(argv: list[str]) -> None:
  # Libraries announce at level INFO which backends they did not find.
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(
      f"arguments {argv[1:]} are not understood; all options begin with --"
    )
  if _COORDINATOR.value or _MULTI_HOST.value:
    jax.distributed.initialize(
      _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    )
  workdir = None
  try:
    config = config_lib.to_config(_CONFIG.value)
    workdir = pathlib.Path(
      _WORKDIR.value or pathlib.Path("runs") / config.name.replace(":", "_")
    )
    run_lib.run(config, workdir, versions())
  except Stopped as stopped:
    print(stopped, flush=True)
    sys.exit(143)
  except (ValueError, RuntimeError, OSError) as error:
    _fail(error, workdir)


def _fail(error: Exception, workdir: pathlib.Path | None) -> None:
  """Ends with the message alone; the traceback goes to a file."""
  print(f"error: {error}", file=sys.stderr)
  if workdir is not None and workdir.is_dir():
    path = workdir / f"error_{jax.process_index()}.txt"
    path.write_text(traceback.format_exc())
    print(f"(where it happened: {path})", file=sys.stderr)
  else:
    traceback.print_exc(limit=-1)
  sys.exit(1)


def versions() -> dict[str, str]:
  """Versions of what decides the numbers of a run."""
  names = ("srl_jax", "jax", "jaxlib", "flax", "optax", "numpy", "grain")
  found = {"python": platform.python_version()}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "not installed"
  return found


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main)
