# SPDX-License-Identifier: Apache-2.0
"""What of this machine a run needs, and whether its hosts will have it."""

from __future__ import annotations

import os
import pathlib
import sys

from srl_jax import own_code
from srl_jax.config import Config
from srl_jax.loading import STUDENTS
from srl_jax.storage import hub

from .pod import PACKED


def check_paths(config: Config) -> None:
  """Refuses paths of this machine.

  Raises:
    ValueError: there is one; the message says how to copy it to a bucket.
  """
  paths = {}
  if config.data.needs_path:
    paths["data.path"] = config.data.path
  folder = config.evaluate.suites_folder
  # The hosts fetch from the hub what is in no folder.
  suites = tuple(x for x in config.evaluate.suites if "=" not in x)
  if os.path.isdir(folder) and any(
    name.startswith(suites) for name in os.listdir(folder)
  ):
    paths["evaluate.suites_folder"] = folder
  for key, value in (
    ("weights", config.weights),
    ("tokenizer.path", config.tokenizer.path),
  ):
    is_shipped = value in ("", "random", *STUDENTS)
    if os.path.exists(value) or not (is_shipped or hub.is_name(value)):
      paths[key] = value
  files = [x.rpartition("=")[2] for x in config.evaluate.suites]
  if here := [x for x in files if os.path.isfile(x)]:
    raise ValueError(
      f"c.evaluate.suites names {', '.join(here)}, on this machine, which the "
      "hosts do not see; name suites of the hub, or evaluate after the run"
    )
  for key, value in paths.items():
    if not value.startswith("gs://"):
      raise ValueError(
        f"c.{key}={value!r} is a path of this machine, which the hosts do not "
        f"see; type: gcloud storage cp -r {value or 'FILE'} gs://BUCKET/, and "
        f"then --config.{key}=gs://BUCKET/{os.path.basename(value) or 'FILE'}"
      )


def own_files(config: Config, is_image: bool) -> tuple[str, ...]:
  """Returns what must go to the hosts beside the package, in this folder.

  These are the modules of rewards and domains of one's own, and all that they
  and the experiment import from this folder.

  Args:
    config: of the run.
    is_image: whether the hosts have a container image instead of a copy.

  Raises:
    ValueError: a module cannot be imported, or the hosts would not have it.
  """
  named = own_code.names(config)
  found = _imported_here()
  for field, names in named.items():
    for name in names:
      module = name.partition(":")[0]
      top = module.partition(".")[0]
      if is_image:
        raise ValueError(
          f"c.{field}: {name} is not in the image, which holds the package and "
          "its experiments; put the file into experiments/, write srl_jax."
          f"experiments.{name} and build the image again, or take --as=gcloud"
        )
      if found.isdisjoint({top, f"{top}.py"}) and top not in PACKED:
        raise ValueError(
          f"c.{field}: {name} is in {sys.modules[module].__file__}, and the "
          "hosts get what lies at the top of this folder; put it there"
        )
  return tuple(sorted(found))


def _imported_here() -> set[str]:
  """The files and folders here that were imported, but for the package."""
  here = pathlib.Path.cwd().resolve()
  found = set()
  for name, module in [*sys.modules.items()]:
    file = pathlib.Path(getattr(module, "__file__", None) or "/").resolve()
    if file.is_relative_to(here) and file != here:
      first = file.relative_to(here).parts[0]
      # Not what is installed in an environment here.
      if first.removesuffix(".py") == name.partition(".")[0]:
        found.add(first)
  return found - {*PACKED}
