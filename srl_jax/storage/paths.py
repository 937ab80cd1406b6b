# SPDX-License-Identifier: Apache-2.0
"""Paths that users give: on this machine, or in a bucket on gs://.

Every path that a user can type comes through `path`. A path on gs:// has the
methods of pathlib, by `etils.epath`; what differs in a bucket is here. A bucket
has no appending and no renaming: an object is written whole, and appears whole.
So there is no unfinished folder that gets its name at the end. The file that
makes a folder complete is written last instead.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

from srl_jax.optional import needed_for
from srl_jax.processes import failures

# A scheme has two letters or more, and pathlib makes one slash of several.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//?)")
# What a folder of weights has beside the weights.
SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.txt")
# The largest real ones (Gemma 3's tokenizer.json) have 33 MB.
_MAX_JSON_BYTES = 1 << 28


def path(given: str | os.PathLike) -> pathlib.Path:
  """Returns the path that a user gave.

  Raises:
    ValueError: it is a URL of another scheme than gs://, which would else
      become a local folder that is called like the scheme; gcsfs is missing;
      or the bucket is not there or may not be used.
  """
  text = os.fspath(given)
  url = _URL.match(text)
  if not url:
    return pathlib.Path(given)
  if url[1] != "gs" or url[2] != "//":
    raise ValueError(
      f"{text!r} is not a path of this machine, and {url[1]}:// is not "
      "read; give the text gs://BUCKET/FOLDER, or copy the files to a disk and "
      f"give their path there (a local folder of that name is ./{text})"
    )
  bucket = text.removeprefix("gs://").partition("/")[0]
  if not bucket:
    raise ValueError(f"{text!r} names no bucket; give gs://BUCKET/FOLDER")
  _check_bucket(bucket)
  from etils import epath

  return epath.Path(text)


def is_remote(path: os.PathLike) -> bool:
  """Whether a path is in a bucket."""
  return os.fspath(path).startswith("gs://")


def absolute(path: pathlib.Path) -> pathlib.Path:
  """Returns the path without links and relative parts."""
  # For epath, a URL is a relative path.
  return path if is_remote(path) else path.resolve()


@functools.cache
def _gcs() -> Any:
  """The file system of gs://, the same that epath and Orbax use.

  It keeps no listings: other processes write to the same folders.
  """
  with needed_for("Paths on gs://", "'srl_jax[gcs]'"):
    import gcsfs  # noqa: F401
  import fsspec

  fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
  return fsspec.filesystem("gcs", finalize_on_close=True)


@functools.cache
def _check_bucket(bucket: str) -> None:
  # What every role on objects allows.
  _ask(bucket, "b/{}/o", maxResults=1)


def check_keeps_runs(folder: pathlib.Path) -> None:
  """Refuses a remote folder in which Orbax could not keep checkpoints.

  Orbax asks for the bucket itself when it opens or deletes a checkpoint, which
  the roles on objects do not allow.

  Raises:
    ValueError: the bucket may not be asked for, or could not be reached.
  """
  _ask(str(folder).removeprefix("gs://").partition("/")[0], "b/{}")


def _ask(bucket: str, what: str, **options: Any) -> None:
  try:
    _gcs().call("GET", what, bucket, json_out=True, **options)
  except FileNotFoundError as error:
    raise ValueError(
      f"there is no bucket gs://{bucket}; check its name, or type: gcloud "
      f"storage buckets create gs://{bucket}"
    ) from error
  # Errors of requests, of HTTP and of credentials share no base class.
  except Exception as error:
    raise failures.of_bucket(f"gs://{bucket}", error) from error


def size(path: pathlib.Path) -> int:
  """Returns the size of a file in bytes."""
  return _gcs().size(str(path)) if is_remote(path) else path.stat().st_size


def open_to_read(path: pathlib.Path) -> IO[bytes]:
  """Opens a file of bytes, which can be peeked into and sought in."""
  if not is_remote(path):
    return open(path, "rb")
  return io.BufferedReader(_gcs().open(str(path), "rb"), 1 << 20)


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """Returns the object in a JSON file of a checkpoint.

  Raises:
    ValueError: not a JSON object, or one too large or too deep.
  """
  if (length := size(path)) > _MAX_JSON_BYTES:
    raise ValueError(
      f"{path}: has {length:,} bytes, and none of its kind has more than "
      f"{_MAX_JSON_BYTES:,}; fetch it again"
    )
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path}: not JSON ({error}); fetch it again") from error
  if not isinstance(value, dict):
    raise ValueError(f"{path}: holds no JSON object; fetch it again")
  return value


def read_range(path: pathlib.Path, start: int, end: int) -> bytes:
  """Returns the bytes of a file from `start` up to `end`."""
  if is_remote(path):
    return _gcs().cat_file(str(path), start=start, end=end)
  with path.open("rb") as file:
    file.seek(start)
    return file.read(end - start)


def list_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns all files in a folder and its folders, in no order."""
  if is_remote(folder):
    return [folder / name for name in _objects(folder)]
  return [file for file in folder.rglob("*") if file.is_file()]


def checksums(folder: pathlib.Path) -> dict[str, list[Any]]:
  """Returns [bytes, crc32c] of all files in a remote folder, by their names.

  The bucket knows them, so nothing is read.
  """
  return {
    name: [found["size"], found["crc32c"]]
    for name, found in _objects(folder).items()
  }


def _objects(folder: pathlib.Path) -> dict[str, Any]:
  """What the bucket says of all objects in a folder, by their names there."""
  root = str(folder).removeprefix("gs://").rstrip("/") + "/"
  found = _gcs().find(str(folder), detail=True)
  # An object whose name ends in a slash is how some tools mark a folder.
  return {
    name.removeprefix(root): about
    for name, about in found.items()
    if name.startswith(root) and not name.endswith("/")
  }


