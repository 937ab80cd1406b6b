# SPDX-License-Identifier: Apache-2.0
"""What the reports of hidden tests say about a repair. Nothing runs here."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence

from srl_jax.domains.software import controls
from srl_jax.domains.software.sandbox import Ran
from srl_jax.domains.software.tasks import RepairTask

_LOG_CHARACTERS = 4000
_SHOWN_LINES = 3
_ERROR_CHARACTERS = 200
# That tests have failed is the only failure of which pytest reports all tests.
_COMPLETE = (0, 1)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the hidden tests say about a repair.

  Attributes:
    outcomes: whether each test of the task passed, by name; tests that were
      not reported did not.
    problem: why nothing counts: a patch that does not apply, tests that do not
      end, cheating; "" if the outcomes count.
    is_void: whether the problem is none of the patch's, so that nothing is
      known of it: the sandbox has ended, the task's tests cannot be written, or
      pytest runs no tests with their conftest.py files.
    log: the end of what pytest printed, for people.
    undone: files that the repair changed and that count as they were: those
      that belong to tests, those that Python or pytest reads when it starts,
      and code that would hide another module.
    missing: tests of the task that pytest has not found, though it has found
      others in their files, or though these are not there.
    unread: the first file whose tests pytest could not collect, and the error;
      "" if there is none.
  """

  outcomes: Mapping[str, bool]
  problem: str = ""
  is_void: bool = False
  log: str = ""
  undone: tuple[str, ...] = ()
  missing: tuple[str, ...] = ()
  unread: str = ""

  @property
  def is_solved(self) -> bool:
    """Whether all tests of the task passed."""
    return not self.problem and all(self.outcomes.values())

  @property
  def reason(self) -> str:
    """In one line, why the task is not solved; "" if it is."""
    if self.is_solved:
      return ""
    failed = [name for name in self.outcomes if not self.outcomes[name]]
    text = self.problem or f"{some(failed)} did not pass"
    if self.missing:
      text += f"; there is no test {some(self.missing)}"
    if self.unread:
      text += f"; no tests of {self.unread}"
    if self.undone:
      text += f"; put back as it was: {some(self.undone)}"
    return text


def read_reports(
  ran: Ran, task: RepairTask, mark: str, wall_s: float
) -> Verdict:
  """Returns the verdict on a run of the examiner; see examiner.py.

  Args:
    ran: the run.
    task: the task.
    mark: how the examiner's own lines begin.
    wall_s: the limit of time that it had.
  """
  log = ran.errors.decode(errors="replace")[-_LOG_CHARACTERS:]
  undone: tuple[str, ...] = ()

  def nothing(problem: str) -> Verdict:
    outcomes = dict.fromkeys(task.tests, False)
    return Verdict(outcomes, problem, log=log, undone=undone)

  reports = []
  for line in ran.output.decode(errors="replace").splitlines():
    if line.startswith(f"{mark} "):
      reports.append(json.loads(line.removeprefix(mark)))
  for taken in (x["taken"] for x in reports[:1] if "taken" in x):
    undone = tuple(taken)
  if ran.cause:
    problem = f"the tests were ended: over the limit of {ran.cause}"
    if ran.cause == "wall time":
      problem += f" ({wall_s:g} s)"
    return nothing(problem)
  for problem in (x["problem"] for x in reports if "problem" in x):
    return nothing(problem)
  if not reports or "is_end" not in reports[-1]:
    problem = "the tests ended before pytest did"
    return nothing(problem + (ran.signal and f": {ran.signal}"))
  if (status := reports[-1]["status"]) not in _COMPLETE:
    lines = [x.strip() for x in log.splitlines() if x.strip()]
    end = "; ".join(lines[-_SHOWN_LINES:])
    return nothing(f"pytest ended early (exit code {status}): {end}")
  tests = [x for x in reports if "name" in x]
  failing = [x for x in tests if x["is_control"]]
  if len(failing) != controls.COUNT or any(x["is_passed"] for x in failing):
    return nothing("tests that must fail did not, so no outcome counts")
  counts = collections.Counter(x["name"] for x in tests)
  passed = {x["name"] for x in tests if x["is_passed"]}
  outcomes = {name: name in passed and counts[name] == 1 for name in task.tests}
  files = {name.partition("::")[0] for name in counts}
  files |= {file for x in reports for file in x.get("absent", ())}
  missing = (
    x for x in task.tests if x not in counts and x.partition("::")[0] in files
  )
  unread = (f"{x['unread']}: {_error(x['why'])}" for x in reports if "why" in x)
  return Verdict(
    outcomes,
    log=log,
    undone=undone,
    missing=tuple(missing),
    unread=next(unread, ""),
  )


def _error(text: str) -> str:
  """The last line of a traceback of pytest that says what was raised."""
  lines = [x.strip() for x in text.splitlines() if x.strip()]
  raised = [x for x in lines if x.startswith("E ")] or lines or [""]
  return raised[-1].removeprefix("E ").strip()[:_ERROR_CHARACTERS]


def some(names: Sequence[str]) -> str:
  """Returns the first names, and how many more there are."""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more
