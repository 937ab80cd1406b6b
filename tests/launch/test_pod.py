# SPDX-License-Identifier: Apache-2.0
"""Pods: what is written for one, and a pod from its creation to its end."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

from launch import pod as launch_pod
from launch.pods import gcloud, jobset, machines, skypilot, yaml
from launch.pods import pod as pods

ROOT = pathlib.Path(__file__).parents[2]
LINE = {
  "--type": "v5p-16",
  "--zone": "us-east5-a",
  "--as": "gcloud",
  "--config": "experiments/registers.py",
  "--workdir": "gs://bucket/run",
}


def line(**changes):
  flags = LINE | {f"--{k.rstrip('_')}": v for k, v in changes.items()}
  return [f"{k}={v}" for k, v in flags.items()]


def make(**changes):
  about = {
    "name": "srl-test",
    "slice": machines.find("v5p-128"),
    "zone": "us-east5-a",
    "config": "experiments/registers.py",
    "overrides": ("--config.note=it's on",),
    "workdir": "gs://bucket/run",
    "is_spot": True,
    "image": "registry/srl_jax",
    "command_line": "python -m launch.pod",
  }
  return pods.Pod(**about | changes)


@pytest.mark.parametrize(
  ("name", "chips", "topology"),
  [
    ("v5litepod-8", 8, "v5e:2x4"),
    ("v5e-64", 64, "v5e:8x8"),
    ("v6e-64", 64, "v6e:8x8"),
    # These names count TensorCores, two in a chip.
    ("v5p-8", 4, "v5p:2x2x1"),
    ("v5p-128", 64, "v5p:4x4x4"),
    ("tpu7x-128", 64, "tpu7x:4x4x4"),
  ],
)
def test_a_name_stands_for_chips_in_a_topology(name, chips, topology):
  found = machines.find(name)
  assert (found.chips, found.compiler_topology) == (chips, topology)


def test_a_chip_of_tpu7x_is_two_devices():
  assert machines.find("tpu7x-128").devices == 128
  assert machines.find("v5p-128").devices == 64


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("v5litpod-8", r"did you mean v5litepod-8\?.*counts chips"),
    ("v5p-127", r"did you mean v5p-128\?.*counts TensorCores.*64, 128, 256"),
    ("v6e-12", r"did you mean v6e-8\?"),
    ("v5p128", r"did you mean v5p-128\?"),
    ("h100", r"names are a generation and a number, as in v5litepod-1, v5p-8"),
  ],
)
def test_a_type_with_a_typing_error_is_named_with_the_nearest(name, said):
  with pytest.raises(ValueError, match=said) as got:
    machines.find(name)
  assert "\n" not in str(got.value)


def refusal(capsys, *arguments):
  assert launch_pod.main(arguments) == 1
  said = capsys.readouterr().err
  assert said.startswith("error: ") and said.count("\n") == 1
  return said


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"type": "v5pp-128"}, "did you mean v5p-128?"),
    ({"zone": "us-west4-a"}, "take one of us-central1-a, us-east1-d"),
    ({"zone": "us-east5"}, "is no zone, which looks like us-east5-a"),
    ({"workdir": "/tmp/run"}, "would end with the pod; give gs://"),
    ({"name": "My_Pod"}, "small letters, digits and hyphens"),
    ({"config": "experiments/none.py"}, "there is no file"),
    ({"config": "/x/y.py"}, "give the experiment by its path in it"),
    ({"config": "experiments/math.py:qwen2_5_7b"}, "gcloud storage cp -r data"),
    ({"config.srl.update_stepz": "3"}, "did you mean config.srl.update_steps?"),
    ({"as": "jobset"}, "--image="),
    ({"as": "skypilot"}, "v5p-16 has several hosts"),
    ({"as": "gcloud", "type": "tpu7x-8", "zone": "us-central1-c"}, "=jobset"),
  ],
)
def test_bad_input_is_refused_with_what_to_type(changes, said, capsys):
  assert said in refusal(capsys, *line(**changes))


def test_a_zone_that_is_not_listed_can_be_asked_for(capsys, tmp_path):
  here = line(zone="us-west4-a", out=tmp_path)
  assert launch_pod.main([*here, "--any_zone"]) == 0
  assert "in us-west4-a" in capsys.readouterr().out


def test_without_the_tool_nothing_is_written(capsys, tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", "")
  here = [*line(out=tmp_path), "--go"]
  assert "gcloud is not installed" in refusal(capsys, *here)
  assert not list(tmp_path.iterdir())


def test_what_is_written_says_how_to_run_it(capsys, tmp_path):
  assert launch_pod.main([*line(out=tmp_path), "--name=srl-x"]) == 0
  said = capsys.readouterr().out
  assert f"to run it: bash {tmp_path}/srl-x.sh" in said
  text = (tmp_path / "srl-x.sh").read_text()
  assert "v5p-16 (8 chips, 2x2x2, spot) in us-east5-a" in text


def test_a_pod_on_demand_asks_for_no_spot():
  assert "--spot" in gcloud.write(make(), "x.sh")
  assert "--spot" not in gcloud.write(make(is_spot=False), "x.sh")
  assert "spot" not in yaml.dump(jobset.manifest(make(is_spot=False)))


def test_yaml_is_read_back_as_it_was():
  library = pytest.importorskip("yaml")
  value = {
    "plain": "a.b/c-d",
    "cloud/x": ["yes", "4x4x4", "1", "", "a: b", "# c", "--d=e 'f'", "null"],
    "nested": {"list": [{"a": 1, "b": [True, None, 1.5]}, {"c": {"d": "e"}}]},
    "block": "one\n  two\n\nthree: 'x'\n",
    "empty": [],
  }
  assert library.safe_load(yaml.dump(value)) == value


# What a JobSet may have, of the fields that are used: all of them, with their
# types, after kubernetes-sigs/jobset at commit 08dfbdf and batch/v1. The
# cluster drops a field with a typing error without a word.
POD_SPEC = {
  "nodeSelector": {"*": str},
  "tolerations": [
    {"key": str, "operator": str, "value": str, "effect": str},
  ],
  "restartPolicy": str,
  "terminationGracePeriodSeconds": int,
  "containers": [
    {
      "name": str,
      "image": str,
      "command": [str],
      "resources": {"requests": {"*": int}, "limits": {"*": int}},
    }
  ],
}
JOB_SPEC = {
  "parallelism": int,
  "completions": int,
  "backoffLimit": int,
  "template": {"spec": POD_SPEC},
}
JOBSET = {
  "apiVersion": str,
  "kind": str,
  "metadata": {"name": str, "annotations": {"*": str}},
  "spec": {
    "failurePolicy": {"maxRestarts": int},
    "replicatedJobs": [
      {"name": str, "replicas": int, "template": {"spec": JOB_SPEC}}
    ],
  },
}


def faults(schema, value, path="jobset"):
  """What of a value is not as the schema has it."""
  if isinstance(schema, type):
    if not isinstance(value, schema):
      yield f"{path}={value!r} is no {schema.__name__}"
  elif isinstance(schema, list):
    for index, inner in enumerate(value):
      yield from faults(schema[0], inner, f"{path}[{index}]")
  else:
    for key, inner in value.items():
      if key not in schema and "*" not in schema:
        yield f"{path} has no field {key}"
      else:
        of_key = schema.get(key, schema.get("*"))
        yield from faults(of_key, inner, f"{path}.{key}")


def test_the_jobset_has_the_fields_of_the_crd():
  found = jobset.manifest(make())
  assert not list(faults(JOBSET, found))
  job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
  job["paralelism"] = 1
  [fault] = faults(JOBSET, found)
  assert fault.endswith("has no field paralelism")


@pytest.mark.skipif(
  "JOBSET_CRD" not in os.environ,
  reason="JOBSET_CRD names no jobset.x-k8s.io_jobsets.yaml (github.com/"
  "kubernetes-sigs/jobset, config/components/crd/bases)",
)
def test_the_jobset_is_valid_by_the_whole_crd():
  library, jsonschema = map(pytest.importorskip, ("yaml", "jsonschema"))
  crd = library.safe_load(pathlib.Path(os.environ["JOBSET_CRD"]).read_text())
  [version] = [x for x in crd["spec"]["versions"] if x["name"] == "v1alpha2"]
  schema = version["schema"]["openAPIV3Schema"]

  def close(node):
    if isinstance(node, dict):
      if node.pop("x-kubernetes-int-or-string", None):
        node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
      if "properties" in node:
        node.setdefault("additionalProperties", False)
    inner = node.values() if isinstance(node, dict) else node
    for x in inner if isinstance(node, (dict, list)) else ():
      close(x)

  close(schema)
  schema["properties"]["metadata"] = {"type": "object"}
  for name in ("v5p-128", "v6e-8", "tpu7x-128"):
    found = library.safe_load(jobset.write(make(slice=machines.find(name))))
    jsonschema.Draft7Validator(schema).validate(found)


@pytest.mark.parametrize(
  ("name", "nodes", "chips"),
  # Machines of GKE have 4 chips, or all of a slice of one host.
  [("v5p-128", 16, 4), ("v5e-8", 1, 8), ("v6e-64", 16, 4), ("v5e-1", 1, 1)],
)
def test_a_jobset_has_a_container_per_node_with_its_chips(name, nodes, chips):
  found = jobset.manifest(make(slice=machines.find(name)))
  job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert job["parallelism"] == job["completions"] == nodes
  [container] = job["template"]["spec"]["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": chips}


def test_skypilot_loads_the_task(tmp_path):
  sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
  file = tmp_path / "task.yaml"
  file.write_text(skypilot.write(make(slice=machines.find("v5e-8"))))
  task = sky.Task.from_yaml(str(file))
  [resources] = task.resources
  assert resources.accelerators == {"tpu-v5litepod-8": 1}
  assert resources.use_spot and resources.zone == "us-east5-a"


# Stands in for the package on a host: counts steps in a file that outlives it,
# saves on SIGTERM, and fails or is lost where it is told to.
RUN = """
import os, pathlib, signal, sys, time
assert sys.argv[1:3] == ["-m", "srl_jax.main"], sys.argv
assert pathlib.Path("experiments/registers.py").is_file()
flags = dict(x[2:].split("=", 1) for x in sys.argv[3:])
bucket = pathlib.Path(os.environ["FAKE_GCLOUD"], "bucket")
bucket.mkdir(exist_ok=True)
me = int(flags["process_id"])
(bucket / f"host-{me}").write_text(flags["num_processes"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
saved = bucket / "steps"
first = len(saved.read_text().splitlines()) if saved.exists() else 0
print("note:", flags["config.note"], "from", first, flush=True)
if os.environ.get("FAKE_RUN") == "error":
  sys.exit(1)
for step in range(first, 12):
  time.sleep(0.1)
  if me == 0:
    with saved.open("a") as file:
      file.write(f"{step}\\n")
"""


def commands(cloud):
  lines = (cloud / "commands.jsonl").read_text().splitlines()
  return [json.loads(x) for x in lines]


@pytest.fixture
def cloud(fake_cloud, tmp_path, monkeypatch):
  """A cloud whose hosts run a stand-in for the package."""
  run = tmp_path / "run.py"
  run.write_text(RUN)
  python = tmp_path / "tools/host_python"
  # Without site-packages, which would take half of the time.
  python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {run} "$@"\n')
  python.chmod(0o755)
  monkeypatch.setenv("FAKE_PYTHON", str(python))
  return fake_cloud


def script(cloud, **changes):
  file = cloud.parent / "pod.sh"
  file.write_text(gcloud.write(make(**changes), "pod.sh"))
  return file


def start(file, *verb):
  return subprocess.Popen(
    ["bash", str(file), *verb],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=ROOT,
  )


def end(process):
  output, _ = process.communicate(timeout=60)
  return process.returncode, output


def wait_for(file, lines=1):
  end_s = time.monotonic() + 60
  while not file.exists() or len(file.read_text().splitlines()) < lines:
    assert time.monotonic() < end_s, f"{file} did not come"
    time.sleep(0.05)


def test_a_pod_is_made_runs_is_preempted_goes_on_and_is_deleted(cloud):
  process = start(script(cloud))
  wait_for(cloud / "bucket/steps", 3)
  subprocess.run(["gcloud", "preempt", "srl-test"], check=True)
  status, output = end(process)
  assert status == 0, output
  steps = (cloud / "bucket/steps").read_text().splitlines()
  assert steps == [str(x) for x in range(12)], "each step once"
  # Two pods, of two hosts each, and nothing is left of them.
  verbs = [words[3] for words in commands(cloud) if words[0] == "compute"]
  assert verbs.count("create") == 2 and verbs[-1] == "delete"
  assert (cloud / "bucket/host-1").read_text() == "2"
  assert not list((cloud / "hosts").iterdir())
  assert "preempted; the next pod goes on" in output
  asked = [x for x in commands(cloud) if x[3:4] == ["create"]]
  assert asked[0] == asked[1]
  flags = dict(re.findall(r"--([\w-]+)=(\S+)", " ".join(asked[0])))
  assert flags == {
    "node-id": "srl-test",
    "accelerator-type": "v5p-128",
    "runtime-version": "v2-alpha-tpuv5",
    "zone": "us-east5-a",
  }
  assert "--spot" in asked[0]
  # Quotes in an override came through two shells.
  [log] = cloud.glob("log-0-*")
  assert "note: it's on from 0" in log.read_text()


def test_a_run_that_fails_ends_with_its_status_and_the_pod_stays(
  cloud, monkeypatch
):
  monkeypatch.setenv("FAKE_RUN", "error")
  status, output = end(start(script(cloud)))
  assert status == 1
  assert "note: it's on from 0" in output, "the end of the log"
  assert "ended with status 1. If the pod is there, it costs money" in output
  assert [x[3] for x in commands(cloud)].count("create") == 1
  # The same script deletes it.
  assert end(start(cloud.parent / "pod.sh", "delete"))[0] == 0
  assert not list((cloud / "resources").glob("*.json"))


@pytest.mark.slow
def test_a_script_that_was_killed_takes_up_the_run_where_it_is(cloud):
  process = start(script(cloud))
  wait_for(cloud / "bucket/steps", 2)
  process.kill()
  process.communicate()
  status, output = end(start(cloud.parent / "pod.sh"))
  assert status == 0, output
  steps = (cloud / "bucket/steps").read_text().splitlines()
  assert steps == [str(x) for x in range(12)]
  assert "installing" not in output and "asking for" not in output


@pytest.mark.slow
def test_a_run_that_is_stopped_by_hand_is_not_started_again(cloud):
  process = start(script(cloud))
  wait_for(cloud / "bucket/steps", 2)
  assert end(start(cloud.parent / "pod.sh", "stop"))[0] == 0
  status, output = end(process)
  assert status == 143, output
  assert "preempted" not in output
  _, said = end(start(cloud.parent / "pod.sh", "status"))
  assert "the pod is ACTIVE" in said and "the run: 143" in said
  end(start(cloud.parent / "pod.sh", "delete"))


def test_what_gcloud_refuses_is_shown_and_ends_the_script(cloud, monkeypatch):
  monkeypatch.setenv("FAKE_GCLOUD_FAILS", "PERMISSION_DENIED: log in first")
  status, output = end(start(script(cloud)))
  assert status == 1
  assert "PERMISSION_DENIED: log in first" in output
