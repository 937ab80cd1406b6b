# SPDX-License-Identifier: Apache-2.0
"""Episodes: contexts as in training, environments, endings, verdicts."""

import dataclasses
import functools
import itertools
import sys
import types
import zlib

import numpy as np
import pytest

from srl_jax.data.templates import PlainTemplate, make_template
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.domains import DOMAINS
from srl_jax.processes.failures import may_pass
from srl_jax.rewards import Completion
from srl_jax.rollout.episodes import EpisodeRules, sample_episodes
from srl_jax.rollout.requests import Request
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.trajectory import Step, Trajectory
from tests.support.scripted import ScriptedStream
from tests.support.trajectories import AGENT, TITLED

TOKENIZER = ByteTokenizer()
STOP = TOKENIZER.special_id("</s>")
AGENTS = "some.module:AGENTS"


class Replay:
  """An environment that answers as the expert's did, to any action."""

  made = ()

  def __init__(self):
    self.calls = []
    self.made.append(self)

  def reset(self, trajectory):
    self.calls.append("reset")
    self.name = trajectory.id
    self._answers = iter([step.observation or "" for step in trajectory.steps])

  def step(self, action):
    self.calls.append(action)
    return next(self._answers), action == "over"

  def solved(self):
    self.calls.append("solved")
    return "right" in self.calls

  def close(self):
    self.calls.append("close")


@pytest.fixture
def use(monkeypatch, imported_domains):
  """Makes AGENTS a domain with the environment Replay and other changes."""
  monkeypatch.setattr(Replay, "made", [])

  def of(**changes):
    changes = {"environment": Replay, **changes}
    domain = dataclasses.replace(DOMAINS["software"], name="agents", **changes)
    imported_domains[AGENTS] = domain

  of()
  return of


def agent(*observations, name="agent"):
  steps = tuple(Step(f"step {i}", None, x) for i, x in enumerate(observations))
  return Trajectory(name, AGENTS, "Fix it.", steps, answer="done")


def by_name(episodes):
  return sorted(episodes, key=lambda x: (x.problem, x.sample))


def rules_of(template=None, *, max_new_tokens=20, temperature=1.0, **changes):
  settings = {"task": "step", "turns": 3, "context_turns": 0}
  return EpisodeRules(
    request=functools.partial(
      Request, max_new_tokens=max_new_tokens, temperature=temperature
    ),
    template=template or PlainTemplate(),
    tokenizer=TOKENIZER,
    **{"max_positions": 512} | settings | changes,
  )


def play(trajectories, answer, *, samples=1, **rules):
  """Episodes by problem and sample, and the stream that answered.

  `answer` is a function of the prompt, or the texts of successive turns.
  """
  if not callable(answer):
    texts = iter(answer)
    answer = lambda _: next(texts)  # noqa: E731
  stream = ScriptedStream(
    TOKENIZER,
    lambda prompt: Completion(answer(prompt), True),
    stop_id=STOP,
  )
  wanted = itertools.product(range(len(trajectories)), range(samples))
  episodes = sample_episodes(stream, trajectories, wanted, rules_of(**rules))
  return by_name(episodes), stream


@pytest.mark.parametrize("context_turns", [0, 1, 2])
@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_an_episode_that_follows_the_expert_sees_the_trunks_of_training(
  use, name, context_turns
):
  template = make_template(name, TOKENIZER)
  expert = dataclasses.replace(AGENT, domain=AGENTS)
  trunks, _ = build_trunks(
    [expert], template, TOKENIZER, TrunkConfig(context_turns=context_turns)
  )
  points = [(trunk, point) for trunk in trunks for point in trunk.points]
  actions = [step.text for step in expert.steps]
  _, stream = play(
    [expert],
    [f"<think>t</think>{action}" for action in actions],
    template=template,
    turns=len(actions),
    context_turns=context_turns,
    max_positions=4096,
  )
  assert len(stream.requests) == len(points) == 4
  for request, (trunk, point) in zip(stream.requests, points, strict=True):
    assert request.tokens == [*trunk.tokens[: point.at], *point.stem]


def test_observations_enter_the_context_and_the_episode(use):
  [episode], stream = play(
    [agent("one", "", "three")], ["<think>a</think>x", "y", "z"]
  )
  assert stream.prompts == [
    "Fix it.\n<step>",
    "Fix it.\nx\none\n<step>",
    # An empty observation is a line of its own.
    "Fix it.\nx\none\ny\n\n<step>",
  ]
  assert episode.texts == ("<think>a</think>x", "y", "z")
  assert episode.actions == ("x", "y", "z")
  assert episode.observations == ("one", "", "three")
  # Nobody goes on from the last turn.
  assert stream.released == stream.requests[-1:]
  # Bytes, and a stop token for each text.
  assert episode.tokens == len("<think>a</think>xyz") + 3


