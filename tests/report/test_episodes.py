# SPDX-License-Identifier: Apache-2.0
"""Episodes in a report: those of runs, and those of files of agents."""

import json

import pytest

from srl_jax.report import __main__ as command
from srl_jax.report.episodes import read_episodes
from srl_jax.report.page import make_page
from srl_jax.report.runs import read_runs
from srl_jax.rewards import difflib_ratio
from srl_jax.testing.reports import write_episodes, write_run
from tests.support import agents


def read(runs=(), paths=(), most=100):
  """Returns the episodes with texts for indices, and all of it."""
  texts = {}
  found = read_episodes(
    read_runs(runs), paths, most, lambda x: texts.setdefault(x, len(texts))
  )
  names = list(texts)

  def text(index):
    return None if index is None else names[index]

  shown = [
    (
      *head,
      text(asked),
      [[*map(text, turn[:3]), turn[3], text(turn[4])] for turn in turns],
      *end,
    )
    for *head, asked, turns, outcome, ending in found.payload
    for end in [(outcome, ending)]
  ]
  return shown, found


def test_a_run_has_the_turns_of_its_solutions_beside_the_experts(tmp_path):
  shown, found = read([write_episodes(write_run(tmp_path / "run"))])
  assert found.total == len(shown) == 6
  [done] = [x for x in shown if x[1:3] == ("after srl, greedy", "test-1")]
  assert done == (
    *("run", "after srl, greedy", "test-1", "a is 0"),
    [
      ["so", "look a", "a is 0 ", 1.0, "look a"],
      ["so", "edit a=1", "ok", 1.0, "edit a=1"],
      ["so", "submit", "", 1.0, "submit"],
    ],
    *(True, "environment done"),
  )
  [cut] = [x for x in shown if x[1:3] == ("before, greedy", "test-0")]
  similarity = difflib_ratio("edit a=2", "edit a=1")
  assert cut[4][1] == ["so", "edit a=2", "ok", similarity, "edit a=1"]
  assert cut[5:] == (False, "turn limit")
  [sampled] = [x for x in shown if x[1] == "before, sampled at 1"]
  # Nothing was answered to a text without an action.
  assert sampled[4][1][:3] == ["so", "", None]


def test_without_held_out_problems_there_is_no_expert(tmp_path):
  workdir = write_episodes(write_run(tmp_path / "run"))
  (workdir / "held_out" / "test.jsonl").unlink()
  shown, _ = read([workdir])
  assert {x[3] for x in shown} == {""}
  assert {tuple(turn[3:]) for x in shown for turn in x[4]} == {(None, None)}


def test_a_page_takes_whole_problems_of_every_moment(tmp_path):
  workdir = write_episodes(write_run(tmp_path / "run"))
  shown, found = read([workdir], most=4)
  assert found.total == 6
  assert {x[1:3] for x in shown} == {
    (f"{moment}, {how}", "test-0")
    for moment in ("before", "after srl")
    for how in ("greedy", "sampled at 1")
  }


@pytest.mark.parametrize("shape", ["smith_xml", "mini_swe_agent", "atif"])
def test_trajectories_of_agents_are_shown_whoever_recorded_them(
  tmp_path, shape
):
  path = tmp_path / "some.traj.json"
  record = getattr(agents, shape)()
  path.write_text(json.dumps(record))
  [episode], _ = read(paths=[str(path)])
  source, moment, _, asked, turns, outcome, _ = episode
  assert (source, moment) == (str(path), "")
  assert agents.ISSUE in asked
  assert "<parameter=command>ls" in turns[0][1]
  assert "calc.py" in turns[0][2]
  assert turns[-1][1] == "<function=submit>\n</function>"
  assert any(thought.endswith("the sign.") for thought, *_ in turns[1:])
  assert outcome is (None if shape == "mini_swe_agent" else True)


@pytest.mark.parametrize("resolved", [True, False])
def test_a_file_of_our_own_agent_says_whether_it_repaired(tmp_path, resolved):
  record = agents.mini_swe_agent()
  record["info"]["resolved"] = resolved
  path = tmp_path / "some.traj.json"
  path.write_text(json.dumps(record))
  [(*_, outcome, _)], _ = read(paths=[str(path)])
  assert outcome is resolved


def test_a_folder_of_files_is_read_and_bad_records_are_told(tmp_path):
  for name in ("a", "b"):
    path = tmp_path / name / f"{name}.traj.json"
    path.parent.mkdir()
    path.write_text(json.dumps(agents.mini_swe_agent()))
  (tmp_path / "c.traj").write_text('{"messages": [{"role": "pope"}]}')
  shown, found = read(paths=[str(tmp_path)])
  assert len(shown) == 2
  [reject] = found.rejects
  assert reject.path.endswith("c.traj")
  page = make_page([], trajectories=[str(tmp_path)])
  assert "1 record(s) could not be read; the first: " in page


def test_trajectories_in_our_own_forms_are_shown(tmp_path):
  path = tmp_path / "mine.jsonl"
  steps = ["look", {"text": "go", "observation": "gone"}]
  record = {"id": "x", "problem": "where?", "steps": steps}
  path.write_text(json.dumps(record) + "\n" + json.dumps(agents.atif()))
  [mine, theirs], _ = read(paths=[str(path)])
  assert mine[2:5] == (
    *("x", "where?"),
    [["", "look", None, None, None], ["", "go", "gone", None, None]],
  )
  assert agents.ISSUE in theirs[3]


def test_a_report_needs_no_run(tmp_path, capsys):
  path = tmp_path / "some.traj.json"
  path.write_text(json.dumps(agents.mini_swe_agent()))
  out = tmp_path / "report.html"
  command.main([f"--trajectories={path}", f"--out={out}"])
  page = out.read_text("utf-8")
  assert "<title>some.traj.json" in page and "1 of 1 episodes" in page
  assert "Results on the held-out" not in page


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], r"nothing to report on; give --workdir=DIR .*--trajectories=PATH"),
    (["--trajectories=x", "--out=."], r"--out=\. is no file .*it is a folder"),
    (["--trajectories=absent"], "there are no trajectories in absent"),
    (["--trajectories=bad.json"], r"no trajectory of bad.json .*: field"),
    (["--trajectories=bad.json", "--episodes=0"], "episodes=0 is too low"),
  ],
)
def test_what_cannot_be_shown_ends_in_a_message(
  tmp_path, monkeypatch, flags, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "bad.json").write_text('{"messages": [{"role": "pope"}]}')
  with pytest.raises(SystemExit, match=message):
    command.main(flags)
