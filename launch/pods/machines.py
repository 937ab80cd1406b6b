# SPDX-License-Identifier: Apache-2.0
"""Names of TPU slices: how many chips, in which topology, where, at what price.

The one table of these facts. A name counts chips (v5litepod-64, v6e-64) or
TensorCores (v5p-128, tpu7x-128: two in a chip). How many hosts there are does
not follow from a name; only GKE has to be told, by the machine type of a node.

Sources, read on the day READ:
- topologies, cores and chips: docs.cloud.google.com/tpu/docs/v5e, /v5p, /v6e
  and /tpu7x;
- runtime versions: docs.cloud.google.com/tpu/docs/runtimes;
- zones: docs.cloud.google.com/tpu/docs/regions-zones, and some that the list
  of prices has besides; Google adds zones, so none is refused for good;
- GKE's labels and machine types: AI-Hypercomputer/xpk at commit 367c838,
  src/xpk/core/system_characteristics.py;
- prices: on demand in us-central1, from skypilot-org/skypilot-catalog at commit
  006059e, catalogs/v8/gcp/vms.csv. There is none for tpu7x.
"""

from __future__ import annotations

import dataclasses
import difflib
import re

READ = "2026-11-29"


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPUs as Google Cloud names and sells it.

  Attributes:
    name: name of the chip in launch/tpu/chips.py and in a topology.
    prefix: what accelerator types begin with.
    cores_per_chip: what a type's number counts for each chip.
    devices_per_chip: JAX devices of a chip.
    topologies: shape in chips by the number of chips.
    host_chips: most chips of a slice that is one host.
    runtime: software version of a TPU VM; "" if there are none without GKE.
    gke_accelerator: the node label cloud.google.com/gke-tpu-accelerator.
    gke_machines: GKE machine type by its chips.
    zones: where it is offered.
    usd_per_chip_hour: list price on demand; None if it is not known.
  """

  name: str
  prefix: str
  cores_per_chip: int
  devices_per_chip: int
  topologies: dict[int, str]
  host_chips: int
  runtime: str
  gke_accelerator: str
  gke_machines: dict[int, str]
  zones: tuple[str, ...]
  usd_per_chip_hour: float | None


def _by_chips(*topologies: str) -> dict[int, str]:
  return {_product(topology): topology for topology in topologies}


def _product(topology: str) -> int:
  chips = 1
  for side in topology.split("x"):
    chips *= int(side)
  return chips


_FLAT = _by_chips("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = _by_chips(
  *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x4x12"),
  *("4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
)

GENERATIONS = (
  Generation(
    name="v5e",
    prefix="v5litepod",
    cores_per_chip=1,
    devices_per_chip=1,
    topologies=_FLAT,
    host_chips=8,
    runtime="v2-alpha-tpuv5-lite",
    gke_accelerator="tpu-v5-lite-podslice",
    gke_machines={
      1: "ct5lp-hightpu-1t",
      4: "ct5lp-hightpu-4t",
      8: "ct5lp-hightpu-8t",
    },
    zones=(
      *("us-central1-a", "us-south1-a", "us-west1-c", "us-west4-a"),
      *("us-west4-b", "us-east1-c", "us-east5-b", "europe-west4-a"),
      *("europe-west4-b", "asia-southeast1-b"),
    ),
    usd_per_chip_hour=1.20,
  ),
  Generation(
    name="v5p",
    prefix="v5p",
    cores_per_chip=2,
    devices_per_chip=1,
    topologies=_SOLID,
    host_chips=4,
    runtime="v2-alpha-tpuv5",
    gke_accelerator="tpu-v5p-slice",
    gke_machines={4: "ct5p-hightpu-4t"},
    zones=("us-central1-a", "us-east1-d", "us-east5-a", "europe-west4-b"),
    usd_per_chip_hour=4.20,
  ),
  Generation(
    name="v6e",
    prefix="v6e",
    cores_per_chip=1,
    devices_per_chip=1,
    topologies=_FLAT,
    host_chips=8,
    runtime="v2-alpha-tpuv6e",
    gke_accelerator="tpu-v6e-slice",
    gke_machines={
      1: "ct6e-standard-1t",
      4: "ct6e-standard-4t",
      8: "ct6e-standard-8t",
    },
    zones=(
      *("us-central1-b", "us-east1-d", "us-east5-a", "us-east5-b"),
      *("us-south1-a", "us-south1-ai1b", "europe-west4-a"),
      *("asia-northeast1-b", "southamerica-west1-a"),
    ),
    usd_per_chip_hour=2.70,
  ),
  Generation(
    name="tpu7x",
    prefix="tpu7x",
    cores_per_chip=2,
    devices_per_chip=2,
    topologies=_SOLID,
    host_chips=4,
    runtime="",
    gke_accelerator="tpu7x",
    gke_machines={4: "tpu7x-standard-4t"},
    zones=("us-central1-c", "us-central1-ai1a"),
    usd_per_chip_hour=None,
  ),
)
# What people say instead of a prefix.
_ALSO = {"v5e": "v5litepod", "v7x": "tpu7x"}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice of a pod.

  Attributes:
    type: its name, in Google's spelling.
    generation: its generation.
    chips: number of chips.
    topology: their shape, e.g. "4x4x4".
  """

  type: str
  generation: Generation
  chips: int
  topology: str

  @property
  def devices(self) -> int:
    """Number of JAX devices."""
    return self.chips * self.generation.devices_per_chip

  @property
  def is_one_host(self) -> bool:
    """Whether it can be had as one host."""
    return self.chips <= self.generation.host_chips

  @property
  def node_chips(self) -> int:
    """Chips of a GKE node: all of a small slice, else those of a 4-chip one."""
    return self.chips if self.chips in self.generation.gke_machines else 4

  @property
  def compiler_topology(self) -> str:
    """What launch.compile calls it, e.g. "v5p:4x4x4"."""
    return f"{self.generation.name}:{self.topology}"


