# SPDX-License-Identifier: Apache-2.0
"""Pods: their names, and what is written for one."""

import os
import pathlib

import pytest
import yaml

from launch import pod as launch_pod
from launch.pods import gcloud, jobset, machines, manifests, skypilot

ROOT = pathlib.Path(__file__).parents[2]
LINE = {
  "--type": "v5p-16",
  "--zone": "us-east5-a",
  "--as": "gcloud",
  "--config": "experiments/registers.py",
  "--workdir": "gs://bucket/run",
}


VARIABLES = {"HF_TOKEN": None, "NOTE": "it's on"}


def line(**changes):
  flags = LINE | {f"--{k.rstrip('_')}": v for k, v in changes.items()}
  return [f"{k}={v}" for k, v in flags.items()]


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
    ({"config": "experiments/math.py:qwen2_5_7b"}, "c.data.path='data/"),
    ({"config": "experiments/math.py"}, "name the preset"),
    ({"config.srl.update_stepz": "3"}, "did you mean config.srl.update_steps?"),
    ({"as": "jobset"}, "--image="),
    (
      {"as": "jobset", "image": "x", "config": "tests/launch/own.py"},
      "the image holds the experiments of the package (",
    ),
    (
      {"config.evaluate.suites": "('exam=README.md',)"},
      "names README.md, on this machine, which the hosts do not see",
    ),
    ({"as": "skypilot"}, "v5p-16 has several hosts"),
    ({"as": "gcloud", "type": "tpu7x-8", "zone": "us-central1-c"}, "=jobset"),
    ({"join_s": "9"}, "'--join_s=9' is not understood: no option of this"),
    ({"env": "HF-TOKEN"}, "'HF-TOKEN' is no name of a variable; type --env="),
    ({"slices": 0}, "--slices=0; use 1 or more"),
    ({"slices": 2}, "--slices=2 goes with --as=jobset, and not with --as=gc"),
    ({"slices": 2, "as": "jobset", "type": "v5p-8"}, "v5p-8 is one; take a"),
    (
      {"slices": 2, "as": "jobset", "config.mesh.data": 1},
      "does not divide over 2 slices; type --config.mesh.data=2",
    ),
  ],
)
def test_bad_input_is_refused_with_what_to_type(
  changes, said, capsys, monkeypatch, tmp_path
):
  if "own.py" in changes.get("config", ""):
    own = tmp_path / "tests/launch/own.py"
    own.parent.mkdir(parents=True)
    own.write_text((ROOT / "experiments/registers.py").read_text())
    monkeypatch.chdir(tmp_path)
  assert said in refusal(capsys, *line(**changes))


@pytest.mark.parametrize(
  "config", ["registers", "math:registers", "experiments/sql.py"]
)
def test_experiments_that_need_no_file_start_by_name_or_path(
  config, capsys, tmp_path
):
  here = line(as_="jobset", image="i", config=config, name="x", out=tmp_path)
  assert launch_pod.main(here) == 0, capsys.readouterr().err
  assert f"--config={config}" in (tmp_path / "x.jobset.yaml").read_text()


def test_a_zone_that_is_not_listed_can_be_asked_for(capsys, tmp_path):
  here = line(zone="us-west4-a", out=tmp_path)
  assert launch_pod.main([*here, "--any_zone"]) == 0
  assert "in us-west4-a" in capsys.readouterr().out


def test_a_host_gets_what_installing_needs_and_the_experiment(make):
  packed = gcloud.packed(make(config="mine/new.py:preset"))
  assert packed[-1] == "mine"
  # setup.py names these folders as packages.
  assert {"srl_jax", "experiments", "launch", "setup.py"} < {*packed}
  assert all((ROOT / name).exists() for name in packed[:-1])
  assert gcloud.packed(make(config="math:qwen2_5_7b")) == packed[:-1]


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


def test_a_name_is_that_of_the_folder_and_no_other_run_is_written_over(
  capsys, tmp_path
):
  here = line(out=tmp_path, workdir="gs://b/seed_1")
  here.append("--env=NOTE=two\nlines: [x]")
  assert launch_pod.main(here) == launch_pod.main(here) == 0
  capsys.readouterr()
  file = tmp_path / "srl-seed-1.sh"
  assert file.read_text().splitlines()[3] == "#", "one line of comment"
  other = line(out=tmp_path, workdir="gs://other/seed_1")
  assert "another --workdir; type --name=NAME" in refusal(capsys, *other)
  assert "gs://other" not in file.read_text()


def test_a_pod_on_demand_asks_for_no_spot(make):
  assert "--spot" in gcloud.write(make(), "x.sh")
  assert "--spot" not in gcloud.write(make(is_spot=False), "x.sh")
  assert "spot" not in manifests.dump(jobset.manifest(make(is_spot=False)))


