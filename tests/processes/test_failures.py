# SPDX-License-Identifier: Apache-2.0
"""What is said of full disks, and of buckets that fail in mid-run."""

import errno
import pickle
import subprocess
import sys
import types

import pytest

from srl_jax.processes import children, failures
from srl_jax.testing import experiment


def test_a_full_disk_is_named_with_what_to_type(tmp_path):
  # By its number: the text may be in the user's language.
  error = OSError(errno.ENOSPC, "Kein Platz", "/data/run/x")
  said = failures.in_one_line(error)
  assert said.startswith("the disk of /data/run/x is full (")
  assert "type: df -h" in said
  assert said.endswith("run the same command again, which begins anew")
  said = failures.in_one_line(error, resumes=True)
  assert said.endswith("same command again, which goes on from what is saved")


def test_a_full_disk_is_seen_in_what_a_library_says():
  said = failures.in_one_line(
    ValueError(
      "RESOURCE_EXHAUSTED: write\n failed: No space left on device [x]"
    )
  )
  assert said.startswith("the disk is full (RESOURCE_EXHAUSTED: write failed")
  assert "\n" not in said


def test_other_errors_are_said_as_they_are():
  text = "two records are bad:\n  1: x\n  2: y"
  assert failures.in_one_line(ValueError(text)) == text
  missing = FileNotFoundError(errno.ENOENT, "No such file", "x")
  assert failures.in_one_line(missing) == str(missing)


def test_without_gcsfs_no_error_is_of_a_bucket():
  code = (
    "import sys; from srl_jax.processes import failures; "
    "assert failures.of_buckets() == (); assert 'gcsfs' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def errors():
  retry = pytest.importorskip("gcsfs.retry")
  aiohttp = pytest.importorskip("aiohttp")
  auth = pytest.importorskip("google.auth.exceptions")
  api = pytest.importorskip("google.api_core.exceptions")
  refused = "gcloud auth application-default login"
  away = "gcloud storage ls"
  return [
    (retry.HttpError({"code": 503, "message": "try\nlater"}), away),
    (retry.HttpError({"code": 401, "message": "Invalid"}), refused),
    (auth.RefreshError("Reauthentication is needed"), refused),
    (auth.TransportError("no network"), away),
    (aiohttp.ClientPayloadError("cut off"), away),
    (OSError("Forbidden: https://x\nno access"), refused),
    # Of Orbax, which asks for the bucket itself.
    (api.Forbidden("no storage.buckets.get access"), refused),
    (api.ServiceUnavailable("later"), away),
    # Of TensorStore.
    (ValueError("ABORTED: CURL error no server [curl_code='7']"), away),
    (ValueError("ABORTED: x [http_response_body='{code:503}']"), away),
    (ValueError("PERMISSION_DENIED: x [http_response_code='401']"), refused),
  ]


@pytest.mark.parametrize("index", range(11))
def test_an_error_of_a_bucket_is_one_line_with_what_to_type(index):
  error, typed = errors()[index]
  said = failures.in_one_line(error)
  assert said.startswith("the bucket ") and "\n" not in said
  assert typed in said and "same command again" in said
  assert failures.may_pass(error)
  if not isinstance(error, (OSError, ValueError)):
    with pytest.raises(type(error)):
      try:
        raise error
      except failures.of_buckets():
        raise


def test_credentials_that_are_late_may_be_asked_for_again():
  retry = pytest.importorskip("gcsfs.retry")
  auth = pytest.importorskip("google.auth.exceptions")
  # Of a metadata server that a new container cannot reach yet.
  late = made_of(auth.TransportError("refused"), auth.RefreshError("refused"))
  nobody = {"code": 401, "message": "Anonymous caller does not have access"}
  for error, passes in (
    (late, True),
    (retry.HttpError(nobody), True),
    (auth.RefreshError("Reauthentication is needed"), False),
  ):
    assert failures.may_pass(failures.of_bucket("gs://b", error)) == passes


@pytest.mark.parametrize(
  ("status", "passes"), [(404, False), (403, False), (503, True), (None, True)]
)
def test_what_the_hub_refuses_is_told_from_what_may_pass(status, passes):
  error = OSError("said by the hub")
  error.response = types.SimpleNamespace(status_code=status)
  made = failures.of_hub("not found", error)
  assert isinstance(made, ValueError) and str(made) == "not found"
  assert failures.may_pass(made) == passes


def test_an_error_made_of_one_that_may_pass_may_pass():
  made, other = ValueError("cannot be read"), ValueError("no such field")
  made.__cause__ = OSError(errno.ENOSPC, "No space")
  other.__cause__ = KeyError("x")
  assert failures.may_pass(made) and not failures.may_pass(other)


def made_of(cause, error):
  """Returns an error that was raised because of another."""
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  ("error", "passes"),
  [
    (KeyError("no such field"), False),
    (ConnectionError("the service is away"), True),
    (MemoryError(), True),
    (subprocess.TimeoutExpired("pytest", 9), True),
    (made_of(TimeoutError(), RuntimeError("no judgement")), True),
    (made_of(KeyError("x"), RuntimeError("no judgement")), False),
    (FileNotFoundError("model.json"), False),
    (made_of(PermissionError("model.json"), ValueError()), False),
    # As the hub says what is not on this machine, when it is away.
    (made_of(ConnectionError(), FileNotFoundError("not in the cache")), True),
    # A child that was killed, and one that ended by itself: its pipe broke.
    (EOFError("exit code -9"), True),
    (made_of(BrokenPipeError(), children.FailedError("exit code 7")), False),
  ],
)
def test_code_that_its_machine_failed_may_be_tried_again(error, passes):
  assert failures.is_of_machine(error) == passes
  found = failures.RecurringError("a reward failed", passes=passes)
  assert failures.may_pass(pickle.loads(pickle.dumps(found))) == passes
  assert failures.is_of_machine(made_of(found, ValueError())) == passes


