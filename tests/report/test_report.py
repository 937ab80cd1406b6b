# SPDX-License-Identifier: Apache-2.0
"""Tables, samples and curves show exactly the results they are given."""

import difflib
import html
import html.parser
import io
import re
import subprocess
import sys

import pytest

from srl_jax.report.curves import plot_metrics
from srl_jax.report.results_table import label, results_table
from srl_jax.report.samples import Sample, samples_html, samples_text

SAMPLE = Sample(
  heading="p-17, step 2",
  context="What is 6 * 7?",
  thought="six sevens",
  action="so 6*7=42",
  expert="6*7 = 42",
  reward=0.857,
  failure="",
)
SPIKED = SAMPLE._replace(
  context="<b>&amp;</b>",
  thought="</table><script>alert(1)</script>",
  action="a < b && \"c\" > 'd'",
  expert="a < b & <img src=x>",
)


class Page(html.parser.HTMLParser):
  """A page as a browser parses it: the text and the marked text per cell."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.cells, self.marked = [], [], []
    self._is_marking = self._is_in_cell = False
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag in ("td", "th"):
      self.cells.append("")
      self.marked.append("")
      self._is_in_cell = True
    self._is_marking |= tag == "mark"

  def handle_endtag(self, tag):
    self._is_marking &= tag != "mark"
    self._is_in_cell &= tag not in ("td", "th")

  def handle_data(self, data):
    if self._is_in_cell:
      self.cells[-1] += data
      self.marked[-1] += data if self._is_marking else ""


def blocks_of(a, b):
  """The matching blocks of Python's difflib, without the empty last one."""
  matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
  return matcher.get_matching_blocks()[:-1]


def marked_of(a, b):
  found = blocks_of(a, b)
  return (
    "".join(a[x.a : x.a + x.size] for x in found),
    "".join(b[x.b : x.b + x.size] for x in found),
  )


SHOWN = """\
p-17, step 2: reward 0.857
  context  What is 6 * 7?
  thought  six sevens
  model    so ⟦6*7⟧⟦=⟧⟦42⟧
  expert   ⟦6*7⟧ ⟦=⟧ ⟦42⟧"""


def test_console_samples_mark_the_matching_blocks():
  found = [tuple(x) for x in blocks_of(SAMPLE.action, SAMPLE.expert)]
  assert found == [(3, 0, 3), (6, 4, 1), (7, 6, 2)]
  assert samples_text([SAMPLE]) == SHOWN


def test_colours_replace_the_brackets():
  text = samples_text([SAMPLE], color=True)
  assert "so \x1b[1;32m6*7\x1b[0m" in text
  plain = re.sub(r"\x1b\[[\d;]*m", "", text)
  assert plain == re.sub("[⟦⟧]", "", SHOWN)


def test_further_lines_are_indented_and_samples_set_apart():
  sample = SAMPLE._replace(context="one\n\ntwo", action="", expert="x\ny")
  lines = samples_text([sample, SAMPLE]).splitlines()
  assert lines[1:4] == ["  context  one", "", "           two"]
  assert lines[5:8] == ["  model", "  expert   x", "           y"]
  assert lines[8:10] == ["", "p-17, step 2: reward 0.857"]


def test_console_samples_hold_nothing_that_a_terminal_obeys():
  evil = "a\x1b[2Jb\rc\td\u202ee\x00\u0085"
  sample = SAMPLE._replace(
    heading=evil, context=evil, thought=evil, action=evil, expert=evil
  )
  text = samples_text([sample])
  assert all(char.isprintable() or char == "\n" for char in text)
  # Each character is replaced by one, so the blocks keep their places.
  assert "⟦a\ufffd[2Jb c d\ufffde\ufffd ⟧" in text


