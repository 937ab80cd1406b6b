# SPDX-License-Identifier: Apache-2.0
"""Questions over tables, answered by SQL that SQLite executes.

  problem   pets(id,kind) visits(pets,cost)
            highest cost of visits of pets of kind fox?
  step 1    SELECT DISTINCT kind FROM pets           observation: FOX / CAT
  step 2    SELECT id FROM pets WHERE kind='FOX'     observation: 1 / 4
  step 3    answer:SELECT max(cost) FROM visits WHERE pets IN (1,4)

A step is one query. "answer:" before it ends the episode, which is a success if
the query gives the rows that the reference query gives. How a database spells a
value (fox, Fox or FOX) must be looked up. Experts answer id by id, as above, or
by a join.
"""

import collections
import contextlib
import dataclasses
import sqlite3

from srl_jax.domains import general
from srl_jax.domains.randomness import Draws
from srl_jax.rewards import RewardContext
from srl_jax.trajectory import Step, Trajectory

# A table of things, their property, its values; a table of events, a number.
WORLDS = (
  ("pets", "kind", ("cat", "fox", "hen"), "visits", "cost"),
  ("shops", "town", ("bern", "oslo", "rome"), "sales", "price"),
  ("clubs", "sport", ("golf", "judo", "polo"), "games", "score"),
)
ASKED = (("total", "sum"), ("highest", "max"), ("lowest", "min"))
SPELLINGS = (str.lower, str.capitalize, str.upper)
MOST_ROWS, MOST_INSTRUCTIONS = 20, 100_000
_LIMITS = {  # In characters: of a value or row, a query, a pattern.
  sqlite3.SQLITE_LIMIT_LENGTH: 1000,
  sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1000,
  sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
}
_ACTIONS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
_FUNCTIONS = ("sum", "max", "min", "count", "avg", "lower", "upper", "like")


def connect(script: str) -> sqlite3.Connection:
  """Returns a database that a script makes and that can only be read then."""
  database = sqlite3.connect(":memory:", cached_statements=0)
  database.executescript(script)

  # No writing, ATTACH, PRAGMA, recursion, random numbers or anything else.
  def judge(kind, _, name, *others):
    known = kind == sqlite3.SQLITE_FUNCTION and name.lower() in _FUNCTIONS
    is_allowed = kind in _ACTIONS or known
    return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY

  database.set_authorizer(judge)
  for limit, most in _LIMITS.items():
    database.setlimit(limit, most)
  # A limit in instructions, unlike one in seconds, is the same everywhere.
  database.set_progress_handler(lambda: 1, MOST_INSTRUCTIONS)
  return database


def act(database: sqlite3.Connection, action: str) -> tuple[list, bool]:
  """Returns the rows of an action's query, and whether it is the answer.

  If there are too many rows, or none because of an error, one row says so.
  """
  query = action.strip().removeprefix("answer:")
  try:
    rows = database.execute(query).fetchmany(MOST_ROWS + 1)
  except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
    rows = [("error", str(error))]
  if len(rows) > MOST_ROWS:
    rows = [("error", f"more than {MOST_ROWS} rows")]
  return rows, query != action.strip()


class Tables:
  """The environment: executes the queries of one episode."""

  def reset(self, trajectory: Trajectory) -> None:
    self._database = connect(trajectory.metadata["script"])
    wanted, _ = act(self._database, trajectory.metadata["reference"])
    if wanted and wanted[0][0] == "error":
      raise ValueError(f"the reference of {trajectory.id!r} fails: {wanted}")
    self._wanted, self._answer = collections.Counter(wanted), None

  def step(self, action: str) -> tuple[str, bool]:
    rows, is_answer = act(self._database, action)
    # The order of rows does not count.
    self._answer = collections.Counter(rows) if is_answer else None
    return "\n".join("|".join(map(str, row)) for row in rows), is_answer

  def solved(self) -> bool:
    return self._answer == self._wanted

  def close(self) -> None:
    self._database.close()


def same_effect(action: str, target: str, *, context: RewardContext) -> float:
  """Returns 1 if the action gives the rows that the expert's gives, else 0."""
  with contextlib.closing(connect(context.metadata["script"])) as database:
    results = [act(database, text) for text in (action, target)]
  ours, wanted = [(collections.Counter(rows), end) for rows, end in results]
  return float(ours == wanted)


def draw(draws: Draws, name: str) -> Trajectory | None:
  """Draws a question and an expert's queries; None if no row is asked for."""
  things, kind, values, events, number = draws.choice(WORLDS)
  spell, (word, function) = draws.choice(SPELLINGS), draws.choice(ASKED)
  value, is_join = draws.choice(values), draws.chance(0.5)
  rows = [(i, spell(draws.choice(values))) for i in range(1, 7)]
  numbers = [(1 + draws.below(6), 10 + draws.below(90)) for _ in range(8)]
  ids = [i for i, of in rows if of == spell(value)]
  if not any(i in ids for i, _ in numbers):
    return None
  listed = ",".join(map(str, ids))
  where = f"WHERE {kind}='{spell(value)}'"
  ask = f"answer:SELECT {function}({number}) FROM {events}"
  join = f"{ask} JOIN {things} ON id={things} {where}"
  steps = [Step(f"SELECT DISTINCT {kind} FROM {things}", thought=f"{value}?")]
  if is_join:
    steps.append(Step(join, thought=where))
  else:
    steps.append(Step(f"SELECT id FROM {things} {where}", thought=where))
    steps.append(Step(f"{ask} WHERE {things} IN ({listed})", thought=listed))
  schema = f"{things}(id,{kind}) {events}({things},{number})"
  question = f"{word} {number} of {events} of {things} of {kind} {value}?"
  script = (
    f"CREATE TABLE {things}(id,{kind});"
    f"CREATE TABLE {events}({things},{number});"
    f"INSERT INTO {things} VALUES {str(rows)[1:-1]};"
    f"INSERT INTO {events} VALUES {str(numbers)[1:-1]};"
  )
  metadata = {"script": script, "reference": join}
  return Trajectory(
    name, "sql", f"{schema}\n{question}", tuple(steps), metadata=metadata
  )


SQL = dataclasses.replace(
  general.of_subject("sql", "questions over tables, by queries in SQL"),
  is_final=lambda action: action.strip().startswith("answer:"),
  environment=Tables,
  draw=draw,
)
