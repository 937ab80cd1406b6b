# SPDX-License-Identifier: Apache-2.0
"""How many all-gathers of a compiled program run beside other work.

Link traffic of the update is counted as hidden behind its products. By what the
compiler made of a program that can be checked without a TPU, also with other
flags in LIBTPU_INIT_ARGS.
"""

from __future__ import annotations

import re


def beside_other_work(hlo: str) -> tuple[int, int]:
  """Returns the numbers of all-gathers with work in between, and of all.

  What a loop over layers holds counts once.

  Args:
    hlo: text of a program compiled by libtpu. What works while an all-gather is
      under way is in one fusion with it, under the same channel.
  """
  gather = re.compile(r" all-gather(?:-start)?\(.*?channel_id=(\d+)")
  beside, every = set(), set()
  for computation in re.split(r"\n(?=\S)", hlo):
    found = gather.findall(computation)
    every.update(found)
    if "async_collective_fusion" in computation.partition(" ")[0]:
      beside.update(found)
  return len(beside), len(every)
