# SPDX-License-Identifier: Apache-2.0
"""Questions over tables: the database's limits, rewards, experts, the guide."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil

import pytest

from srl_jax import domains
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.domains import drawn, sql
from srl_jax.domains.splits import split_of
from srl_jax.rollout.scoring import reward_context
from srl_jax.trajectory import Step, Trajectory

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = (
  "CREATE TABLE pets(id,kind); CREATE TABLE visits(pets,cost);"
  "INSERT INTO pets VALUES (1,'FOX'),(2,'CAT'),(3,'FOX');"
  "INSERT INTO visits VALUES (1,5),(2,9),(3,7);"
)
NUMBERS = "(VALUES (1),(2),(3),(4),(5),(6),(7))"


def ask(query):
  database = sql.connect(SCRIPT)
  try:
    return sql.act(database, query)
  finally:
    database.close()


def question(reference="answer:SELECT id FROM pets WHERE kind='FOX'"):
  metadata = {"script": SCRIPT, "reference": reference}
  steps = (Step("SELECT DISTINCT kind FROM pets"), Step(reference))
  return Trajectory("q", "sql", "which pets?", steps, metadata=metadata)


def play(trajectory, *actions):
  """Returns (whether solved, (observation, whether it is over) of the last)."""
  with contextlib.closing(sql.Tables()) as tables:
    tables.reset(trajectory)
    answers = [tables.step(action) for action in actions]
    return tables.solved(), answers[-1]


def test_an_action_is_executed_and_an_answer_ends_the_episode():
  assert ask("SELECT max(cost) FROM visits") == ([(9,)], False)
  assert ask(" answer: SELECT count(*) FROM pets ") == ([(3,)], True)
  solved, last = play(question(), "SELECT id, kind FROM pets")
  assert (solved, last) == (False, ("1|FOX\n2|CAT\n3|FOX", False))


@pytest.mark.parametrize(
  ("query", "solved"),
  [
    ("SELECT pets FROM visits WHERE pets IN (3,1) ORDER BY pets DESC", True),
    ("SELECT id FROM pets WHERE kind LIKE 'fox'", True),
    ("SELECT id FROM pets WHERE kind='fox'", False),
    ("SELECT id FROM pets", False),
    ("SELECT 1 FROM pets WHERE kind='FOX'", False),
    ("SELECT kind FROM", False),
  ],
)
def test_an_answer_is_right_if_its_rows_are_those_of_the_reference(
  query, solved
):
  assert play(question(), f"answer:{query}")[0] is solved
  # Only an answer counts.
  assert not play(question(), query)[0]


def test_rows_count_as_often_as_they_are_there():
  twice = question("answer:SELECT kind FROM pets")
  assert play(twice, "answer:SELECT kind FROM pets ORDER BY kind")[0]
  assert not play(twice, "answer:SELECT DISTINCT kind FROM pets")[0]
  other = "answer:SELECT 'FOX' UNION ALL SELECT 'CAT' UNION ALL SELECT 'CAT'"
  assert not play(twice, other)[0]


@pytest.mark.parametrize(
  "query",
  [
    "INSERT INTO visits VALUES (1, 2)",
    "UPDATE visits SET cost=0",
    "DELETE FROM visits",
    "CREATE TABLE other(x)",
    "ATTACH 'other.db' AS other",
    "VACUUM INTO 'other.db'",
    "PRAGMA table_info(pets)",
    "SELECT * FROM pragma_database_list",
    "BEGIN",
    "SELECT random()",
    "SELECT load_extension('x')",
    "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i FROM t)"
    " SELECT max(i) FROM t",
    "SELECT 1; SELECT 2",
    "SELECT * FROM pets, pets, pets",
    f"SELECT count(*) FROM {', '.join([NUMBERS] * 7)}",
    f"SELECT '{'a' * 2000}'",
    f"SELECT count(*) FROM pets WHERE kind LIKE '{'%a' * 40}'",
    "SELECT x FROM pets",
    "\x00",
    "\ud800",
  ],
)
def test_what_is_not_allowed_is_one_row_with_an_error(
  query, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  [(word, what)], _ = ask(query)
  assert word == "error" and what
  assert not list(tmp_path.iterdir())


def test_limits_are_of_one_query_and_not_of_an_episode():
  query = f"SELECT count(*) FROM {', '.join([NUMBERS] * 4)}"
  database = sql.connect(SCRIPT)
  assert all(sql.act(database, query)[0] == [(2401,)] for _ in range(50))
  database.close()


def test_a_query_has_the_effect_of_the_experts_if_it_gives_its_rows():
  trajectory = question()

  def reward(step, action):
    target = trajectory.steps[step].text
    context = reward_context(trajectory, step)
    return sql.same_effect(action, target, context=context)

  assert reward(0, "SELECT kind FROM pets GROUP BY kind ORDER BY id") == 1
  # As in `solved`, the order of rows does not count, but how often one comes.
  assert reward(0, "SELECT DISTINCT kind FROM pets ORDER BY kind") == 1
  assert reward(0, "SELECT kind FROM pets") == 0
  assert reward(0, "answer:SELECT DISTINCT kind FROM pets") == 0
  assert reward(1, "answer: SELECT id FROM pets WHERE id != 2") == 1
  assert reward(1, "SELECT id FROM pets WHERE id != 2") == 0


@pytest.fixture(scope="module")
def splits():
  sizes = {"train": 60, "valid": 20, "test": 20, "pretrain": 20}
  return drawn.draw_splits(sql.SQL, sizes, 0)


def test_experts_answer_every_question_in_two_styles(splits):
  styles = set()
  for trajectory in splits["train"]:
    *before, last = trajectory.steps
    solved, end = play(trajectory, *(step.text for step in trajectory.steps))
    assert solved and end == (last.observation, True)
    assert all(x.observation and x.thought for x in trajectory.steps)
    assert not any(sql.SQL.is_final(step.text) for step in before)
    assert sql.SQL.is_final(last.text)
    styles.add((len(before), " JOIN " in last.text))
  assert styles == {(1, True), (2, False)}


def test_who_does_not_look_is_often_wrong(splits):
  verdicts = []
  for trajectory in splits["train"]:
    query = trajectory.steps[-1].text
    if " JOIN " in query:
      asked = trajectory.problem.split()[-1].rstrip("?")
      guess = re.sub("'.*'", f"'{asked}'", query)
      verdicts.append(play(trajectory, guess)[0])
  # The question spells a value as a third of the databases do.
  assert len(verdicts) > 20
  assert 0.1 < sum(verdicts) / len(verdicts) < 0.6


def test_questions_are_the_same_however_many_and_in_one_split(splits):
  fewer = drawn.draw_splits(sql.SQL, {"train": 7}, 0)["train"]
  assert fewer == splits["train"][:7]
  other = drawn.draw_splits(sql.SQL, {"train": 7}, 1)["train"]
  assert not {t.problem + t.metadata["script"] for t in other} & {
    t.problem + t.metadata["script"] for t in fewer
  }
  for split, trajectories in splits.items():
    for trajectory in trajectories:
      facts = json.dumps(dict(trajectory.metadata), sort_keys=True)
      assert split_of(trajectory.problem + facts) == split
  every = [t for split in splits.values() for t in split]
  keys = {t.problem + t.metadata["script"] for t in every}
  assert len(keys) == len({t.id for t in every}) == len(every)


def test_an_expert_who_fails_is_an_error():
  hasty = dataclasses.replace(question(), steps=question().steps[:1])
  with pytest.raises(ValueError, match=r"not solve 'q'.*'sql':\n.*-> 'FOX"):
    drawn.played(sql.SQL, hasty)


def test_a_reference_that_fails_is_an_error():
  """Else an answer that fails in the same way would be right."""
  with pytest.raises(ValueError, match=r"of 'q' fails: .* column: x"):
    play(question("answer:SELECT x FROM pets"), "answer:SELECT x FROM pets")


def test_a_domain_that_draws_nothing_is_an_error(monkeypatch):
  monkeypatch.setattr(drawn, "_MOST_DRAWS", 20)
  empty = domains.Domain("empty", "", "", draw=lambda draws, name: None)
  with pytest.raises(ValueError, match=r"'empty' drew no problem .* 'train'"):
    drawn.draw_splits(empty, {"train": 1}, 0)


def test_data_are_drawn_by_the_domain_that_the_config_names():
  config = DataConfig("drawn", domain="sql", train_size=2, valid_size=1)
  loaded = load_trajectories(config).splits
  sizes = {split: len(trajectories) for split, trajectories in loaded.items()}
  assert sizes == config.sizes()
  for domain in ("", "math"):
    with pytest.raises(ValueError, match=rf"='{domain}' draws no .*'sql'"):
      load_trajectories(DataConfig("drawn", domain=domain, train_size=1))
  with pytest.raises(ValueError, match=r"clear data\.path"):
    DataConfig("drawn", "x.jsonl", domain="sql")


@pytest.mark.slow
@pytest.mark.usefixtures("imported_domains")
def test_the_module_is_a_domain_wherever_it_lies(runs, tmp_path, monkeypatch):
  """A copy outside of the package trains and is evaluated, unregistered."""
  shutil.copy(sql.__file__, tmp_path / "my_tables.py")
  monkeypatch.syspath_prepend(str(tmp_path))
  outcome = runs.run(
    tmp_path / "run",
    "srl",
    data__path="",
    data__format="drawn",
    data__domain="my_tables:SQL",
    data__train_size=24,
    tokenizer__train_vocab_size=400,
    srl__update_steps=1,
    srl__passes=1,
    srl__validate_every=0,
    srl__dynamic_sampling__enabled=False,
    srl__reward__function="my_tables:same_effect",
    reward_workers__count=0,
    evaluate__max_turns=1,
  )
  assert outcome.results["after srl"]["turns accuracy, greedy"][0] == 0
  [row] = [x for x in outcome.rows() if "srl/reward" in x]
  assert row["srl/reward"] == -1  # An empty model never ends its thought.


GUIDE = (ROOT / "docs" / "own_domain.md").read_text(encoding="utf-8")
CODE = [
  (ROOT / path).read_text(encoding="utf-8")
  for path in ("srl_jax/domains/sql.py", "experiments/sql.py")
]


def test_the_code_in_the_guide_is_the_code():
  shown = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
  assert len(shown) >= 6
  for snippet in shown:
    assert any(snippet in code for code in CODE), snippet


def test_the_module_is_as_short_as_the_guide_says():
  [lines] = re.findall(r"(\d+) lines", GUIDE)
  assert int(lines) == len(CODE[0].splitlines()) <= 150
