# SPDX-License-Identifier: Apache-2.0
"""Grids as lists of rows, and intervals as (first, last)."""


def transpose(grid):
  """Returns a grid with its rows as columns."""
  if not grid:
    return []
  return [[row[column] for row in grid] for column in range(len(grid[0]))]


def turn_right(grid):
  """Turns a grid by 90 degrees, clockwise."""
  return transpose(grid[::-1])


def spiral(grid):
  """Returns the cells from outside to inside, clockwise."""
  cells = []
  while grid:
    cells += grid[0]
    # The rest, turned to the left, has the next cells in its first row.
    grid = transpose(grid[1:])[::-1]
  return cells


def count_neighbours(grid, row, column):
  """Counts the cells with 1 among the eight around a cell."""
  count = 0
  for r in range(max(0, row - 1), min(len(grid), row + 2)):
    for c in range(max(0, column - 1), min(len(grid[0]), column + 2)):
      if (r, c) != (row, column) and grid[r][c] == 1:
        count += 1
  return count


def life_step(grid):
  """Returns the next state of Conway's game of life."""
  new = []
  for r in range(len(grid)):
    row = []
    for c in range(len(grid[r])):
      count = count_neighbours(grid, r, c)
      if grid[r][c] == 1:
        row.append(1 if count in (2, 3) else 0)
      else:
        row.append(1 if count == 3 else 0)
    new.append(row)
  return new


def merge_intervals(intervals):
  """Joins intervals that overlap or touch; returns them in order."""
  merged = []
  for first, last in sorted(intervals):
    if merged and first <= merged[-1][1]:
      merged[-1] = (merged[-1][0], max(merged[-1][1], last))
    else:
      merged.append((first, last))
  return merged


def free_slots(busy, start, end):
  """Returns the intervals between start and end that are not busy."""
  free = []
  time = start
  for first, last in merge_intervals(busy):
    if first > time:
      free.append((time, first))
    time = max(time, last)
  if time < end:
    free.append((time, end))
  return free


def fill(grid, row, column, colour):
  """Colours the area of equal cells that holds a cell; returns its size."""
  old = grid[row][column]
  if old == colour:
    return 0
  size = 0
  waiting = [(row, column)]
  while waiting:
    r, c = waiting.pop()
    if not (0 <= r < len(grid) and 0 <= c < len(grid[0])):
      continue
    if grid[r][c] != old:
      continue
    grid[r][c] = colour
    size += 1
    waiting.extend([(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)])
  return size
