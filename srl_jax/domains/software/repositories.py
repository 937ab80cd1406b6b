# SPDX-License-Identifier: Apache-2.0
"""Files of commits, read out of a folder of git clones.

  clones = open_clones("/data/clones", make_git("/tmp/empty.git"))
  tree = clones.tree("django/django", commit)
  [source] = clones.contents("django/django", [tree["setup.py"].sha])

Nothing is checked out. Git runs in an empty repository of its own and borrows
only the objects of a clone, so a clone's configuration, hooks and attributes
are not even read. A clone that lacks an object is not completed from elsewhere.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from srl_jax import storage

# The slowest is a listing of the largest repository, which takes a second.
_LIMIT_S = 300.0
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SYMLINK = "120000"


class CloneError(ValueError):
  """A commit, or an object of it, cannot be read.

  Attributes:
    kind: why, in a few words, for counting.
  """

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind


class Entry(NamedTuple):
  """A file of a tree: its mode as git writes it, and its object's name."""

  mode: str
  sha: str

  @property
  def is_symlink(self) -> bool:
    """Whether the file is a symbolic link; its content is where it leads."""
    return self.mode == _SYMLINK


@dataclasses.dataclass(frozen=True)
class Git:
  """Runs git where no configuration but its own defaults has a say.

  Attributes:
    folder: an empty repository; see `make_git`.
  """

  folder: str

  def run(
    self,
    arguments: Sequence[str],
    *,
    objects: pathlib.Path | None = None,
    given: bytes = b"",
    folder: str = "",
  ) -> subprocess.CompletedProcess:
    """Runs a command and returns what came of it.

    Args:
      arguments: the words after "git".
      objects: folder of objects that are readable besides.
      given: its standard input.
      folder: where it runs; by default in the empty repository.

    Raises:
      CloneError: it takes too long.
    """
    environment = {
      "PATH": os.environ.get("PATH", os.defpath),
      "LC_ALL": "C",
      "HOME": self.folder,
      "GIT_DIR": self.folder,
      "GIT_CONFIG_NOSYSTEM": "1",
      "GIT_CONFIG_SYSTEM": os.devnull,
      "GIT_CONFIG_GLOBAL": os.devnull,
      "GIT_ATTR_NOSYSTEM": "1",
      **_alternates(objects),
    }
    try:
      return subprocess.run(
        ["git", *arguments],
        input=given,
        capture_output=True,
        cwd=folder or self.folder,
        env=environment,
        timeout=_LIMIT_S,
        check=False,
      )
    except subprocess.TimeoutExpired as error:
      raise CloneError(
        "too slow",
        f"git {arguments[0]} took more than {_LIMIT_S:g} s on {objects}; put "
        "the clones on a faster disk",
      ) from error


def make_git(folder: str | os.PathLike) -> Git:
  """Makes the empty repository in which git runs, or takes the one there.

  Raises:
    ValueError: git is not installed, or cannot make it.
  """
  if shutil.which("git") is None:
    raise ValueError("git is not installed; install it (apt install git)")
  path = pathlib.Path(folder).absolute()
  path.mkdir(parents=True, exist_ok=True)
  git = Git(str(path))
  done = git.run(["init", "--quiet", "--bare", "--template="])
  if done.returncode:
    raise ValueError(
      f"git cannot make the repository {path}: {_last_line(done.stderr)}"
    )
  return git


