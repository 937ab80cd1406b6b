# SPDX-License-Identifier: Apache-2.0
"""One line, with what to type, for what a disk or a bucket does to a command.

A command shows errors of its user as one line, and others as a traceback. That
a disk is full or a network is down is nobody's mistake in the code; but these
errors come from many libraries, which share no class and say little.

Nor is it a mistake of the user, which would come again, as do errors of a run
that resumes exactly. What starts a run again after a failure (a JobSet) asks
which of the two it was.
"""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import threading

from srl_jax.processes.children import FailedError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
# What TensorStore adds to errors of a bucket, which are ValueErrors.
_OF_TENSORSTORE = ("[http_response_", "[curl_code=")
# Of a path: what comes again until somebody does something.
_OF_FILES = (
  FileNotFoundError,
  PermissionError,
  IsADirectoryError,
  NotADirectoryError,
)
# Of HTTP: what comes again until somebody does something.
_REFUSED = (400, 401, 403, 404)
# What comes of a service that has too much to do, or is away.
_AWAY = (408, 425, 429, 500, 502, 503, 504)
# What a bucket calls whoever has no credentials.
_ANONYMOUS = "Anonymous caller"
_ROLES = "the roles Storage Object Admin and Storage Legacy Bucket Reader"


class PassingError(ValueError):
  """An error that may pass: what the user gave may be right."""


class RecurringError(RuntimeError):
  """An error of a run that the same command meets again.

  A resumed run samples the same tokens and takes the same update steps, so it
  fails at the same place until something is changed.

  Attributes:
    passes: whether it may pass all the same; see `is_of_machine`.
  """

  def __init__(self, message: str, *, passes: bool = False):
    super().__init__(message)
    self.passes = passes


def of_buckets() -> tuple[type[Exception], ...]:
  """Returns the errors of buckets, for an `except`, which calls this late.

  Empty as long as no bucket was used. Those that are an OSError, as when
  access is forbidden, are not among them.
  """
  if "gcsfs" not in sys.modules:
    return ()
  import aiohttp
  import google.api_core.exceptions
  import google.auth.exceptions
  from gcsfs import retry

  return (
    google.api_core.exceptions.GoogleAPICallError,
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
  if _is_refused(error):
    return f"the bucket refused this ({said}); {_log_in()}, {again}"
  return (
    f"the bucket could not be reached ({type(error).__name__}: {said}); "
    f"{_look()}, {again}"
  )


def of_bucket(what: str, error: Exception) -> ValueError:
  """Returns the error for a bucket that cannot be used from the beginning.

  Args:
    what: the bucket, or a folder in it.
    error: what a library raised; these errors share no base class.
  """
  said = " ".join(str(error).split())[:200] or type(error).__name__
  if isinstance(error, ValueError) or _is_refused(error):
    # A new container may not have its credentials in the first seconds.
    kind = PassingError if _ANONYMOUS in said else ValueError
    return kind(f"{what} cannot be used from here ({said}); {_log_in()}")
  return PassingError(f"{what} could not be reached ({said}); {_look()}")


def of_hub(message: str, error: Exception) -> ValueError:
  """Returns the error, with a message, for what the Hugging Face hub raised."""
  is_refused = isinstance(error, ValueError) or _http_code(error) in _REFUSED
  return (ValueError if is_refused else PassingError)(message)


def _log_in() -> str:
  return (
    "log in (type: gcloud auth application-default login, or set "
    f"GOOGLE_APPLICATION_CREDENTIALS), or ask the bucket's owner for {_ROLES}"
  )


def _look() -> str:
  return "look whether it answers (type: gcloud storage ls)"


def is_of_storage(error: BaseException | None) -> bool:
  """Whether an error is that of a full disk, or of a bucket in use."""
  return error is not None and (
    _is_full(error)
    or _is_forbidden(error)
    or _is_of_tensorstore(error)
    or isinstance(error, of_buckets())
  )


def may_pass(error: BaseException | None) -> bool:
  """Whether the same command may succeed later, with nothing changed.

  Also if the error was made of another, of a disk or of a bucket in use.
  """
  if isinstance(error, RecurringError):
    return error.passes
  if not isinstance(error, ValueError) or is_of_storage(error):
    return True
  cause = error.__cause__
  return isinstance(error, PassingError) or (
    is_of_storage(cause) and not _is_refused(cause)
  )


def is_of_machine(error: BaseException | None) -> bool:
  """Whether code of the user failed by no fault of its own.

  So it is if the machine, the network or a disk failed it, also if it raised an
  error of its own because of that. A file that is missing and a request that is
  refused are none of it.
  """
  passing = (OSError, EOFError, MemoryError, subprocess.TimeoutExpired)
  while error is not None:
    if isinstance(error, RecurringError):
      return error.passes
    # It was made of the end of a pipe, which says nothing.
    if isinstance(error, FailedError):
      return False
    if isinstance(error, PassingError) or is_of_storage(error):
      return True
    code = _http_code(error)
    if code in _AWAY:
      return True
    lasts = isinstance(error, _OF_FILES) or 400 <= code < 500
    if isinstance(error, passing) and not lasts:
      return True
    hidden = error.__suppress_context__
    error = error.__cause__ or (None if hidden else error.__context__)
  return False


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


def _is_of_tensorstore(error: BaseException) -> bool:
  return isinstance(error, ValueError) and any(
    sign in str(error) for sign in _OF_TENSORSTORE
  )


def _is_refused(error: BaseException) -> bool:
  """Whether it is a matter of rights, and not of the network."""
  if _is_of_tensorstore(error):
    return str(error).startswith(("PERMISSION_DENIED", "UNAUTHENTICATED"))
  if _is_forbidden(error) or _http_code(error) in _REFUSED:
    return True
  if "google.auth" not in sys.modules:
    return False
  import google.auth.exceptions

  if not isinstance(error, google.auth.exceptions.GoogleAuthError):
    return False
  cause: BaseException | None = error
  while cause is not None:
    # The service that gives credentials did not answer.
    if isinstance(cause, google.auth.exceptions.TransportError):
      return False
    cause = cause.__cause__ or cause.__context__
  return not error.retryable


def _http_code(error: BaseException) -> int:
  """The status of HTTP that an error has; 0 if it has none."""
  response = getattr(error, "response", None)
  code = getattr(response, "status_code", None) or getattr(error, "code", None)
  return int(code) if str(code).isdecimal() else 0
