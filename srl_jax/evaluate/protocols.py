# SPDX-License-Identifier: Apache-2.0
"""Protocols: rules of prompts, decoding and grading of suites.

A score means something only together with the prompt, the decoding and the
rule by which answers are read. A protocol is these three under one name. Those
named after a harness use its words and its verdicts, also where we think them
wrong; tests compare them with verdicts that the harness gave.

Nothing here imports JAX: worker processes judge.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from math import inf
from typing import Literal

from srl_jax.domains.suite import Problem
from srl_jax.rewards import harnesses
from srl_jax.rewards.answers import extract_answers, same_answer
from srl_jax.rewards.format import split_lenient

Messages = tuple[dict[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Decoding:
  """One way in which a protocol decodes.

  Attributes:
    name: "greedy", or "sampled" at a temperature.
    samples: answers per problem; all of them count.
    temperature: sampling temperature; 0 if greedy.
    top_p: sampling is restricted to the most likely tokens that have this
      probability together.
    top_k: sampling is restricted to so many tokens; 0 for all.
  """

  name: Literal["greedy", "sampled"]
  samples: int = 1
  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0

  def __post_init__(self):
    if self.name not in ("greedy", "sampled"):
      raise ValueError(
        f"a decoding is 'greedy' or 'sampled', not {self.name!r}"
      )
    is_cold = self.temperature == 0
    if is_cold != (self.name == "greedy") or not 0 <= self.temperature < inf:
      raise ValueError(
        f"the temperature of {self.name} answers is {self.temperature}; give 0 "
        "samples for greedy answers only, and else a temperature above 0"
      )
    if not 0 < self.top_p <= 1 or self.top_k < 0:
      raise ValueError(
        f"top_p is {self.top_p} and top_k {self.top_k}; give a top_p above 0 "
        "and up to 1, and a top_k of 0 or more"
      )
    if self.samples < 1 or (self.name == "greedy" and self.samples > 1):
      raise ValueError(
        f"{self.samples} {self.name} samples per problem: 'greedy' takes 1, "
        "because all would be the same, and 'sampled' at least 1"
      )


@dataclasses.dataclass(frozen=True)
class Protocol:
  """Rules of prompts, decoding and grading.

  Change fields by dataclasses.replace; `differences` then says which.

  Attributes:
    name: name on the command line and in tables.
    source: where its rules come from.
    mode: "solve" in one go, or "turns" as SRL trains.
    decodings: the ways in which each problem is decoded.
    max_new_tokens: maximal length of an answer, or of a turn, in tokens.
    max_turns: maximal number of turns; 1 in the mode "solve".
    wording: function that puts a problem as chat messages; None for the words
      of the run's template, for the task "solve" or "step".
    verdict: function (text, problem) -> (final answer, whether it is right).
      The text is all that the model wrote, without its stop token; the final
      answer is "" if there is none.
    notes: what a reader of its scores must know.
  """

  name: str
  source: str
  mode: Literal["solve", "turns"]
  decodings: tuple[Decoding, ...]
  max_new_tokens: int
  verdict: Callable[[str, Problem], tuple[str, bool]]
  wording: Callable[[Problem], Messages] | None = None
  max_turns: int = 1
  notes: tuple[str, ...] = ()

  def __post_init__(self):
    names = [decoding.name for decoding in self.decodings]
    if not names or len(set(names)) < len(names):
      raise ValueError(
        f"the protocol {self.name!r} decodes {' and '.join(names) or 'nothing'}"
        "; give 'greedy', 'sampled' or both, each once"
      )
    if self.max_new_tokens < 1 or self.max_turns < 1:
      raise ValueError(
        f"max_new_tokens={self.max_new_tokens} and max_turns={self.max_turns} "
        "must be at least 1"
      )
    if self.mode == "solve" and self.max_turns > 1:
      raise ValueError(
        f"the protocol {self.name!r} solves in one go, so max_turns="
        f"{self.max_turns} has no effect; use the protocol 'turns'"
      )

  def messages(self, problem: Problem) -> Messages | None:
    """Returns the prompt as messages; None for the template's own words."""
    return None if self.wording is None else self.wording(problem)

  def differences(self, other: Protocol | None = None) -> tuple[str, ...]:
    """Returns what differs from another protocol, in words; () if nothing.

    Args:
      other: the protocol to compare with; by default the one of this name.
    """
    other = find_protocol(self.name) if other is None else other
    found = []
    for field in ("mode", "max_new_tokens", "max_turns", "wording", "verdict"):
      ours, theirs = getattr(self, field), getattr(other, field)
      if ours != theirs:
        found.append(f"{field} {_said(ours)} instead of {_said(theirs)}")
    known = {decoding.name: decoding for decoding in other.decodings}
    for decoding in self.decodings:
      standard = known.pop(decoding.name, None)
      if standard is None:
        found.append(
          f"also {decoding.name}, {decoding.samples} at temperature "
          f"{decoding.temperature:g}, top_p {decoding.top_p:g}"
        )
        continue
      for field in ("samples", "temperature", "top_p", "top_k"):
        ours, theirs = getattr(decoding, field), getattr(standard, field)
        if ours != theirs:
          found.append(f"{decoding.name} {field} {ours} instead of {theirs}")
    found += [f"not {name}" for name in known]
    return tuple(found)


