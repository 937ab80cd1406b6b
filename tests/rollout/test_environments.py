# SPDX-License-Identifier: Apache-2.0
"""Environments act beside the devices and each other, each in a thread."""

import dataclasses
import functools
import os
import threading

import pytest

from srl_jax.data.templates import PlainTemplate
from srl_jax.domains import DOMAINS
from srl_jax.rewards import Completion
from srl_jax.rollout.episodes import EpisodeRules, sample_episodes
from srl_jax.rollout.requests import Request
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.trajectory import Step, Trajectory
from tests.support.scripted import ScriptedStream

TOKENIZER = ByteTokenizer()
NAME = "some.module:MEETINGS"


class Meeting:
  """Waits at each step until two act at the same time."""

  barrier = threading.Barrier(2)
  made = ()

  def __init__(self):
    self.threads = {threading.get_ident()}
    self.made.append(self)

  def reset(self, trajectory):
    self.threads.add(threading.get_ident())

  def step(self, action):
    self.threads.add(threading.get_ident())
    self.barrier.wait(timeout=60)
    return "went on", False

  def solved(self):
    self.threads.add(threading.get_ident())
    return True

  def close(self):
    self.threads.add(threading.get_ident())


def rules_of(turns):
  return EpisodeRules(
    task="step",
    turns=turns,
    context_turns=0,
    max_positions=512,
    request=functools.partial(Request, max_new_tokens=9, temperature=1.0),
    template=PlainTemplate(),
    tokenizer=TOKENIZER,
  )


def make_stream(**sizes):
  return ScriptedStream(
    TOKENIZER,
    lambda _: Completion("act", True),
    stop_id=TOKENIZER.special_id("</s>"),
    **sizes,
  )


def problem(name):
  return Trajectory(name, NAME, "Meet.", (Step("act"),), answer="done")


@pytest.fixture
def use(monkeypatch, imported_domains):
  """Makes NAME a domain with an environment, on a host of two cores."""
  monkeypatch.setattr(os, "cpu_count", lambda: 2)
  monkeypatch.setattr(Meeting, "made", [])

  def of(environment, **changes):
    changes |= {"name": "meetings", "environment": environment}
    imported_domains[NAME] = dataclasses.replace(DOMAINS["software"], **changes)

  return of


def test_environments_act_at_the_same_time_each_in_a_thread(use):
  use(Meeting)
  wanted = [(0, sample) for sample in range(4)]
  episodes = list(
    sample_episodes(make_stream(), [problem("a")], wanted, rules_of(2))
  )
  assert all(episode.is_correct for episode in episodes)
  assert [len(meeting.threads) for meeting in Meeting.made] == [1] * 4
  used = set().union(*(meeting.threads for meeting in Meeting.made))
  assert len(used) == 4 and threading.get_ident() not in used


def test_the_model_waits_for_quick_environments(use):
  class Quick(Meeting):
    def step(self, action):
      self.threads.add(threading.get_ident())
      return "went on", False

  use(Quick, environment_waits=False)
  list(sample_episodes(make_stream(), [problem("a")], [(0, 0)], rules_of(2)))
  [made] = Meeting.made
  assert made.threads == {threading.get_ident()}


@pytest.mark.parametrize("slow", ["step", "solved"])
def test_nobody_waits_for_a_slow_environment(use, slow):
  others_ended = threading.Event()
  waited, at_work, most = [], [], []

  class Slow(Meeting):
    def reset(self, trajectory):
      self.name = trajectory.id

    def step(self, action):
      at_work.append(self)
      most.append(len(at_work))
      self.wait_in("step")
      at_work.remove(self)
      return "went on", False

    def solved(self):
      return self.wait_in("solved")

    def wait_in(self, method):
      if self.name == "slow" and method == slow:
        waited.append(others_ended.wait(timeout=5))
      return True

  use(Slow)
  problems = [problem(name) for name in ("slow", "b", "c", "d", "e")]
  wanted = [(n, 0) for n in range(5)]
  ended = []
  # One of two cores is free, and two of three rows.
  stream = make_stream(capacity=3)
  for episode in sample_episodes(stream, problems, wanted, rules_of(3)):
    ended.append(problems[episode.problem].id)
    if len(ended) == 4:
      others_ended.set()
  assert waited[0] and ended[-1] == "slow"
  assert max(most) <= 2


def test_environments_at_once_are_left_when_nobody_wants_their_episodes(use):
  closed = []

  class Quick(Meeting):
    def reset(self, trajectory):
      self.name = trajectory.id

    def step(self, action):
      return "went on", self.name == "b"

    def close(self):
      closed.append(self.name)

  use(Quick, environment_waits=False)
  problems = [problem(x) for x in "abc"]
  wanted = [(n, 0) for n in range(3)]
  episodes = sample_episodes(make_stream(), problems, wanted, rules_of(3))
  assert next(episodes).problem == 1 and closed == ["b"]
  episodes.close()
  assert closed == ["b", "a", "c"]


def test_an_environment_that_acts_is_left_when_nobody_wants_its_episode(use):
  may_go_on = threading.Event()
  calls = []

  class Acting(Meeting):
    def reset(self, trajectory):
      self.name = trajectory.id

    def step(self, action):
      if self.name == "slow":
        may_go_on.wait(timeout=5)
      calls.append((self.name, "step"))
      return "went on", self.name != "slow"

    def close(self):
      calls.append((self.name, "close"))

  use(Acting)
  episodes = sample_episodes(
    make_stream(),
    [problem("slow"), problem("b")],
    [(0, 0), (1, 0)],
    rules_of(3),
  )
  assert next(episodes).problem == 1
  threading.Timer(0.1, may_go_on.set).start()
  episodes.close()
  want = [(name, call) for name in ("b", "slow") for call in ("step", "close")]
  assert calls == want
