# SPDX-License-Identifier: Apache-2.0
"""A JobSet manifest for GKE, which starts one container per host of a slice.

GKE tells each container its place (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES, and of
several slices MEGASCALE_SLICE_ID and others), so the run finds its hosts as on
a TPU VM. JobSet starts all of them again when one fails or its node is taken
away.
"""

from __future__ import annotations

import shlex
from typing import Any

from . import manifests
from .pod import Pod

# A preemption is a failure like others; it must not end a run of some days.
_MAX_RESTARTS = 100
# To save when it is deleted by hand. At a preemption GKE gives less.
_SAVE_S = 120
# Nodes of a slice may come hours after those of another. A host that gives up
# waiting would use up a restart.
_JOIN_S = 86_400
_CONTAINER = "srl-jax"
# The status of `srl_jax.main` for errors that would come again.
MISTAKE = 2
_LABELS = "cloud.google.com/gke-"


def write(pod: Pod) -> str:
  """Returns the manifest.

  Raises:
    ValueError: no image is named.
  """
  if not pod.image:
    raise ValueError(
      "--as=jobset needs an image with the package; build one from "
      "launch/docker/tpu.Dockerfile, push it, and type "
      "--image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/srl_jax"
    )
  head = (
    f"# Runs srl_jax on {pod.kind}.\n"
    f"# Written by: {pod.command_line}\n"
    "# The cluster needs the JobSet controller (https://jobset.sigs.k8s.io)\n"
    f"# and nodes of {_machine(pod)}, in topology {pod.slice.topology}.\n"
  )
  return head + manifests.dump(manifest(pod))


def _machine(pod: Pod) -> str:
  return pod.slice.generation.gke_machines[pod.slice.node_chips]


def manifest(pod: Pod) -> dict[str, Any]:
  """Returns the manifest as nested dicts and lists."""
  nodes = pod.slice.chips // pod.slice.node_chips
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {
      "name": pod.name,
      "annotations": {
        # Each slice of nodes for one job, and no other job on it.
        "alpha.jobset.sigs.k8s.io/exclusive-topology": f"{_LABELS}nodepool"
      },
    },
    "spec": {
      "failurePolicy": {
        "maxRestarts": _MAX_RESTARTS,
        "rules": [
          {
            "name": "mistake",
            "action": "FailJobSet",
            "onJobFailureReasons": ["PodFailurePolicy"],
          }
        ],
      },
      "replicatedJobs": [
        {
          "name": "slice",
          "replicas": pod.slices,
          "template": {
            "spec": {
              "parallelism": nodes,
              "completions": nodes,
              "backoffLimit": 0,
              # Of all failures, these alone would come again.
              "podFailurePolicy": {
                "rules": [
                  {
                    "action": "FailJob",
                    "onExitCodes": {
                      "containerName": _CONTAINER,
                      "operator": "In",
                      "values": [MISTAKE],
                    },
                  }
                ]
              },
              "template": {"spec": _host(pod)},
            }
          },
        }
      ],
    },
  }


def _host(pod: Pod) -> dict[str, Any]:
  selector = {
    f"{_LABELS}tpu-accelerator": pod.slice.generation.gke_accelerator,
    f"{_LABELS}tpu-topology": pod.slice.topology,
  }
  spot = {}
  if pod.is_spot:
    selector[f"{_LABELS}spot"] = "true"
    spot["tolerations"] = [
      {
        "key": f"{_LABELS}spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoSchedule",
      }
    ]
  chips = {"google.com/tpu": pod.slice.node_chips}
  environment = {}
  if pod.environment:
    environment["env"] = [
      _variable(pod, name, value) for name, value in pod.environment.items()
    ]
  return {
    "nodeSelector": selector,
    **spot,
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": _SAVE_S,
    "containers": [
      {
        "name": _CONTAINER,
        "image": pod.image,
        "command": _words(pod),
        **environment,
        "resources": {"requests": chips, "limits": chips},
      }
    ],
  }


def _words(pod: Pod) -> list[str]:
  return [*pod.run_words(), f"--join_s={_JOIN_S}"]


def _variable(pod: Pod, name: str, value: str | None) -> dict[str, Any]:
  if value is not None:
    return {"name": name, "value": value}
  # The secret of `secret_line`.
  return {
    "name": name,
    "valueFrom": {"secretKeyRef": {"name": pod.name, "key": name}},
  }


def secret_line(pod: Pod) -> str:
  """What makes the secret that the manifest reads, for a shell."""
  values = " ".join(f'--from-literal={x}="${x}"' for x in pod.secrets)
  return f"kubectl create secret generic {pod.name} {values}"


def xpk_line(pod: Pod) -> str:
  """The same with xpk, which writes the manifest itself."""
  return shlex.join(
    [
      *("xpk", "workload", "create", "--cluster=CLUSTER"),
      f"--workload={pod.name}",
      f"--tpu-type={pod.slice.type}",
      f"--num-slices={pod.slices}",
      f"--max-restarts={_MAX_RESTARTS}",
      # Not of a mistake; by default, only signals are.
      "--restart-on-exit-codes=1",
      f"--zone={pod.zone}",
      f"--docker-image={pod.image}",
      *(
        f"--env={name}" if value is None else f"--env={name}={value}"
        for name, value in pod.environment.items()
      ),
      f"--command={shlex.join(_words(pod))}",
    ]
  )
