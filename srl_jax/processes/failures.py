# SPDX-License-Identifier: Apache-2.0
"""One line, with what to type, for what a disk or a bucket does to a command.

A command shows errors of its user as one line, and others as a traceback. That
a disk is full or a network is down is nobody's mistake in the code; but these
errors come from many libraries, which share no class and say little.
"""

from __future__ import annotations

import errno
import logging
import sys
import threading

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")


def of_buckets() -> tuple[type[Exception], ...]:
  """Returns the errors of buckets, for an `except`, which calls this late.

  Empty as long as no bucket was used. Those that are an OSError, as when
  access is forbidden, are not among them.
  """
  if "gcsfs" not in sys.modules:
    return ()
  import aiohttp
  import google.auth.exceptions
  from gcsfs import retry

  return (
    retry.HttpError,
    retry.ChecksumError,
    retry.NonRetryableError,
    aiohttp.ClientError,
    google.auth.exceptions.GoogleAuthError,
  )


def in_one_line(error: BaseException, *, resumes: bool = False) -> str:
  """Returns what an error says, and what to type if it is of a disk or bucket.

  Errors of others are returned as they are, also if they have several lines.

  Args:
    error: the error.
    resumes: whether the command, given again, goes on from what it has saved.
  """
  how = "goes on from what is saved" if resumes else "begins anew"
  again = f"then run the same command again, which {how}"
  text = str(error)
  said = " ".join(text.split())[:200] or type(error).__name__
  if _is_full(error):
    where = getattr(error, "filename", None)
    return (
      f"the disk{f' of {where}' if where else ''} is full ({said}); make room "
      f"(type: df -h), {again}"
    )
  if not is_of_storage(error):
    return text
  if _is_forbidden(error) or _is_refused(error):
    return (
      f"the bucket refused this ({said}); log in (type: gcloud auth "
      "application-default login), or ask its owner for the role Storage "
      f"Object Admin, {again}"
    )
  return (
    f"the bucket could not be reached ({type(error).__name__}: {said}); look "
    f"whether it answers (type: gcloud storage ls), {again}"
  )


def is_of_storage(error: BaseException | None) -> bool:
  """Whether an error is that of a full disk, or of a bucket in use."""
  return error is not None and (
    _is_full(error) or _is_forbidden(error) or isinstance(error, of_buckets())
  )


def hush() -> None:
  """Leaves out the tracebacks of such errors in threads and logs of libraries.

  Whoever waits for what a thread wrote gets the error too, and says it.
  """
  before = threading.excepthook

  def hook(arguments: threading.ExceptHookArgs) -> None:
    if not is_of_storage(arguments.exc_value):
      before(arguments)

  def is_shown(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_of_storage(record.exc_info[1]))

  threading.excepthook = hook
  # Orbax logs what it raises.
  logging.getLogger("absl").addFilter(is_shown)


def _is_full(error: BaseException) -> bool:
  return getattr(error, "errno", None) in _FULL or any(
    full in str(error) for full in _FULL_TEXTS
  )


def _is_forbidden(error: BaseException) -> bool:
  return isinstance(error, OSError) and str(error).startswith("Forbidden")


def _is_refused(error: BaseException) -> bool:
  import google.auth.exceptions

  # Of the errors of credentials, this one is of the network.
  if isinstance(error, google.auth.exceptions.TransportError):
    return False
  return isinstance(error, google.auth.exceptions.GoogleAuthError) or str(
    getattr(error, "code", "")
  ) in ("401", "403")
