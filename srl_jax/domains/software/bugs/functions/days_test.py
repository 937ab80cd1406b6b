# SPDX-License-Identifier: Apache-2.0
"""Tests of dates and times of day."""

from srl_jax.domains.software.bugs.functions.days import (
  add_days,
  age,
  clock,
  day_of_year,
  days_in_month,
  duration,
  is_leap,
)


def test_is_leap():
  assert is_leap(2024) is True
  assert is_leap(2023) is False
  assert is_leap(1900) is False
  assert is_leap(2000) is True


def test_days_in_month():
  assert days_in_month(2023, 2) == 28
  assert days_in_month(2024, 2) == 29
  assert days_in_month(2023, 4) == 30
  assert days_in_month(2023, 11) == 30
  assert days_in_month(2023, 12) == 31
  assert days_in_month(2023, 6) == 30
  assert days_in_month(2023, 9) == 30


def test_day_of_year():
  assert day_of_year(2023, 1, 1) == 1
  assert day_of_year(2023, 3, 1) == 60
  assert day_of_year(2024, 3, 1) == 61
  assert day_of_year(2023, 12, 31) == 365
  assert day_of_year(2024, 12, 31) == 366


def test_add_days():
  assert add_days(2023, 1, 30, 3) == (2023, 2, 2)
  assert add_days(2023, 12, 31, 1) == (2024, 1, 1)
  assert add_days(2024, 2, 28, 1) == (2024, 2, 29)
  assert add_days(2023, 5, 5, 0) == (2023, 5, 5)
  assert add_days(2023, 1, 1, 365) == (2024, 1, 1)
  assert add_days(2023, 3, 30, 1) == (2023, 3, 31)


def test_clock():
  assert clock(425) == "07:05"
  assert clock(0) == "00:00"
  assert clock(1439) == "23:59"
  assert clock(1500) == "01:00"
  assert clock(-30) == "23:30"


def test_duration():
  assert duration(3661) == "1h 1m 1s"
  assert duration(60) == "1m"
  assert duration(0) == "0s"
  assert duration(59) == "59s"
  assert duration(7205) == "2h 5s"


def test_age():
  assert age((2000, 5, 20), (2023, 5, 20)) == 23
  assert age((2000, 5, 20), (2023, 5, 19)) == 22
  assert age((2000, 5, 20), (2023, 4, 30)) == 22
  assert age((2000, 5, 20), (2023, 11, 1)) == 23
  assert age((2020, 1, 1), (2020, 6, 1)) == 0