def test_every_sample_of_every_problem_is_an_episode_of_its_own():
  other = dataclasses.replace(TITLED, id="other", problem="Else?")
  answers = {
    "Solve x + 1 = 3.\n<step>": ["a", "a", "b"],
    "Else?\n<step>": ["#### 1", "#### 2", "#### 1"],
    "Solve x + 1 = 3.\na\n<step>": ["#### 2", "c"],
    "Solve x + 1 = 3.\nb\n<step>": ["c"],
  }
  episodes, _ = play(
    [TITLED, other], lambda prompt: answers[prompt].pop(0), samples=3, turns=2
  )
  assert not any(answers.values())
  assert [(e.problem, e.sample, e.texts) for e in episodes] == [
    (0, 0, ("a", "#### 2")),
    (0, 1, ("a", "c")),
    (0, 2, ("b", "c")),
    (1, 0, ("#### 1",)),
    (1, 1, ("#### 2",)),
    (1, 2, ("#### 1",)),
  ]
  assert [e.is_correct for e in episodes] == [True, *[False] * 3, True, False]


def test_the_name_of_a_completion_is_problem_task_turn_and_sample():
  # The names decide the random numbers, so they must not depend on the order.
  _, stream = play([TITLED], ["a", "b", "c", "d"], samples=2, turns=2)
  assert {request.point_id for request in stream.requests} == {
    zlib.crc32(f"titled/step/{turn}/{sample}".encode())
    for turn in range(2)
    for sample in range(2)
  }
  assert {request.samples for request in stream.requests} == {(0,)}


def test_short_episodes_wait_for_no_long_ones():
  # Two at a time; a segment is of two tokens. The first problem's only turn
  # takes ten segments, and meanwhile the others take two turns of one each.
  problems = [
    dataclasses.replace(TITLED, id=x, problem=x) for x in ("a", "b", "c", "d")
  ]
  stream = ScriptedStream(
    TOKENIZER,
    lambda prompt: Completion("long " * 4 if prompt[0] == "a" else "x", True),
    stop_id=STOP,
    capacity=2,
    turns=2,
  )
  wanted = [(n, 0) for n in range(4)]
  episodes = sample_episodes(stream, problems, wanted, rules_of(turns=2))
  assert [e.problem for e in episodes] == [1, 2, 3, 0]
  assert [prompt[0] for prompt in stream.prompts] == [*"abbccdd", "a"]


def test_only_what_is_wanted_is_sampled():
  stream = ScriptedStream(
    TOKENIZER, lambda _: Completion("#### 2", True), stop_id=STOP
  )
  other = dataclasses.replace(TITLED, id="other", problem="Else?")
  wanted = [(1, 2), (0, 0), (1, 1)]
  found = sample_episodes(stream, [TITLED, other], wanted, rules_of())
  assert [(e.problem, e.sample) for e in found] == wanted
  assert len(stream.requests) == 3


def test_environments_are_left_when_nobody_wants_the_other_episodes(use):
  stream = ScriptedStream(
    TOKENIZER,
    lambda prompt: Completion("submit" if "b" in prompt else "x", True),
    stop_id=STOP,
  )
  trajectories = [agent("1", "2"), dataclasses.replace(agent("1"), problem="b")]
  episodes = sample_episodes(stream, trajectories, [(0, 0), (1, 0)], rules_of())
  assert next(episodes).problem == 1
  assert {r.calls[-1] for r in Replay.made} == {"x", "close"}
  episodes.close()
  assert [r.calls[-1] for r in Replay.made] == ["close", "close"]


LONG = "x" * 500


@pytest.mark.parametrize(
  ("texts", "ending", "executed"),
  [
    (["x", "submit"], "answered", ["x", "submit"]),
    (["right", "over"], "environment done", ["right", "over"]),
    # In the last turn that is allowed.
    (["x", "y", "over"], "environment done", ["x", "y", "over"]),
    (["x", "y", "right"], "turn limit", ["x", "y", "right"]),
    (["x", "<think>hm</think>"], "no action", ["x"]),
    ([LONG], "context full", [LONG]),
  ],
)
def test_an_environment_is_left_in_the_end_and_says_what_is_solved(
  use, texts, ending, executed
):
  [episode], _ = play([agent("1", "2", "3")], texts)
  assert episode.ending == ending
  assert episode.is_correct == ("right" in texts)
  assert list(episode.actions) == executed
  assert len(episode.observations) == len(executed)
  [replay] = Replay.made
  assert replay.calls == ["reset", *executed, "solved", "close"]


def test_nothing_is_made_for_an_episode_that_does_nothing(use):
  [episode], _ = play([agent("1")], ["<think>right</think>"])
  assert (episode.ending, episode.is_correct) == ("no action", False)
  [episode], _ = play([agent("1")], [], max_positions=20)
  assert (episode.ending, episode.texts) == ("context full", ())
  assert not Replay.made


