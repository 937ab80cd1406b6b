# SPDX-License-Identifier: Apache-2.0
"""Peak rates of TPU chips, and which sides of their torus are rings.

The numbers are from the tables of https://docs.cloud.google.com/tpu/docs/v5e,
/v5p, /v6e and /tpu7x (read in 2026). A chip of TPU7x is two devices, and stands
here as one of them, with half of the chip's rates. The documented bandwidth of
a chip counts both directions of all ports; a port's rate is that divided by the
ports and by 2.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """A generation of chips.

  Attributes:
    name: name in a topology, e.g. "v5e".
    flops_per_s: peak rate of bfloat16 matrix products.
    memory_bytes: usable HBM in bytes, from the compiler's out-of-memory
      message.
    memory_bytes_per_s: bandwidth of the HBM.
    port_bytes_per_s: bandwidth of a link to one neighbour, in one direction.
    ring_of: number of chips; a side of the torus whose length is a multiple
      of it closes to a ring.
    on_chip_bytes: float32 logits that the compiler leaves in on-chip memory
      between a product, a softmax and the next product, in programs of one
      such layer (memory space S(1) in their HLO, libtpu of 2026).
  """

  name: str
  flops_per_s: float
  memory_bytes: int
  memory_bytes_per_s: float
  port_bytes_per_s: float
  ring_of: int
  on_chip_bytes: float = 0

  def link_bytes_per_s(self, sides: tuple[int, ...]) -> float:
    """Returns what a chip receives in a collective along one torus axis.

    In a ring (decided by the longest side) it receives from both neighbours;
    at the end of a line, only from one. A mesh axis that spans several sides
    can do better.
    """
    is_ring = max(sides) % self.ring_of == 0
    return self.port_bytes_per_s * (2 if is_ring else 1)


_GIB = 2**30
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v5e", 197e12, int(15.75 * _GIB), 819e9, 400e9 / 4 / 2, 16, 9e7),
    Chip("v5p", 459e12, int(95.73 * _GIB), 2765e9, 1200e9 / 6 / 2, 4),
    Chip("v6e", 918e12, int(31.24 * _GIB), 1638e9, 800e9 / 4 / 2, 16, 9e7),
    Chip("tpu7x", 1153.5e12, int(94.75 * _GIB), 3690e9, 600e9 / 6 / 2, 4, 8e6),
  )
}


def parse_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """Returns the chip and the sides of the torus of e.g. "v5e:8x8".

  Raises:
    ValueError: the chip is unknown, or the shape cannot be read.
  """
  name, _, shape = topology.partition(":")
  sides = shape.split("x")
  if name not in CHIPS or not all(side.isdecimal() for side in sides):
    raise ValueError(
      f"--topology={topology}: give one of {', '.join(CHIPS)} and a shape in "
      "chips, for example v5e:2x4, v5e:8x8, v6e:8x8 or v5p:4x4x4"
    )
  return CHIPS[name], tuple(map(int, sides))
