# SPDX-License-Identifier: Apache-2.0
"""Asks a model something, at the terminal or for a file of prompts.

  srl_jax chat --weights=/tmp/srl --mode=turns "What is 2+3*4?"
  srl_jax chat --weights=Qwen/Qwen2.5-0.5B-Instruct
  srl_jax chat --weights=/tmp/srl --prompts=problems.jsonl --json

Without a prompt it asks for one after the other, or answers each line of a
pipe. At the terminal, Ctrl-C ends an answer, and the end of the input (Ctrl-D)
or Ctrl-C twice ends the program. Elsewhere Ctrl-C ends the program after the
segment of decoding that is under way, and once more ends it at once.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence

import jax

from srl_jax import compilation_cache, inference
from srl_jax.arguments import HelpFormatter, check_least, errors_in_one_line
from srl_jax.chat.answers import ChatAnswer, Drawing, Prompt, after, drive
from srl_jax.chat.prompts import read_prompts
from srl_jax.chat.thoughts import Thoughts
from srl_jax.domains import find_domain
from srl_jax.processes import stopping
from srl_jax.rollout.stream import Stream

_ROWS = 8  # Prompts of a file that are sampled together.


def _parser() -> argparse.ArgumentParser:
  assert __doc__
  parser = argparse.ArgumentParser(
    prog="srl_jax chat",
    description=__doc__.partition("\n")[0],
    formatter_class=HelpFormatter,
  )
  add = parser.add_argument
  add("prompt", nargs="?", help="what to ask; without it, ask at the terminal")
  add(
    "--weights",
    required=True,
    help="a workdir, a Hugging Face folder, a hub name or registers_student",
  )
  add(
    "--prompts",
    metavar="FILE",
    help="a prompt per line; a .jsonl file has problem, prompt or messages",
  )
  add(
    "--mode",
    choices=("chat", "solve", "turns"),
    help="by the chat template alone, or worded as in training: in one go, or "
    "step by step; default: chat if the model has a chat template",
  )
  add("--domain", help="whose wording, if not chat; default: general")
  add("--system", default="", help="system message, for chat")
  add("--thoughts", choices=("show", "hide"), default="show")
  add("--n", type=int, default=1, help="answers per prompt")
  add("--temperature", type=float, default=0.7, help="0 is greedy")
  add("--top_p", type=float, default=1.0)
  add(
    "--max_new_tokens",
    type=int,
    help=f"per completion or step; default: {Drawing.max_new_tokens}",
  )
  add("--max_turns", type=int, help=f"for turns; default: {Drawing.max_turns}")
  add("--seed", type=int, help="default: a new one each time")
  add("--json", action="store_true", help="print a JSON object per completion")
  return parser


def _limits(args: argparse.Namespace, context: int) -> dict[str, int]:
  """The limits that were given, as fields of Drawing.

  Raises:
    ValueError: one is too low, or too high for a context of so many tokens.
  """
  check_least(args, n=1, max_new_tokens=1, max_turns=1)
  names = ("max_new_tokens", "max_turns")
  found = {x: n for x in names if (n := getattr(args, x)) is not None}
  most = context - 1  # A prompt has a token or more.
  if found.get("max_new_tokens", 0) > most:
    raise ValueError(
      f"--max_new_tokens={args.max_new_tokens} is too much for a context of "
      f"{context} tokens, which the prompt shares; give {most} or less"
    )
  return found


class _Chat:
  """The command, with its model loaded."""

  def __init__(
    self,
    args: argparse.Namespace,
    model: inference.ReadyModel,
    context_turns: int,
  ):
    seed = secrets.randbits(32) if args.seed is None else args.seed
    mode = args.mode or ("chat" if model.chat else "solve")
    if args.system and mode != "chat":
      raise ValueError(
        f"--system is for --mode=chat; the wording of --mode={mode} is that of "
        "training (--domain)"
      )
    if args.domain and mode == "chat":
      raise ValueError(
        f"--domain={args.domain} says how prompts are worded, and --mode=chat "
        "puts them as they are; leave it out, or take --mode=solve or turns"
      )
    if args.top_p < 1 and args.temperature == 0:
      raise ValueError(
        f"--top_p={args.top_p} is for samples, and --temperature=0 is greedy; "
        "leave one of them out"
      )
    if args.max_turns is not None and mode != "turns":
      raise ValueError(
        f"--max_turns is for --mode=turns, and --mode={mode} writes in one go; "
        "leave it out, or take --mode=turns"
      )
    domain = args.domain or "general"
    find_domain(domain)  # It may have to be imported.
    self._drawing = Drawing(
      mode=mode,
      domain=domain,
      temperature=args.temperature,
      top_p=args.top_p,
      seed=seed,
      context_turns=context_turns,
      **_limits(args, model.max_positions),
    )
    self._args, self._model = args, model
    self._is_terminal = sys.stdin.isatty()

  def stream(self, prompts: int) -> Stream:
    """A sampler for a number of prompts at a time."""
    return self._model.stream(
      rows=min(prompts, _ROWS),
      slots=min(self._args.n, 8),
      key=jax.random.key(0),
      segment_iterations=8,
    )

  def answers(self, prompt: Prompt, number: int) -> list[ChatAnswer]:
    """The answers to a prompt, not begun."""
    return [
      ChatAnswer(self._model, self._drawing, prompt, number, sample)
      for sample in range(self._args.n)
    ]

  def messages(self, prompt: Prompt) -> Prompt:
    """A prompt with the system message in front, in the mode chat.

    Messages that begin with one of their own keep it.
    """
    if self._drawing.mode != "chat":
      return prompt
    if isinstance(prompt, str):
      prompt = ({"role": "user", "content": prompt},)
    if not self._args.system or prompt[0]["role"] == "system":
      return prompt
    return ({"role": "system", "content": self._args.system}, *prompt)

  def run(self, stream: Stream, answers: Sequence[ChatAnswer]) -> bool:
    """Samples answers and prints them in order, as they come.

    Returns:
      Whether Ctrl-C has ended them.
    """
    names = [(answer.number, answer.sample) for answer in answers]
    printer = _Printer(self._args, self._drawing, names)
    # An exception in the middle of a segment would lose the sampler's state.
    with stopping.interruptible() as is_interrupted:
      for answer, new in drive(stream, answers, is_interrupted):
        printer.add(answer, new)
    printer.add_rest()
    return is_interrupted()

  def ask(self, stream: Stream) -> bool:
    """Asks at the terminal, or answers the lines of a pipe, until they end.

    Returns:
      Whether there was no line of a pipe that could not be answered.
    """
    is_terminal = self._is_terminal
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401  Lets the user edit the line.
    if is_terminal:
      print("Ctrl-C ends an answer, Ctrl-D the program; /new forgets all.")
    else:
      # A line that is not UTF-8 is a bad line, and not the end of all.
      sys.stdin.reconfigure(errors="surrogateescape")
    self._messages: Prompt = ()
    self._number, self._has_bad = 0, False
    is_warned = False
    for line_number in itertools.count():
      try:
        line = input("> " if is_terminal else "")
        is_warned = False
        if not is_terminal:
          self._number = line_number
          line = line if line_number else line.removeprefix("\ufeff")
        if self._answer(stream, line.strip()) and not is_terminal:
          raise KeyboardInterrupt
      except EOFError:
        print(end="\n" if is_terminal else "")
        break
      except KeyboardInterrupt:
        if is_warned or not is_terminal:
          raise
        print("\n(once more ends, and so does Ctrl-D)")
        is_warned = True
    return not self._has_bad

  def _answer(self, stream: Stream, line: str) -> bool:
    """Answers a line; returns whether Ctrl-C has ended the answer."""
    if line == "/new":
      self._messages = ()
    if not line or line == "/new":
      return False
    prompt = self.messages(line)
    if self._messages and not isinstance(prompt, str):
      prompt = (*self._messages, prompt[-1])
    try:
      answers = self.answers(prompt, self._number)
    except ValueError as error:
      where = "" if self._is_terminal else f"line {self._number + 1}: "
      print(f"error: {where}{error}", file=sys.stderr)
      self._has_bad = not self._is_terminal
      return False
    is_interrupted = self.run(stream, answers)
    self._number += 1
    if not isinstance(prompt, str):
      # With several answers the conversation goes on from the first.
      self._messages = after(prompt, answers[0])
    return is_interrupted


class _Printer:
  """Prints answers in their order; later ones wait for earlier ones."""

  def __init__(
    self,
    args: argparse.Namespace,
    drawing: Drawing,
    names: Sequence[tuple[int, int]],
  ):
    self._args, self._drawing = args, drawing
    self._names = collections.deque(names)
    # Answers that have begun, with their text that is not printed yet.
    self._open: dict[tuple[int, int], tuple[ChatAnswer, list[str]]] = {}
    self._thoughts: Thoughts | None = None

  def add(self, answer: ChatAnswer, new: str) -> None:
    """Takes new text of an answer; prints it if its turn has come."""
    name = answer.number, answer.sample
    self._open.setdefault(name, (answer, []))[1].append(new)
    while self._names and self._names[0] in self._open:
      answer, texts = self._open[self._names[0]]
      if not self._args.json:
        self._print_text(answer, texts)
      if not answer.ending:
        return
      if self._args.json:
        print(json.dumps(self._record(answer), ensure_ascii=False), flush=True)
      del self._open[self._names.popleft()]

  def add_rest(self) -> None:
    """Prints what waits for answers that never began."""
    self._names = collections.deque(sorted(self._open))
    for answer, _ in list(self._open.values()):
      self.add(answer, "")

  def _print_text(self, answer: ChatAnswer, texts: list[str]) -> None:
    if self._thoughts is None:
      self._thoughts = Thoughts(
        self._args.thoughts == "show",
        sys.stdout.isatty(),
      )
      if self._args.n > 1 or self._args.prompts:
        print(f"[prompt {answer.number + 1}, answer {answer.sample + 1}]")
    text = self._thoughts.add("".join(texts), is_last=bool(answer.ending))
    texts.clear()
    print(text, end="", flush=True)
    if answer.ending:
      note = "" if answer.ending == "stop" else f" [{answer.ending}]"
      print(note, end="\n" if self._args.n == 1 else "\n\n", flush=True)
      self._thoughts = None

  def _record(self, answer: ChatAnswer) -> dict:
    parts = [
      {"thought": thought, "action": action}
      for thought, action in answer.parts()
    ]
    if self._args.thoughts == "hide":
      parts = [{"action": part["action"]} for part in parts]
    record = {
      "number": answer.number,
      "sample": answer.sample,
      "prompt": answer.prompt,
      "mode": self._drawing.mode,
      "steps" if self._drawing.mode == "turns" else "parts": parts,
      "ending": answer.ending,
      "tokens": answer.tokens,
      "logp": round(answer.logp, 4),
      "seed": self._drawing.seed,
    }
    if self._args.thoughts == "show":
      record["texts"] = answer.texts
    return record


def _chat(args: argparse.Namespace) -> None:
  if args.prompt is not None and args.prompts:
    raise ValueError("give a prompt or --prompts, not both")
  if args.prompt is not None and not args.prompt.strip():
    raise ValueError("the prompt is empty; leave it out to be asked for one")
  prompts = read_prompts(args.prompts) if args.prompts else {}
  if args.prompt:
    prompts = {0: args.prompt}
  compilation_cache.use_default()
  config = inference.config_of(args.weights)
  model = inference.load(config, args.weights)
  chat = _Chat(args, model, config.srl.trunks.context_turns)
  stream = chat.stream(len(prompts) or 1)
  if not prompts:
    # A slip at the prompt should not end the program, as stopping.listen does.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    is_good = chat.ask(stream)
    # Not after Ctrl-C: stopping.py might hear it as well.
    signal.signal(signal.SIGINT, before)
    if not is_good:
      sys.exit(1)
    return
  every: list[ChatAnswer] = []
  for number, prompt in prompts.items():
    try:
      every += chat.answers(chat.messages(prompt), number)
    except ValueError as error:
      where = f"{args.prompts}, line {number + 1}: " if args.prompts else ""
      raise ValueError(f"{where}{error}") from error
  if chat.run(stream, every):
    sys.exit(130)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message if the model cannot be asked."""
  args = _parser().parse_args(argv)
  with errors_in_one_line():
    try:
      _chat(args)
    except KeyboardInterrupt:
      sys.exit(130)
    except BrokenPipeError:
      # Whoever read the answers has left. What is still unwritten goes nowhere.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
  main()
