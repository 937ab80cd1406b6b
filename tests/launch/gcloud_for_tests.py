# SPDX-License-Identifier: Apache-2.0
"""Stands in for gcloud: the hosts of a pod are folders and processes here.

  python gcloud_for_tests.py compute tpus queued-resources create NAME ...
  python gcloud_for_tests.py preempt NAME

It understands the verbs and flags that the scripts of launch.pod use, and
refuses others as gcloud does. A host's home is a folder below $FAKE_GCLOUD, its
`uv` makes an environment whose Python is this one, and where a run asks for its
pod (--multi_host) it gets what launch.local would say. `preempt` is what Google
does to a spot pod: SIGTERM, some seconds, and all of it is gone.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from launch import local

ROOT = pathlib.Path(os.environ["FAKE_GCLOUD"])
HOSTS = int(os.environ.get("FAKE_HOSTS", "2"))
# Seconds between SIGTERM and the end; a real pod has 30.
GRACE_S = float(os.environ.get("FAKE_GRACE_S", "20"))
WAY = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
UV = """#!/bin/bash
case "$1" in
  venv) mkdir -p .venv/bin && cp "$HOME/bin/host_python" .venv/bin/python ;;
  pip) [ -f constraints.txt ] && [ -f setup.py ] && [ -x .venv/bin/python ] ;;
  *) exit 2 ;;
esac
"""
PYTHON = """#!/bin/bash
words=()
for word in "$@"; do
  case "$word" in
    --multi_host) words+=({flags}) ;;
    *) words+=("$word") ;;
  esac
