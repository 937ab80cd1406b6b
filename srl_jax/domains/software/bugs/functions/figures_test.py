# SPDX-License-Identifier: Apache-2.0
"""Tests of whole numbers, digits and averages."""

from srl_jax.domains.software.bugs.functions.figures import (
  clamp,
  digit_sum,
  gcd,
  is_prime,
  lcm,
  median,
  prime_factors,
  to_base,
  to_roman,
)


def test_gcd():
  assert gcd(12, 18) == 6
  assert gcd(7, 5) == 1
  assert gcd(0, 9) == 9
  assert gcd(9, 0) == 9
  assert gcd(-4, 6) == 2


def test_lcm():
  assert lcm(4, 6) == 12
  assert lcm(3, 5) == 15
  assert lcm(0, 5) == 0
  assert lcm(5, 0) == 0
  assert lcm(-2, 3) == 6
  assert lcm(7, 7) == 7


def test_is_prime():
  assert is_prime(2) is True
  assert is_prime(9) is False
  assert is_prime(1) is False
  assert is_prime(0) is False
  assert is_prime(97) is True
  assert is_prime(91) is False
  assert is_prime(4) is False


def test_prime_factors():
  assert prime_factors(12) == [2, 2, 3]
  assert prime_factors(97) == [97]
  assert prime_factors(1) == []
  assert prime_factors(49) == [7, 7]
  assert prime_factors(30) == [2, 3, 5]


def test_to_base():
  assert to_base(10, 2) == "1010"
  assert to_base(255, 16) == "ff"
  assert to_base(0, 2) == "0"
  assert to_base(1, 8) == "1"
  assert to_base(7, 10) == "7"
  assert to_base(26, 3) == "222"


def test_digit_sum():
  assert digit_sum(123) == 6
  assert digit_sum(-45) == 9
  assert digit_sum(0) == 0
  assert digit_sum(1000) == 1
  assert digit_sum(9) == 9


def test_to_roman():
  assert to_roman(4) == "IV"
  assert to_roman(1994) == "MCMXCIV"
  assert to_roman(3) == "III"
  assert to_roman(58) == "LVIII"
  assert to_roman(2000) == "MM"
  assert to_roman(449) == "CDXLIX"


def test_median():
  assert median([3, 1, 2]) == 2
  assert median([4, 1, 3, 2]) == 2.5
  assert median([5]) == 5
  assert median([1, 2]) == 1.5
  assert median([7, 7, 1, 7]) == 7.0


def test_clamp():
  assert clamp(5, 0, 10) == 5
  assert clamp(-3, 0, 10) == 0
  assert clamp(12, 0, 10) == 10
  assert clamp(0, 0, 1) == 0
