# SPDX-License-Identifier: Apache-2.0
"""Samples and curves of a finished run."""

import difflib
import json
import shutil

import pytest

from srl_jax import metrics, show
from srl_jax.report.curves import plot_metrics
from srl_jax.report.samples import samples_html, samples_text
from srl_jax.rewards import FAILURES


@pytest.fixture(scope="module")
def drawn(runs, whole):
  with runs.quickly():
    return {
      moment: show.draw_samples(whole.workdir, 8, moment)
      for moment in ("before", "after")
    }


def test_samples_of_a_run_are_scored_as_in_training(drawn):
  assert [len(samples) for samples in drawn.values()] == [8, 8]
  whole_ones = [x for x in drawn["after"] if not x.failure]
  # Right and wrong ones, or nothing could be told apart.
  assert len({x.reward for x in whole_ones}) > 1
  for sample in whole_ones:
    # The expert of the fixture thinks "." only.
    assert sample.thought
    ratio = difflib.SequenceMatcher(
      None, sample.action, sample.expert, autojunk=False
    ).ratio()
    assert sample.reward == pytest.approx(ratio, rel=1e-6)
  for sample in drawn["before"]:
    assert sample.failure in FAILURES[1:]
    assert sample.reward == -1


def test_before_and_after_are_of_the_same_steps(drawn):
  before, after = (
    [(x.heading, x.context, x.expert) for x in samples]
    for samples in drawn.values()
  )
  assert before == after
  names, steps = zip(*(x[0].split(", step ") for x in after), strict=True)
  assert len(set(names)) == 8
  assert len(set(steps)) > 1
  for heading, context, expert in after:
    # The expert copies digit after digit; the context ends with the last one.
    digits = context.splitlines()[0].partition(": ")[2].split()
    step = int(heading.rpartition(" ")[2])
    assert len(context.splitlines()) == step
    assert expert.removeprefix("#### ") == digits[step - 1]


def test_the_same_samples_are_drawn_again(runs, whole, drawn):
  with runs.quickly():
    assert show.draw_samples(whole.workdir, 8) == drawn["after"]


def test_a_run_with_a_domain_of_ones_own_is_shown_too(
  runs, whole, drawn, tmp_path, monkeypatch, imported_domains
):
  module = tmp_path / "show_domain_for_tests.py"
  module.write_text("from srl_jax.domains import GENERAL as OWN")
  monkeypatch.syspath_prepend(tmp_path)
  workdir = shutil.copytree(whole.workdir, tmp_path / "run")
  domain = f"{module.stem}:OWN"
  config = json.loads((workdir / "config.json").read_text())
  config["data"]["domain"] = domain
  (workdir / "config.json").write_text(json.dumps(config))
  for path in (workdir / "held_out").iterdir():
    rows = map(json.loads, path.read_text().splitlines())
    path.write_text(
      "".join(f"{json.dumps(x | {'domain': domain})}\n" for x in rows)
    )
  with runs.quickly():
    samples = show.draw_samples(workdir, 8)
  assert [x.expert for x in samples] == [x.expert for x in drawn["after"]]


def test_the_command_prints_or_writes_a_page(
  runs, whole, drawn, capsys, tmp_path
):
  page = tmp_path / "samples.html"
  workdir = f"--workdir={whole.workdir}"
  with runs.quickly():
    show.main([workdir, "--samples=8"])
    show.main([workdir, "--samples=8", f"--html={page}"])
  printed = capsys.readouterr().out
  assert samples_text(drawn["after"]) in printed
  assert samples_html(drawn["after"]) in page.read_text("utf-8")


def test_a_folder_without_a_finished_run_is_refused(runs, whole, tmp_path):
  with pytest.raises(ValueError, match=r"no config\.json"):
    show.draw_samples(tmp_path)
  (tmp_path / "config.json").write_text(
    (whole.workdir / "config.json").read_text()
  )
  (tmp_path / "tokenizer.model").write_bytes(
    (whole.workdir / "tokenizer.model").read_bytes()
  )
  with runs.quickly(), pytest.raises(ValueError, match="is not finished"):
    show.draw_samples(tmp_path)
  with pytest.raises(ValueError, match="got samples=0"):
    show.draw_samples(tmp_path, 0)


def test_curves_of_a_run_come_from_its_metrics(whole):
  found = metrics.read_rows(whole.workdir / "metrics.jsonl")
  figure = plot_metrics(found, ["srl/reward", "srl/validation_reward"])
  reward, validation = (panel.lines[0].get_xdata() for panel in figure.axes)
  # The 6 steps of srl come after 16 of sft.
  assert list(validation) == list(range(16, 22))
  assert set(reward) <= set(validation)
