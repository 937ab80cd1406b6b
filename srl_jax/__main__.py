# SPDX-License-Identifier: Apache-2.0
"""All commands by one name: `srl_jax VERB ...`, or `python -m srl_jax VERB`.

Each verb runs a module, as `python -m MODULE ...` does. The modules of launch/
lie beside the package in a clone, and inside it where it is installed.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence

VERBS = {
  "prepare": ("srl_jax.data.prepare", "check data and count their tokens"),
  "train": ("srl_jax.main", "train and evaluate an experiment"),
  "show": ("srl_jax.show", "print what a finished run's model writes"),
  "report": ("srl_jax.report", "write a page about one or more runs"),
  "evaluate": ("srl_jax.evaluate", "answer suites of problems"),
  "swebench": ("srl_jax.swebench", "patch the issues of SWE-bench"),
  "chat": ("srl_jax.chat", "talk to a model"),
  "serve": ("srl_jax.serve", "serve a model by OpenAI's protocol"),
  "export": ("srl_jax.export", "write a run's model for other programs"),
  "local": ("launch.local", "start one command as several processes"),
  "compile": ("launch.compile", "compile an experiment for TPUs elsewhere"),
  "fit": ("launch.fit", "say which presets fit a machine, and their cost"),
  "pod": ("launch.pod", "write what runs an experiment on a TPU pod"),
}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the verb that is named first; exits as its module does."""
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  if not arguments or arguments[0] in ("-h", "--help"):
    print(_usage())
    return
  verb, *rest = arguments
  if verb not in VERBS:
    near = difflib.get_close_matches(verb, VERBS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(VERBS)}"
    sys.exit(f"error: there is no command {verb!r}; {hint}")
  sys.argv[1:] = rest
  # `python -m` looks there too, for rewards and domains of the user's.
  if os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  runpy.run_module(module_of(verb), run_name="__main__", alter_sys=True)


def module_of(verb: str) -> str:
  """Returns the full name of the module that a verb runs."""
  name = VERBS[verb][0]
  if name.startswith("srl_jax."):
    return name
  if importlib.util.find_spec("srl_jax.launch"):
    return f"srl_jax.{name}"
  # A clone that was never installed, from any folder.
  sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
  return name


def _usage() -> str:
  width = max(map(len, VERBS))
  lines = [f"  {verb:{width}}  {text}" for verb, (_, text) in VERBS.items()]
  more = "srl_jax COMMAND --help says more."
  return "\n".join(["usage: srl_jax COMMAND ...", "", *lines, "", more])


if __name__ == "__main__":
  main()
