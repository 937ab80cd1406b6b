# SPDX-License-Identifier: Apache-2.0
"""The command: what it does first, and the status that it ends with."""

import errno
import sys

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from srl_jax import main
from srl_jax.processes import failures
from srl_jax.storage.workdir import HeldError, RefusedError


def test_processes_join_before_an_experiment_asks_for_devices(monkeypatch):
  called = []

  def load_config(*_):
    called.append("load")
    raise ValueError("this far and no further")

  join = lambda *_, **__: called.append("join")  # noqa: E731
  monkeypatch.setattr(jax.distributed, "initialize", join)
  # One of several processes ends at once, without any clean-up.
  monkeypatch.setattr(main, "_end_at_once", sys.exit)
  monkeypatch.setattr(main.config_lib, "load", load_config)
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(multi_host=True), pytest.raises(SystemExit):
    main.main(["main"])
  assert called == ["join", "load"]


@pytest.mark.parametrize(
  ("error", "status"),
  [
    (ValueError("of the user"), 2),
    (RuntimeError("of a device"), 1),
    (failures.RecurringError("the gradient norm is nan"), 2),
    (HeldError("another run is working there"), 1),
    (RefusedError("the run there has another configuration"), 2),
    (OSError(errno.ENOSPC, "No space left on device"), 1),
    # As libraries say it.
    (ValueError("NOT_FOUND: No space left on device"), 1),
  ],
)
def test_the_status_tells_mistakes_from_what_may_pass(
  error, status, monkeypatch
):
  def load_config(*_):
    raise error

  monkeypatch.setattr(main, "_end_at_once", sys.exit)
  monkeypatch.setattr(main.config_lib, "load", load_config)
  flags.FLAGS.mark_as_parsed()
  with pytest.raises(SystemExit) as ended:
    main.main(["main"])
  assert ended.value.code == status
