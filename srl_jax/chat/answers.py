# SPDX-License-Identifier: Apache-2.0
"""Answers under way: in one go, or step by step as SRL trains.

`drive` samples many answers at a time on one stream. Not for: the terminal.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from srl_jax.data.messages import encode_messages
from srl_jax.data.templates import encode_segment
from srl_jax.domains import domain_of
from srl_jax.domains.suite import Problem
from srl_jax.inference import ReadyModel
from srl_jax.rewards import format
from srl_jax.rollout.requests import Piece, Request
from srl_jax.rollout.stream import Stream
from srl_jax.tokenizers import TextStream
from srl_jax.trajectory import Step

# "chat" goes by the chat template alone. "solve" and "turns" word the prompt as
# training does, and ask for the whole solution or for one step after another.
Mode = Literal["chat", "solve", "turns"]
Prompt = str | tuple[Mapping[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Drawing:
  """How answers are drawn.

  Attributes:
    mode: see Mode.
    domain: name of the domain whose wording and final answers count.
    max_new_tokens: limit of each completion in tokens.
    temperature: divisor of the logits; 0 takes the most likely token.
    top_p: probability mass of the most likely tokens to keep.
    max_turns: maximal number of turns in the mode "turns".
    context_turns: how many of the last steps the model sees then, as in its
      training; 0 for all.
    seed: seed of the random numbers.
  """

  mode: Mode
  domain: str = "general"
  max_new_tokens: int = 1024
  temperature: float = 0.7
  top_p: float = 1.0
  max_turns: int = 16
  context_turns: int = 0
  seed: int = 0


class ChatAnswer:
  """One answer to one prompt.

  Attributes:
    number: number of the prompt.
    sample: number of the sample.
    prompt: what was asked.
    texts: the completions so far, thoughts included; one per step.
    ending: "stop", "length", "answered", "no action", "turn limit", "context
      full" or "interrupted" at the end, else "".
    tokens: number of tokens drawn.
    logp: sum of their log-probs, in nats.
  """

  def __init__(
    self,
    model: ReadyModel,
    drawing: Drawing,
    prompt: Prompt,
    number: int,
    sample: int,
  ):
    """Tokenises the prompt.

    Raises:
      ValueError: the mode does not suit the prompt or the model, or the prompt
        does not fit.
    """
    try:
      json.dumps(prompt, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
      wrong = error.object[error.start]
      raise ValueError(
        f"the prompt holds {wrong!a}, which is no character; write it in UTF-8"
      ) from error
    self._model, self._drawing = model, drawing
    self.prompt, self.number, self.sample = prompt, number, sample
    self.texts: list[str] = []
    self.ending = ""
    self.tokens, self.logp = 0, 0.0
    self._head = self._encode(prompt)
    if self._room() < 1:
      raise ValueError(
        f"the prompt has {len(self._head)} tokens, and the model's context "
        f"length is {model.max_positions}; shorten it"
      )

  def _encode(self, prompt: Prompt) -> list[int]:
    run, mode = self._model.run, self._drawing.mode
    if mode == "chat":
      if self._model.chat is None:
        raise ValueError(
          "the model has no chat template; take --mode=solve or --mode=turns"
        )
      messages = prompt
      if isinstance(prompt, str):
        messages = ({"role": "user", "content": prompt},)
      return encode_messages(self._model.chat, run.tokenizer, messages)
    if not isinstance(prompt, str):
      raise ValueError(
        f"messages are for --mode=chat, not --mode={mode}; take that mode, or "
        "write the prompt under problem"
      )
    # No step is ever shown; a trajectory must have one.
    problem = Problem(id="prompt", text=prompt, answer="?")
    self._trajectory = problem.trajectory(self._drawing.domain)
    head = run.template.problem(self._trajectory, self._task())
    self._problem = encode_segment(run.tokenizer, head)
    self._steps: list[list[int]] = []
    return self._with_stem()

  def _task(self) -> Literal["step", "solve"]:
    return "step" if self._drawing.mode == "turns" else "solve"

  def _with_stem(self) -> list[int]:
    run = self._model.run
    stem = run.template.stem(self._task(), len(self.texts) + 1)
    seen = self._steps[-self._drawing.context_turns :]  # [-0:] is all.
    return [
      *self._problem,
      *itertools.chain(*seen),
      *encode_segment(run.tokenizer, stem),
    ]

  def _room(self) -> int:
    return self._model.max_positions - len(self._head)

  def request(self) -> Request:
    """What to sample next."""
    self._text = TextStream(self._model.run.tokenizer)
    drawing = self._drawing
    name = f"{drawing.seed}/{self.number}/{len(self.texts)}"
    self.texts.append("")
    return Request(
      self._head,
      point_id=zlib.crc32(name.encode()),
      samples=(self.sample,),
      max_new_tokens=min(drawing.max_new_tokens, self._room()),
      temperature=drawing.temperature,
      top_p=drawing.top_p,
    )

  def take(self, piece: Piece) -> str:
    """Takes a piece; returns the new text. `ending` says whether it is over."""
    self.tokens += len(piece.tokens)
    self.logp += sum(piece.logps)
    tokens = piece.tokens[:-1] if piece.ending == "stop" else piece.tokens
    new = self._text.add(tokens, is_last=bool(piece.ending))
    self.texts[-1] += new
    if piece.ending:
      self._end_turn("stop" if piece.ending == "stop" else "length")
    return new

  def _end_turn(self, ending: str) -> None:
    if self._drawing.mode != "turns":
      self.ending = ending
      return
    action = format.split_lenient(self.texts[-1]).action
    if not action:
      self.ending = "no action"
    elif domain_of(self._trajectory).is_final(action):
      self.ending = "answered"
    elif len(self.texts) == self._drawing.max_turns:
      self.ending = "turn limit"
    else:
      run = self._model.run
      step = run.template.step(Step(action), len(self.texts))
      self._steps.append(encode_segment(run.tokenizer, step))
      self._head = self._with_stem()
      if self._room() < 1:
        self.ending = "context full"

  def parts(self) -> list[tuple[str, str]]:
    """Thought and action of each completion."""
    parsed = map(format.split_lenient, self.texts)
    return [(part.thought, part.action) for part in parsed]


def drive(
  stream: Stream,
  answers: Iterable[ChatAnswer],
  is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[ChatAnswer, str]]:
  """Samples answers; yields each with its new text as it comes.

  Args:
    stream: the sampler; idle before and after.
    answers: what to sample; taken one by one as slots become free.
    is_stopped: asked after each segment; True gives up what is under way.
  """
  answers = iter(answers)
  under_way: dict[int, ChatAnswer] = {}
  is_over = False

  def begin(answer: ChatAnswer) -> None:
    under_way[stream.submit(answer.request())] = answer

  while True:
    while not is_over and stream.waiting < stream.rows:
      answer = next(answers, None)
      is_over = answer is None
      if answer:
        begin(answer)
    if not under_way:
      return
    for piece in stream.advance():
      answer = under_way[piece.ticket]
      new = answer.take(piece)
      if piece.ending:
        del under_way[piece.ticket]
        if not answer.ending:
          begin(answer)
          new += "\n\n"
      yield answer, new
    if is_stopped():
      _give_up(stream, under_way)
      yield from ((answer, "") for answer in under_way.values())
      return


def _give_up(stream: Stream, under_way: Mapping[int, ChatAnswer]) -> None:
  for ticket, answer in under_way.items():
    stream.cancel(ticket)
    answer.ending = "interrupted"
  while not stream.is_idle:
    stream.advance()


def after(messages: Sequence[Mapping[str, str]], answer: ChatAnswer):
  """Messages of a conversation after an answer; the thought is dropped."""
  [(_, action)] = answer.parts()
  return (*messages, {"role": "assistant", "content": action})
