# SPDX-License-Identifier: Apache-2.0
"""Compares our prompts with those that the checkpoint's own software makes.

Here a prompt is trunk[:at] + stem, tokenised segment by segment. Other software
renders and tokenises a prompt in one piece. The texts must be equal. The token
ids can differ, for one of these causes:

  merge     one token would span the boundary between two segments
  control   the problem or a step spells the name of a control token, which
            stays text here and becomes a control token in other software
  rewrite   the tokenizer's file rewrites the text before it splits it: it
            composes accents (NFC), takes its mark for a space, eats white space

Different ids do not disturb training, because sampler and update see the same
ids. But the model has seen few such prompts before.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from srl_jax.data.templates import (
  Task,
  Template,
  encode_segment,
  other_names,
  to_segment,
)
from srl_jax.data.trunks import BranchPoint, Trunk
from srl_jax.tokenizers import Tokenizer

CAUSES = {
  "merge": "a merge across the end of a segment",
  "control": "a control token's name in the text",
  "rewrite": "text that the tokenizer's own file rewrites",
}


@dataclasses.dataclass
class PromptReport:
  """How many prompts have the token ids of their text in one piece.

  Attributes:
    checked: number of prompts compared.
    different: cause -> number of prompts whose ids differ; only causes that
      occur.
    examples: cause -> description of the first such prompt.
  """

  checked: int = 0
  different: dict[str, int] = dataclasses.field(default_factory=dict)
  examples: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def equal(self) -> int:
    """Number of prompts whose ids are the same."""
    return self.checked - sum(self.different.values())

  def warnings(self) -> list[str]:
    """Returns a warning per cause, one line each."""
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
  """Compares prompts with the same prompts rendered and tokenised in one piece.

  Args:
    trunks: trunks made by build_trunks.
    template: the template that made the trunks.
    tokenizer: the tokenizer that made the trunks.
    task: the task of the trunks.
    limit: maximal number of prompts to compare, spread over all; 0 for all.

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
      others = other_names(tokenizer.control_names)
      raise ValueError(_changed(name, text, whole, others))
    report.checked += 1
    whole_ids = tokenizer.encode_rendered(whole)
    if whole_ids != ids:
      cause = _cause(tokenizer, text, ids, whole_ids)
      report.different[cause] = report.different.get(cause, 0) + 1
      if cause not in report.examples:
        where = _where(tokenizer, trunk, point, ids, whole_ids)
        report.examples[cause] = f"{name} has {where}"
  return report


def _changed(name: str, text: str, whole: str, others: str) -> str:
  at = _first_difference(text, whole)
  part = slice(max(0, at - 20), at + 20)
  return (
    f"the chat template changes the text of {name}: where the prompt is "
    f"{text[part]!r} it writes {whole[part]!r}; take this trajectory out, "
    f"write another template to chat_template.jinja, or set c.template={others}"
  )


def _first_difference(a: Sequence[Any], b: Sequence[Any]) -> int:
  pairs = enumerate(zip(a, b, strict=False))
  return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _cause(tokenizer, text, ids, whole_ids):
  def controls(tokens):
    return sum(tokenizer.decode([i]) in tokenizer.control_names for i in tokens)

  if controls(whole_ids) > controls(ids):
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
  """The first tokens that differ; "|" marks where two segments meet."""
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


# Maximal number of tokens in an example.
_SHOWN = 8


def _meeting_again(
  tokenizer: Tokenizer, a: list[int], b: list[int]
) -> tuple[int, int]:
  """The smallest numbers of tokens of a and of b that spell the same text."""
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