@dataclasses.dataclass(frozen=True)
class Clones:
  """A folder of clones, named owner__name or owner/name, bare or not.

  Attributes:
    folder: the folder; see `open_clones`.
    git: runs git.
  """

  folder: str
  git: Git

  def objects(self, repository: str) -> pathlib.Path:
    """Returns the folder with the objects of a repository's clone.

    Args:
      repository: owner/name.

    Raises:
      CloneError: there is no clone of it.
    """
    parts = repository.split("/")
    if not _REPOSITORY.fullmatch(repository) or {".", ".."} & set(parts):
      raise CloneError(
        "no repository", f"{repository!r} is no repository; give owner/name"
      )
    for name in (repository.replace("/", "__"), repository):
      for path in (f"{self.folder}/{name}", f"{self.folder}/{name}.git"):
        for git in (pathlib.Path(path, ".git"), pathlib.Path(path)):
          if (git / "objects").is_dir() and (git / "HEAD").is_file():
            return git / "objects"
    name = pathlib.Path(self.folder, repository.replace("/", "__"))
    raise CloneError(
      "no clone",
      f"there is no clone of {repository} in {self.folder}; type: git clone "
      f"https://github.com/{repository} {name}",
    )

  def tree(self, repository: str, commit: str) -> dict[str, Entry]:
    """Returns the files of a commit by their paths.

    Submodules are left out, and so are paths that are not UTF-8.

    Raises:
      CloneError: there is no clone, or it lacks the commit.
    """
    objects = self.objects(repository)
    if not _COMMIT.fullmatch(commit):
      raise CloneError(
        "no commit", f"{commit!r} is no commit; give 40 hexadecimal digits"
      )
    done = self.git.run(
      ["ls-tree", "-r", "-z", "--full-tree", commit], objects=objects
    )
    if done.returncode:
      clone = _clone_of(objects)
      raise CloneError(
        "no commit",
        f"{clone} lacks the commit {commit} ({_last_line(done.stderr)}); "
        f"complete it: git -C {clone} fetch origin {commit}",
      )
    found = {}
    for line in done.stdout.split(b"\0"):
      about, _, path = line.partition(b"\t")
      mode, _, rest = about.decode("ascii").partition(" ")
      if rest.startswith("blob ") and _is_utf8(path):
        found[path.decode("utf-8")] = Entry(mode, rest.split()[1])
    return found

  def contents(self, repository: str, names: Sequence[str]) -> list[bytes]:
    """Returns the contents of objects, in order.

    Raises:
      CloneError: there is no clone, or it lacks an object.
    """
    objects = self.objects(repository)
    asked = "".join(f"{name}\n" for name in names).encode("ascii")
    done = self.git.run(["cat-file", "--batch"], objects=objects, given=asked)
    found, rest = [], done.stdout
    for name in names:
      about, _, rest = rest.partition(b"\n")
      fields = about.split()
      if len(fields) != 3:
        raise CloneError(
          "no object",
          f"{_clone_of(objects)} lacks the object {name} "
          f"({_last_line(done.stderr) or about.decode('utf-8', 'replace')}); "
          "clone the repository without --filter",
        )
      size = int(fields[2])
      found.append(rest[:size])
      rest = rest[size + 1 :]
    return found


def open_clones(folder: str | os.PathLike, git: Git) -> Clones:
  """Returns a folder of clones.

  Raises:
    ValueError: there is no such folder, or it is in a bucket.
  """
  path = storage.path(folder)
  if storage.is_remote(path):
    raise ValueError(
      f"git reads no bucket; copy {folder} to a disk and give its path there"
    )
  path = path.expanduser().absolute()
  if not path.is_dir():
    raise ValueError(
      f"there is no folder {str(folder)!r} of repositories; make it and clone "
      f"into it: git clone https://github.com/OWNER/NAME {folder}/OWNER__NAME"
    )
  return Clones(str(path), git)


def _clone_of(objects: pathlib.Path) -> pathlib.Path:
  git = objects.parent
  return git.parent if git.name == ".git" else git


def _alternates(objects: pathlib.Path | None) -> Mapping[str, str]:
  if objects is None:
    return {}
  # A colon would separate two folders, so the path is quoted.
  quoted = str(objects).replace("\\", "\\\\").replace('"', '\\"')
  return {"GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"'}


def _last_line(said: bytes) -> str:
  lines = said.decode("utf-8", "replace").strip().splitlines()
  return lines[-1] if lines else ""


def _is_utf8(path: bytes) -> bool:
  try:
    path.decode("utf-8")
  except UnicodeDecodeError:
    return False
  return True
