# SPDX-License-Identifier: Apache-2.0
"""What README and docs/ say exists: commands, flags, fields, files, links."""

import functools
import importlib.util
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from srl_jax import config as config_lib
from srl_jax.__main__ import VERBS
from tests.support.columns import explained

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
# Commands of others, which say themselves what they understand.
OTHERS = ("venv", "pip", "pytest", "mkdocs")


def name_of(path):
  return str(path.relative_to(ROOT))


@functools.cache
def text_of(path):
  return path.read_text(encoding="utf-8")


def pages(select):
  """Yields (page, what `select` finds in its text)."""
  for path in PAGES:
    for found in select(text_of(path)):
      yield name_of(path), found


def commands(text):
  """Yields each command of ours as a list of words, module first."""
  blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
  inline = re.findall(r"`((?:python -m|srl_jax) [^`]+)`", text)
  for block in [*blocks, *inline]:
    for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
      words = shlex.split(line, comments=True)
      for start in range(len(words) - 1):
        command = words[start:]
        if "--" in command:
          command = command[: command.index("--")]
        if command[:2] == ["python", "-m"]:
          yield command[2:]
        elif command[:1] == ["srl_jax"]:
          verb, *arguments = command[1:]
          yield [VERBS.get(verb, [verb])[0], *arguments]


COMMANDS = [
  (page, command)
  for page, command in pages(commands)
  if command[0] not in OTHERS
]


# Imports once what most commands import. Each command then has a process of its
# own, as absl allows a flag to be defined only once in one.
HELP = """
import os, runpy, sys
import srl_jax.run, srl_jax.evaluate.evaluator
folder, *modules = sys.argv[1:]
for module in modules:
  if not os.fork():
    to = os.open(os.path.join(folder, module), os.O_WRONLY | os.O_CREAT)
    os.dup2(to, 1)
    os.dup2(to, 2)
    sys.argv[:] = [module, "--help"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()
  os.wait()
"""


@pytest.fixture(scope="module")
def help_of(tmp_path_factory):
  """What each command that has flags in the pages says of itself."""
  folder = tmp_path_factory.mktemp("help")
  modules = {module for _, (module, *rest) in COMMANDS if flags_of(rest)}
  subprocess.run(
    [sys.executable, "-W", "ignore", "-c", HELP, folder, *sorted(modules)],
    cwd=ROOT,
    check=True,
  )
  return {path.name: path.read_text() for path in folder.iterdir()}


def flags_of(arguments):
  """The flags of a command that its --help should name."""
  flags = (argument.partition("=")[0] for argument in arguments)
  return [x for x in flags if x[:2] == "--" and x[:9] != "--config."]


def unknown_flags(flags, help_text):
  """Those of the flags that a --help does not name."""
  # absl lists a boolean flag as --[no]flag.
  return [
    flag
    for flag in flags
    if not re.search(rf"--(\[no\])?{re.escape(flag[2:])}(?![\w.-])", help_text)
  ]


@pytest.mark.parametrize("module", sorted({c[0] for _, c in COMMANDS}))
def test_a_command_that_is_named_exists_and_has_the_flags(module, help_of):
  assert importlib.util.find_spec(module), f"there is no {module}"
  flags = {}
  for page, (name, *arguments) in COMMANDS:
    for flag in flags_of(arguments) if name == module else ():
      flags.setdefault(flag, page)
  unknown = unknown_flags(flags, help_of[module]) if flags else []
  assert not unknown, [(flags[flag], module, flag) for flag in unknown]


def test_an_unknown_flag_is_found():
  help_text = (
    "  --processes PROCESSES\n  --[no]multi_host: Join.\n  --data.path"
  )
  flags = ["--processes", "--multi_host", "--process", "--data", "--no_host"]
  assert unknown_flags(flags, help_text) == ["--process", "--data", "--no_host"]


def test_an_experiment_that_is_named_can_be_loaded(monkeypatch):
  # Would fetch a file of the checkpoint from the hub.
  monkeypatch.setattr(config_lib, "use_checkpoint", lambda c, source: None)
  loaded = set()
  for page, (module, *arguments) in COMMANDS:
    flags = dict(argument.partition("=")[::2] for argument in arguments)
    if not flags.get("--config"):
      continue
    fields = [a for a in arguments if a.startswith("--config.")]
    try:
      config_lib.load(flags["--config"], fields)
    except ValueError as error:
      raise AssertionError(f"{page}: {module} {arguments}: {error}") from error
    loaded.add(flags["--config"].partition(",")[0])
  assert len(loaded) >= 4, loaded


# c.srl.update_steps in code font or in a code block; c.srl alone as well.
FIELD = re.compile(r"(?<![\w./])c\.([a-z]\w*(?:\.[a-z]\w*)*)")


def fields(text):
  """Yields the config fields in blocks and in code font."""
  for code in re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL):
    yield from FIELD.findall(code)
    yield from re.findall(r"--config\.([\w.]+)", code)


def has_field(dotted):
  node = config_lib.default_config()
  for name in dotted.split("."):
    if not hasattr(node, "keys") or name not in node:
      return False
    node = node[name]
  return True


def test_every_config_field_that_is_named_exists():
  found = list(pages(fields))
  assert len(found) > 50
  unknown = [(page, field) for page, field in found if not has_field(field)]
  assert not unknown


def files(text):
  """Yields paths of the repository with a folder, in code font."""
  yield from re.findall(r"`([\w.-][\w./-]*/[\w.-]*\.\w+)`", text)


def metric_names(text):
  """Columns of the stages, as "`srl/reward`"."""
  names = re.findall(r"`((?:sft|srl|rlvr|episodes)/[a-z]\w*)`", text)
  return [name.replace("NAME", "x") for name in names]


def test_every_metric_that_is_named_is_a_column():
  named = set(pages(metric_names))
  assert len(named) > 25
  wrong = [x for x in named if not explained(x[1])]
  assert not wrong
  assert not explained("srl/rewards")


def test_every_file_that_is_named_exists():
  found = list(pages(files))
  assert len(found) > 20
  missing = [(page, name) for page, name in found if not (ROOT / name).exists()]
  assert not missing


def test_the_map_of_the_package_has_every_module():
  page = text_of(ROOT / "docs" / "how_it_is_built.md")
  table = page[page.index("## The packages") : page.index("## One update step")]
  names = {
    f"{path.stem}.py" if path.is_file() else f"{path.name}/"
    for path in (ROOT / "srl_jax").iterdir()
    if path.name[0] != "_" and path.name not in ("assets", "py.typed")
  }
  assert len(names) > 30
  assert not [name for name in sorted(names) if f"`{name}`" not in table]


def test_every_link_of_the_readme_leads_to_a_file():
  links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text_of(README))
  assert len(links) > 10
  for link in links:
    assert (ROOT / link).exists(), f"README links to {link}"


def test_the_readme_is_an_introduction():
  count = len(text_of(README).splitlines())
  assert count <= 130, f"README.md has {count} lines; move some to docs/"


def test_the_site_builds_without_a_broken_link(tmp_path):
  if importlib.util.find_spec("mkdocs") is None:
    pytest.skip(
      "mkdocs is not installed: pip install -c constraints.txt -e '.[dev]'"
    )
  command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
  done = subprocess.run(
    [*command, f"--site-dir={tmp_path / 'site'}"],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  built = {path.name for path in (tmp_path / "site").iterdir()}
  assert {"concepts", "benchmarks", "CHANGELOG"} <= built
