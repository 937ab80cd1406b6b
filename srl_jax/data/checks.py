# SPDX-License-Identifier: Apache-2.0
"""Looks through good trajectories for what an author may not have meant.

Nothing is set aside or changed here: each function returns lines to print.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence

from srl_jax.data.templates import titled_action
from srl_jax.domains import domain_of
from srl_jax.domains.domain import marks_answer
from srl_jax.rewards.answers import answer_reward
from srl_jax.trajectory import Step, Trajectory

# A numbered, bold title, at any depth of lists and quotes.
_TITLE = re.compile(
  r"^[ \t>*+-]*([0-9]{1,9})[.)][ \t]+\*\*[^\n]+", re.MULTILINE
)
_SHOWN = 60


def warnings(trajectories: Sequence[Trajectory]) -> list[str]:
  """Returns lines about final answers and steps that may be lost."""
  return [
    *_final_answers(trajectories),
    *_some_titles(trajectories),
    *_lost_steps(trajectories),
    *_lost_indents(trajectories),
    *_agents(trajectories),
  ]


def _final_answers(trajectories: Sequence[Trajectory]) -> Iterable[str]:
  """Says where RLVR and evaluation cannot tell a right solution."""
  judged = [t for t in trajectories if _is_judged_by_answer(t)]
  with_answer = [t for t in judged if t.answer is not None]
  marked = [t for t in with_answer if domain_of(t).is_final is marks_answer]
  own = [t for t in judged if domain_of(t).is_final is not marks_answer]
  for among, is_bad, said in (
    (
      judged,
      lambda t: t.answer is None,
      "have no reference answer, so that RLVR and evaluation cannot judge"
      " solutions of their problems; write it as a string into the field"
      " 'answer' of the record",
    ),
    (
      with_answer,
      _is_judged_wrong,
      "have a last step in which the reference answer is not found, so that"
      " RLVR and evaluation would judge it wrong; end it with \\boxed{answer}"
      " or a line '#### answer', or repair the field 'answer'",
    ),
    (
      marked,
      lambda t: not _is_final(t, -1) and not _is_judged_wrong(t),
      "mark no final answer in the last step, and solving step by step goes on"
      " to c.evaluate.max_turns without; end the last step with"
      " \\boxed{answer} or a line '#### answer'",
    ),
    (
      own,
      lambda t: not _is_final(t, -1),
      "have a last step that is_final of their domain does not take for the"
      " end, and solving step by step goes on to c.evaluate.max_turns without;"
      " write it as is_final wants it, or mend is_final",
    ),
  ):
    yield from _line(among, is_bad, said)
  yield from _early_ends(judged)


def _early_ends(judged: Sequence[Trajectory]) -> Iterable[str]:
  """Says where solving step by step would end before the expert does."""
  found = [
    (trajectory, index)
    for trajectory in judged
    for index in range(len(trajectory.steps) - 1)
    if _is_final(trajectory, index)
  ]
  if found:
    trajectory, index = found[0]
    yield (
      f"{len({t.id for t, _ in found}):,} of {len(judged):,} trajectories mark"
      " a final answer before the last step, where solving step by step ends;"
      " take the mark out, or join that step with those after it. The first:"
      f" {f'{trajectory.id}/{index}'!r}, which ends in"
      f" {_short(trajectory.steps[index].text[-_SHOWN:])}"
    )


def _line(
  trajectories: Sequence[Trajectory],
  is_bad: Callable[[Trajectory], bool],
  said: str,
) -> Iterable[str]:
  bad = [t for t in trajectories if is_bad(t)]
  if bad:
    answer = f", the answer is {_short(bad[0].answer)}" if bad[0].answer else ""
    yield (
      f"{len(bad):,} of {len(trajectories):,} trajectories {said}. The first:"
      f" {bad[0].id!r}, which ends in {_short(_last(bad[0])[-_SHOWN:])}{answer}"
    )


def _is_judged_by_answer(trajectory: Trajectory) -> bool:
  domain = domain_of(trajectory)
  # Tests judge what agents do, also without an environment to run them here.
  return domain.environment is None and domain.name != "software"


def _is_final(trajectory: Trajectory, index: int) -> bool:
  """Whether a step, counted from either end, ends solving step by step."""
  number = index % len(trajectory.steps) + 1
  action = titled_action(trajectory.steps[index], number)
  return domain_of(trajectory).is_final(action)


def _last(trajectory: Trajectory) -> str:
  step = trajectory.steps[-1]
  return step.text or step.title or ""


@functools.lru_cache(1 << 16)
def _is_right(last: str, answer: str) -> bool:
  return answer_reward(last, answer) >= 1


def _is_judged_wrong(trajectory: Trajectory) -> bool:
  """Whether the rules for answers find another one in the last step."""
  if domain_of(trajectory).verdict != "answer":
    return False
  return not _is_right(_last(trajectory), trajectory.answer or "")


def _some_titles(trajectories: Sequence[Trajectory]) -> Iterable[str]:
  """Says that some steps have titles; the reward compares them, too."""
  untitled = [t for t in trajectories if any(not s.title for s in t.steps)]
  if untitled and any(s.title for t in trajectories for s in t.steps):
    yield (
      f"{len(untitled):,} of {len(trajectories):,} trajectories have steps"
      " without a title, and other steps have one. A title is part of what the"
      f" model must write. The first without: {untitled[0].id!r}"
    )


def _lost_steps(trajectories: Sequence[Trajectory]) -> Iterable[str]:
  """Says how many titled solutions hold more titles inside of their steps."""
  titled = [t for t in trajectories if any(s.title for s in t.steps)]
  found = [(t, hit) for t in titled if (hit := _inner_title(t.steps))]
  if found:
    trajectory, (number, title) = found[0]
    yield (
      f"{len(found):,} of {len(titled):,} trajectories hold a numbered, bold"
      " title inside a step, which may be a step that was not recognised. The"
      f" first: {f'{trajectory.id}/{number}'!r} holds {_short(title)}; look at"
      f" it with --show={trajectory.id}/{number}"
    )


def _inner_title(steps: Sequence[Step]) -> tuple[int, str] | None:
  """Returns the number of the step, from 0, and the title inside it."""
  for number, step in enumerate(steps):
    match = _TITLE.search(step.text)
    if match:
      return number, match[0].strip()
  return None


def _lost_indents(trajectories: Sequence[Trajectory]) -> Iterable[str]:
  """Says where a first line loses its indent, which code may need."""
  found = [
    f"{trajectory.id}/{number}"
    for trajectory in trajectories
    for number, step in enumerate(trajectory.steps)
    if step.text.strip() and _indent(step.text) > 1  # One blank is a slip.
  ]
  if found:
    yield (
      f"{len(found):,} steps begin with an indented line and lose that indent,"
      " as all white space around a step; begin code with a line without one."
      f" The first: {found[0]!r}"
    )


def _indent(text: str) -> int:
  before = text[: len(text) - len(text.lstrip())]
  return len(before.rpartition("\n")[2].expandtabs())


def missing_observations(trajectories: Sequence[Trajectory]) -> list[str]:
  """Says where contexts lack what an environment answers in evaluation."""
  acting = [t for t in trajectories if domain_of(t).environment is not None]
  found = [
    f"{trajectory.id}/{number}"
    for trajectory in acting
    for number, step in enumerate(trajectory.steps[:-1])
    if step.observation is None
  ]
  if not found:
    return []
  steps = sum(len(t.steps) - 1 for t in acting)
  return [
    f"{len(found):,} of {steps:,} steps before the last have no observation,"
    " and the environment of their domain answers each action in evaluation;"
    " write what it answers into the field 'observation' of the step, \"\" for"
    f" nothing. The first: {found[0]!r}"
  ]


def _agents(trajectories: Sequence[Trajectory]) -> Iterable[str]:
  """Says what the readers of agents left out of good trajectories."""
  turns = [
    (t, int(count))
    for t in trajectories
    if (count := t.metadata.get("turns_without_action", "")).isdecimal()
  ]
  if turns:
    yield (
      f"{sum(count for _, count in turns):,} turns without an action are left"
      f" out of {len(turns):,} of {len(trajectories):,} trajectories. The"
      f" first: {turns[0][0].id!r}"
    )
  bad = [t for t in trajectories if t.metadata.get("bad_call")]
  if bad:
    yield (
      f"{len(bad):,} of {len(trajectories):,} trajectories hold calls that no"
      " tool takes, which are left out. The first:"
      f" {bad[0].id!r}, {bad[0].metadata['bad_call']}"
    )
  cut = [t for t in trajectories if t.metadata.get("cut_off")]
  if cut:
    yield (
      f"{len(cut):,} of {len(trajectories):,} trajectories were cut off and do"
      f" not end by the expert's decision. The first: {cut[0].id!r}"
      f" ({cut[0].metadata['cut_off']})"
    )


def _short(text: str | None) -> str:
  text = text or ""
  return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