@pytest.mark.parametrize("with_error", [False, True])
def test_an_error_says_whether_it_was_raised_because_of_another(with_error):
  try:
    try:
      raise TimeoutError
    except TimeoutError as error:
      raise ValueError("bad") from (error if with_error else None)
  except ValueError as error:
    assert failures.is_of_machine(error) == with_error


@pytest.mark.parametrize("kind", [Exception, OSError])
@pytest.mark.parametrize(
  ("status", "passes"), [(429, True), (503, True), (400, False), (401, False)]
)
def test_a_busy_service_is_told_from_a_wrong_request(kind, status, passes):
  error = kind("said by a service")
  error.response = types.SimpleNamespace(status_code=status)
  assert failures.is_of_machine(error) == passes


def test_a_thread_that_ends_by_a_full_disk_leaves_no_traceback(capfd):
  code = """
import sys, threading
import absl.logging
from srl_jax.processes import failures
failures.hush()
def end(error):
  raise error
for error in (OSError(28, "No space left on device"), KeyError("other")):
  thread = threading.Thread(target=end, args=(error,))
  thread.start()
  thread.join()
  try:
    end(error)
  except Exception:
    absl.logging.exception("a save failed")
"""
  subprocess.run([sys.executable, "-c", code], check=True)
  said = capfd.readouterr().err
  assert "No space left" not in said
  assert said.count("KeyError: 'other'") == 2, "and others do"
  assert said.count("a save failed") == 1


# A disk of 1.2 MB, which only a user namespace can mount without being root.
FULL = """
mount -t tmpfs -o size=1200K none "$1" || exit 77
exec "$2" -m srl_jax.main --config="$3:sft,data.path=$4" --workdir="$1/run"
"""


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_with_one_line(tmp_path):
  data = experiment.write_data(tmp_path / "data.jsonl")
  disk = tmp_path / "disk"
  disk.mkdir()
  names = (disk, sys.executable, experiment.__file__, data)
  try:
    done = subprocess.run(
      ["unshare", "-Urm", "bash", "-c", FULL, "bash", *map(str, names)],
      capture_output=True,
      text=True,
      timeout=300,
    )
  except FileNotFoundError:
    pytest.skip("there is no unshare")
  if done.returncode in (1, 77) and "error:" not in done.stderr:
    pytest.skip(f"no user namespaces here: {done.stderr}")
  assert done.returncode == 1
  # What C++ prints of a closed loop before is not ours.
  lines = done.stderr.splitlines()
  [line] = [x for x in lines if x.startswith("error: ")]
  after = lines[lines.index(line) + 1 :]
  assert not [x for x in after if not x.startswith("(where it happened")], after
  assert "disk" in line and "is full" in line and "df -h" in line
