# SPDX-License-Identifier: Apache-2.0
"""SWE-bench: its instances, and what agentless-mini asks and reads.

The two questions of agentless-mini (SWE-RL, arXiv 2502.18449) are which files
an issue is about, and which edits resolve it. The words are our own. Here are
the prompts and the judges, which read answers; no test is run here.

Judges run in worker processes, which keep what they last read of the clones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from srl_jax.domains.software import edits, patches
from srl_jax.domains.software.repositories import Clones, Entry
from srl_jax.domains.suite import Problem, Suite
from srl_jax.rewards.format import split_lenient

MOST_FILES = 5  # That the model may name.

# The 500 problems that people found solvable (OpenAI, August 2024). The commit
# was taken from public code that pins it.
VERIFIED = Suite(
  name="swebench_verified",
  title="SWE-bench Verified",
  size=500,
  repository="princeton-nlp/SWE-bench_Verified",
  revision="c104f840cc67f8b6eec6f759ebc8b2693d585d4a",
  file="data/test-00000-of-00001.parquet",
  split="default/test",
  domain="software",
)
# What the official harness calls a suite. Its rows there name images, too.
HARNESS_NAMES = {"swebench_verified": "SWE-bench/SWE-bench_Verified"}


@dataclasses.dataclass(frozen=True, slots=True)
class Instance(Problem):
  """An issue of a repository.

  Of a problem's attributes `text` is the issue, `answer` the gold patch ("" if
  there is none), `subject` the repository as owner/name.

  Attributes:
    base_commit: the commit at which the issue stands.
    files: paths of the files that an answer may edit.
  """

  base_commit: str = ""
  files: tuple[str, ...] = ()


class Files(NamedTuple):
  """Files of a commit.

  Attributes:
    texts: texts of those that can be read, by path.
    unreadable: why the others cannot, by path.
  """

  texts: dict[str, str]
  unreadable: dict[str, str]


def tree_of(clones: Clones, instance: Instance) -> dict[str, Entry]:
  """Returns all files at an instance's base commit.

  Raises:
    CloneError: there is no clone, or it lacks the commit.
  """
  return _tree(clones, instance.subject, instance.base_commit)


def files_of(clones: Clones, instance: Instance, paths: Iterable[str]) -> Files:
  """Reads files at an instance's base commit.

  Raises:
    CloneError: there is no clone, or it lacks the commit or a file.
  """
  where = instance.subject, instance.base_commit
  return _files(clones, *where, tuple(paths))


@functools.lru_cache(maxsize=4)
def _tree(clones: Clones, repository: str, commit: str) -> dict[str, Entry]:
  return clones.tree(repository, commit)


@functools.lru_cache(maxsize=8)
def _files(
  clones: Clones, repository: str, commit: str, paths: tuple[str, ...]
) -> Files:
  tree = _tree(clones, repository, commit)
  found = Files({}, {})
  there = []
  for path in dict.fromkeys(paths):
    if path not in tree:
      found.unreadable[path] = "not at the base commit"
    elif tree[path].is_symlink:
      found.unreadable[path] = "symbolic link"
    else:
      there.append(path)
  names = [tree[path].sha for path in there]
  contents = clones.contents(repository, names)
  for path, content in zip(there, contents, strict=True):
    try:
      text = content.decode("utf-8")
    except UnicodeDecodeError:
      text = "\0"
    if "\0" in text:
      found.unreadable[path] = "binary, or not UTF-8"
    else:
      found.texts[path] = text
  return found


def gold_files(instance: Instance) -> tuple[str, ...]:
  """Returns the Python files that the gold patch changes, removes or moves.

  Files that it makes are not among them, as no edit can make one. SWE-RL's
  lists of files for SWE-bench hold only Python files, too.
  """
  before = (change.before for change in patches.changes(instance.answer))
  return tuple(path for path in before if path.endswith(".py"))


def source_files(instance: Instance, tree: Mapping[str, Entry]) -> list[str]:
  """Returns the Python files of a repository without its tests.

  A file is a test if it, or a folder above it, has a name that begins with
  "test". In pytest itself most of the code has.
  """
  is_pytest = instance.subject == "pytest-dev/pytest"
  return [
    path
    for path, entry in tree.items()
    if path.endswith(".py")
    and not entry.is_symlink
    and (is_pytest or not any(x.startswith("test") for x in path.split("/")))
  ]


def named_files(answer: str, paths: Iterable[str]) -> list[str]:
  """Returns the files that an answer names, at most MOST_FILES.

  A line names a file if it is its path and nothing else.

  Args:
    answer: what the model wrote; thoughts do not count.
    paths: the files that may be named.
  """
  known = set(paths)
  lines = split_lenient(answer).action.split("\n")
  return list(dict.fromkeys(x for x in lines if x in known))[:MOST_FILES]


class Attempt(NamedTuple):
  """What an answer does.

  Attributes:
    failures: for each edit "", or why it had no effect.
    old: texts of the files that it may edit.
    new: new texts of the files that it changes.
    objection: why the changes make no patch; "" if they do, or there are none.
  """

  failures: tuple[str, ...]
  old: dict[str, str]
  new: dict[str, str]
  objection: str


def attempt(answer: str, instance: Instance, clones: Clones) -> Attempt:
  """Applies the edits in an answer to the files of an instance.

  Args:
    answer: what the model wrote.
    instance: the instance with the files that may be edited.
    clones: the clones.

  Raises:
    CloneError: there is no clone, or it lacks the commit or a file.
  """
  # A tokenizer may make half a character, which is no text.
  text = answer.encode("utf-8", "replace").decode("utf-8")
  old = files_of(clones, instance, instance.files).texts
  found = edits.parse(split_lenient(text).action)
  made = edits.apply(found, old, tree_of(clones, instance))
  objection = patches.objection(old, made.texts) if made.texts else ""
  return Attempt(made.failures, old, made.texts, objection)


def judge_edits(
  answer: str, instance: Problem, *, clones: Clones
) -> tuple[str, bool]:
  """Returns an answer's patch, and whether it is the gold patch's change.

  Whether another patch resolves the issue takes the tests to know.

  Args:
    answer: what the model wrote.
    instance: the instance with the files that may be edited.
    clones: the clones.
  """
  assert isinstance(instance, Instance)
  made = attempt(answer, instance, clones)
  if made.objection or not made.new:
    return "", False
  tree = tree_of(clones, instance)
  modes = {path: tree[path].mode for path in made.new}
  patch = patches.make_patch(clones.git, made.old, made.new, modes)
  return patch, patches.same_change(patch, instance.answer)


def judge_files(
  answer: str, instance: Problem, *, clones: Clones
) -> tuple[str, bool]:
  """Returns the files that an answer names, and whether all gold ones are.

  Args:
    answer: what the model wrote.
    instance: the instance.
    clones: the clones.
  """
  assert isinstance(instance, Instance)
  tree = tree_of(clones, instance)
  named = named_files(answer, source_files(instance, tree))
  gold = set(gold_files(instance))
  return "\n".join(named), bool(gold) and gold <= set(named)


_EDITS = """\
This is an issue of a code repository:

