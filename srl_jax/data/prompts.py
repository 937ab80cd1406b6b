# SPDX-License-Identifier: Apache-2.0
"""Are prompts what the checkpoint's own software would make of them?

A prompt here is trunk[:at] + stem, tokenised segment by segment. Elsewhere it
is rendered as a whole, and tokenised as a whole. The text has to be the same;
ids can differ, and what makes them differ is named:

  merge     two segments meet within what would be one token
  control   the problem or a step spells the name of a control token, which
            stays text here and becomes control there
  rewrite   the tokenizer's file rewrites the text before it cuts it: composes
            accents (NFC), takes its mark for a space, eats white space

Training does not suffer from other ids, since sampler and update see the same
ones; but the model has seen few such prompts before.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from srl_jax.data.templates import Task, Template, encode_segment, to_segment
from srl_jax.data.trunks import BranchPoint, Trunk
from srl_jax.tokenizers import Tokenizer

CAUSES = {
  "merge": "a merge across the end of a segment",
  "control": "a control token's name in the text",
  "rewrite": "text that the tokenizer's own file rewrites",
}


@dataclasses.dataclass
class PromptReport:
  """How many prompts have the ids of their text in one piece.

  Attributes:
    checked: how many were compared.
    different: per cause that occurs, how many have other ids.
    examples: per cause, the first one.
  """

  checked: int = 0
  different: dict[str, int] = dataclasses.field(default_factory=dict)
  examples: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def equal(self) -> int:
    """How many have the same ids."""
    return self.checked - sum(self.different.values())

  def warnings(self) -> list[str]:
    """Returns a line per cause."""
    return [
      f"{count:,} of {self.checked:,} prompts have other ids than their text "
      f"in one piece, because of {CAUSES[cause]}: {self.examples[cause]}"
      for cause, count in self.different.items()
    ]


def compare(
  trunks: Sequence[Trunk],
  template: Template,
  tokenizer: Tokenizer,
  task: Task,
  limit: int = 0,
) -> PromptReport:
  """Compares prompts with what they would be in one piece.

  Args:
    trunks: trunks, made by build_trunks.
    template: the wording they were made with.
    tokenizer: likewise.
    task: likewise.
    limit: compares at most so many, spread over all; 0 for all.

  Raises:
    ValueError: the template gives another text for a whole prompt.
  """
  points = ((r, p) for r in trunks for p in r.points)
  if limit:
    count = sum(len(trunk.points) for trunk in trunks)
    points = itertools.islice(points, 0, None, -(-count // limit) or 1)
  report = PromptReport()
  for trunk, point in points:
    name = f"{trunk.trajectory.id}/{point.step}"
    ids = [*trunk.tokens[: point.at].tolist(), *point.stem.tolist()]
    text = tokenizer.decode(ids)
    whole = template.whole(trunk.trajectory, task, text)
    if whole != text:
      raise ValueError(_changed(name, text, whole))
    report.checked += 1
    whole_ids = tokenizer.encode_rendered(whole)
    if whole_ids != ids:
      cause = _cause(tokenizer, text, ids, whole_ids)
      report.different[cause] = report.different.get(cause, 0) + 1
      if cause not in report.examples:
        where = _where(tokenizer, trunk, point, ids, whole_ids)
        report.examples[cause] = f"{name} has {where}"
  return report


def _changed(name: str, text: str, whole: str) -> str:
  at = _first_difference(text, whole)
  part = slice(max(0, at - 20), at + 20)
  return (
    f"the chat template changes the text of {name}: where the prompt is "
    f"{text[part]!r} it writes {whole[part]!r}; take this trajectory out, "
    "write another template to chat_template.jinja, or set "
    "c.template='chatml' or 'text'"
  )


def _first_difference(a: Sequence[Any], b: Sequence[Any]) -> int:
  pairs = enumerate(zip(a, b, strict=False))
  return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _cause(tokenizer, text, ids, whole_ids):
  control = {tokenizer.special_id(name) for name in tokenizer.control_names}
  if sum(i in control for i in whole_ids) > sum(i in control for i in ids):
    return "control"
  segment = to_segment(text, tokenizer.control_names)
  is_rewritten = encode_segment(tokenizer, segment) != whole_ids
  return "rewrite" if is_rewritten else "merge"


def _where(
  tokenizer: Tokenizer,
  trunk: Trunk,
  point: BranchPoint,
  ids: list[int],
  whole_ids: list[int],
) -> str:
  """The first stretch of tokens that differs; "|" is where segments meet."""
  start = _first_difference(ids, whole_ids)
  ours, theirs = _meeting_again(tokenizer, ids[start:], whole_ids[start:])
  boundaries = {p.at for p in trunk.points if p.at <= point.at}
  pieces = ""
  for i in range(start, start + ours):
    glue = " | " if i in boundaries else " + "
    pieces += (glue if pieces else "") + repr(tokenizer.decode([ids[i]]))
  in_one = " + ".join(
    repr(tokenizer.decode([i])) for i in whole_ids[start : start + theirs]
  )
  return f"{pieces or 'nothing'} for {in_one or 'nothing'}"


# Tokens that an example shows at most.
_SHOWN = 8


def _meeting_again(
  tokenizer: Tokenizer, a: list[int], b: list[int]
) -> tuple[int, int]:
  """How many tokens of each spell the same text, at the least."""
  lengths = [0, 0]
  counts = [0, 0]
  while max(counts) < _SHOWN:
    side = 0 if lengths[0] <= lengths[1] else 1
    tokens = (a, b)[side]
    if counts[side] == len(tokens):
      break
    lengths[side] += len(tokenizer.token_bytes(tokens[counts[side]]))
    counts[side] += 1
    if lengths[0] == lengths[1]:
      break
  return counts[0], counts[1]