def test_an_elastic_turn_has_what_the_context_leaves(use):
  def asked(**rules):
    rules["max_new_tokens"] = 300
    [episode], _ = play([agent("1", "2", "3")], ["x"] * 3, **rules)
    found = (x.request for x in episode.drawn)
    return [(len(x.tokens), x.max_new_tokens) for x in found]

  (first, _), *others = asked()
  full, most = (first, 300), first + 300
  assert asked(max_positions=most) == [full]
  left = [(length, most - length) for length, _ in others]
  assert asked(max_positions=most, is_elastic=True) == [full, *left]


def test_every_episode_has_an_environment_of_its_own(use):
  def answer(prompt):
    return "submit" if "other" in prompt else "x"

  other = dataclasses.replace(agent("1"), id="b", problem="other")
  episodes, _ = play([agent("1", "2"), other], answer, samples=2, turns=2)
  assert [e.ending for e in episodes] == ["turn limit"] * 2 + ["answered"] * 2
  names = sorted(replay.name for replay in Replay.made)
  assert names == ["agent"] * 2 + ["b"] * 2
  assert all(replay.calls[-1] == "close" for replay in Replay.made)


class Broken(Replay):
  """Fails in the method that it is told to."""

  where = ""

  def __getattribute__(self, name):
    if name == type(self).where:
      raise OSError("the disk is full")
    return super().__getattribute__(name)


@pytest.mark.parametrize("where", ["reset", "step", "solved", "close"])
def test_an_exception_of_an_environment_names_domain_problem_and_action(
  use, monkeypatch, where
):
  monkeypatch.setattr(Broken, "where", where)
  use(environment=Broken)
  trajectories = [agent("1", "2"), agent("1", "2", name="b")]
  with pytest.raises(RuntimeError) as caught:
    play(trajectories, ["rm -rf", "ls", "submit", "submit"])
  message = str(caught.value)
  first, second = "rm -rf", "ls"
  if where in ("solved", "close"):
    first = second = "submit"
  # Either may be the first that fails.
  assert any(
    "the environment of the domain 'agents' failed at the problem "
    f"{name!r} with the action {action!r}" in message
    for name, action in (("agent", first), ("b", second))
  )
  assert "OSError: the disk is full" in message
  assert "raise OSError" in message  # where, in the user's code
  assert isinstance(caught.value.__cause__, OSError) and may_pass(caught.value)
  if where != "close":
    # Every environment that was opened is closed.
    assert all(replay.calls[-1] == "close" for replay in Replay.made)


@pytest.mark.parametrize(
  ("answer", "message"),
  [
    (None, "cannot unpack"),
    ((None, True), r"step\(\) returned the observation None; it must be a str"),
  ],
)
def test_an_environment_that_answers_no_text_is_an_error(use, answer, message):
  class Silent(Replay):
    def step(self, action):
      return answer

  use(environment=Silent)
  with pytest.raises(RuntimeError, match=message):
    play([agent("1")], ["x"])


def verdict(text, reference, *, context):
  if text == "fail":
    raise KeyError("no such test")
  known = (context.thought, context.problem, len(context.steps))
  assert (known, reference) == (("a\nb", "Fix it.", 0), "done")
  return {"x\ndone": np.float64(1), "x\nhalf": 0.5}[text]


@pytest.mark.parametrize(
  ("last", "is_correct"), [("done", True), ("half", False)]
)
def test_without_an_environment_the_domains_verdict_decides(
  use, monkeypatch, last, is_correct
):
  module = types.SimpleNamespace(verdict=verdict)
  monkeypatch.setitem(sys.modules, "verdicts_of_test", module)
  use(environment=None, verdict="verdicts_of_test:verdict")
  texts = ["<think>a</think>x", f"<think>b</think>{last}"]
  [episode], _ = play([agent("1")], texts, turns=2)
  assert episode.is_correct is is_correct and episode.observations == ()
  # Without a reference there is no verdict, and no call.
  unknown = dataclasses.replace(agent("1"), answer=None)
  [episode], _ = play([unknown], texts, turns=2)
  assert episode.is_correct is False
  with pytest.raises(RuntimeError) as caught:
    play([agent("1")], ["fail"], turns=1)
  assert (
    "the verdict of the domain 'agents' failed at the problem 'agent' with "
    "the action 'fail'; it raised:"
  ) in str(caught.value)
  assert not may_pass(caught.value)


def test_a_verdict_that_cannot_be_found_is_an_error_before_anything_is_done(
  use,
):
  use(environment=None, verdict="no_such_module:f")
  with pytest.raises(ValueError, match="No module named 'no_such_module'"):
    play([agent("1")], [])


def test_a_solution_in_one_go_is_one_action(use):
  [episode], stream = play(
    [agent("1", "2")], ["<think>a</think>right\nover"], task="solve"
  )
  assert (episode.ending, episode.actions) == ("answered", ("right\nover",))
  assert episode.observations == ("1",)
  assert stream.prompts == ["Fix it.\n<solve>"]


def test_of_no_problems_there_are_no_episodes():
  episodes, stream = play([], [])
  assert episodes == [] and not stream.requests
