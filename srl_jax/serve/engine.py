# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the devices, and the queue in front of it.

The event loop hands requests over and gets pieces of text back. The thread
alternates between one batch of texts to score and one segment of sampling, and
sleeps when there is neither. A completion that nobody waits for any more is
cancelled, which frees its slot. A failure in the thread fails all requests.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import jax

from srl_jax.inference import ReadyModel
from srl_jax.rollout.requests import Piece
from srl_jax.serve.completion import Completion, Delta, Wish
from srl_jax.serve.schema import ApiError
from srl_jax.serve.scoring import MAX_LIKELY, Scores, TextScorer

# Texts that are scored before sampling goes on.
_SCORED_AT_ONCE = 64


@dataclasses.dataclass
class Counts:
  """What the engine has done since it began; for /metrics."""

  requests: int = 0
  completions: int = 0
  cancelled: int = 0
  scored: int = 0


class Asked:
  """The completions of one request, as the event loop sees them.

  Iterating gives deltas of all completions in the order in which they come, up
  to the last one. `close` must be called at the end, also after a failure.
  """

  def __init__(self, engine: Engine, wishes: Sequence[Wish]):
    self._engine = engine
    self._deltas: asyncio.Queue[Delta | Exception] = asyncio.Queue()
    self._open = len(wishes)
    self.wishes = wishes

  def tell(self, delta: Delta | Exception) -> None:
    """Adds a delta, or what went wrong."""
    self._deltas.put_nowait(delta)

  async def __aiter__(self) -> AsyncIterator[Delta]:
    while self._open:
      delta = await self._deltas.get()
      if isinstance(delta, Exception):
        raise delta
      if delta.finish:
        self._open -= 1
        self._engine.free(1)
      yield delta

  def close(self) -> None:
    """Frees the slots of what has not ended."""
    if self._open:
      self._engine.free(self._open)
      self._open = 0
      self._engine.cancel(self)
    self._engine.forget(self)


