# SPDX-License-Identifier: Apache-2.0
"""A queued resource of Cloud TPU, as a shell script that only calls gcloud.

The script packs the package once, from the folder that it is started in, so
that an experiment need not be published. What it starts on the hosts does not
hang on the connection: the machine that runs the script may go away, and come
back.
"""

from __future__ import annotations

import hashlib
import shlex

from .pod import PACKED, PYTHON, Pod

_SCRIPT = r"""#!/usr/bin/env bash
# Runs srl_jax on {kind}.
# Written by: {command_line}
#
#   bash {file} [VERB]
#
#   up      create, install and run, and again after a preemption; deletes the
#           pod when the run is finished. What is there already is taken up, so
#           this may be ended and started at any time. The default.
#   watch   show what host 0 prints
#   status  show the state of the pod and of the run
#   stop    let the run save, and wait for that; the pod stays
#   delete  delete the pod; the bucket keeps all of the run
set -euo pipefail

NAME={name}
ZONE={zone}
POLL_S=${{POLL_S:-20}}
# So long may a pod look well after a preemption has stopped the run.
STOPPED_S=${{STOPPED_S:-120}}
# So often a question is asked that gets no answer.
ASKS=${{ASKS:-10}}
# So often a run that fails soon after its start is started again.
TRIES=3
SOON_S=3600
# Variables of the run that have the values of this shell.
SECRETS={secrets}
INSTALL={install}
START={start}
ASK={ask}

# The package and the experiment as they were when the run was first installed,
# so that every pod runs the same. Remove it to pack this folder anew.
CODE=$(dirname "$0")/$NAME.tgz
# Secrets on their way to the hosts, for nobody else to read.
umask 077
PRIVATE=$(mktemp -d)
trap 'rm -rf "$PRIVATE"' EXIT

say() {{ echo "[pod] $*"; }}
resource() {{ gcloud compute tpus queued-resources "$@" --zone="$ZONE"; }}
# Without an ssh-agent: gcloud refuses one that lacks its key, of several hosts.
vm() {{ SSH_AUTH_SOCK="" gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }}
send() {{ vm scp "$1" "$NAME:" --worker=all --quiet; }}
on() {{ vm ssh "$NAME" --worker="$1" --command="$2"; }}

# Prints the state of the pod, NONE, or UNKNOWN if gcloud does not say.
state() {{
  local said tries
  for ((tries = 0; tries < ASKS; tries++)); do
    said=$(resource describe "$NAME" --format='value(state.state)' 2>&1) && {{
      echo "$said" | tail -n 1
      return
    }}
    case "$said" in *NOT_FOUND* | *"not found"*) echo NONE; return ;; esac
    say "$said" >&2
    sleep "$POLL_S"
  done
  echo UNKNOWN
}}

# Whether a pod in this state may still run what it runs: 75 if it was
# preempted, 1 if somebody deleted it or nobody knows.
there() {{
  case "$1" in
    SUSPENDING | SUSPENDED | FAILED) return 75 ;;
    DELETING | NONE) say "the pod was deleted"; return 1 ;;
    UNKNOWN) return 1 ;;
  esac
}}

# Tries a command so many times, as long as the pod is there.
try() {{
  local tries=$1
  shift
  until "$@"; do
    there "$(state)" || return $?
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || {{ say "gave up: $* failed"; return 1; }}
    sleep "$POLL_S"
  done
}}

# Sets `answer` to the exit status of the run, "stopped" and the status if that
# was by hand, "running", "gone" without a status, or "other" if another run is
# running there. Fails if the host does not answer.
ask() {{
  answer=$(on 0 "$ASK" 2>/dev/null | tail -n 1)
  [ -n "$answer" ]
}}

create() {{
  local tries=0
  while [ "$tries" -lt "$ASKS" ]; do
    case "$(state)" in
      # On its way out, it cannot be deleted yet, nor made anew.
      SUSPENDING | DELETING) ;;
      FAILED | SUSPENDED) tries=$((tries + 1)); delete ;;
      NONE)
        tries=$((tries + 1))
        say "asking for {type} in $ZONE"
        resource create "$NAME" --node-id="$NAME" --accelerator-type={type} \
          --runtime-version={runtime}{spot} --quiet && return 0 ;;
      UNKNOWN) return 1 ;;
      *) return 0 ;;
    esac
    sleep "$POLL_S"
  done
  return 1
}}

wait_until_active() {{
  local now before=""
  while now=$(state); [ "$now" != ACTIVE ]; do
    [ "$now" = "$before" ] || say "the pod is $now"
    before=$now
    [ "$now" != FAILED ] || {{ resource describe "$NAME"; return 1; }}
    there "$now" || return $?
    sleep "$POLL_S"
  done
  say "the pod is ACTIVE"
}}

install() {{
  if [ ! -e "$CODE" ]; then
    tar -czf "$CODE.new" --exclude=__pycache__ {packed} &&
      mv "$CODE.new" "$CODE" || return 1
  fi
  send "$CODE" && on all "$INSTALL"
}}

# Starts the run on all hosts; what runs there ends. A command line is logged,
# by gcloud too, so secrets go in a file, which the hosts read and remove.
start() {{
  local name
  if [ -n "$SECRETS" ]; then
    for name in $SECRETS; do
      printf 'export %s=%q\n' "$name" "${{!name}}"
    done > "$PRIVATE/$NAME.env"
    send "$PRIVATE/$NAME.env" || return 1
  fi
  on all "$START"
}}

# Returns the exit status of the run, or 75 if it should be started again.
follow() {{
  local ended="" began=$SECONDS
  while true; do
    there "$(state)" || return $?
    try "$ASKS" ask || return $?
    case "$answer" in
      running) ;;
      "stopped "*) return "${{answer#stopped }}" ;;
      1 | 130 | 134 | 137 | 139 | 143)
        # By a signal, as when a host restarts, by a preemption that shows a
        # little later, because another host ended first, or by what may pass.
        [ -n "$ended" ] || say "the run ended with status $answer"
        : "${{ended:=$SECONDS}}"
        if [ $((SECONDS - ended)) -ge "$STOPPED_S" ]; then
          case "$answer" in 130 | 143) return 75 ;; esac
          [ $((ended - began)) -lt "$SOON_S" ] || failures=0
          failures=$((failures + 1))
          [ "$failures" -le "$TRIES" ] || return "$answer"
          return 75
        fi ;;
      [0-9]*) return "$answer" ;;
      other) busy ;;
      *) return 75 ;;
    esac
    sleep "$POLL_S"
  done
}}

# Marks a run, so that nothing starts it again, and waits for its end.
stop() {{
  on all 'cd {folder} && touch stopped; kill -TERM -- "-$(cat pid)" || true'
  say "the run saves and ends"
  answer=running
  while [ "$answer" = running ]; do
    sleep "$POLL_S"
    try "$ASKS" ask || return $?
  done
  say "the run: $answer"
}}

delete() {{
  say "deleting $NAME"
  resource delete "$NAME" --force --quiet
}}

busy() {{
  say "another run is running on $NAME; write this script again with a"
  say "--name of its own, or let that one end: bash {file} stop"
  exit 2
}}

# Once from the pod to the end of the run, with the status of `follow`.
attempt() {{
  create || return 1
  wait_until_active || return $?
  # A run that is there must not be started over because of a lost question.
  try "$ASKS" ask || return $?
  case "$answer" in
    running | 0) ;;
    other) busy ;;
    *)
      # A host that was restarted takes minutes.
      try "$ASKS" on all true || return $?
      say "installing $CODE"
      try 2 install || return $?
      say "starting the run"
      # One host of many may have been out of reach.
      try "$ASKS" start || return $? ;;
  esac
  follow
}}

up() {{
  local name status failures=0  # In a row; `follow` counts them.
  for name in $SECRETS; do
    [ -n "${{!name:-}}" ] || {{ say "type: export $name=VALUE"; return 2; }}
  done
  while true; do
    status=0
    attempt || status=$?
    [ "$status" = 75 ] || break
    say "going on from the last checkpoint"
    sleep "$POLL_S"
  done
  if [ "$status" = 0 ]; then
    say "the run is finished; all of it is in {workdir}"
    rm -f "$CODE"
    delete
    return 0
  fi
  on 0 'tail -n 20 {folder}/log' 2>/dev/null || true
  say "ended with status $status. If the pod is there, it costs money:"
  say "bash {file} (to go on; with other code, remove $CODE first),"
  say "or bash {file} delete"
  return "$status"
}}

case "${{1:-up}}" in
  up) up ;;
  watch) on 0 'tail -n 100 -F {folder}/log' ;;
  status)
    ASKS=1
    say "the pod is $(state)"
    ask || answer="no answer"
    say "the run: $answer" ;;
  stop) stop ;;
  delete) delete ;;
  *) say "unknown: $1; one of up, watch, status, stop, delete"; exit 2 ;;
esac
"""


