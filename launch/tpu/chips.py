# SPDX-License-Identifier: Apache-2.0
"""What one TPU chip can do at its peak, and how its torus is closed.

From the tables of https://docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e
(read in 2026). A port's rate is the documented bandwidth of a chip, which
counts both directions, over its ports and 2.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """A generation of chips.

  Attributes:
    name: as in a topology, "v5e".
    flops_per_s: bfloat16 matrix products.
    memory_bytes: that a program can have of the memory, as the compiler's
      message has it when a program needs more.
    memory_bytes_per_s: of that memory.
    port_bytes_per_s: of one link to a neighbour, in one direction.
    ring_of: a side of the torus closes to a ring if it is a multiple of this
      many chips.
  """

  name: str
  flops_per_s: float
  memory_bytes: int
  memory_bytes_per_s: float
  port_bytes_per_s: float
  ring_of: int

  def link_bytes_per_s(self, sides: tuple[int, ...]) -> float:
    """What a chip receives in a collective along one axis of the torus.

    From both neighbours if the longest side is a ring, else, at the ends of
    the line, from one. A mesh axis that spans several sides can do better.
    """
    is_ring = max(sides) % self.ring_of == 0
    return self.port_bytes_per_s * (2 if is_ring else 1)


_GIB = 2**30
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v5e", 197e12, int(15.75 * _GIB), 819e9, 400e9 / 4 / 2, 16),
    Chip("v5p", 459e12, int(95.73 * _GIB), 2765e9, 1200e9 / 6 / 2, 4),
    Chip("v6e", 918e12, int(31.24 * _GIB), 1638e9, 800e9 / 4 / 2, 16),
  )
}


def parse_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """Reads "v5e:8x8" as the chip and the sides of its torus.

  Raises:
    ValueError: unknown chip, or no such shape.
  """
  name, _, shape = topology.partition(":")
  sides = shape.split("x")
  if name not in CHIPS or not all(side.isdecimal() for side in sides):
    raise ValueError(
      f"--topology={topology}: give one of {', '.join(CHIPS)} and a shape in "
      "chips, for example v5e:2x4, v5e:8x8, v6e:8x8 or v5p:4x4x4"
    )
  return CHIPS[name], tuple(map(int, sides))