def read_generation(path: pathlib.Path) -> tuple[str, int]:
  """Returns a remote file's text and generation; ("", 0) if there is none.

  Each write of an object gives it a generation of its own.
  """
  bucket, key, _ = _gcs().split_path(str(path))
  try:
    headers, data = _gcs().call("GET", "b/{}/o/{}", bucket, key, alt="media")
  except FileNotFoundError:
    return "", 0
  return data.decode(errors="replace"), int(headers["X-Goog-Generation"])


def replace(path: pathlib.Path, text: str, generation: int) -> int | None:
  """Writes a remote file if it has a generation still, and nobody wrote it.

  Args:
    path: the file.
    text: what to write.
    generation: see `read_generation`; 0 if there must be no file.

  Returns:
    The generation that is written; None if there was another.
  """
  fs = _gcs()
  bucket, key, _ = fs.split_path(str(path))
  body = (
    f"--==0==\nContent-Type: application/json\n\n{json.dumps({'name': key})}\n"
    f"--==0==\nContent-Type: text/plain\n\n{text}\n--==0==--"
  )
  try:
    written = fs.call(
      "POST",
      f"{fs.base.replace('/storage/', '/upload/storage/')}b/{{}}/o",
      bucket,
      uploadType="multipart",
      ifGenerationMatch=generation,
      headers={"Content-Type": 'multipart/related; boundary="==0=="'},
      data=body.encode(),
      json_out=True,
    )
  except FileExistsError:
    return None
  return int(written["generation"])


def delete(path: pathlib.Path, generation: int) -> None:
  """Deletes a remote file if it has a generation still."""
  bucket, key, _ = _gcs().split_path(str(path))
  with contextlib.suppress(FileNotFoundError, FileExistsError):
    _gcs().call(
      "DELETE", "b/{}/o/{}", bucket, key, ifGenerationMatch=generation
    )


def move(folder: pathlib.Path, to: pathlib.Path) -> None:
  """Gives a folder another name.

  In a bucket, one object after the other, so that a move that was killed goes
  on where it was.
  """
  if not is_remote(folder):
    folder.rename(to)
    return
  for name in sorted(_objects(folder)):
    _gcs().cp_file(str(folder / name), str(to / name))
    _gcs().rm_file(str(folder / name))
  with contextlib.suppress(FileNotFoundError):  # What marks a folder.
    remove(folder)


def remove(folder: pathlib.Path) -> None:
  """Removes a folder and all that is in it."""
  if is_remote(folder):
    _gcs().rm(str(folder), recursive=True)
  else:
    shutil.rmtree(folder)


def upload(file: pathlib.Path, to: pathlib.Path) -> None:
  """Copies a local file to a remote path, where it appears whole."""
  _gcs().put_file(str(file), str(to))


def upload_folder(
  folder: pathlib.Path, to: pathlib.Path, last: str = "config.json"
) -> None:
  """Copies the files of a local folder to a remote one.

  Args:
    folder: the local folder.
    to: the remote one.
    last: name of the file that is copied last, if it is there.
  """
  inside = [file.relative_to(folder) for file in list_files(folder)]
  for name in sorted(inside, key=lambda x: (x.name == last, str(x))):
    upload(folder / name, to / name)


@contextlib.contextmanager
def written(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a local path to write to; a remote file gets what is there then."""
  if not is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    local = pathlib.Path(folder) / path.name
    yield local
    upload(local, path)


def local_copy(
  given: str | os.PathLike, patterns: Sequence[str] = SMALL_FILES
) -> pathlib.Path:
  """Returns a local path of a file, or of a folder with its small files.

  A local path is returned as it is. Remote files are copied to the user's cache
  folder, once for each version of them.

  Args:
    given: the path.
    patterns: which files of a remote folder are copied; its folders' as well.

  Raises:
    ValueError: `path` refuses it, or there is nothing there.
  """
  there = path(given)
  if not is_remote(there):
    return there
  if _gcs().isfile(str(there)):
    found = {there.name: _gcs().info(str(there))}
  else:
    found = {
      name: about
      for name, about in _objects(there).items()
      if any(fnmatch.fnmatch(name.rpartition("/")[2], x) for x in patterns)
    }
  if not found:
    raise ValueError(
      f"there is no file {there}, nor a folder with any of "
      f"{', '.join(patterns)}; check the path"
    )
  versions = [
    f"{name} {x['generation']} {x['size']}" for name, x in sorted(found.items())
  ]
  digest = hashlib.sha256("\n".join([str(there), *versions]).encode())
  kept = cache_folder() / "files" / digest.hexdigest()[:16]
  if not kept.exists():
    _download(found, kept)
  # Messages name the last parts of a path.
  is_file = len(found) == 1 and there.name in found
  return kept / there.name if is_file else kept


def _download(found: dict[str, Any], kept: pathlib.Path) -> None:
  kept.parent.mkdir(parents=True, exist_ok=True)
  unfinished = pathlib.Path(tempfile.mkdtemp(dir=kept.parent))
  try:
    for name, about in found.items():
      target = unfinished / name
      target.parent.mkdir(parents=True, exist_ok=True)
      _gcs().get_file(about["name"], str(target))
    # Another process may have been faster; its copy is the same.
    with contextlib.suppress(OSError):
      os.replace(unfinished, kept)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def cache_folder() -> pathlib.Path:
  """Returns the package's folder in the user's cache folder."""
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(cache) / "srl_jax"
