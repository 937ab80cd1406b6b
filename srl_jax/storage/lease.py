# SPDX-License-Identifier: Apache-2.0
"""A lock in a bucket, which its holder renews for as long as it lives.

A bucket knows nothing of processes, but it writes an object only if that still
has the generation that the writer names, or is not there. So the lock is an
object, its holder writes it anew now and then, and one that nobody has renewed
for a while is taken over. No clocks are compared: a taker waits and looks
again.
"""

from __future__ import annotations

import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from srl_jax import storage
from srl_jax.processes import failures

_RENEWED_EVERY_S = 10.0
_DEAD_AFTER_S = 45.0


class Lease:
  """Holds a lock; use as a context manager."""

  def __init__(
    self,
    file: pathlib.Path,
    owner: str,
    refusal: Callable[[str], ValueError],
  ):
    """Takes the lock, or waits until its holder is found dead.

    Args:
      file: the remote file.
      owner: "PROCESS HOST", for others to read.
      refusal: makes the error for those who come second, of the other's owner.

    Raises:
      ValueError: another holds it, or the bucket cannot be written.
    """
    self._file, self._refusal = file, refusal
    self._owner = owner
    self._text = "\n".join((owner, uuid.uuid4().hex, _machine()))
    self._generation = 0
    self._is_closing = threading.Event()
    try:
      self._take()
    except ValueError:
      raise
    # The errors of a bucket share no base class.
    except Exception as error:
      raise failures.of_bucket(str(file.parent), error) from error
    self._thread = threading.Thread(target=self._renew, daemon=True)
    self._thread.start()

  def _take(self) -> None:
    text, generation = storage.read_generation(self._file)
    if generation and not _is_dead(text):
      print(
        f"waiting {_DEAD_AFTER_S:.0f} s to see whether {_owner(text)!r} still "
        f"works in {self._file.parent}",
        flush=True,
      )
      generation = self._watch(generation)
    if self._write(generation):
      return None
    # Another was faster. It holds the lock, or has given it back already.
    text, generation = storage.read_generation(self._file)
    if generation:
      raise self._refusal(_owner(text))
    return self._take()

  def _watch(self, generation: int) -> int:
    """Returns what to replace, 0 if it is gone; raises once it is renewed."""
    end_s = time.monotonic() + _DEAD_AFTER_S
    while time.monotonic() < end_s:
      time.sleep(1.0)
      text, now = storage.read_generation(self._file)
      if not now:
        return 0
      if now != generation:
        raise self._refusal(_owner(text))
    return generation

  def _write(self, generation: int) -> bool:
    """Writes the lock over one generation; False if there is another."""
    written = storage.replace(self._file, self._text, generation)
    if written is None:
      # A request that was repeated finds what it wrote itself.
      text, now = storage.read_generation(self._file)
      written = now if text == self._text else None
    self._generation = written or self._generation
    return written is not None

  def _renew(self) -> None:
    while not self._is_closing.wait(_RENEWED_EVERY_S):
      try:
        if not self._write(self._generation):
          # This process was silent for too long. Two must not write.
          print(
            f"error: another run has taken {self._file.parent} over",
            file=sys.stderr,
            flush=True,
          )
          os._exit(1)
      except Exception as error:
        print(f"warning: {self._file} was not renewed: {error}", flush=True)

  def __enter__(self) -> Lease:
    return self

  def __exit__(self, *_: Any) -> None:
    self._is_closing.set()
    self._thread.join()
    storage.delete(self._file, self._generation)


def _owner(text: str) -> str:
  return text.partition("\n")[0]


def _is_dead(text: str) -> bool:
  """Whether a lock is of a process of this machine that is not there."""
  lines = text.splitlines()
  if len(lines) != 3 or lines[2] != _machine():
    return False
  try:
    os.kill(int(lines[0].partition(" ")[0]), 0)
  except ProcessLookupError:
    return True
  except (OSError, ValueError):
    return False
  return False


def _machine() -> str:
  """Tells apart where process numbers mean different processes.

  Machines may share a name, and containers on one machine all the rest.
  """
  boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
  boot_id = boot.read_text().strip() if boot.exists() else ""
  numbers = pathlib.Path("/proc/self/ns/pid")
  namespace = os.readlink(numbers) if numbers.is_symlink() else ""
  return f"{socket.gethostname()} {boot_id} {namespace}".strip()
