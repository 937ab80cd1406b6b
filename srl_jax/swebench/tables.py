# SPDX-License-Identifier: Apache-2.0
"""What the outcomes amount to: shares with intervals over instances."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from srl_jax.domains.software import swebench
from srl_jax.domains.software.swebench import Instance
from srl_jax.evaluate.estimates import Estimate, bootstrap, share
from srl_jax.report.tables import Table
from srl_jax.swebench.outcomes import MAJORITY, SampleOutcome

# {"greedy", "sampled" or MAJORITY: a row of samples for each instance}
Outcomes = Mapping[str, Sequence[Sequence[SampleOutcome]]]
_UNITS = {"edits": "", "different patches": "", "tokens": "tokens"}


def _table(head: str, rows: Mapping[str, Mapping[str, Estimate]]) -> Table:
  """Returns a table whose metrics are shares, except those of _UNITS."""
  cells = {
    (name,): {metric: dataclasses.astuple(x) for metric, x in row.items()}
    for name, row in rows.items()
  }
  units = {
    metric: _UNITS.get(metric, "%") for row in rows.values() for metric in row
  }
  return Table((head,), cells, units)


def main_table(
  instances: Sequence[Instance],
  found: Outcomes,
  resolved: Mapping[str, Sequence[Collection[str]]] | None = None,
) -> Table:
  """Returns the main numbers, a row for each way of choosing a patch.

  - resolved: share of answers whose patch resolves the issue, if that is known
  - patches: share of answers that give a patch
  - gold change: share whose patch makes the gold patch's change
  - gold files: share whose patch changes the Python files that the gold patch
    changes, and no others
  - gold files found: share of these files that were to be shown
  - edits: mean number in an answer
  - edits applied: share of them that had an effect
  - cut, tokens: share of answers that the limit cut, and their mean length
  - different patches: mean number among the samples of an instance

  Args:
    instances: the instances.
    found: what became of their samples.
    resolved: ids of the resolved instances, for each sample.
  """
  rows = {}
  for name, of_name in found.items():
    row = _metrics(instances, of_name)
    if name == MAJORITY:
      # One of its samples is chosen, so how it was asked is said there.
      row = {x: row[x] for x in ("patches", "gold change", "gold files")}
    elif len(of_name[0]) > 1:
      counts = [len({x.key for x in row if x.key}) for row in of_name]
      row["different patches"] = bootstrap(counts)
    if resolved and name in resolved:
      solved = [
        [
          x.instance in ids
          for x, ids in zip(outcomes, resolved[name], strict=True)
        ]
        for outcomes in of_name
      ]
      row = {"resolved": _share(solved)} | row
    rows[_title(name, of_name)] = row
  return _table("answers", rows)


def _title(name: str, rows: Sequence[Sequence[SampleOutcome]]) -> str:
  return f"{len(rows[0])} sampled" if name == "sampled" else name


def _metrics(
  instances: Sequence[Instance], rows: Sequence[Sequence[SampleOutcome]]
) -> dict[str, Estimate]:
  gold = [set(swebench.gold_files(instance)) for instance in instances]
  asked = [[x for x in row if x.is_asked] for row in rows]

  def mean(measure: Callable[[SampleOutcome], float]) -> Estimate:
    # Instances that were not asked have no answers to measure.
    rows = [row for row in asked if row]
    sums = [sum(map(measure, row)) for row in rows]
    return bootstrap(sums, [len(row) for row in rows])

  edits = [[not x for y in row for x in y.failures] for row in rows]
  pairs = list(zip(rows, gold, strict=True))
  return {
    "patches": _share([[x.patch != "" for x in row] for row in rows]),
    "gold change": _share([[x.is_gold for x in row] for row in rows]),
    "gold files": _share(
      [
        [bool(files) and set(x.changed) == files for x in row]
        for row, files in pairs
      ]
    ),
    "gold files found": _share(
      [[file in x.found for x in row for file in files] for row, files in pairs]
    ),
    "edits": mean(lambda x: len(x.failures)),
    "edits applied": _share(edits),
    "cut": _share([[not x.is_stopped for x in row] for row in asked]),
    "tokens": mean(lambda x: x.tokens),
  }


def _share(rows: Sequence[Sequence[bool]]) -> Estimate:
  return share([sum(row) for row in rows], [len(row) for row in rows])


def failed_edits(found: Outcomes) -> Table | None:
  """Returns the shares of edits that failed, by reason; None if none did."""
  return _reasons(
    "failed edits",
    {
      _title(name, rows): [[x for y in row for x in y.failures] for row in rows]
      for name, rows in found.items()
      if name != MAJORITY
    },
  )


def without_patch(found: Outcomes) -> Table | None:
  """Returns the shares of answers without a patch, by reason."""
  return _reasons(
    "without a patch",
    {
      _title(name, rows): [[x.without for x in row] for row in rows]
      for name, rows in found.items()
      if name != MAJORITY
    },
  )


def _reasons(
  head: str, found: Mapping[str, Sequence[Sequence[str]]]
) -> Table | None:
  """Returns the share of each reason but ""; the most frequent first."""
  counts = collections.Counter(
    x for rows in found.values() for row in rows for x in row if x
  )
  if not counts:
    return None
  return _table(
    head,
    {
      reason: {
        name: _share([[x == reason for x in row] for row in rows])
        for name, rows in found.items()
      }
      for reason, _ in counts.most_common()
    },
  )


def left_out(found: Outcomes) -> dict[str, int]:
  """Returns how many files of greedy prompts were not shown, by reason."""
  rows = next(iter(found.values()))
  return dict(
    collections.Counter(why for [x, *_] in rows for _, why in x.left_out)
  )
