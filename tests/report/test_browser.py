# SPDX-License-Identifier: Apache-2.0
"""A report in headless Chromium: it opens, filters, compares, and is silent.

Skipped where Playwright or Chromium is not installed.
"""

import json
import re
import shutil

import pytest

from srl_jax.report.page import make_page
from srl_jax.report.runs import read_runs
from srl_jax.testing.reports import write_episodes, write_run
from tests.support import agents

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "</script><img src=x onerror=window.hit=1>\x1b[2J\u202e😀"


@pytest.fixture(scope="module")
def browser():
  playwright = pytest.importorskip("playwright.sync_api")
  if not CHROMIUM:
    pytest.skip("there is no Chromium")
  with playwright.sync_playwright() as running:
    browser = running.chromium.launch(
      executable_path=CHROMIUM, args=["--no-sandbox"]
    )
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Reports on one run, on two seeds, and on a run that has just begun."""
  folder = tmp_path_factory.mktemp("reports")
  one = write_run(folder / "one", text=EVIL)
  write_episodes(one, text=EVIL)
  two = write_run(folder / "two", seed=1, moments=(9,), text=EVIL)
  begun = folder / "begun"
  begun.mkdir()
  (begun / "config.json").write_text(json.dumps({"stages": ["srl"]}))
  for name, runs in (
    ("one", [one]),
    ("both", [one, two, begun]),
    ("begun", [begun]),
  ):
    page = make_page(read_runs(runs))
    (folder / f"{name}.html").write_text(page, encoding="utf-8")
  mini = folder / "mini.traj.json"
  mini.write_text(json.dumps(agents.mini_swe_agent()))
  page = make_page([], trajectories=[str(mini)])
  (folder / "agent.html").write_text(page, encoding="utf-8")
  return folder


@pytest.fixture
def opened(browser, folder):
  """Opens a report without a network; at the end nothing was complained of."""
  said = []
  context = browser.new_context(offline=True)

  def open_page(name):
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((folder / f"{name}.html").as_uri())
    # A page without runs has no charts.
    drawn = "html[data-drawn=yes]" if name != "agent" else ".turn"
    page.wait_for_selector(drawn)
    return page

  yield open_page
  context.close()
  assert said == []


def found(page):
  """Numbers of samples and trajectories that pass the filters."""
  page.wait_for_timeout(150)  # Filters wait for 60 ms without a keystroke.
  text = page.inner_text("#found")
  samples, _, entries = map(int, re.findall(r"\d+", text))
  assert page.locator(".entry").count() == entries
  return samples, entries


def test_a_report_opens_with_all_samples_and_charts(opened):
  page = opened("one")
  assert found(page) == (108, 9)
  for chart in ("results", "kept", "histogram", "depths", "thoughts"):
    assert page.locator(f"[data-chart={chart}] svg").count() == 1
  # Of the metrics of the run, these are among those shown at first.
  names = page.locator(".panel h4").all_inner_texts()
  assert names == ["reward", "format failure"]
  assert page.locator(".panel svg").count() == 2


def test_each_filter_keeps_what_it_says(opened):
  page = opened("one")
  data = json.loads(page.evaluate("JSON.stringify(DATA.rollouts)"))
  groups = data["groups"]

  def count(keep):
    return sum(bool(keep(x, groups[x[0]])) for x in data["samples"])

  filters = (
    ("moment", "validation", lambda x, g: g[2] == "valid"),
    ("moment", "srl 10 training", lambda x, g: g[3] == 10),
    ("step", "1", lambda x, g: g[5] == 1),
    ("failure", "broken", lambda x, g: x[4]),
    ("failure", "whole", lambda x, g: not x[4]),
    ("failure", "no_thought", lambda x, g: x[4] == "no_thought"),
    ("low", "0.5", lambda x, g: x[5] >= 0.5),
    ("high", "0.5", lambda x, g: x[5] <= 0.5),
  )
  for name, value, keep in filters:
    control = page.locator(f"#filters [name={name}]")
    if name in ("low", "high"):
      control.fill(value)
    else:
      control.select_option(value)
    expected = count(keep)
    assert 0 < expected < 108
    assert found(page)[0] == expected, (name, value)
    page.click("#filters button[type=reset]")
  assert found(page)[0] == 108
  page.fill("#filters [name=text]", "TRAIN-2")
  assert found(page) == (24, 2)
  page.fill("#filters [name=text]", "nobody wrote this")
  assert found(page) == (0, 0)
  assert "No sample passes" in page.inner_text("#list")


def test_texts_of_models_are_shown_as_text(opened):
  page = opened("one")
  shown = page.inner_text("#detail")
  # What a terminal or the direction of writing would obey is replaced.
  assert "</script><img src=x onerror=window.hit=1>\ufffd[2J\ufffd😀" in shown
  assert page.evaluate("window.hit") is None
  assert page.locator("#detail img").count() == 0


def test_an_open_sample_stands_beside_the_experts_step_with_marks(opened):
  page = opened("one")
  chips = page.locator(".branches:has(.sample) .chip")
  rewards = [float(x) for x in chips.all_inner_texts()]
  opened_one = page.locator(".chip[aria-expanded=true]")
  # At first the worst of the first step is open.
  assert float(opened_one.inner_text()) == min(rewards)
  chip = page.locator(".chip:not(.failed)").first
  if chip.get_attribute("aria-expanded") == "false":
    chip.click()
  pair = page.locator(".pair").first
  marks = [
    "".join(side.locator("mark").all_inner_texts())
    for side in (pair.locator("> div").nth(0), pair.locator("> div").nth(1))
  ]
  assert marks[0] == marks[1] != ""
  chip.click()
  assert chip.get_attribute("aria-expanded") == "false"
  broken = page.locator(".chip.failed").first
  broken.click()
  sample = page.locator(".sample", has_text="format broken")
  assert sample.count() == 1 and sample.locator("mark").count() == 0


def test_the_same_trajectory_is_compared_at_two_moments(opened):
  page = opened("one")
  page.locator("#filters [name=moment]").select_option("srl 0 training")
  assert found(page) == (36, 3)
  page.locator(".entry", has_text="train-1").click()
  beside = page.locator("#detail select[name=beside]")
  assert beside.locator("option").all_inner_texts() == [
    "nothing",
    "srl, update step 10, training",
  ]
  beside.select_option(index=1)
  assert page.locator("#detail .moment").all_inner_texts() == [
    "srl, update step 0, training",
    "srl, update step 10, training",
  ]
  # The filter by moment does not fade the other one.
  assert page.locator("#detail .chip.off").count() == 0
  # Three steps at two moments, and the same step is open at both.
  assert page.locator("#detail .branches").count() == 6
  assert page.locator("#detail .sample").count() == 2
  page.locator("#detail select[name=open]").select_option(index=1)
  assert "update step 10" in page.inner_text("#detail .head")


def test_an_episode_opens_turn_by_turn_beside_the_expert(opened):
  page = opened("one")
  assert page.inner_text("#episodes-found") == "6 of 6 episodes"
  page.locator("#episode-filters [name=outcome]").select_option("solved")
  page.wait_for_timeout(150)
  assert page.locator("#episode-list .item").count() == 2
  detail = page.locator("#episode-detail")
  assert detail.locator(".badge").inner_text() == "✓ solved"
  assert "3 turns, ended by: environment done" in detail.inner_text()
  assert detail.locator(".turn .chip").all_inner_texts() == ["1.00"] * 3
  # The same problem at another moment.
  moments = detail.locator("select option").all_inner_texts()
  assert moments[0] == "before, greedy, not solved (1)"
  detail.locator("select").select_option(index=0)
  assert "2 turns, ended by: turn limit" in detail.inner_text()
  second = detail.locator(".turn").nth(1)
  assert second.locator(".chip").inner_text() == "0.88"
  marks = second.locator("mark").all_inner_texts()
  assert marks == ["edit a="] * 2
  shown = [second.locator(x).inner_text() for x in (".thought", ".seen")]
  assert shown == [
    f"so {EVIL}".replace("\x1b", "\ufffd").replace("\u202e", "\ufffd"),
    "ok",
  ]
  assert page.locator("#episodes img").count() == 0


def test_episodes_are_searched_and_reached_by_keys(opened):
  page = opened("one")
  page.fill("#episode-filters [name=text]", "A=2")
  page.wait_for_timeout(150)
  items = page.locator("#episode-list .item")
  assert items.count() == 2
  items.first.focus()
  page.keyboard.press("ArrowDown")
  assert items.nth(1).get_attribute("aria-selected") == "true"
  assert "test-1" in page.inner_text("#episode-detail h3")
  # The list of rollouts has not moved.
  assert page.locator(".entry").first.get_attribute("aria-selected") == "true"
  page.fill("#episode-filters [name=text]", "nobody wrote this")
  page.wait_for_timeout(150)
  assert "No episode passes" in page.inner_text("#episode-list")


def test_a_file_of_an_agent_opens_without_a_run(opened):
  page = opened("agent")
  assert page.locator("h1").inner_text() == "mini.traj.json"
  assert page.locator("nav a").all_inner_texts() == ["Episodes"]
  assert page.locator("#episode-detail .badge").inner_text() == "? unknown"
  turn = page.locator(".turn").first
  assert "command>ls<" in turn.locator(".pair.one").inner_text()
  assert "calc.py" in turn.locator(".seen").inner_text()


def test_the_keyboard_reaches_everything(opened):
  page = opened("one")
  page.keyboard.press("/")
  page.keyboard.type("valid-1")
  assert found(page) == (12, 1)
  page.click("#filters button[type=reset]")
  found(page)
  page.locator(".entry").first.focus()
  page.keyboard.press("ArrowDown")
  page.keyboard.press("ArrowDown")
  selected = page.locator(".entry[aria-selected=true] .name")
  assert selected.inner_text() == "valid-2"
  page.locator(".chip").first.focus()
  page.keyboard.press("ArrowRight")
  page.keyboard.press("Enter")
  assert page.locator(".chip").nth(1).get_attribute("aria-expanded") == "true"
  page.locator(".entry", has_text="train-0").first.focus()
  page.keyboard.press("Enter")
  page.keyboard.press("]")
  assert (
    page.locator("#detail select[name=open]")
    .evaluate("x => x.selectedOptions[0].text")
    .endswith("step 10, training")
  )


def test_earlier_and_later_keys_stay_within_the_run(opened):
  page = opened("both")
  page.locator("#filters [name=moment]").select_option("srl 19 validation")
  found(page)
  page.locator(".entry", has_text="valid-1").click()
  where = page.locator("#detail select[name=open]")
  assert where.locator("option").count() == 2  # Of either run.
  for key in "[]":
    page.keyboard.press(key)
    shown = where.evaluate("x => x.selectedOptions[0].text")
    assert shown == "one, srl, update step 19, validation"


def test_charts_follow_the_axis_and_the_run(opened):
  page = opened("both")
  assert page.locator("#legend").inner_text() == ""
  assert "lowest to the highest run" in page.inner_text("#curves-note")
  before = page.locator(".panel svg").first.inner_html()
  page.select_option("#axis", "tokens")
  page.wait_for_function(
    "x => document.querySelector('.panel svg').innerHTML !== x", arg=before
  )
  chart = page.locator("[data-chart=histogram]")
  before = chart.inner_html()
  page.locator("#charts [data-signal=split]").select_option("valid")
  page.locator("#charts [data-signal=run]").select_option("two")
  page.wait_for_function(
    "x => document.querySelector('[data-chart=histogram]').innerHTML !== x",
    arg=before,
  )
  # A metric that is not shown at first.
  count = page.locator(".panel").count()
  page.select_option("#metric", "groups_kept")
  assert page.locator(".panel").count() == count + 1
  page.wait_for_selector(".panel:first-child svg")


def test_a_run_that_has_just_begun_opens(opened):
  page = opened("begun")
  assert "No rollouts are kept" in page.inner_text("#rollouts")
  assert page.inner_text("#curves-note") == "No update step is logged yet."
  assert "There is nothing to draw yet." in page.inner_text("#results")


def test_dark_and_light_are_the_readers_choice(browser, folder):
  seen = set()
  for scheme in ("light", "dark"):
    page = browser.new_page(color_scheme=scheme)
    page.goto((folder / "one.html").as_uri())
    page.wait_for_selector("html[data-drawn=yes]")
    background = page.evaluate(
      "getComputedStyle(document.body).backgroundColor"
    )
    label = page.locator(".panel svg text").first.get_attribute("fill")
    seen.add((background, label))
    page.close()
  (light, dark_text), (dark, light_text) = seen
  assert light != dark and dark_text != light_text