class Engine:
  """Samples and scores for many requests at a time."""

  def __init__(
    self,
    model: ReadyModel,
    *,
    rows: int = 32,
    slots: int = 1,
    segment_iterations: int = 8,
    max_stem: int = 32,
    max_queue: int = 256,
    on_failure: Callable[[BaseException], None] = lambda error: None,
  ):
    """Makes the sampler; `start` starts the thread.

    Args:
      model: the model.
      rows: different prompts that are decoded together.
      slots: completions of a prompt that are decoded together.
      segment_iterations: tokens of each completion between two looks at what
        has come in.
      max_stem: see `Stream`.
      max_queue: completions that may wait when all slots are busy.
      on_failure: is called in the event loop after a failure of the thread.
    """
    run = model.run
    self.model = model
    # Samples follow from the seed of the request alone.
    self._stream = model.stream(
      rows=rows,
      slots=slots,
      key=jax.random.key(0),
      segment_iterations=segment_iterations,
      max_stem=max_stem,
    )
    self._scorer = TextScorer(
      run.sampling_policy, model.params, run.mesh, run.rollout_rules
    )
    self.capacity = self._stream.rows * slots + max_queue
    self.open = 0
    self.counts = Counts()
    self._asked: set[Asked] = set()
    self._scores: set[asyncio.Future] = set()
    self._on_failure = on_failure
    self._failure: BaseException | None = None
    self._commands: queue.SimpleQueue = queue.SimpleQueue()
    self._loop: asyncio.AbstractEventLoop | None = None
    self._thread = threading.Thread(target=self._run, name="engine")
    self._thread.daemon = True
    self._running: dict[int, tuple[tuple[Asked, int], Completion]] = {}
    self._tickets: dict[tuple[Asked, int], int] = {}
    self._to_score: collections.deque = collections.deque()

  # What the event loop calls.

  def start(self) -> None:
    """Starts the thread; call it in the event loop."""
    self._loop = asyncio.get_running_loop()
    self._thread.start()

  def stop(self) -> None:
    """Ends the thread after what it is doing now."""
    self._commands.put(None)
    self._thread.join()

  def _check_alive(self) -> None:
    if self._failure:
      raise _server_error(self._failure)

  def _admit(self, count: int) -> None:
    self._check_alive()
    if count > self.capacity:
      # Clients would try again for ever.
      raise ApiError(
        f"the request asks for {count} completions at once, and the server "
        f"takes {self.capacity}; ask for fewer (prompts times n), or start it "
        "with a larger --max_queue",
        status=400,
      )
    if self.open + count > self.capacity:
      raise ApiError(
        f"the server is busy: {self.open} completions are under way or wait, "
        f"{count} more are too many for a limit of {self.capacity}; try again "
        "later, or ask for fewer at a time",
        status=429,
        code="queue_full",
      )
    self.open += count
    self.counts.requests += 1

  def free(self, count: int) -> None:
    """Counts completions that have ended."""
    self.open -= count

  def ask(self, wishes: Sequence[Wish]) -> Asked:
    """Begins to sample completions.

    Raises:
      ApiError: the queue is full, or the engine has failed.
    """
    self._admit(len(wishes))
    asked = Asked(self, wishes)
    self._asked.add(asked)
    self._commands.put(lambda: self._begin(asked))
    return asked

  async def score(
    self,
    texts: Sequence[Sequence[int]],
    likely: int,
    *,
    is_admitted: bool = False,
  ) -> list[Scores]:
    """Scores texts; see `TextScorer`.

    Args:
      texts: token ids.
      likely: number of most likely tokens to report.
      is_admitted: whether they are of a request that `ask` has let in.

    Raises:
      ApiError: the queue is full, or the engine has failed.
    """
    assert self._loop is not None
    self._check_alive()
    if not is_admitted:
      self._admit(len(texts))
    futures = [self._loop.create_future() for _ in texts]
    self._scores.update(futures)
    self._commands.put(
      lambda: self._to_score.extend(
        (text, likely, future)
        for text, future in zip(texts, futures, strict=True)
      )
    )
    try:
      return list(await asyncio.gather(*futures))
    finally:
      self._scores.difference_update(futures)
      if not is_admitted:
        self.free(len(texts))

  def cancel(self, asked: Asked) -> None:
    """Gives up what has not ended of a request."""
    self._commands.put(lambda: self._cancel(asked))

  def forget(self, asked: Asked) -> None:
    """Drops a request that has ended."""
    self._asked.discard(asked)

  def gauges(self) -> dict[str, float]:
    """Numbers for /metrics."""
    work = self._stream.work
    return {
      "completions_open": self.open,
      "completions_running": len(self._running) - self._stream.waiting,
      "completions_waiting": self._stream.waiting,
      "texts_to_score": len(self._to_score),
      "requests_total": self.counts.requests,
      "completions_total": self.counts.completions,
      "completions_cancelled_total": self.counts.cancelled,
      "texts_scored_total": self.counts.scored,
      "prompt_tokens_run_total": work.prompt_tokens,
      "tokens_drawn_total": work.drawn_tokens,
      "slot_iterations_total": work.slot_iterations,
    }

  def _fail_all(self, error: BaseException) -> None:
    self._failure = error
    for asked in list(self._asked):
      asked.tell(_server_error(error))
    for future in list(self._scores):
      if not future.done():
        future.set_exception(_server_error(error))
    self._on_failure(error)

  # What the thread does.

  def _run(self) -> None:
    try:
      while self._obey():
        if self._to_score:
          self._score_some()
        wants = any(c.wish.wants_logprobs for _, c in self._running.values())
        self._stream.likely = MAX_LIKELY if wants else 0
        for piece in self._stream.advance():
          self._take(piece)
    except BaseException as error:
      self._call(self._fail_all, error)

  def _obey(self) -> bool:
    """Executes commands, and waits for one if there is nothing to do."""
    is_idle = self._stream.is_idle and not self._to_score
    while is_idle or not self._commands.empty():
      command = self._commands.get()
      if command is None:
        return False
      command()
      is_idle = False
    return True

  def _call(self, function: Callable, *args) -> None:
    """Calls a function in the event loop, if it still runs."""
    assert self._loop is not None
    if not self._loop.is_closed():
      self._loop.call_soon_threadsafe(function, *args)

  def _begin(self, asked: Asked) -> None:
    for index, wish in enumerate(asked.wishes):
      ticket = self._stream.submit(wish.request)

      def tell(delta: Delta) -> None:
        self._call(asked.tell, delta)

      name = asked, index
      self._tickets[name] = ticket
      self._running[ticket] = (
        name,
        Completion(self.model.run.tokenizer, wish, index, tell),
      )

  def _cancel(self, asked: Asked) -> None:
    for index in range(len(asked.wishes)):
      ticket = self._tickets.pop((asked, index), None)
      if ticket is not None:
        self._stream.cancel(ticket)
        del self._running[ticket]
        self.counts.cancelled += 1

  def _take(self, piece: Piece) -> None:
    if piece.ticket not in self._running:
      return
    name, completion = self._running[piece.ticket]
    if completion.add(piece):
      del self._running[piece.ticket], self._tickets[name]
      self.counts.completions += 1
      if not piece.ending:  # A stop string was found.
        self._stream.cancel(piece.ticket)

  def _score_some(self) -> None:
    some = []
    while self._to_score and len(some) < _SCORED_AT_ONCE:
      item = self._to_score.popleft()
      if not item[2].cancelled():
        some.append(item)
    if not some:
      return
    texts, likely, futures = zip(*some, strict=True)
    scored = self._scorer.score(texts, max(likely))
    self.counts.scored += len(scored)
    for future, scores in zip(futures, scored, strict=True):
      self._call(_set_result, future, scores)


def _set_result(future: asyncio.Future, scores: Scores) -> None:
  if not future.done():  # The client may have left.
    future.set_result(scores)


def _server_error(error: BaseException) -> ApiError:
  return ApiError(
    f"the server has failed and stops ({type(error).__name__}: {error})",
    status=500,
    code="engine_failed",
  )
