# SPDX-License-Identifier: Apache-2.0
"""Trains and evaluates the run that an experiment file describes.

  srl_jax train --config=experiments/registers.py --workdir=/tmp/run
  srl_jax train --config=experiments/registers.py:rlvr,seed=1
  srl_jax train --config=experiments/math.py --config.log_every=5

The same command resumes an interrupted run.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import jax
from absl import app, flags, logging

from srl_jax import agreement, compilation_cache, storage
from srl_jax import config as config_lib
from srl_jax.processes import failures, stopping
from srl_jax.processes.joining import join
from srl_jax.run import train_and_evaluate
from srl_jax.storage.workdir import RefusedError
from srl_jax.train.loop import Stopped

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "Experiment, as file.py or the name of one that ships with the package, "
  "with [:preset[,key=value]...]. Single fields are set by --config.key=value "
  "too.",
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
_JOIN_S = flags.DEFINE_integer(
  "join_s", 300, "Seconds to wait for all processes at the start.", 1
)
_LOST_HOST_S = flags.DEFINE_integer(
  "lost_host_s",
  30,
  "Seconds without a sign of life after which a process counts as lost; all "
  "others then end.",
  1,
)
_MULTI_HOST = flags.DEFINE_bool(
  "multi_host", False, "Join the other hosts of a TPU pod before anything else."
)


def command(argv: Sequence[str] | None = None) -> NoReturn:
  """Runs the command line, and exits.

  The status is 0; 2 for what would come again, as something that the user gave
  is wrong or training went wrong; 1 for other errors, which may pass; 143 or
  130 if it was stopped.
  """
  app.run(main, argv, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses all flags but --config.key=value, which it returns for `main`.

  absl cannot know these flags: the fields belong to the experiment.
  """
  fields = [x for x in argv[1:] if re.match(r"--?config\.", x)]
  rest = [x for x in argv if x not in fields]
  return app.parse_flags_with_usage(rest) + fields


def main(argv: Sequence[str]) -> None:
  """Runs the experiment of the flags; `argv` has overrides of its fields."""
  # At level INFO, libraries list the backends that they did not find.
  logging.set_verbosity(logging.WARNING)
  failures.hush()
  workdir = None
  is_several = _COORDINATOR.value or _MULTI_HOST.value
  try:
    if (_PROCESSES.value, _PROCESS.value) != (None, None) and not is_several:
      raise ValueError(
        "--num_processes and --process_id need --coordinator_address=host:port "
        "too; srl_jax local sets all three"
      )
    if is_several:
      # This precedes the experiment, which may ask for the devices.
      join(
        _COORDINATOR.value,
        _PROCESSES.value,
        _PROCESS.value,
        join_s=_JOIN_S.value,
        lost_host_s=_LOST_HOST_S.value,
      )
    # Again, because JAX has set its own handler when it joined.
    stopping.listen(
      "asked to stop while nothing was trained, so there is nothing to save. "
      "Run the same command again to go on."
    )
    config = config_lib.load(_CONFIG.value, argv[1:])
    workdir = storage.path(
      _WORKDIR.value or pathlib.Path("runs") / config.name.replace(":", "_")
    )
    compilation_cache.use_default(workdir)
    train_and_evaluate(config, workdir)
    _error_file(workdir).unlink(missing_ok=True)
    # Process 0 may still write the model. JAX itself aborts the others once
    # they have waited at their end for five minutes.
    agreement.wait_for_all()
  except Stopped as stopped:
    print(stopped, flush=True)
    sys.exit(stopping.status())
  except (
    ValueError,
    RuntimeError,
    OSError,
    *failures.of_buckets(),
  ) as error:
    _fail(error, workdir)
  except Exception:
    if not is_several:
      raise
    traceback.print_exc()
    _end_at_once()


def _fail(error: Exception, workdir: pathlib.Path | None) -> NoReturn:
  """Exits with the error's message alone; the traceback goes to a file."""
  is_of_storage = failures.is_of_storage(error)
  status = 1 if failures.may_pass(error) else 2
  said = failures.in_one_line(error, resumes=True)
  print(f"error: {said}", file=sys.stderr)
  # The disk may be full, or the bucket away, which was said just now.
  with contextlib.suppress(OSError, *failures.of_buckets()):
    is_ours = workdir is not None and not isinstance(error, RefusedError)
    if is_ours and workdir.is_dir():
      path = _error_file(workdir)
      path.write_text(traceback.format_exc())
      print(f"(where it happened: {path})", file=sys.stderr)
  if _COORDINATOR.value or _MULTI_HOST.value or is_of_storage:
    _end_at_once(status)
  sys.exit(status)


def _error_file(workdir: pathlib.Path) -> pathlib.Path:
  return workdir / f"error_{jax.process_index()}.txt"


def _end_at_once(status: int = 1) -> NoReturn:
  """Ends without an orderly exit.

  That would wait minutes for the other processes of a run, and libraries would
  try in vain to write to a full disk what they still hold.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


if __name__ == "__main__":
  command()