def write(pod: Pod, file: str) -> str:
  """Returns the script.

  Args:
    pod: the run and its pod.
    file: name of the script, for its own messages.

  Raises:
    ValueError: the generation is to be had with Kubernetes only.
  """
  generation = pod.slice.generation
  if not generation.runtime:
    raise ValueError(
      f"{pod.slice.type} has no TPU VMs, only nodes of GKE; type --as=jobset"
    )
  return _SCRIPT.format(
    kind=pod.kind,
    command_line=pod.command_line,
    file=shlex.quote(file),
    name=pod.name,
    zone=pod.zone,
    type=pod.slice.type,
    runtime=generation.runtime,
    spot=" --spot" if pod.is_spot else "",
    secrets=shlex.quote(" ".join(pod.secrets)),
    install=shlex.quote(_install(pod)),
    start=shlex.quote(_start(pod)),
    ask=shlex.quote(_ask(pod)),
    packed=shlex.join(packed(pod)),
    workdir=pod.workdir,
    folder=pod.name,
  )


def packed(pod: Pod) -> list[str]:
  """Returns what goes to the hosts, as paths in the repository."""
  folder = pod.config.partition(":")[0].rpartition("/")[0]
  is_inside = not folder or folder.partition("/")[0] in {*PACKED, *pod.own}
  return [*PACKED, *pod.own, *([] if is_inside else [folder])]


