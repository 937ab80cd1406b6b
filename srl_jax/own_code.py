# SPDX-License-Identifier: Apache-2.0
"""Whether a user's own reward and domain are still those of a run.

A config knows code of one's own by its name only, as "package.module:name".
"""

from __future__ import annotations

import operator
import pathlib
import zlib
from collections.abc import Sequence

from srl_jax import agreement
from srl_jax.config import Config
from srl_jax.domains import find_domain
from srl_jax.rewards.reward import RewardConfig, find_function, source_of
from srl_jax.storage import files
from srl_jax.storage.workdir import OWN_CODE, RefusedError


def names(config: Config) -> dict[str, list[str]]:
  """Returns what of one's own is used, by the name of the field that names it.

  All of it has been imported then.

  Raises:
    ValueError: a module cannot be imported.
  """
  named = {}
  if ":" in config.data.domain:
    domain = find_domain(config.data.domain)
    named["data.domain"] = config.data.domain, domain.reward, domain.verdict
  for stage in {"srl", "rlvr"} & {*config.stages}:
    reward = getattr(config, stage).reward
    named[f"{stage}.reward.function"] = (reward.function,)
  found = {}
  for field, given in named.items():
    # The package itself is in versions.json.
    own = [x for x in given if ":" in x and not x.startswith("srl_jax.")]
    for name in own:
      if name != config.data.domain:
        find_function(RewardConfig(function=name))
    if own:
      found[field] = own
  return found


def checksums(config: Config) -> dict[str, int]:
  """Returns the CRC32 of code, by the name of the field that names it.

  A module counts as a whole file, without what it imports. Of a notebook or
  script ("__main__:name"), only the function counts.

  Raises:
    ValueError: a module cannot be imported.
  """
  return {
    field: zlib.crc32(b"".join(map(source_of, own)))
    for field, own in names(config).items()
  }


def check(config: Config, workdir: pathlib.Path, free: Sequence[str]) -> None:
  """Refuses other code than that which a run has measured or trained with.

  Args:
    config: of this attempt.
    workdir: folder of the run.
    free: fields and sections whose code no number depends on yet.

  Raises:
    RefusedError: code has changed; the message names it.
    ValueError: processes have different code, or it cannot be imported.
  """
  now = checksums(config)
  agreement.check_same({"own code": now})
  path = workdir / OWN_CODE
  before = agreement.read_json(path) or {}
  has_results = agreement.has_results(workdir)
  for field, crc in now.items() if has_results else ():
    is_free = f"{field}.".startswith(tuple(f"{x}." for x in free))
    if before.get(field, crc) != crc and not is_free:
      name = operator.attrgetter(field)(config)
      raise RefusedError(
        f"the code of config.{field}={name!r} changed since {workdir} was "
        "begun, so its numbers could not be compared; put the old file back, "
        "give this run a --workdir of its own, or, if the change alters no "
        f"number, remove {path}"
      )
  files.write_json(path, now)
