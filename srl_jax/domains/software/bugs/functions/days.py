# SPDX-License-Identifier: Apache-2.0
"""Dates as (year, month, day), and times of day in minutes."""


def is_leap(year):
  """Whether a year of the Gregorian calendar has 366 days."""
  return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def days_in_month(year, month):
  """Returns the number of days of a month, 1 to 12."""
  if month == 2:
    return 29 if is_leap(year) else 28
  if month in (4, 6, 9, 11):
    return 30
  return 31


def day_of_year(year, month, day):
  """Returns the number of a day in its year; 1 January is 1."""
  total = day
  for before in range(1, month):
    total += days_in_month(year, before)
  return total


def add_days(year, month, day, count):
  """Returns the date that is `count` days later, as a tuple."""
  day += count
  while day > days_in_month(year, month):
    day -= days_in_month(year, month)
    month += 1
    if month > 12:
      month = 1
      year += 1
  return (year, month, day)


def clock(minutes):
  """Writes minutes after midnight as hours and minutes, such as 07:05."""
  minutes = minutes % (24 * 60)
  hours, rest = divmod(minutes, 60)
  return f"{hours:02d}:{rest:02d}"


def duration(seconds):
  """Writes seconds as hours, minutes and seconds, without those that are 0."""
  parts = []
  for size, unit in ((3600, "h"), (60, "m"), (1, "s")):
    count = seconds // size
    seconds -= count * size
    if count > 0:
      parts.append(str(count) + unit)
  return " ".join(parts) or "0s"


def age(born, today):
  """Returns the full years between two dates, (year, month, day)."""
  years = today[0] - born[0]
  if (today[1], today[2]) < (born[1], born[2]):
    years -= 1
  return years
