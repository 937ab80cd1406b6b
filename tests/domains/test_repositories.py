# SPDX-License-Identifier: Apache-2.0
"""Files of commits are read out of clones, and clones bring nothing along."""

import pathlib

import pytest

from srl_jax.domains.software.repositories import (
  CloneError,
  make_git,
  open_clones,
)
from tests.support import repositories


@pytest.fixture
def clones(tmp_path):
  # A colon parts paths elsewhere, and quotes go around them.
  folder = tmp_path / 'clo:n"es'
  folder.mkdir()
  return open_clones(folder, make_git(tmp_path / "empty.git"))


def read(clones, repository, commit, path):
  entry = clones.tree(repository, commit)[path]
  [content] = clones.contents(repository, [entry.sha])
  return content


@pytest.fixture
def folder(clones):
  return pathlib.Path(clones.folder)


@pytest.mark.parametrize("name", ["a__b", "a/b", "a__b.git", "a/b.git"])
def test_a_commit_is_read_as_it_was_whatever_is_checked_out(
  clones, folder, tmp_path, name
):
  source = tmp_path / "source"
  first = repositories.make(source)
  second = repositories.commit(source, {"setup.py": "later\n"})
  target = folder / name
  target.parent.mkdir(parents=True, exist_ok=True)
  bare = ["--bare"] if name.endswith(".git") else []
  repositories.git(
    tmp_path, "clone", "--quiet", *bare, str(source), str(target)
  )
  assert set(clones.tree("a/b", first)) == set(repositories.SOURCES)
  assert read(clones, "a/b", first, "setup.py") == b"name = 'parts'\n"
  assert read(clones, "a/b", second, "setup.py") == b"later\n"


def test_contents_come_in_order_and_byte_for_byte(clones, folder, tmp_path):
  files = {
    "a": b"one\r\ntwo",
    "b": b"",
    "c": b"\0\xff\n" + b"x" * 70_000,
    "d": b"123 blob\n",
  }
  commit = repositories.make(folder / "a__b", files)
  tree = clones.tree("a/b", commit)
  names = [tree[path].sha for path in "dcba"]
  assert clones.contents("a/b", names) == [files[path] for path in "dcba"]


def test_links_say_so_and_submodules_and_odd_names_are_left_out(clones, folder):
  clone = folder / "a__b"
  repositories.make(clone, {"real.py": "x = 1\n", "tool.sh": "true\n"})
  (clone / "link.py").symlink_to("/etc/passwd")
  (clone / "tool.sh").chmod(0o755)
  (clone / "späte zeile\n.py").touch()
  (clone / b"\xff.py".decode("utf-8", "surrogateescape")).touch()
  repositories.make(clone / "sub")
  commit = repositories.commit(clone)
  tree = clones.tree("a/b", commit)
  assert sorted(tree) == ["link.py", "real.py", "späte zeile\n.py", "tool.sh"]
  assert tree["link.py"].is_symlink and not tree["real.py"].is_symlink
  assert tree["tool.sh"].mode == "100755"
  assert read(clones, "a/b", commit, "link.py") == b"/etc/passwd"


def test_what_a_clone_configures_does_not_run(clones, folder, tmp_path):
  clone = folder / "a__b"
  mark = tmp_path / "mark"
  run = f"touch {mark}; false"
  commit = repositories.make(
    clone, repositories.SOURCES | {".gitattributes": "* diff=x filter=x\n"}
  )
  for key in (
    "core.fsmonitor",
    "core.pager",
    "core.sshCommand",
    "core.alternateRefsCommand",
    "diff.external",
    "diff.x.textconv",
    "diff.x.command",
    "filter.x.smudge",
    "filter.x.clean",
    "remote.origin.uploadpack",
  ):
    repositories.git(clone, "config", key, run)
  # A clone that may complete itself from elsewhere.
  repositories.git(clone, "config", "core.repositoryFormatVersion", "1")
  repositories.git(clone, "config", "extensions.partialClone", "origin")
  repositories.git(clone, "config", "remote.origin.url", f"ext::touch {mark}")
  repositories.git(clone, "config", "remote.origin.promisor", "true")
  repositories.git(clone, "config", "protocol.allow", "always")
  sha = clones.tree("a/b", commit)["setup.py"].sha
  loose = clone / ".git" / "objects" / sha[:2] / sha[2:]
  loose.unlink()
  # The test can fail: git in the clone itself does run it.
  with pytest.raises(repositories.subprocess.CalledProcessError):
    repositories.git(clone, "cat-file", "blob", sha)
  assert mark.exists()
  mark.unlink()
  with pytest.raises(CloneError, match=f"lacks the object {sha}") as error:
    clones.contents("a/b", [sha])
  assert error.value.kind == "no object"
  assert not mark.exists()


def test_a_missing_clone_or_commit_is_named_with_what_to_type(
  clones, folder, tmp_path
):
  with pytest.raises(CloneError, match="no clone of c/d in") as error:
    clones.tree("c/d", "0" * 40)
  assert error.value.kind == "no clone"
  assert f"git clone https://github.com/c/d {folder}/c__d" in str(error.value)
  source = tmp_path / "source"
  first = repositories.make(source)
  repositories.commit(source, {"setup.py": "later\n"})
  clone = folder / "c__d"
  repositories.git(
    tmp_path, "clone", "-q", "--depth=1", f"file://{source}", str(clone)
  )
  with pytest.raises(CloneError, match=f"lacks the commit {first}") as error:
    clones.tree("c/d", first)
  assert error.value.kind == "no commit"
  assert f"fetch origin {first}" in str(error.value)


@pytest.mark.parametrize("name", ["../x", "a/..", "a", "a/b/c", "/etc/b", ""])
def test_a_name_that_leads_elsewhere_is_no_repository(
  clones, folder, tmp_path, name
):
  repositories.make(tmp_path / "x")
  with pytest.raises(CloneError, match="is no repository; give owner/name"):
    clones.objects(name)


@pytest.mark.parametrize("commit", ["--help", "HEAD", "main", "", "A" * 40])
def test_only_a_whole_name_of_a_commit_is_one(clones, folder, tmp_path, commit):
  repositories.make(folder / "a__b")
  with pytest.raises(CloneError, match="is no commit; give 40") as error:
    clones.tree("a/b", commit)
  assert error.value.kind == "no commit"


def test_a_folder_of_clones_has_to_exist(tmp_path):
  with pytest.raises(ValueError, match="there is no folder"):
    open_clones(tmp_path / "none", make_git(tmp_path / "empty.git"))


def test_an_empty_repository_is_taken_again(tmp_path):
  first = make_git(tmp_path / "empty.git")
  assert make_git(tmp_path / "empty.git") == first
