# SPDX-License-Identifier: Apache-2.0
"""The routes: HTTP in, HTTP out. engine.py does the work."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import srl_jax
from srl_jax.optional import needed_for
from srl_jax.serve.answers import Answers
from srl_jax.serve.engine import Engine
from srl_jax.serve.schema import ApiError, read_chat, read_completion

with needed_for("The server's routes", "'srl_jax[serve]'"):
  from starlette.applications import Starlette
  from starlette.exceptions import HTTPException
  from starlette.requests import ClientDisconnect, Request
  from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
  )
  from starlette.routing import Route


@dataclasses.dataclass(frozen=True)
class ServerSettings:
  """What the routes need to know.

  Attributes:
    name: the model's name in requests.
    context: the longest prompt and completion, in tokens together.
    api_key: what a client must send; "" lets everybody in.
    max_body: the largest body of a request, in bytes.
  """

  name: str
  context: int
  api_key: str = ""
  max_body: int = 4 * 2**20


_DONE = "data: [DONE]\n\n"


class _EventStream(StreamingResponse):
  """Server-sent events; `close` is called at the end, whatever it is."""

  def __init__(
    self, events: AsyncIterator[dict], close: Callable[[], None]
  ) -> None:
    super().__init__(_lines(events), media_type="text/event-stream")
    self._close = close

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    try:
      await super().__call__(scope, receive, send)
    except asyncio.CancelledError:
      # The status has been sent already.
      last = _line(_stopped().body()) + _DONE
      await send({"type": "http.response.body", "body": last.encode()})
    finally:
      self._close()


async def _lines(events: AsyncIterator[dict]) -> AsyncIterator[str]:
  try:
    async for event in events:
      yield _line(event)
  except ApiError as error:
    # The status has been sent already.
    yield _line(error.body())
  yield _DONE


def _line(event: dict[str, Any]) -> str:
  # ASCII: some clients end a line at U+2028 or U+0085 too.
  return f"data: {json.dumps(event)}\n\n"


def _stopped() -> ApiError:
  """What is told when uvicorn cancels what outlasts its grace."""
  return ApiError(
    "the server was stopped before the answer was complete; send the request "
    "to another server, or again later",
    status=503,
  )


def make_app(engine: Engine, settings: ServerSettings) -> Starlette:
  """Returns the application, which starts and stops the engine."""
  endpoints = _Endpoints(engine, settings)

  @contextlib.asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    engine.start()
    try:
      yield
    except asyncio.CancelledError:
      return  # Asked twice to stop: nobody waits for the thread.
    engine.stop()

  def guarded(path: str, endpoint: Callable, method: str) -> Route:
    async def checked(request: Request) -> Response:
      _check_key(request, settings.api_key)
      return await endpoint(request)

    return Route(path, checked, methods=[method])

  return Starlette(
    routes=[
      Route("/health", endpoints.health),
      guarded("/metrics", endpoints.metrics, "GET"),
      guarded("/v1/models", endpoints.models, "GET"),
      guarded("/v1/models/{name:path}", endpoints.one_model, "GET"),
      guarded("/v1/completions", endpoints.complete, "POST"),
      guarded("/v1/chat/completions", endpoints.chat, "POST"),
    ],
    lifespan=lifespan,
    exception_handlers={
      ApiError: _tell_error,
      HTTPException: _tell_http_error,
      Exception: _tell_bug,
    },
  )


class _Endpoints:
  """One method per route."""

  def __init__(self, engine: Engine, settings: ServerSettings):
    self._engine, self._settings = engine, settings
    self._answers = Answers(engine, settings.name, settings.context)
    self._model = {
      "id": settings.name,
      "object": "model",
      "created": int(time.time()),
      "owned_by": f"srl_jax {srl_jax.__version__}",
      "max_model_len": settings.context,
    }

  async def complete(self, request: Request) -> Response:
    answers = self._answers
    ask = read_completion(await _body(request, self._settings.max_body))
    begun = answers.begin_completion(ask)
    if ask.stream:
      return _EventStream(answers.stream_completion(begun), begun.close)
    whole = answers.whole_completion(begun)
    return await _unless_left(request, whole, begun.close)

  async def chat(self, request: Request) -> Response:
    answers = self._answers
    ask = read_chat(await _body(request, self._settings.max_body))
    begun = answers.begin_chat(ask)
    if ask.stream:
      return _EventStream(answers.stream_chat(begun), begun.close)
    whole = answers.whole_chat(begun)
    return await _unless_left(request, whole, begun.close)

  async def models(self, request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [self._model]})

  async def one_model(self, request: Request) -> Response:
    self._answers.check_model(request.path_params["name"])
    return JSONResponse(self._model)

  async def health(self, request: Request) -> Response:
    return JSONResponse({"status": "ok", "model": self._settings.name})

  async def metrics(self, request: Request) -> Response:
    lines = [f"srl_jax_{k} {v}" for k, v in self._engine.gauges().items()]
    return PlainTextResponse("\n".join(lines) + "\n")


def _check_key(request: Request, key: str) -> None:
  given = request.headers.get("authorization", "").removeprefix("Bearer ")
  # Starlette reads the bytes of headers as Latin-1.
  if key and not hmac.compare_digest(given.encode("latin-1"), key.encode()):
    raise ApiError(
      "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
      status=401,
      code="invalid_api_key",
    )


async def _body(request: Request, limit: int) -> Any:
  data = bytearray()
  announced = request.headers.get("content-length", "")
  too_large = ApiError(
    f"the body is larger than {limit} bytes (--max_body of the server)",
    status=413,
  )
  if announced.isdecimal() and int(announced) > limit:
    raise too_large
  try:
    async for chunk in request.stream():
      data += chunk
      if len(data) > limit:
        raise too_large
  except ClientDisconnect as error:
    # Nobody reads the answer.
    raise ApiError("the client left before its request ended") from error
  try:
    body = json.loads(bytes(data))
    # Half of a surrogate pair can be spelt in JSON, but it is no text.
    json.dumps(body, ensure_ascii=False).encode()
  except (ValueError, RecursionError) as error:
    raise ApiError(f"the body is not JSON ({error})") from error
  return body


async def _unless_left(
  request: Request,
  answer: Coroutine[Any, Any, dict[str, Any]],
  close: Callable[[], None],
) -> Response:
  """Waits for an answer, or until the client has left."""
  task = asyncio.create_task(answer)
  watch = asyncio.create_task(_left(request.receive))
  try:
    await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
      return JSONResponse(task.result())
    return Response(status_code=499)  # Nobody reads it.
  except asyncio.CancelledError as error:
    raise _stopped() from error
  finally:
    for each in (task, watch):
      each.cancel()
    close()


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
  while (await receive())["type"] != "http.disconnect":
    pass


async def _tell_error(request: Request, error: Exception) -> Response:
  assert isinstance(error, ApiError)
  more = {"retry-after": "1"} if error.status == 429 else None
  return JSONResponse(error.body(), status_code=error.status, headers=more)


async def _tell_http_error(request: Request, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  what = f"{request.method} {request.url.path}: {error.detail}"
  return await _tell_error(request, ApiError(what, status=error.status_code))


async def _tell_bug(request: Request, error: Exception) -> Response:
  return await _tell_error(
    request, ApiError(f"{type(error).__name__}: {error}", status=500)
  )