def types(generation: Generation) -> dict[str, Slice]:
  """Returns all slices of a generation by their names, the smallest first."""
  found = {}
  for chips, topology in sorted(generation.topologies.items()):
    name = f"{generation.prefix}-{chips * generation.cores_per_chip}"
    found[name] = Slice(name, generation, chips, topology)
  return found


def find(name: str) -> Slice:
  """Returns the slice that a name stands for; v5e-8 is v5litepod-8.

  Raises:
    ValueError: there is none; the message names the nearest.
  """
  known = {k: v for g in GENERATIONS for k, v in types(g).items()}
  prefix, _, number = name.strip().lower().rpartition("-")
  spelled = f"{_ALSO.get(prefix, prefix)}-{number}"
  if spelled in known:
    return known[spelled]
  raise ValueError(f"there is no TPU type {name!r}; {_nearest(spelled, known)}")


def _nearest(spelled: str, known: dict[str, Slice]) -> str:
  prefix, _, number = spelled.rpartition("-")
  prefixes = {g.prefix: g for g in GENERATIONS}
  # The letters decide first: v5-8 is nearer to v5p-8 than to v6e-8.
  near = difflib.get_close_matches(prefix, prefixes, 1, 0.5)
  if not near or not re.fullmatch(r"\d+", number):
    shown = ", ".join(next(iter(types(g))) for g in GENERATIONS)
    close = difflib.get_close_matches(spelled, known, 1, 0.75)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}names are a generation and a number, as in {shown}"
  generation = prefixes[near[0]]
  sizes = types(generation)
  counted = "chips" if generation.cores_per_chip == 1 else "TensorCores"
  best = min(sizes, key=lambda x: abs(int(x.rpartition("-")[2]) - int(number)))
  numbers = ", ".join(x.rpartition("-")[2] for x in sizes)
  return (
    f"did you mean {best}? {generation.prefix}-N counts {counted}, and N is "
    f"one of {numbers}"
  )


def check_zone(slice_: Slice, zone: str, is_any: bool) -> None:
  """Refuses a zone without the generation of a slice.

  Args:
    slice_: the slice.
    zone: the zone.
    is_any: whether zones that are not in the table are let through.

  Raises:
    ValueError: `zone` is no name of a zone, or not in the table.
  """
  zones = slice_.generation.zones
  if zone in zones:
    return
  listed = ", ".join(zones)
  if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z][a-z\d]*", zone):
    raise ValueError(
      f"--zone={zone!r} is no zone, which looks like us-east5-a; "
      f"{slice_.type} is offered in {listed}"
    )
  if not is_any:
    raise ValueError(
      f"--zone={zone} is not known to offer {slice_.type}; take one of "
      f"{listed}, or type --any_zone if this says otherwise: gcloud compute "
      f"tpus accelerator-types list --zone={zone}"
    )
