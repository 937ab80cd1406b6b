# SPDX-License-Identifier: Apache-2.0
"""Environments of episodes act at the same time, each in a thread."""

import dataclasses
import functools
import os
import threading

from srl_jax.data.templates import PlainTemplate
from srl_jax.domains import DOMAINS
from srl_jax.rewards import Completion
from srl_jax.rollout.episodes import EpisodeRules, sample_episodes
from srl_jax.rollout.requests import Request
from srl_jax.testing.scripted import ScriptedStream
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.trajectory import Step, Trajectory

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


def test_environments_act_at_the_same_time_each_in_a_thread(
  monkeypatch, imported_domains
):
  monkeypatch.setattr(Meeting, "made", [])
  monkeypatch.setattr(os, "cpu_count", lambda: 2)
  domain = dataclasses.replace(
    DOMAINS["software"], name="meetings", environment=Meeting
  )
  imported_domains[NAME] = domain
  rules = EpisodeRules(
    task="step",
    turns=2,
    context_turns=0,
    max_positions=512,
    request=functools.partial(Request, max_new_tokens=9, temperature=1.0),
    template=PlainTemplate(),
    tokenizer=TOKENIZER,
  )
  stream = ScriptedStream(
    TOKENIZER,
    lambda _: Completion("act", True),
    stop_id=TOKENIZER.special_id("</s>"),
  )
  problem = Trajectory("a", NAME, "Meet.", (Step("act"),), answer="done")
  wanted = [(0, sample) for sample in range(4)]
  episodes = list(sample_episodes(stream, [problem], wanted, rules))
  assert all(episode.is_correct for episode in episodes)
  assert [len(meeting.threads) for meeting in Meeting.made] == [1] * 4
  used = set().union(*(meeting.threads for meeting in Meeting.made))
  assert len(used) == 2 and threading.get_ident() not in used
