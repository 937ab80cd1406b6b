# SPDX-License-Identifier: Apache-2.0
"""The worker process: `python -m srl_jax.rewards.worker`, see worker_process.

It leaves by itself when its parent is gone.
"""

from __future__ import annotations

from srl_jax.processes.children import Pickles, take_streams
from srl_jax.rewards.reward import RewardError, find_function, score_one


def main() -> None:
  """Answers messages until the parent hangs up."""
  # The parent may still want rewards for the step it is about to save.
  requests, answers = take_streams()
  try:
    config = Pickles.receive(requests)
    function = find_function(config)
    while True:
      rows = Pickles.receive(requests)
      if rows is None:
        Pickles.send(answers, True)
        continue
      try:
        Pickles.send(
          answers, [score_one(config, function, *row) for row in rows]
        )
      except RewardError as error:
        Pickles.send(answers, error)
  except (EOFError, BrokenPipeError):
    pass


if __name__ == "__main__":
  main()
