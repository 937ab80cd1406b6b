# SPDX-License-Identifier: Apache-2.0
"""A report is one file, and nothing that a model wrote becomes part of it."""

import html.parser
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.estimates import share
from srl_jax.evaluate.journal import Journal
from srl_jax.evaluate.records import Answer
from srl_jax.report import __main__ as command
from srl_jax.report import charts
from srl_jax.report.evaluations import read_evaluations
from srl_jax.report.page import make_page
from srl_jax.report.runs import read_runs
from srl_jax.rollout import record
from srl_jax.testing.reports import write_run

ROOT = pathlib.Path(__file__).parents[2]
EVIL = (
  "</script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\x1b[2J"
)


def _refuse(constant):
  raise AssertionError(f"a browser cannot read {constant}")


class Page(html.parser.HTMLParser):
  """A page as a browser parses it: its tags, texts, and the JSON in it."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.scripts, self.text, self.addresses = [], [], "", []
    self._tag = ""
    self.feed(page)
    [data] = [x for x in self.scripts if x.startswith("{")]
    self.data = json.loads(data, parse_constant=_refuse)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self._tag = tag
    self.addresses += [v for k, v in attrs if k in ("src", "href")]

  def handle_endtag(self, tag):
    self._tag = ""

  def handle_data(self, data):
    if self._tag == "script":
      self.scripts.append(data)
    elif self._tag != "style":
      self.text += data


def page_of(*workdirs):
  return Page(make_page(read_runs(workdirs)))


def test_texts_of_models_are_data_and_never_markup(tmp_path):
  clean = page_of(write_run(tmp_path / "clean"))
  evil = page_of(write_run(tmp_path / "evil", text=EVIL))
  assert evil.tags == clean.tags
  texts = evil.data["rollouts"]["texts"]
  assert sum(EVIL in text for text in texts) > 100


def test_names_of_runs_are_escaped(tmp_path):
  workdir = write_run(tmp_path / "run")
  path = workdir / "config.json"
  config = json.loads(path.read_text()) | {"name": EVIL}
  path.write_text(json.dumps(config))
  evil = page_of(workdir)
  assert evil.tags == page_of(write_run(tmp_path / "clean")).tags
  assert EVIL in evil.text


def test_a_page_asks_nothing_of_a_network(tmp_path):
  page = page_of(write_run(tmp_path / "run"))
  assert all(x.startswith(("#", "data:")) for x in page.addresses)
  for name in ("page.css", "page.html", "texts.js", "viewer.js", "charts.js"):
    text = (ROOT / "srl_jax/report/assets" / name).read_text()
    assert "http" not in text and "@import" not in text


def test_the_library_of_charts_cannot_end_its_script(tmp_path, monkeypatch):
  monkeypatch.setattr(charts, "library", lambda: "f('</script><b>')")
  page = page_of(write_run(tmp_path / "run"))
  assert "f('<\\/script><b>')" in page.scripts
  assert page.tags.count("b") == 1  # Of the table of differences.


def test_experiments_are_compared_with_the_first(tmp_path):
  paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b", update_steps=9)]
  text = page_of(*paths).text
  assert "how much more is solved than by made-up" in text
  assert "made-up (b)" in text
  assert "how much more is solved than by" not in page_of(paths[0]).text


def test_a_page_says_what_a_run_does_not_have_yet(tmp_path):
  begun = tmp_path / "begun"
  begun.mkdir()
  (begun / "config.json").write_text('{"name": "begun", "stages": ["srl"]}')
  page = page_of(begun)
  assert f"No rollouts are kept in\n  {begun}" in page.text
  assert f"Nothing is measured yet in {begun}" in page.text
  assert "0 of 0 update steps" in page.text and "not finished" in page.text
  both = page_of(begun, write_run(tmp_path / "done"))
  assert f"No rollouts are kept in {begun}." in both.text
  assert both.text.count("finished") == 2
  assert both.data["runs"] == ["begun", "done"]


def test_a_page_says_how_much_it_leaves_out(tmp_path):
  runs = read_runs([write_run(tmp_path / "run")])
  page = Page(make_page(runs, most_samples=40))
  assert "36 of 108 kept samples are in this page" in page.text
  assert len(page.data["rollouts"]["samples"]) == 36


def test_the_table_has_the_intervals_of_the_results(tmp_path):
  page = page_of(write_run(tmp_path / "run"))
  assert "solved in turns, greedy0.250[0.010, 0.810]0.750" in page.text
  rows = page.data["charts"]["results"]["data"]["values"]
  assert {(x["moment"], x["low"]) for x in rows} == {
    ("before", 0.01),
    ("after srl", 0.19),
  }


def test_a_metric_that_could_not_be_measured_is_left_empty(tmp_path):
  workdir = write_run(tmp_path / "run")
  path = workdir / "results.json"
  results = json.loads(path.read_text())
  results["after srl"] = {"turns accuracy, greedy": [math.nan] * 3}
  path.write_text(json.dumps(results))
  page = page_of(workdir)
  assert "solved in turns, greedy0.250[0.010, 0.810]–\n" in page.text
  [row] = page.data["charts"]["results"]["data"]["values"]
  assert (row["moment"], row["value"]) == ("before", 0.25)


def test_a_reward_that_is_no_number_is_null(tmp_path, monkeypatch):
  read = record.read_file
  unknown = {"reward": math.nan, "value": None}
  monkeypatch.setattr(
    record, "read_file", lambda path: [x | unknown for x in read(path)]
  )
  page = page_of(write_run(tmp_path / "run"))
  assert {x[5] for x in page.data["rollouts"]["samples"]} == {None}


# Suite, decoding, problem, and whether its samples are right.
ANSWERS = (
  ("amc", "sampled", "p0", (True, True)),
  ("amc", "sampled", "p1", (True, False)),
  ("amc", "greedy", "p0", (False,)),
  ("<b>", "greedy", "p0", (True,)),
)


def write_evaluation(folder, answers, **protocol):
  protocol["decodings"] = [
    {"name": "greedy", "samples": 1},
    {"name": "sampled", "samples": 2},
  ]
  names = dict.fromkeys((suite, problem) for suite, _, problem, _ in answers)
  problems = [
    Problem(problem, "?", "1", suite=suite) for suite, problem in names
  ]
  with Journal(folder, {"protocol": protocol}, problems) as journal:
    for suite, decoding, problem, verdicts in answers:
      for sample, is_correct in enumerate(verdicts):
        journal.add(
          Answer(
            suite=suite,
            problem=problem,
            decoding=decoding,
            sample=sample,
            text="",
            tokens=10 * sample + 10,
            is_stopped=is_correct,
            final="",
            is_correct=is_correct,
          )
        )
  return folder


def test_evaluations_are_counted_by_suite_and_decoding(tmp_path, capsys):
  run = write_run(tmp_path / "run")
  folder = write_evaluation(tmp_path / "evaluation", ANSWERS)
  with (folder / "answers.jsonl").open("a") as file:
    file.write('{"suite": "am')  # A kill has cut the last line short.
  rows = read_evaluations([folder])
  assert [(x.suite, x.decoding, x.problems, x.answers) for x in rows] == [
    ("<b>", "greedy", 1, 1),
    ("<b>", "sampled", 0, 0),
    ("amc", "greedy", 1, 1),
    ("amc", "sampled", 2, 4),
  ]
  sampled = rows[-1]
  assert sampled.accuracy == share([2, 1], [2, 2])
  assert (sampled.accuracy.value, sampled.stopped) == (0.75, 0.75)
  assert sampled.tokens == 15
  out = tmp_path / "report.html"
  command.main([f"--workdir={run}", f"--out={out}", f"--evaluation={folder}"])
  page = Page(out.read_text("utf-8"))
  assert f"{folder}<b>greedy11" in page.text
  assert f"{folder}amcsampled240.750[" in page.text
  # The greedy answer to p1 is missing, which may be long and wrong.
  assert f"{folder} under wayamcgreedy1 of 21 of 2\n" in page.text
  assert f"{folder} under way<b>sampled0 of 10 of 2\n" in page.text


def test_evaluations_are_compared_with_the_first(tmp_path, capsys):
  run = write_run(tmp_path / "run")
  base, other, third = (
    write_evaluation(tmp_path / name, answers, limit=limit)
    for name, answers, limit in (
      ("base", ANSWERS[:2], 1),
      (
        "other",
        [("amc", "sampled", p, (False, True)) for p in ("p0", "p1")],
        1,
      ),
      ("third", ANSWERS[:2], 2),
    )
  )
  out = tmp_path / "report.html"
  command.main(
    [
      *(f"--workdir={run}", f"--out={out}", f"--evaluation={base}"),
      *(f"--evaluation={other}", f"--evaluation={third}"),
    ]
  )
  page = Page(out.read_text("utf-8"))
  # Shares of 1 and 0.5 have become 0.5 and 0.5.
  assert f"{other} minus {base}, problem by problem" in page.text
  assert "amcavg@2 (%)75.050.0-25.0 [" in page.text
  assert f"{third} is not compared with {base}: " in page.text
  assert "limit is 1 and 2" in page.text


def test_the_command_writes_the_page_and_says_its_size(tmp_path, capsys):
  run = write_run(tmp_path / "run")
  out = tmp_path / "report.html"
  command.main([f"--workdir={run}", f"--out={out}", "--rollouts=20"])
  size = out.stat().st_size / 1e6
  said = capsys.readouterr().out
  assert said == f"the report is in {out} ({size:.1f} MB)\n"
  assert len(Page(out.read_text("utf-8")).data["rollouts"]["samples"]) == 12


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--workdir=absent"], "error: there is no run in absent"),
    (["--workdir=RUN", "--evaluation=RUN"], "error: there is no evaluation in"),
    (["--workdir=RUN", "--rollouts=0"], "error: --rollouts=0 is too low"),
    (
      ["--workdir=RUN", "--out=RUN/config.json/page.html"],
      "error: --out=.* is no file that can be written",
    ),
  ],
)
def test_what_cannot_be_done_ends_in_a_message(
  tmp_path, monkeypatch, flags, message
):
  monkeypatch.chdir(tmp_path)
  write_run(tmp_path / "RUN")
  with pytest.raises(SystemExit) as caught:
    command.main(flags)
  assert re.match(message, caught.value.code)


@pytest.mark.slow
def test_a_report_needs_no_device(tmp_path):
  # Training may hold the only one.
  run = write_run(tmp_path / "run", moments=(0,))
  out = tmp_path / "report.html"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "srl_jax.report"),
      *(f"--workdir={run}", f"--out={out}"),
    ],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "absent"},
  )
  assert done.returncode == 0, done.stderr
  assert out.stat().st_size > 1e5