@pytest.mark.parametrize("sample", [SAMPLE, SPIKED])
def test_html_samples_mark_the_matching_blocks_side_by_side(sample):
  page = Page(samples_html([sample]))
  assert page.cells == [
    "p-17, step 2: reward 0.857",
    sample.context,
    "model",
    "expert",
    f"{sample.thought}\n{sample.action}",
    sample.expert,
  ]
  of_action, of_expert = marked_of(sample.action, sample.expert)
  assert page.marked == ["", "", "", "", of_action, of_expert]
  assert len(of_action) > 5


def test_html_samples_escape_what_models_write():
  heading = "<i>p</i>"
  written = samples_html([SPIKED._replace(heading=heading)])
  clean = samples_html([SAMPLE])
  # The number of marks depends on the text; no other tag may come from it.
  is_ours = lambda tag: tag != "mark"  # noqa: E731
  assert list(filter(is_ours, Page(written).tags)) == list(
    filter(is_ours, Page(clean).tags)
  )
  assert "<script" not in written
  assert html.escape(heading) in written


def test_a_broken_format_is_named_and_nothing_is_marked():
  broken = SAMPLE._replace(thought="", reward=-1.0, failure="not_stopped")
  text = samples_text([broken])
  assert text.startswith(
    "p-17, step 2: reward -1.000, format broken: not_stopped"
  )
  assert "⟦" not in text
  assert "thought" not in text
  page = Page(samples_html([broken]))
  assert "".join(page.marked) == ""
  assert page.cells[4] == broken.action


def test_the_end_of_a_long_context_is_shown():
  sample = SAMPLE._replace(context="start" + "x" * 1000 + "end")
  for text in (samples_text([sample]), samples_html([sample])):
    assert "end" in text
    assert "start" not in text
    assert text.count("x") < 500


def rows():
  return [
    {"update_step": 0, "srl/reward": -0.5, "srl/loss": 1.0},
    {"update_step": 0, "srl/validation_reward": 0.1},
    {"update_step": 1, "srl/reward": 0.25, "srl/loss": None},
  ]


def test_curves_are_the_rows_of_their_metric():
  figure = plot_metrics(rows(), ["srl/reward", "srl/loss"])
  curves = {
    panel.get_title(): panel.lines[0].get_xydata().tolist()
    for panel in figure.axes
  }
  assert curves == {
    "srl/reward": [[0, -0.5], [1, 0.25]],
    "srl/loss": [[0, 1.0]],
  }
  image = io.BytesIO()
  figure.savefig(image, format="png")
  assert image.getvalue().startswith(b"\x89PNG")


def test_an_unknown_metric_is_refused_with_those_that_exist():
  with pytest.raises(
    ValueError, match=r"no row has the metric 'srl/rewards'.*srl/reward, "
  ):
    plot_metrics(rows(), ["srl/rewards"])


def test_matplotlib_is_loaded_by_plots_only():
  script = (
    "import sys, srl_jax.report.curves; print('matplotlib' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=True
  )
  assert done.stdout == "False\n"


def test_a_table_has_a_row_per_metric_and_a_column_per_moment():
  results = {"before": {"a": [0.5, 0.25, 0.75]}, "after": {"b": [1, 1, 1]}}
  assert results_table(results).splitlines()[2:] == [
    "a                  0.500 [0.250, 0.750]  -",
    "b                  -                     1.000 [1.000, 1.000]",
  ]


@pytest.mark.parametrize(
  ("metric", "read"),
  [
    ("step similarity_step_2, greedy", "step similarity, greedy, at depth 2"),
    ("step reward, sampled", "step reward by similarity, sampled"),
    ("step format_failure, greedy", "step format failure, greedy"),
    ("turns avg@4", "turns avg@4"),
    ("turns accuracy, greedy", "solved in turns, greedy"),
    ("solve accuracy, greedy", "solved in one go, greedy"),
  ],
)
def test_labels_of_the_table_read_as_english(metric, read):
  assert label(metric) == read
  *_, row = results_table({"before": {metric: [0, 0, 0]}}).splitlines()
  assert row.startswith(read)
