# SPDX-License-Identifier: Apache-2.0
"""Writes what brings up a pod and runs an experiment on it.

  srl_jax pod --type=v5p-128 --zone=us-east5-a --as=gcloud \
    --config=experiments/math.py:qwen2_5_7b \
    --config.data.path=gs://BUCKET/s1K-1.1 --workdir=gs://BUCKET/run

Nothing runs without --go. What is written is for tools that exist: gcloud
(queued resources of Cloud TPU), kubectl (a JobSet on GKE) or sky (a SkyPilot
task). Mistakes in the experiment, the type, the zone or the paths show here,
before a pod costs anything.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

import jax

from srl_jax import config as config_lib
from srl_jax import storage
from srl_jax.arguments import HelpFormatter
from srl_jax.config import Config

from .pods import gcloud, here, jobset, machines, skypilot
from .pods import pod as pods

_TOOLS = {"gcloud": "gcloud", "jobset": "kubectl", "skypilot": "sky"}


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  options, overrides = _parser().parse_known_args(arguments)
  # A pod is described, not used, and this may be a machine with none.
  jax.config.update("jax_platforms", "cpu")
  try:
    pod = _pod(options, overrides, arguments)
    text, file, command = _written(pod, options.kind)
    path = pathlib.Path(options.out) / file
    _check_free(path, pod.workdir)
    if options.go:
      _check_ready(pod, options.kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
      # Another script packs the code anew.
      path.with_suffix(".tgz").unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  command = [x if x != file else str(path) for x in command]
  print(f"{path}: {pod.kind}", flush=True)
  if pod.secrets and options.kind == "jobset":
    print(f"its secret is made by: {jobset.secret_line(pod)}", flush=True)
  if options.go:
    return subprocess.run(command).returncode
  print(f"to run it: {shlex.join(command)}")
  if options.kind == "jobset":
    print(f"or with xpk: {jobset.xpk_line(pod)}")
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="srl_jax pod",
    description="Writes what brings up a pod and runs an experiment on it.",
    formatter_class=HelpFormatter,
    # No abbreviations: config.load refuses every flag that is not known.
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--type", required=True, help="such as v5litepod-8, v6e-64 or v5p-128")
  add("--zone", required=True, help="such as us-east5-a")
  add(
    "--slices", type=int, default=1, help="number of slices (only --as=jobset)"
  )
  add(
    "--as",
    dest="kind",
    required=True,
    choices=tuple(_TOOLS),
    help="a script for gcloud, a JobSet for GKE, or a SkyPilot task",
  )
  add("--config", required=True, help="as of srl_jax.main: file.py[:preset]")
  add("--workdir", required=True, help="of the run, as gs://BUCKET/FOLDER")
  add("--name", help="of the pod (default: after the last folder of --workdir)")
  add("--image", default="", help="container image, for --as=jobset")
  add(
    "--env",
    action="append",
    default=[],
    metavar="NAME[=VALUE]",
    help="a variable of the run, e.g. HF_TOKEN, which without a value is that "
    "of the shell and is in no file; may be given several times",
  )
  add("--out", default=".", help="folder to write to")
  add(
    "--on_demand",
    action="store_true",
    help="pay the full price for a pod that is not preempted",
  )
  add(
    "--any_zone",
    action="store_true",
    help="let zones through that are not known to have the type",
  )
  add("--go", action="store_true", help="run what was written")
  return parser


def _pod(options, overrides, arguments) -> pods.Pod:
  """Checks all that is asked for, and returns it.

  Raises:
    ValueError: something of it cannot be.
  """
  slice_ = machines.find(options.type)
  machines.check_zone(slice_, options.zone, options.any_zone)
  name = options.name or pods.default_name(options.workdir)
  pods.check_name(name)
  config = _check_config(options.config, overrides)
  source = pathlib.Path(options.config.partition(":")[0])
  shipped = config_lib.shipped_experiments()
  is_shipped = source.stem in shipped and str(source.parent) in (
    ".",
    "experiments",
  )
  if options.kind == "jobset" and not is_shipped:
    raise ValueError(
      f"--config={options.config}: the image holds the experiments of the "
      f"package ({', '.join(sorted(shipped))}) and no others; build an image "
      "with yours, or take --as=gcloud or skypilot"
    )
  _check_slices(options, slice_, config.mesh.data)
  if not options.workdir.startswith("gs://"):
    raise ValueError(
      f"--workdir={options.workdir} would end with the pod; give "
      "gs://BUCKET/FOLDER (a bucket is made by: gcloud storage buckets create "
      f"gs://BUCKET --location={options.zone.rpartition('-')[0]})"
    )
  words = sys.argv[1:] if arguments is None else arguments
  return pods.Pod(
    name=name,
    slice=slice_,
    slices=options.slices,
    zone=options.zone,
    config=options.config,
    overrides=tuple(overrides),
    workdir=options.workdir,
    is_spot=not options.on_demand,
    image=options.image,
    # It becomes one line of comment.
    command_line=" ".join(
      shlex.join(["python", "-m", "launch.pod", *words]).splitlines()
    ),
    own=here.own_files(config, is_image=options.kind == "jobset"),
    environment=pods.parse_environment(options.env),
  )


def _check_slices(options, slice_: machines.Slice, data: int) -> None:
  """Refuses several slices that cannot be had, or that the mesh does not fit.

  Raises:
    ValueError: they are such.
  """
  if options.slices < 1:
    raise ValueError(f"--slices={options.slices}; use 1 or more")
  if options.slices == 1:
    return
  if options.kind != "jobset":
    raise ValueError(
      f"--slices={options.slices} goes with --as=jobset, and not with "
      f"--as={options.kind}"
    )
  if slice_.chips == slice_.node_chips:
    raise ValueError(
      f"GKE joins slices of several hosts, and {slice_.type} is one; take a "
      "larger type"
    )
  if data != -1 and data % options.slices:
    raise ValueError(
      f"c.mesh.data={data} does not divide over {options.slices} slices; type "
      f"--config.mesh.data={options.slices}"
    )


def _check_config(source: str, overrides: Sequence[str]) -> Config:
  """Returns an experiment without mistakes, and paths of this machine.

  Raises:
    ValueError: it has some.
  """
  path = pathlib.Path(source.partition(":")[0])
  is_outside = path.is_absolute() or ".." in path.parts
  if is_outside or (len(path.parts) < 2 and path.suffix):
    raise ValueError(
      f"--config={source}: the hosts get a copy of this folder, so give the "
      "experiment by its path in it, with a folder: experiments/NAME.py"
    )
  config = config_lib.load(source, overrides)
  if config.note:
    raise ValueError(
      f"--config={source} chooses by the machine that it runs on, and here it "
      f"chose {config.name}; name the preset, as in --config={path}:PRESET"
    )
  here.check_paths(config)
  return config


def _written(pod: pods.Pod, kind: str) -> tuple[str, str, list[str]]:
  """Returns the text to write, the name of its file, and what runs it."""
  if kind == "gcloud":
    file = f"{pod.name}.sh"
    return gcloud.write(pod, file), file, ["bash", file]
  if kind == "jobset":
    file = f"{pod.name}.jobset.yaml"
    return jobset.write(pod), file, ["kubectl", "apply", "-f", file]
  file = f"{pod.name}.sky.yaml"
  secrets = [word for name in pod.secrets for word in ("--secret", name)]
  command = ["sky", "jobs", "launch", "--yes", *secrets, file]
  return skypilot.write(pod), file, command


def _check_free(path: pathlib.Path, workdir: str) -> None:
  """Refuses to write over what starts another run.

  Raises:
    ValueError: the file is of a run in another working directory.
  """
  this = rf"--workdir={re.escape(workdir)}(?![\w./-])"
  if path.exists() and not re.search(this, path.read_text(encoding="utf-8")):
    raise ValueError(
      f"{path} starts a run with another --workdir; type --name=NAME, with a "
      "name of its own, or remove that file if that run is over"
    )


def _check_ready(pod: pods.Pod, kind: str) -> None:
  """Refuses to start what would fail for lack of a tool or a bucket."""
  tool = _TOOLS[kind]
  unset = [name for name in pod.secrets if not os.environ.get(name)]
  if unset and kind != "jobset":
    raise ValueError(
      f"--env={unset[0]} takes the value of this shell, which has none; type "
      f"export {unset[0]}=VALUE"
    )
  if shutil.which(tool) is None:
    raise ValueError(
      f"{tool} is not installed, which --go runs; leave --go out to write the "
      "file only, or docs/cloud.md for what to install"
    )
  if not pathlib.Path("setup.py").is_file():
    raise ValueError(
      f"{pathlib.Path.cwd()} is no checkout of srl_jax, of which the hosts get "
      "a copy; change into one"
    )
  storage.path(pod.workdir)


if __name__ == "__main__":
  sys.exit(main())
