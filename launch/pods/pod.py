# SPDX-License-Identifier: Apache-2.0
"""What is asked for: a run, and the pod that it is to run on."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence

from .machines import Slice

# Versions of Python and of the folder on a host that all writers agree on.
PYTHON = "3.12"
# What installing needs of the repository; the experiment's folder comes on top.
PACKED = (
  *("srl_jax", "experiments", "launch", "setup.py", "pyproject.toml"),
  *("constraints.txt", "MANIFEST.in", "README.md", "LICENSE"),
)


@dataclasses.dataclass(frozen=True)
class Pod:
  """A run on a pod.

  Attributes:
    name: of the pod, and of the files that are written for it.
    slice: what the pod is made of.
    slices: how many of them, joined by the network of the data center.
    zone: where it is.
    config: experiment, as file.py[:argument].
    overrides: texts --config.key=value.
    workdir: of the run, in a bucket.
    is_spot: whether it is cheaper and may be taken away at any time.
    image: container image with the package, for Kubernetes.
    own: what else it needs of this folder, as names in it.
    environment: variables of the run; None for a secret, whose value is in no
      file and comes from where the run is started.
    command_line: what wrote the files, for their first lines.
  """

  name: str
  slice: Slice
  slices: int
  zone: str
  config: str
  overrides: tuple[str, ...]
  workdir: str
  is_spot: bool
  image: str
  command_line: str
  own: tuple[str, ...] = ()
  environment: Mapping[str, str | None] = dataclasses.field(
    default_factory=dict
  )

  @property
  def secrets(self) -> list[str]:
    """Names of the variables whose values are in no file."""
    return [name for name, value in self.environment.items() if value is None]

  @property
  def region(self) -> str:
    """The region of the zone."""
    return self.zone.rpartition("-")[0]

  def run_words(self, python: str = "python") -> list[str]:
    """The command that each host runs, as words."""
    return [
      *(python, "-m", "srl_jax.main", f"--config={self.config}"),
      *self.overrides,
      f"--workdir={self.workdir}",
      "--multi_host",
    ]

  def run_line(self, python: str = "python") -> str:
    """The command that each host runs, for a shell."""
    return shlex.join(self.run_words(python))

  @property
  def kind(self) -> str:
    """The pod in words."""
    market = "spot" if self.is_spot else "on demand"
    count = "" if self.slices == 1 else f"{self.slices} slices of "
    shape = f"{self.slice.chips} chips, {self.slice.topology}"
    return f"{count}{self.slice.type} ({shape}, {market}) in {self.zone}"


def check_name(name: str) -> None:
  """Refuses what Google Cloud and Kubernetes do not take as a name.

  Raises:
    ValueError: it is no such name.
  """
  if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
    raise ValueError(
      f"--name={name!r}: a name has up to 40 small letters, digits and "
      "hyphens, begins with a letter and does not end with a hyphen, e.g. "
      "--name=srl-math"
    )


def default_name(workdir: str) -> str:
  """Returns a name after the folder of a run, e.g. srl-qwen2-5-7b."""
  folder = workdir.rstrip("/").rpartition("/")[2].lower()
  return re.sub(r"[^a-z0-9]+", "-", f"srl-{folder}")[:40].strip("-")


def parse_environment(given: Sequence[str]) -> dict[str, str | None]:
  """Returns the variables of texts NAME=VALUE, or NAME for a secret.

  Raises:
    ValueError: a text is neither.
  """
  found: dict[str, str | None] = {}
  for text in given:
    name, equals, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
      raise ValueError(
        f"--env={text}: {name!r} is no name of a variable; type --env=NAME, "
        "e.g. --env=HF_TOKEN, or --env=NAME=VALUE"
      )
    found[name] = value if equals else None
  return found