def _install(pod: Pod) -> str:
  # The Python of a TPU VM's Ubuntu is older than the package allows.
  return (
    f"set -e; mkdir -p {pod.name}; tar -xzf {pod.name}.tgz -C {pod.name}; "
    f'cd {pod.name}; export PATH="$HOME/.local/bin:$PATH"; '
    "command -v uv >/dev/null || python3 -m pip install --quiet --user uv; "
    f"[ -d .venv ] || uv venv --quiet --python {PYTHON} .venv; "
    "uv pip install --quiet --python .venv/bin/python -c constraints.txt "
    "-e '.[tpu,gcs]'"
  )


def _start(pod: Pod) -> str:
  run = pod.run_line(".venv/bin/python")
  secrets = f"../{pod.name}.env"
  exports = "".join(
    f"export {name}={shlex.quote(value)}; "
    for name, value in pod.environment.items()
    if value is not None
  )
  # In a session of its own, it outlives the connection, and can be stopped
  # with all of its processes. The shell there waits to note the status, so a
  # signal to the session must not end it.
  inner = f"trap : TERM INT; {run}; echo $? > status"
  return (
    f"{exports}cd {pod.name} || exit 1; "
    f"[ ! -f {secrets} ] || {{ . {secrets}; rm {secrets}; }}; "
    '[ ! -s pid ] || kill -KILL -- "-$(cat pid)" 2>/dev/null; '
    'rm -f status stopped; [ ! -f log ] || mv log "log.$(date +%s)"; '
    f"echo {_digest(pod)} > run; "
    f"setsid nohup bash -c {shlex.quote(inner)} > log 2>&1 < /dev/null & "
    "echo $! > pid"
  )


def _ask(pod: Pod) -> str:
  same = f'[ "$(cat run 2>/dev/null)" = {_digest(pod)} ]'
  return (
    f"cd {pod.name} 2>/dev/null || {{ echo gone; exit; }}; "
    f"if [ -s status ]; then if {same}; then "
    '[ ! -f stopped ] || [ "$(cat status)" = 0 ] || printf "stopped "; '
    "cat status; else echo gone; fi; "
    'elif kill -0 "$(cat pid)" 2>/dev/null; then '
    f"if {same}; then echo running; else echo other; fi; "
    "else echo gone; fi"
  )


def _digest(pod: Pod) -> str:
  """Tells the runs apart that scripts of one name start."""
  text = f"{pod.run_line()} {sorted(pod.environment.items())}"
  return hashlib.sha256(text.encode()).hexdigest()[:16]