<issue>
{issue}
</issue>

These are files of the repository, each of them whole, after a line with ### \
and its path. What has to change is in one or more of them.

<files>
{files}
</files>

Find the cause, and then write the edits that resolve the issue. An edit \
replaces a run of lines of one file by others. Each edit stands in a code \
block of its own, in this form:

```python
### package/parts.py
<<<<<<< SEARCH
def half(count):
    return count // 3
=======
def half(count):
    return count // 2
>>>>>>> REPLACE
```

The lines after SEARCH have to stand in the file exactly as you write them, \
with all their spaces, and only in the place that you mean. To add lines, \
repeat the line beside them in both parts."""

_FILES = """\
This is an issue of a code repository:

<issue>
{issue}
</issue>

These are the Python files of the repository without its tests, folder by \
folder:

{listing}

Which of them have to be changed, or read, to resolve the issue? Name at most \
{most}, the most important first. Write the whole path of each on a line of \
its own, in a code block that holds nothing else, in this form:

```
package/parts.py
package/tools/cutting.py
```"""


def file_block(path: str, text: str) -> str:
  """Returns a file as it stands in the prompt for edits."""
  return f"### {path}\n{edits.as_shown(text)}"


def edits_prompt(instance: Instance, blocks: Sequence[str]) -> str:
  """Returns the prompt that asks for edits.

  Args:
    instance: the instance.
    blocks: the files, each as `file_block` returns it.
  """
  return _EDITS.format(issue=instance.text.strip(), files="\n\n".join(blocks))


def files_prompt(instance: Instance, tree: Mapping[str, Entry]) -> str:
  """Returns the prompt that asks which files an issue is about."""
  return _FILES.format(
    issue=instance.text.strip(),
    listing=listing(source_files(instance, tree)),
    most=MOST_FILES,
  )


def listing(paths: Iterable[str]) -> str:
  """Returns paths as an indented tree, four spaces a level.

  Example: a.py, b/c.py and b/d/e.py give
    a.py
    b/
        c.py
        d/
            e.py
  """
  lines: list[str] = []
  above: list[str] = []
  for path in paths:
    *folders, name = path.split("/")
    same = 0
    for one, two in zip(above, folders, strict=False):
      if one != two:
        break
      same += 1
    for depth in range(same, len(folders)):
      lines.append("    " * depth + folders[depth] + "/")
    lines.append("    " * len(folders) + name)
    above = folders
  return "\n".join(lines)