def _said(value: object) -> str:
  return getattr(value, "__name__", str(value))


def find_protocol(name: str) -> Protocol:
  """Returns the protocol of a name.

  Raises:
    ValueError: there is none; the message names the nearest.
  """
  if name in PROTOCOLS:
    return PROTOCOLS[name]
  near = difflib.get_close_matches(name.lower(), PROTOCOLS, n=1)
  hint = f" (did you mean {near[0]!r}?)" if near else ""
  raise ValueError(
    f"there is no protocol {name!r}{hint}; choose one of {', '.join(PROTOCOLS)}"
  )


def changed(
  protocol: Protocol,
  sampling: Mapping[str, float],
  **limits: int,
) -> Protocol:
  """Returns a protocol with some of its numbers changed.

  Args:
    protocol: the protocol.
    sampling: fields of its sampled decoding; with 0 samples it is greedy only.
    **limits: its max_new_tokens or max_turns.

  Raises:
    ValueError: a number makes no sense.
  """
  decodings = {decoding.name: decoding for decoding in protocol.decodings}
  if sampling.get("samples") == 0:
    if len(sampling) > 1:
      names = " and ".join(sampling.keys() - {"samples"})
      raise ValueError(
        f"with 0 samples, which is greedy only, {names} has no effect; leave "
        "it out"
      )
    decodings = {"greedy": _GREEDY}
  elif sampling:
    one = decodings.get("sampled", Decoding("sampled", 1, 1.0))
    decodings["sampled"] = dataclasses.replace(one, **sampling)
  return dataclasses.replace(
    protocol, decodings=tuple(decodings.values()), **limits
  )


def our_verdict(text: str, problem: Problem) -> tuple[str, bool]:
  """Judges by rewards/answers.py; think blocks are dropped first."""
  answers = extract_answers(split_lenient(text).action)
  for answer in answers:
    if same_answer(answer, problem.answer):
      return answer, True
  # The last one has the fewest words, so that equal votes read alike.
  return (answers[-1] if answers else ""), False


def _by(
  harness: str, task: str, text: str, problem: Problem
) -> tuple[str, bool]:
  answers = problem.answer, problem.solution
  return harnesses.verdict(harness, task, text, *answers)


def _user(text: str) -> Messages:
  return ({"role": "user", "content": text},)


_BOXED = (
  "Please reason step by step, and put your final answer within \\boxed{}."
)


def qwen_wording(problem: Problem) -> Messages:
  """Puts a problem as Qwen2.5-Math's prompt "qwen25-math-cot"."""
  text = problem.text
  for choices in ("True or False", "Yes or No"):
    if problem.answer.strip().lower() in choices.lower().split(" or "):
      text += f" ({choices})"
  return ({"role": "system", "content": _BOXED}, *_user(text.strip()))


def qwen_verdict(text: str, problem: Problem) -> tuple[str, bool]:
  """Judges as Qwen2.5-Math's evaluation judges the suite."""
  tasks = {"math500": "solution", "minerva": "minerva", "gsm8k": "gsm8k"}
  return _by("qwen_math", tasks.get(problem.suite, "answer"), text, problem)


_LIGHTEVAL_AIME = (
  "\nSolve the following math problem efficiently and clearly.  The last line"
  " of your response should be of the following format: 'Therefore, the final"
  " answer is: $\\boxed{{ANSWER}}$. I hope it is correct' (without quotes)"
  " where ANSWER is just the final number or expression that solves the"
  " problem. Think step by step before answering.\n\n{}\n"
)
_LIGHTEVAL_MATH = (
  "Solve the following problem. The final line of your response MUST be of the"
  ' following format:\n"ANSWER: $ANSWER" (without quotes) where $ANSWER is the'
  " final answer. Think step by step before answering.\n\n{}"
)


def lighteval_wording(problem: Problem) -> Messages:
  """Puts a problem as lighteval's task of the suite, or else MATH-500's."""
  template = {
    "aime": _LIGHTEVAL_AIME,
    "gsm8k": "Question: {}\nAnswer:",
    "math": _LIGHTEVAL_MATH,
  }[_task_of(problem)]
  return _user(template.format(problem.text))


def lighteval_verdict(text: str, problem: Problem) -> tuple[str, bool]:
  """Judges as lighteval's task of the suite, or else as its MATH-500."""
  return _by("lighteval", _task_of(problem), text, problem)


