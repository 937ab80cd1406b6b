# SPDX-License-Identifier: Apache-2.0
"""A lock in a bucket, which its holder renews for as long as it lives.

A bucket knows nothing of processes. The one thing that it does for one client
only is to create an object that is not there. So the lock is an object, its
holder writes it anew now and then, and one that nobody has renewed for a while
is taken over. No clocks are compared: a taker waits and looks again.
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
    self._id = uuid.uuid4().hex
    self._count = 0
    self._is_closing = threading.Event()
    try:
      self._take()
    except (ValueError, FileExistsError):
      raise
    # The errors of a bucket share no base class.
    except Exception as error:
      said = " ".join(str(error).split())[:200]
      raise ValueError(
        f"{file.parent} cannot be written ({said}); ask the bucket's owner for "
        "the role Storage Object Admin, or name another folder"
      ) from error
    self._thread = threading.Thread(target=self._renew, daemon=True)
    self._thread.start()

  def _text(self) -> bytes:
    self._count += 1
    lines = self._owner, self._id, str(self._count), _machine()
    return "\n".join(lines).encode()

  def _take(self) -> None:
    if storage.create(self._file, self._text()):
      return None
    there = self._read()
    if not there:  # Given back just now.
      return self._take()
    owner, other, _, machine = there
    is_here = machine == _machine()
    if not (is_here and not _is_alive(owner.partition(" ")[0])):
      print(
        f"waiting {_DEAD_AFTER_S:.0f} s to see whether {owner!r} still works "
        f"in {self._file.parent}",
        flush=True,
      )
      if not self._watch(there):
        return self._take()
    # Two may find it dead. Only one of them creates this object; whoever comes
    # when it is gone again finds another holder.
    claim = self._file.with_name(f"{self._file.name}.{other}")
    if not storage.create(claim, self._text()):
      raise self._refusal(owner)
    try:
      if self._read() != there:
        raise self._refusal((self._read() or there)[0])
      self._file.write_bytes(self._text())
    finally:
      claim.unlink()
    return None

  def _watch(self, there: list[str]) -> bool:
    """Whether a lock is still there, unchanged; raises once it is renewed."""
    end_s = time.monotonic() + _DEAD_AFTER_S
    while time.monotonic() < end_s:
      time.sleep(1.0)
      now = self._read()
      if not now:
        return False
      if now != there:
        raise self._refusal(now[0])
    return True

  def _read(self) -> list[str]:
    """The lines of the lock; [] if there is none."""
    try:
      return self._file.read_text().splitlines()
    except FileNotFoundError:
      return []

  def _renew(self) -> None:
    while not self._is_closing.wait(_RENEWED_EVERY_S):
      try:
        there = self._read()
        if not there or there[1] != self._id:
          # This process was silent for too long. Two must not write.
          print(
            f"error: another run has taken {self._file.parent} over",
            file=sys.stderr,
            flush=True,
          )
          os._exit(1)
        self._file.write_bytes(self._text())
      except Exception as error:
        print(f"warning: {self._file} was not renewed: {error}", flush=True)

  def __enter__(self) -> Lease:
    return self

  def __exit__(self, *_: Any) -> None:
    self._is_closing.set()
    self._thread.join()
    self._file.unlink(missing_ok=True)


def _machine() -> str:
  """Tells machines apart, also those of one name."""
  boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
  boot_id = boot.read_text() if boot.exists() else ""
  return f"{socket.gethostname()} {boot_id}".strip()


def _is_alive(process: str) -> bool:
  try:
    os.kill(int(process), 0)
  except ProcessLookupError:
    return False
  except (OSError, ValueError):
    return True
  return True
