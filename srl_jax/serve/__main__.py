# SPDX-License-Identifier: Apache-2.0
"""Serves a model by OpenAI's protocol.

  srl_jax serve --weights=/tmp/srl
  srl_jax serve --weights=Qwen/Qwen2.5-0.5B-Instruct --port=8000

It listens on this machine only, unless --host says otherwise. SIGTERM and
Ctrl-C let the running requests end; Ctrl-C once more ends them at once. If the
device's thread fails, all requests are answered with an error and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

from srl_jax import compilation_cache, inference, storage
from srl_jax.arguments import HelpFormatter, check_least, errors_in_one_line
from srl_jax.optional import needed_for
from srl_jax.serve.engine import Engine

# An agent's requests are long; see --context.
_CONTEXT = 8192
_LOCAL = ("127.0.0.1", "::1", "localhost")


def _parser() -> argparse.ArgumentParser:
  assert __doc__
  parser = argparse.ArgumentParser(
    prog="srl_jax serve",
    description=__doc__.partition("\n")[0],
    formatter_class=HelpFormatter,
  )
  add = parser.add_argument
  add(
    "--weights",
    required=True,
    help="a workdir, a Hugging Face folder, a hub name or registers_student",
  )
  add("--name", default="", help="the model's name in requests")
  add("--host", default="127.0.0.1", help="address to listen on")
  add("--port", type=int, default=8000, help="port to listen on; 0 takes any")
  add(
    "--api_key",
    default=os.environ.get("SRL_JAX_API_KEY", ""),
    help="what clients must send; default: the variable SRL_JAX_API_KEY",
  )
  add("--rows", type=int, default=32, help="different prompts decoded together")
  add("--slots", type=int, default=1, help="completions of a prompt at a time")
  add(
    "--segment_iterations",
    type=int,
    default=8,
    help="tokens of each completion between checks for new requests",
  )
  add(
    "--max_stem",
    type=int,
    default=32,
    help="number of last tokens that a prompt may have for itself and still "
    "share another's trunk",
  )
  add(
    "--max_queue",
    type=int,
    default=256,
    help="completions that may wait; more are refused with status 429",
  )
  add(
    "--context",
    type=int,
    default=0,
    help="longest prompt and completion together in tokens; default: the "
    f"model's, at most {_CONTEXT}",
  )
  add(
    "--max_body", type=int, default=4 * 2**20, help="largest request in bytes"
  )
  return parser


def _bound(host: str, port: int) -> socket.socket:
  """A socket of this address, on which nothing listens yet."""
  found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
  found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    found.bind((host, port))
  except (OSError, OverflowError) as error:
    found.close()
    said = getattr(error, "strerror", None) or error
    raise ValueError(
      f"--host={host} --port={port} cannot be had ({said}); give a port from 1 "
      "to 65535 that no other program has, or 0 for any that is free, and a "
      "host of this machine"
    ) from error
  return found


def _context(asked: int, model: inference.ReadyModel) -> int:
  most = model.max_positions
  if asked > most:
    raise ValueError(
      f"--context={asked} is more than the model's context length, {most}"
    )
  return asked or min(most, _CONTEXT)


def serve(args: argparse.Namespace) -> int:
  """Serves until a signal or a failure; returns the exit status.

  Raises:
    ValueError: the flags, the address or the model cannot be used.
  """
  check_least(
    args,
    rows=1,
    slots=1,
    segment_iterations=1,
    max_stem=1,
    max_queue=0,
    context=0,
    max_body=1,
    port=0,
  )
  with _bound(args.host, args.port) as listening:
    return _serve(args, listening)


def _serve(args: argparse.Namespace, listening: socket.socket) -> int:
  with needed_for("The server's routes", "'srl_jax[serve]'"):
    import uvicorn

    from srl_jax.serve.app import ServerSettings, make_app
  compilation_cache.use_default()
  config = inference.config_of(args.weights)
  folder = storage.path(args.weights)
  name = storage.absolute(folder).name if folder.is_dir() else args.weights
  name = args.name or name
  fatal: list[BaseException] = []
  model = inference.load(config, name)
  context = _context(args.context, model)

  def fail(error: BaseException) -> None:
    fatal.append(error)
    traceback.print_exception(error)
    server.should_exit = True

  engine = Engine(
    model,
    rows=args.rows,
    slots=args.slots,
    segment_iterations=args.segment_iterations,
    max_stem=args.max_stem,
    max_queue=args.max_queue,
    on_failure=fail,
  )
  settings = ServerSettings(name, context, args.api_key, args.max_body)
  uvicorn_config = uvicorn.Config(
    make_app(engine, settings),
    log_level="warning",
    timeout_graceful_shutdown=60,
  )
  server = uvicorn.Server(uvicorn_config)
  listening.listen()
  port = listening.getsockname()[1]
  print(
    f"{name}: {args.rows} rows of {args.slots} slots, context {context}; "
    f"http://{args.host}:{port}/v1",
    flush=True,
  )
  if args.host not in _LOCAL and not args.api_key:
    print(
      "warning: other machines can reach this server, and there is no "
      "--api_key",
      flush=True,
    )
  # Uvicorn raises the signal again when the requests have ended.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
  server.run(sockets=[listening])
  if server.force_exit:
    # Its thread may be in a program of the device, under which an interpreter
    # cannot end in order.
    print("asked twice: ended at once", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGINT)
  return 1 if fatal or not server.started else 0


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message if the model cannot be served."""
  args = _parser().parse_args(argv)
  with errors_in_one_line():
    sys.exit(serve(args))


if __name__ == "__main__":
  main()
