# SPDX-License-Identifier: Apache-2.0
"""Made-up expert steps of several kinds, and a model's attempts at them.

They are for tests and benchmarks of rewards. The texts mean nothing, but have
the characters, repetitions and lengths of real ones.
"""

from __future__ import annotations

import random
import re

# "#" stands for a number and "@" for a name.
_PARTS = {
  "math": (
    "We have $@ = \\frac{#}{#}@ + #$, so that $@ \\le #$. ",
    "Substituting into the second equation gives \\[ @^2 - #@ + # = 0. \\]\n",
    "Since # is even and @ divides it, the remainder is #. ",
    "Therefore, the sum of the first # terms is \\boxed{#}.\n\n",
    "Let $@$ denote the number of ways to choose # of the # points. ",
  ),
  "code": (
    "def @(@, @=#):\n    return @[#:] + [@ - #]\n\n",
    "for @ in range(#, len(@)):\n    if @ % # == 0:\n        continue\n",
    "    @ = [x for x in @ if x > #]  # keep the large ones\n",
    'raise ValueError(f"{@!r} is not in {@}")\n',
    "$ cd /srv/@ && pytest -q tests/test_@.py -k @\n",
  ),
  "tool": (
    '{"name": "@", "arguments": {"path": "src/@.py", "line": #}}\n',
    '{"thought": null, "calls": [["@", #], ["@", #]], "ok": true}\n',
    "<function=@>\n<parameter=@>#</parameter>\n</function>\n",
  ),
  "words": (
    "然后我们得到 @ = #，所以答案是 #。",
    "Ответ: @ = #, потому что # < #. ",
    "naïve cafe\u0301 à la @ # \U0001f642 ",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 ok \ufffd\ufffd @ ",
    "\U0001f1e8\U0001f1ed #, ",
    "नमस्ते @, पहला # है। ",
  ),
  "few": ("a", "b", "ab", "ba", "aaab"),
}
KINDS = tuple(_PARTS)
_NAMES = ("x", "y", "n", "total", "items", "parse", "speed", "alpha_1", "row")


def step(rng: random.Random, kind: str, chars: int) -> str:
  """Returns a text of one of KINDS, of `chars` characters."""
  text = ""
  while len(text) < chars:
    part = rng.choice(_PARTS[kind])
    part = re.sub(
      "#", lambda _: str(rng.randrange(10 ** rng.randint(1, 4))), part
    )
    text += re.sub("@", lambda _: rng.choice(_NAMES), part)
  return text[:chars]


def attempt(rng: random.Random, text: str, edits: int, chars: int) -> str:
  """Returns a model's version of a text, cut to `chars` characters.

  Each edit drops, doubles, moves or mistypes a piece of the text.
  """
  for _ in range(edits):
    at = rng.randrange(len(text) + 1)
    end = at + rng.choice((1, 1, 2, 5, 12, 30))
    before, piece, after = text[:at], text[at:end], text[end:]
    kind = rng.randrange(4)
    if kind == 0:
      text = before + after
    elif kind == 1:
      text = before + piece + piece + after
    elif kind == 2:
      text = after + piece + before
    else:
      text = before + "".join(rng.choice("etao 0189") for _ in piece) + after
  return text[:chars]


def pair(rng: random.Random, kind: str, chars: int) -> tuple[str, str]:
  """Returns (prediction, expert), each of at most `chars` characters.

  Most predictions are attempts at the expert's text; some are equal to it,
  unrelated or empty.
  """
  expert = step(rng, kind, rng.choice((chars, rng.randint(0, chars))))
  relation = rng.random()
  if relation < 0.05:
    return expert, expert
  if relation < 0.2:
    other = step(rng, rng.choice(KINDS), rng.randint(0, chars))
    return other, expert
  if relation < 0.25:
    return (expert, "") if rng.random() < 0.5 else ("", expert)
  return attempt(rng, expert, rng.randint(1, 2 + chars // 40), chars), expert