done
exec {python} "${{words[@]}}"
"""


def fail(message):
  sys.exit(f"ERROR: (gcloud) {message}")


def resource(name):
  return ROOT / "resources" / f"{name}.json"


def read(name, zone):
  if not resource(name).exists():
    fail(f"NOT_FOUND: Resource '{name}' was not found")
  found = json.loads(resource(name).read_text())
  if found["zone"] != zone:
    fail(f"NOT_FOUND: Resource '{name}' was not found in {zone}")
  return found


def write(name, found):
  # Whole or not at all: the script asks while a preemption goes on.
  draft = resource(name).with_suffix(".draft")
  draft.write_text(json.dumps(found))
  os.replace(draft, resource(name))


def hosts(node):
  return sorted((ROOT / "hosts" / node).glob("*"))


def log(words):
  with open(ROOT / "commands.jsonl", "a") as file:
    file.write(json.dumps(words) + "\n")


def create(options):
  resource(options.name).parent.mkdir(parents=True, exist_ok=True)
  if resource(options.name).exists():
    fail(f"ALREADY_EXISTS: Resource '{options.name}' already exists")
  found = {k: v for k, v in vars(options).items() if k != "act"}
  write(options.name, found | {"state": WAY[0]})


def make_hosts(node):
  lines = local.command_lines(["run"], HOSTS)
  for index, line in enumerate(lines):
    home = ROOT / "hosts" / node / str(index)
    (home / "bin").mkdir(parents=True)
    python = PYTHON.format(flags=" ".join(line[1:]), python=PYTHON_HERE)
    for name, text in (("uv", UV), ("host_python", python)):
      (home / "bin" / name).write_text(text)
      (home / "bin" / name).chmod(0o755)


PYTHON_HERE = os.environ.get("FAKE_PYTHON", sys.executable)


def describe(options):
  found = read(options.name, options.zone)
  if options.format:
    print(found["state"])
  else:
    print(json.dumps(found))
  if found["state"] in WAY[:-1]:
    found["state"] = WAY[WAY.index(found["state"]) + 1]
    write(options.name, found)
    if found["state"] == "ACTIVE":
      make_hosts(found["node_id"])


def sessions(node):
  """The sessions that were started on the hosts, by their process ids."""
  for home in hosts(node):
    for file in home.glob("*/pid"):
      with contextlib.suppress(ValueError):
        yield int(file.read_text())


def signal_all(node, number):
  for pid in sessions(node):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(pid, number)


def are_running(node):
  for pid in sessions(node):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(pid, 0)
      return True
  return False


def remove_hosts(node):
  signal_all(node, signal.SIGKILL)
  end_s = time.monotonic() + 10
  while are_running(node) and time.monotonic() < end_s:
    time.sleep(0.05)
  shutil.rmtree(ROOT / "hosts" / node, ignore_errors=True)


def delete(options):
  found = read(options.name, options.zone)
  if found["state"] == "ACTIVE" and not options.force:
    fail("INVALID_ARGUMENT: the resource is ACTIVE; use --force")
  remove_hosts(found["node_id"])
  resource(options.name).unlink()


def preempt(options):
  found = json.loads(resource(options.name).read_text())
  node = found["node_id"]
  if not found["spot"]:
    fail("only spot pods are preempted")
  signal_all(node, signal.SIGTERM)
  end_s = time.monotonic() + GRACE_S
  while are_running(node) and time.monotonic() < end_s:
    time.sleep(0.05)
  write(options.name, found | {"state": "SUSPENDING"})
  for home in hosts(node):
    for file in home.glob("*/log"):
      shutil.copy(file, ROOT / f"log-{home.name}-{time.time_ns()}")
  remove_hosts(node)
  write(options.name, found | {"state": "SUSPENDED"})


def chosen(node, worker):
  found = hosts(node)
  if not found:
    fail(f"NOT_FOUND: no node {node}")
  return found if worker == "all" else [found[int(worker)]]


def ssh(options):
  lost = ROOT / "lost"
  if os.environ.get("FAKE_LOST") and not lost.exists():
    lost.touch()
    sys.exit(255)
  if os.environ.get("SSH_AUTH_SOCK"):
    fail("SSHKeyNotInAgent: the agent lacks the key of gcloud")
  homes = chosen(options.node, options.worker)
  unreached = ROOT / "unreached"
  if os.environ.get("FAKE_UNREACHED") and "setsid" in options.command:
    homes = homes if unreached.exists() else homes[:1]
  started = [
    subprocess.Popen(
      ["bash", "-c", options.command],
      cwd=home,
      env={k: v for k, v in os.environ.items() if k != "HF_TOKEN"}
      | {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"},
      stdin=subprocess.DEVNULL,
    )
    for home in homes
  ]
  status = max(process.wait() for process in started)
  if len(homes) < len(chosen(options.node, options.worker)):
    unreached.touch()
    sys.exit(255)
  sys.exit(status)


def scp(options):
  node, _, target = options.to.partition(":")
  for home in chosen(node, options.worker):
    shutil.copy(options.source, home / target)


def parser():
  top = argparse.ArgumentParser(prog="gcloud", allow_abbrev=False)
  verbs = top.add_subparsers(required=True)

  def verb(act, names, *, needs=(), may=(), flags=()):
    sub = verbs.add_parser(act.__name__, allow_abbrev=False)
    sub.set_defaults(act=act)
    for name in names:
      sub.add_argument(name)
    for name in needs:
      sub.add_argument(f"--{name}", required=True)
    for name in may:
      sub.add_argument(f"--{name}")
    for name in flags:
      sub.add_argument(f"--{name}", action="store_true")

  node = ("zone", "node-id", "accelerator-type", "runtime-version")
  verb(create, ["name"], needs=node, flags=("spot", "quiet"))
  verb(describe, ["name"], needs=("zone",), may=("format",))
  verb(delete, ["name"], needs=("zone",), flags=("force", "quiet"))
  verb(ssh, ["node"], needs=("zone", "worker", "command"))
  verb(scp, ["source", "to"], needs=("zone", "worker"), flags=("quiet",))
  verb(preempt, ["name"])
  return top


GROUPS = {
  "create": "queued-resources",
  "describe": "queued-resources",
  "delete": "queued-resources",
  "ssh": "tpu-vm",
  "scp": "tpu-vm",
}


def fail_at_first(words):
  """Fails as often as $FAKE_FAILS says, as "WORD TIMES"."""
  word, _, times = os.environ.get("FAKE_FAILS", "").partition(" ")
  failed = ROOT / "failed"
  before = len(failed.read_text()) if failed.exists() else 0
  if word in words and before < int(times):
    failed.write_text("x" * (before + 1))
    fail(f"{word}: network is unreachable")


def main():
  words = sys.argv[1:]
  ROOT.mkdir(parents=True, exist_ok=True)
  log(words)
  if os.environ.get("FAKE_GCLOUD_FAILS"):
    fail(os.environ["FAKE_GCLOUD_FAILS"])
  if words[:1] != ["preempt"]:
    if words[:2] != ["compute", "tpus"] or GROUPS.get(words[3]) != words[2]:
      fail(f"Invalid choice: {' '.join(words)}")
    words = words[3:]
    fail_at_first(words)
  options = parser().parse_args(words)
  options.act(options)


if __name__ == "__main__":
  main()
