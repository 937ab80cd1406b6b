# SPDX-License-Identifier: Apache-2.0
"""How much of a suite's problems stands in the training data.

Problems and training texts become words: runs of letters and digits in lower
case. Punctuation, braces, dollar signs and TeX that only sets the type count
for nothing, so \\frac{m}{n}, \\dfrac{m}n and m/n read the same. Each Chinese,
Japanese or Korean character is a word.

The n-grams of the suite are indexed, and the training data stream past them.
So memory follows the size of the suite, and grams are compared exactly. A
problem that was reworded, translated or given other numbers is not found.
"""

from __future__ import annotations

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from srl_jax.domains.suite import Problem
from srl_jax.trajectory import Trajectory

_WORDS = re.compile(
  r"\\(?:left|right|displaystyle|textstyle|text(?:bf|it|rm)?|math(?:rm|bf|it)"
  r"|mbox|[dtc]?frac|quad|qquad|[Bb]igg?[lr]?)(?![a-zA-Z])"
  r"|([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
  r"|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+)"
)
# Share of a problem's n-grams from which it is flagged.
_FLAGGED = 0.5


@dataclasses.dataclass(frozen=True)
class Overlap:
  """What of a problem stands in the training data.

  Attributes:
    problem: id of the problem.
    grams: number of its different n-grams that count.
    found: how many of them stand somewhere in the training data.
    is_flagged: whether half of them or more were found.
    is_whole: whether the whole text was looked for instead, as one gram,
      because no n-gram counts.
    source: id of the trajectory that holds most of them; "" if none does.
  """

  problem: str
  grams: int
  found: int
  is_flagged: bool
  is_whole: bool
  source: str

  @property
  def share(self) -> float:
    """Share of the n-grams that stands in the training data."""
    return self.found / self.grams if self.grams else 0.0


def words_of(text: str) -> list[str]:
  """Returns the words of a text as the module's docstring defines them."""
  if not text.isascii():
    text = unicodedata.normalize("NFKC", text)
  return [word for word in _WORDS.findall(text.lower()) if word]


def contamination(
  problems: Sequence[Problem],
  trajectories: Iterable[Trajectory],
  *,
  words: int = 13,
  boilerplate: int = 3,
) -> list[Overlap]:
  """Returns the overlap of each problem with the training data.

  13 words are the length that Brown et al. (2020, appendix C) use. A gram that
  stands in several problems of the suite itself is a phrase of its kind, such
  as "where m and n are relatively prime positive integers", and counts for
  nothing. A problem of which no gram is left, because it is shorter than 13
  words or all phrase, is looked for as a whole; the shorter it is, the more
  that is chance.

  Args:
    problems: the problems of one suite.
    trajectories: the training data. Problem, titles, thoughts, steps and
      observations of a trajectory are read as one text.
    words: length of the n-grams.
    boilerplate: number of different problems of the suite in which a gram is a
      phrase.

  Raises:
    ValueError: a length or number makes no sense.
  """
  if words < 1 or boilerplate < 2:
    raise ValueError(
      f"words={words}, boilerplate={boilerplate}; grams have 1 word or more, "
      "and phrases stand in 2 problems or more"
    )
  index = _Index(problems, words, boilerplate)
  found = np.zeros(len(index.owners), bool)
  best = [("", 0)] * len(problems)
  for trajectory in trajectories:
    hits = index.grams_in(_training_text(trajectory))
    found[hits] = True
    counts = collections.Counter(
      owner for hit in hits for owner in index.owners[hit]
    )
    for owner, count in counts.items():
      if count > best[owner][1]:
        best[owner] = (trajectory.id, count)
  totals, matches = [0] * len(problems), [0] * len(problems)
  for owners, is_found in zip(index.owners, found, strict=True):
    for owner in owners:
      totals[owner] += 1
      matches[owner] += int(is_found)
  return [
    Overlap(
      problem.id,
      totals[i],
      matches[i],
      bool(totals[i]) and matches[i] / totals[i] >= _FLAGGED,
      i in index.whole,
      best[i][0],
    )
    for i, problem in enumerate(problems)
  ]


def _training_text(trajectory: Trajectory) -> str:
  parts = [trajectory.problem]
  for step in trajectory.steps:
    parts += [step.title, step.thought, step.text, step.observation]
  return "\n".join(part for part in parts if part)


class _Index:
  """The grams of a suite, by length.

  Attributes:
    owners: for each gram, the problems (indices) in which it stands.
    whole: indices of the problems that are looked for as a whole.
  """

  def __init__(self, problems: Sequence[Problem], words: int, phrase: int):
    texts = [words_of(problem.text) for problem in problems]
    self._vocabulary: dict[str, int] = {}
    for text in texts:
      for word in text:
        self._vocabulary.setdefault(word, len(self._vocabulary))
    grams: dict[tuple[int, ...], list[int]] = {}
    for owner, text in enumerate(texts):
      ids = self._ids(text)
      for at in range(len(ids) - words + 1):
        owners = grams.setdefault(tuple(ids[at : at + words]), [])
        if owners[-1:] != [owner]:
          owners.append(owner)
    grams = {gram: who for gram, who in grams.items() if len(who) < phrase}
    self.whole = set(range(len(texts))).difference(*grams.values())
    for owner in sorted(self.whole):
      if texts[owner]:
        grams.setdefault(tuple(self._ids(texts[owner])), []).append(owner)
    self.owners = list(grams.values())
    by_length: dict[int, list[int]] = {}
    for number, gram in enumerate(grams):
      by_length.setdefault(len(gram), []).append(number)
    rng = np.random.default_rng(0)
    top = max(by_length, default=0)
    # Odd factors keep all bits of an id.
    self._factors = rng.integers(2**63, size=top, dtype=np.uint64) * 2 + 1
    every = list(grams)
    self._tables = {
      length: self._table(np.array([every[n] for n in numbers]), numbers)
      for length, numbers in by_length.items()
    }

  def _ids(self, text: Sequence[str]) -> list[int]:
    vocabulary = self._vocabulary
    return [vocabulary.get(word, -1) for word in text]

  def _table(self, grams: np.ndarray, numbers: list[int]):
    """Returns grams of one length, sorted by hash, with their numbers."""
    hashes = (grams.astype(np.uint64) * self._factors[: grams.shape[1]]).sum(1)
    order = np.argsort(hashes)
    return grams[order], np.array(numbers)[order], hashes[order]

  def grams_in(self, text: str) -> np.ndarray:
    """Returns the numbers of the grams that stand in a text."""
    ids = np.array(self._ids(words_of(text)), np.int64)
    as_bits = ids.astype(np.uint64)
    runs = np.zeros(len(ids), np.uint64)
    found = [np.empty(0, np.int64)]
    for length, factor in enumerate(self._factors[: len(ids)], start=1):
      # The hash of the run of each length from each place.
      runs = runs[: len(ids) - length + 1] + as_bits[length - 1 :] * factor
      if length not in self._tables:
        continue
      grams, numbers, hashes = self._tables[length]
      # Two grams of a suite have equal hashes with a probability of 1e-10.
      places = np.searchsorted(hashes, runs)
      at = np.flatnonzero(hashes.take(places, mode="clip") == runs)
      if len(at):
        windows = ids[at[:, None] + np.arange(length)]
        is_equal = (windows == grams[places[at]]).all(1)
        found.append(numbers[places[at]][is_equal])
    return np.unique(np.concatenate(found))
