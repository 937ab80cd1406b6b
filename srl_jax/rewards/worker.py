# SPDX-License-Identifier: Apache-2.0
"""The worker process: `python -m srl_jax.rewards.worker`, see worker_process.

It leaves by itself when its parent is gone.
"""

from __future__ import annotations

import os
import signal

from srl_jax.rewards.reward import RewardError, find_function, score_one
from srl_jax.rewards.worker_process import receive, send


def main() -> None:
  """Answers messages until the parent hangs up."""
  # Ctrl-C and a scheduler's SIGTERM reach the whole process group, but the
  # parent may still want rewards for the step it is about to save.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  # A user's function that prints or reads must not get at the messages.
  requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  with open(os.devnull, "rb") as nothing:
    os.dup2(nothing.fileno(), 0)
  try:
    config = receive(requests)
    function = find_function(config)
    while True:
      rows = receive(requests)
      if rows is None:
        send(answers, True)
        continue
      try:
        send(answers, [score_one(config, function, *row) for row in rows])
      except RewardError as error:
        send(answers, str(error))
  except (EOFError, BrokenPipeError):
    pass


if __name__ == "__main__":
  main()