def test_scripts_in_manifests_are_written_as_they_read():
  text = manifests.dump({"b": {"run": "one\n  two: 'x'\n"}, "a": [{"c": "no"}]})
  assert text == "b:\n  run: |\n    one\n      two: 'x'\na:\n  - c: 'no'\n"


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
      "env": [
        {
          "name": str,
          "value": str,
          "valueFrom": {"secretKeyRef": {"name": str, "key": str}},
        }
      ],
      "resources": {"requests": {"*": int}, "limits": {"*": int}},
    }
  ],
}
JOB_SPEC = {
  "parallelism": int,
  "completions": int,
  "backoffLimit": int,
  "podFailurePolicy": {
    "rules": [
      {
        "action": str,
        "onExitCodes": {"containerName": str, "operator": str, "values": [int]},
      }
    ]
  },
  "template": {"spec": POD_SPEC},
}
JOBSET = {
  "apiVersion": str,
  "kind": str,
  "metadata": {"name": str, "annotations": {"*": str}},
  "spec": {
    "failurePolicy": {
      "maxRestarts": int,
      "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}],
    },
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


def test_the_jobset_has_the_fields_of_the_crd(make):
  found = jobset.manifest(make(environment=VARIABLES))
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
def test_the_jobset_is_valid_by_the_whole_crd(make):
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
def test_a_jobset_has_a_container_per_node_with_its_chips(
  name, nodes, chips, make
):
  found = jobset.manifest(make(slice=machines.find(name)))
  job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert job["parallelism"] == job["completions"] == nodes
  [container] = job["template"]["spec"]["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": chips}


def test_several_slices_are_as_many_jobs_of_one_set(capsys, tmp_path):
  here = line(as_="jobset", slices=2, image="i", name="x", out=tmp_path)
  here.append("--config.mesh.data=2")
  assert launch_pod.main(here) == 0
  said = capsys.readouterr().out
  assert "2 slices of v5p-16 (8 chips" in said and "--num-slices=2" in said
  text = (tmp_path / "x.jobset.yaml").read_text()
  assert "&id" not in text, "what is there twice is written twice"
  found = yaml.safe_load(text)
  [job] = found["spec"]["replicatedJobs"]
  assert job["replicas"] == 2 and job["template"]["spec"]["parallelism"] == 2
  # The nodes of one slice may come hours after those of another.
  [container] = job["template"]["spec"]["template"]["spec"]["containers"]
  assert container["command"][-1] == "--join_s=86400"
  assert "--join_s=86400" in said


def test_a_mistake_ends_a_jobset_and_other_failures_start_it_again(make):
  spec = jobset.manifest(make())["spec"]
  [rule] = spec["failurePolicy"]["rules"]
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  [policy] = job["podFailurePolicy"]["rules"]
  [container] = job["template"]["spec"]["containers"]
  codes = policy["onExitCodes"]
  assert codes["containerName"] == container["name"]
  # What `srl_jax.main` ends with: see test_the_status_tells_mistakes.
  assert codes["operator"] == "In" and codes["values"] == [2]


def test_secrets_are_named_and_their_values_in_no_file(
  capsys, tmp_path, monkeypatch
):
  monkeypatch.setenv("HF_TOKEN", "hf_secret")
  given = ["--env=HF_TOKEN", "--env=NOTE=it's on", "--name=x"]
  single = {"type": "v5e-8", "zone": "us-west4-a", "image": "i"}
  for kind in ("gcloud", "jobset", "skypilot"):
    here = line(as_=kind, out=tmp_path, **single)
    assert launch_pod.main([*here, *given]) == 0
  said = capsys.readouterr().out
  assert "sky jobs launch --yes --secret HF_TOKEN " in said
  make_it = (
    'kubectl create secret generic x --from-literal=HF_TOKEN="$HF_TOKEN"'
  )
  assert make_it in said
  assert "--env=HF_TOKEN '--env=NOTE=it'\"'\"'s on'" in said  # For xpk.
  texts = [file.read_text() for file in tmp_path.iterdir()]
  assert len(texts) == 3
  assert all("HF_TOKEN" in x and "hf_secret" not in x for x in texts)
  task = yaml.safe_load((tmp_path / "x.sky.yaml").read_text())
  assert task["envs"] == {"NOTE": "it's on"}
  assert task["secrets"] == {"HF_TOKEN": None}
  manifest = yaml.safe_load((tmp_path / "x.jobset.yaml").read_text())
  job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
  [container] = job["template"]["spec"]["containers"]
  reference = {"secretKeyRef": {"name": "x", "key": "HF_TOKEN"}}
  assert container["env"] == [
    {"name": "HF_TOKEN", "valueFrom": reference},
    {"name": "NOTE", "value": "it's on"},
  ]


def test_a_secret_without_a_value_is_said_before_anything_is_written(
  capsys, tmp_path, monkeypatch
):
  (tmp_path / "gcloud").touch(mode=0o755)
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.delenv("HF_TOKEN", raising=False)
  here = [*line(out=tmp_path / "out"), "--env=HF_TOKEN", "--go"]
  assert "type export HF_TOKEN=VALUE" in refusal(capsys, *here)
  assert not (tmp_path / "out").exists()


def test_skypilot_loads_the_task(tmp_path, make):
  sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
  file = tmp_path / "task.yaml"
  file.write_text(skypilot.write(make(slice=machines.find("v5e-8"))))
  task = sky.Task.from_yaml(str(file))
  [resources] = task.resources
  assert resources.accelerators == {"tpu-v5litepod-8": 1}
  assert resources.use_spot and resources.zone == "us-east5-a"
