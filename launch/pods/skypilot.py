# SPDX-License-Identifier: Apache-2.0
"""A SkyPilot task for a TPU VM of one host.

SkyPilot copies the folder that it is started in to the machine. As a managed
job (`sky jobs launch`) it looks for another one after a preemption.
"""

from __future__ import annotations

from typing import Any

from . import manifests
from .pod import PYTHON, Pod


def write(pod: Pod) -> str:
  """Returns the task.

  Raises:
    ValueError: the slice is not one host, or there are no TPU VMs of it.
  """
  generation = pod.slice.generation
  if not generation.runtime or not pod.slice.is_one_host:
    other = "gcloud" if generation.runtime else "jobset"
    why = "has several hosts" if generation.runtime else "has no TPU VMs"
    raise ValueError(
      f"{pod.slice.type} {why}, and the SkyPilot task is for one TPU VM; type "
      f"--as={other}"
    )
  head = f"# Runs srl_jax on {pod.kind}.\n# Written by: {pod.command_line}\n"
  return head + manifests.dump(task(pod))


def task(pod: Pod) -> dict[str, Any]:
  """Returns the task as nested dicts and lists."""
  values = {k: v for k, v in pod.environment.items() if v is not None}
  variables: dict[str, Any] = {}
  if values:
    variables["envs"] = values
  if pod.secrets:
    # SkyPilot takes them from `--secret NAME`.
    variables["secrets"] = dict.fromkeys(pod.secrets)
  return {
    "name": pod.name,
    "workdir": ".",
    "resources": {
      "infra": f"gcp/{pod.region}/{pod.zone}",
      "accelerators": f"tpu-{pod.slice.type}",
      "accelerator_args": {
        "tpu_vm": True,
        "runtime_version": pod.slice.generation.runtime,
      },
      "use_spot": pod.is_spot,
    },
    **variables,
    "setup": (
      "set -e\n"
      'export PATH="$HOME/.local/bin:$PATH"\n'
      "command -v uv >/dev/null || python3 -m pip install --quiet --user uv\n"
      f"[ -d .venv ] || uv venv --quiet --python {PYTHON} .venv\n"
      "uv pip install --quiet --python .venv/bin/python -c constraints.txt "
      "-e '.[tpu,gcs]'\n"
    ),
    "run": f"{pod.run_line('.venv/bin/python')}\n",
  }
