# SPDX-License-Identifier: Apache-2.0
"""A tiny model that is served in this process, by real sockets."""

import asyncio
import contextlib
import threading

import openai
import pytest
import uvicorn

from srl_jax import inference
from srl_jax.serve.app import ServerSettings, make_app
from srl_jax.serve.engine import Engine
from tests.support import small_model

CONTEXT = 160


@pytest.fixture(scope="session")
def ready(tmp_path_factory):
  """A tiny random model with a chat template."""
  folder = small_model.write(tmp_path_factory.mktemp("model") / "tiny")
  return inference.load(inference.config_of(str(folder)), "tiny")


class Served:
  """A server in a thread, its engine and a client."""

  def __init__(self, model, settings, **engine):
    self.engine = Engine(
      model, on_failure=self._fail, **{"rows": 3, "slots": 2} | engine
    )
    config = uvicorn.Config(
      make_app(self.engine, settings), port=0, log_level="error"
    )
    self.server = uvicorn.Server(config)
    self.failures = []
    self._thread = threading.Thread(
      target=lambda: asyncio.run(self.server.serve())
    )

  def _fail(self, error):
    self.failures.append(error)
    self.server.should_exit = True

  def __enter__(self):
    self._thread.start()
    while not self.server.started:
      assert self._thread.is_alive()
    [socket] = self.server.servers[0].sockets
    self.port = socket.getsockname()[1]
    self.url = f"http://127.0.0.1:{self.port}"
    self.client = openai.OpenAI(
      base_url=self.url + "/v1", api_key="key", max_retries=0, timeout=300
    )
    return self

  def __exit__(self, *_):
    self.client.close()
    self.server.should_exit = True
    self._thread.join()


@pytest.fixture(scope="session")
def serve(ready):
  """Starts a server; a context manager."""

  def start(
    model=ready, context=CONTEXT, api_key="", max_body=100_000, **engine
  ):
    settings = ServerSettings("tiny", context, api_key, max_body)
    return Served(model, settings, **engine)

  return start


@pytest.fixture(scope="session")
def served(serve):
  """The server of most tests."""
  with contextlib.ExitStack() as stack:
    yield stack.enter_context(serve())
