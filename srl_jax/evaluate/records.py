# SPDX-License-Identifier: Apache-2.0
"""What evaluation records of each answer; journals and reports hold these."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
  """One answer of the model to one problem of a suite, and its verdict.

  Attributes:
    suite: name of the suite.
    problem: id of the problem.
    decoding: "greedy", or "sampled" at the protocol's temperature.
    sample: index of the sample, from 0; 0 if greedy.
    text: what the model wrote, thoughts included, without its stop token; the
      turns joined by blank lines if it answered turn by turn.
    tokens: length of the text in tokens, stop tokens included.
    is_stopped: whether the model ended it; False if a limit cut it.
    final: the final answer that was read from the text; "" if none.
    is_correct: the verdict on it.
    turns: what the model wrote turn by turn; () if in one go.
    observations: what the environment answered, turn by turn; it is shorter
      than `turns` if the last one has no action, and () without an
      environment.
  """

  suite: str
  problem: str
  decoding: str
  sample: int
  text: str
  tokens: int
  is_stopped: bool
  final: str
  is_correct: bool
  turns: tuple[str, ...] = ()
  observations: tuple[str, ...] = ()
