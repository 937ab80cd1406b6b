# SPDX-License-Identifier: Apache-2.0
"""Shows samples beside the expert's steps, as text and as HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import NamedTuple

from srl_jax.rewards import matching_blocks

_CHARS = 400  # of a context that are shown


class Sample(NamedTuple):
  """A sampled step beside the expert's.

  Attributes:
    heading: name of the trajectory and the step.
    context: the text that the model was given.
    thought: the model's thought; "" if the format is broken.
    action: the step that the model wrote; its whole text if the format is
      broken.
    expert: the expert's step.
    reward: the sample's reward.
    failure: how the format is broken; "" if it is not.
  """

  heading: str
  context: str
  thought: str
  action: str
  expert: str
  reward: float
  failure: str


def samples_text(samples: Sequence[Sample], *, color: bool = False) -> str:
  """Returns samples above the expert's steps, with matching blocks marked.

  Args:
    samples: any number of samples.
    color: marks by terminal colours instead of brackets.
  """
  mark = _bold_green if color else "⟦{}⟧".format
  return "\n\n".join(_sample_text(sample, mark) for sample in samples)


def _sample_text(sample, mark):
  action, expert = _marked_pair(sample, mark, _printable)
  parts = (
    ("context", _printable(_shortened(sample.context))),
    ("thought", _printable(sample.thought)),
    ("model", action),
    ("expert", expert),
  )
  lines = [_printable(_headline(sample))]
  for name, text in parts:
    if not text and name in ("context", "thought"):
      continue
    first, *others = text.split("\n")
    lines.append(f"  {name:<7}  {first}")
    lines += [" " * 11 + other for other in others]
  return "\n".join(line.rstrip() for line in lines)


def _bold_green(text):
  return f"\x1b[1;32m{text}\x1b[0m"


def samples_html(samples: Sequence[Sample]) -> str:
  """Returns samples beside the expert's steps, with matching blocks marked.

  Returns:
    HTML for a notebook or a page. All text of the model and the expert is
    escaped.
  """
  return "\n".join(map(_sample_html, samples))


_CELL = (
  "text-align:left; vertical-align:top; white-space:pre-wrap; width:50%; "
  "font-family:monospace; overflow-wrap:anywhere"
)


def _sample_html(sample):
  def mark(text):
    return f'<mark style="background:#b7e4c7; color:black">{text}</mark>'

  action, expert = _marked_pair(sample, mark, html.escape)
  thought = html.escape(sample.thought)
  if thought:
    action = f'<span style="opacity:0.6">{thought}</span>\n{action}'
  context = html.escape(_shortened(sample.context))
  return f"""<table style="width:100%; table-layout:fixed; margin-bottom:1em">
<tr><th colspan="2" style="{_CELL}">{html.escape(_headline(sample))}</th></tr>
<tr><td colspan="2" style="{_CELL}; opacity:0.6">{context}</td></tr>
<tr><th style="text-align:left">model</th>
<th style="text-align:left">expert</th></tr>
<tr><td style="{_CELL}">{action}</td>
<td style="{_CELL}">{expert}</td></tr>
</table>"""


def _headline(sample: Sample) -> str:
  broken = f", format broken: {sample.failure}" if sample.failure else ""
  return f"{sample.heading}: reward {sample.reward:.3f}{broken}"


def _shortened(text: str) -> str:
  """The end of a long text, which holds the most recent steps."""
  return text if len(text) <= _CHARS else f"[...] {text[-_CHARS:]}"


def _marked_pair(
  sample: Sample, mark: Callable[[str], str], clean: Callable[[str], str]
) -> tuple[str, str]:
  """The action and the expert's step with their matching blocks marked.

  If the format is broken, nothing was compared and nothing is marked.
  """
  blocks = []
  if not sample.failure:
    blocks = matching_blocks(sample.action, sample.expert)
  return (
    _marked(sample.action, [(a, size) for a, _, size in blocks], mark, clean),
    _marked(sample.expert, [(b, size) for _, b, size in blocks], mark, clean),
  )


def _marked(text, spans, mark, clean):
  parts, at = [], 0
  for start, size in spans:
    parts.append(clean(text[at:start]))
    parts.append(mark(clean(text[start : start + size])))
    at = start + size
  return "".join([*parts, clean(text[at:])])


def _printable(text: str) -> str:
  """Replaces characters that a terminal would obey instead of showing."""

  def shown(char):
    if char.isprintable() or char == "\n":
      return char
    return " " if char.isspace() else "\ufffd"

  return "".join(map(shown, text))
