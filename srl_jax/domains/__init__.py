# SPDX-License-Identifier: Apache-2.0
"""Domains: the fields of problems, with all that is particular to each.

To add one, write a module here and an entry in DOMAINS, or write your own
module elsewhere and name it in c.data.domain.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable

from srl_jax.domains.domain import Domain, Environment
from srl_jax.domains.general import GENERAL, SCIENCE
from srl_jax.domains.lookup import LOOKUP
from srl_jax.domains.math import MATH
from srl_jax.domains.registers import REGISTERS
from srl_jax.domains.software import SOFTWARE
from srl_jax.domains.sql import SQL
from srl_jax.domains.suite import Problem, Suite
from srl_jax.trajectory import Trajectory

__all__ = [
  "DOMAINS",
  "Domain",
  "Environment",
  "Problem",
  "Suite",
  "domain_of",
  "domains_of",
  "find_domain",
  "find_suite",
  "known_suites",
]

DOMAINS = {
  domain.name: domain
  for domain in (GENERAL, MATH, SCIENCE, REGISTERS, SOFTWARE, LOOKUP, SQL)
}
# Users' domains, by the names under which find_domain imported them.
_IMPORTED: dict[str, Domain] = {}


def find_domain(name: str) -> Domain:
  """Returns a domain of DOMAINS, or imports a user's "package.module:NAME".

  Call this only with names from a config: a data file must not import code.

  Raises:
    ValueError: there is no such domain.
  """
  if name in DOMAINS:
    return DOMAINS[name]
  if name not in _IMPORTED:
    _IMPORTED[name] = _import_domain(name)
  return _IMPORTED[name]


def known_suites() -> dict[str, Suite]:
  """Returns the suites of all domains in DOMAINS or imported, by name."""
  domains = [*DOMAINS.values(), *_IMPORTED.values()]
  return {suite.name: suite for domain in domains for suite in domain.suites}


def find_suite(name: str) -> Suite:
  """Returns the suite of a name, from any domain in DOMAINS or imported.

  Raises:
    ValueError: there is no such suite; the message names the nearest.
  """
  suites = known_suites()
  if name in suites:
    return suites[name]
  near = difflib.get_close_matches(name.lower(), suites, n=1)
  hint = f" (did you mean {near[0]!r}?)" if near else ""
  raise ValueError(
    f"there is no suite {name!r}{hint}; choose among {', '.join(suites)}, or "
    "give the path of your own file of problems and answers (.jsonl, .json, "
    ".parquet)"
  )


def domain_of(trajectory: Trajectory) -> Domain:
  """Returns a trajectory's domain without importing anything.

  Raises:
    ValueError: the domain is not in DOMAINS, and find_domain has not imported
      it.
  """
  name = trajectory.domain
  domain = DOMAINS.get(name) or _IMPORTED.get(name)
  if domain is None:
    raise ValueError(
      f"trajectory {trajectory.id!r} is of the domain {name!r}, which is none "
      f"of {', '.join(DOMAINS)}; call find_domain first if it is your own"
    )
  return domain


def domains_of(trajectories: Iterable[Trajectory]) -> dict[str, Domain]:
  """Returns the domains of trajectories, by name (see `domain_of`)."""
  return {t.domain: domain_of(t) for t in trajectories}


def _import_domain(name: str) -> Domain:
  module, colon, attribute = name.partition(":")
  if not colon:
    near = difflib.get_close_matches(name, DOMAINS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
      f"there is no domain {name!r}{hint}; choose one of {', '.join(DOMAINS)}, "
      'or name your own as "package.module:NAME"'
    )
  try:
    domain = getattr(importlib.import_module(module), attribute)
  except Exception as error:
    raise ValueError(
      f"the domain {name!r} cannot be imported: {type(error).__name__}: "
      f"{error}. Put the module where Python finds it (the folder you start "
      "from, or PYTHONPATH)"
    ) from error
  if not isinstance(domain, Domain):
    raise ValueError(
      f"{name!r} is a {type(domain).__name__}; name a srl_jax.domains.Domain"
    )
  return domain