def _task_of(problem: Problem) -> str:
  """Returns the kind of task that lighteval and lm-eval have for a suite."""
  tasks = {"aime24": "aime", "aime25": "aime", "gsm8k": "gsm8k"}
  return tasks.get(problem.suite, "math")


def lm_eval_wording(problem: Problem) -> Messages:
  """Puts a problem as lm-eval's task of the suite, or else as minerva_math."""
  template = {
    "aime": "Question: {}\nAnswer:",
    "gsm8k": "Q: {}\nA: Let's think step by step.",
    "math": "Problem:\n{}\n\nSolution:",
  }[_task_of(problem)]
  return _user(template.format(problem.text))


def lm_eval_verdict(text: str, problem: Problem) -> tuple[str, bool]:
  """Judges as lm-eval: flexible-extract, math_verify, or AIME's only rule."""
  return _by("lm_eval", _task_of(problem), text, problem)


def lm_eval_strict_verdict(text: str, problem: Problem) -> tuple[str, bool]:
  """Judges as lm-eval: strict-match, exact_match, or AIME's only rule."""
  task = _task_of(problem)
  return _by(
    "lm_eval", task if task == "aime" else f"{task}-strict", text, problem
  )


_GREEDY = Decoding("greedy")
_AVG_32 = Decoding("sampled", samples=32, temperature=1.0)
_NO_SYSTEM = (
  "A chat template that takes no system message gets the system text at the "
  "beginning of the user's."
)
_LM_EVAL = Protocol(
  name="lm-eval",
  source="lm-evaluation-harness 0.4.13, as chat, zero-shot: gsm8k_cot_zeroshot "
  "(flexible-extract), aime24, aime25, minerva_math500 (math_verify)",
  mode="solve",
  decodings=(_GREEDY,),
  max_new_tokens=32768,
  wording=lm_eval_wording,
  verdict=lm_eval_verdict,
  notes=(
    "The harness cuts answers of other tasks than AIME at 256 tokens unless "
    "max_gen_toks is set; here all may be as long as AIME's.",
    "minerva_math500 has four examples there, and none here.",
    "Suites without a task there are put and judged as minerva_math500, which "
    "is MATH. The suite 'minerva' is another one.",
  ),
)
PROTOCOLS = {
  protocol.name: protocol
  for protocol in (
    Protocol(
      name="paper",
      source="SRL (arXiv 2510.25992), experiments on mathematics: greedy, and "
      "avg@32 at temperature 1.0",
      mode="solve",
      decodings=(_GREEDY, _AVG_32),
      max_new_tokens=8192,
      verdict=our_verdict,
      notes=(
        "The paper gives neither its prompt nor its limit of length; the words "
        "are those of the template, and answers are judged by our own rules.",
        "The paper gives Minerva's score by greedy decoding only.",
        _NO_SYSTEM,
      ),
    ),
    Protocol(
      name="turns",
      source="SRL (arXiv 2510.25992): step by step, as it trains",
      mode="turns",
      decodings=(_GREEDY, _AVG_32),
      max_new_tokens=1024,
      max_turns=16,
      verdict=our_verdict,
      notes=("Thoughts are dropped after each turn.", _NO_SYSTEM),
    ),
    Protocol(
      name="qwen2.5-math",
      source="github.com/QwenLM/Qwen2.5-Math, a45202b: qwen25-math-cot, greedy",
      mode="solve",
      decodings=(_GREEDY,),
      max_new_tokens=2048,
      wording=qwen_wording,
      verdict=qwen_verdict,
      notes=(
        "A number is right also if it is a hundred times the reference or a "
        "hundredth of it, up to a relative 1e-4.",
        _NO_SYSTEM,
      ),
    ),
    Protocol(
      name="lighteval",
      source="lighteval 0.13.0: aime24_avg, aime25_avg, math_500, gsm8k; "
      "temperature and top_p of DeepSeek-R1's model card",
      mode="solve",
      decodings=(Decoding("sampled", 64, temperature=0.6, top_p=0.95),),
      max_new_tokens=32768,
      wording=lighteval_wording,
      verdict=lighteval_verdict,
      notes=(
        "The harness draws one sample for MATH-500 and GSM8K, and cuts answers "
        "to GSM8K at 256 tokens.",
        "Suites without a task there are put and judged as MATH-500.",
      ),
    ),
    _LM_EVAL,
    dataclasses.replace(
      _LM_EVAL,
      name="lm-eval-strict",
      source="lm-evaluation-harness 0.4.13, as chat, zero-shot: "
      "gsm8k_cot_zeroshot (strict-match), aime24, aime25, minerva_math500 "
      "(exact_match)",
      verdict=lm_eval_strict_verdict,
    ),
  )
}
