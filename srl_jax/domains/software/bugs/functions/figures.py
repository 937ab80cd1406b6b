# SPDX-License-Identifier: Apache-2.0
"""Whole numbers, digits and averages."""


def gcd(a, b):
  """Returns the greatest common divisor of two whole numbers."""
  while b:
    a, b = b, a % b
  return abs(a)


def lcm(a, b):
  """Returns the least common multiple; 0 if one of the numbers is 0."""
  if a == 0 or b == 0:
    return 0
  return abs(a * b) // gcd(a, b)


def is_prime(number):
  """Whether a number has exactly two divisors."""
  if number < 2:
    return False
  divisor = 2
  while divisor * divisor <= number:
    if number % divisor == 0:
      return False
    divisor += 1
  return True


def prime_factors(number):
  """Returns the prime factors of a number, the smallest first."""
  factors = []
  divisor = 2
  while divisor * divisor <= number:
    while number % divisor == 0:
      factors.append(divisor)
      number //= divisor
    divisor += 1
  if number > 1:
    factors.append(number)
  return factors


def to_base(number, base):
  """Writes a number of 0 or more in a base from 2 to 16."""
  digits = "0123456789abcdef"
  if number == 0:
    return "0"
  written = ""
  while number > 0:
    written = digits[number % base] + written
    number //= base
  return written


def digit_sum(number):
  """Adds the decimal digits of a whole number, whatever its sign."""
  number = abs(number)
  total = 0
  while number:
    total += number % 10
    number //= 10
  return total


def to_roman(number):
  """Writes a number from 1 to 3999 in Roman numerals."""
  values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
  names = ["M", "CM", "D", "CD", "C", "XC", "L"]
  names += ["XL", "X", "IX", "V", "IV", "I"]
  written = ""
  for value, name in zip(values, names, strict=True):
    while number >= value:
      written += name
      number -= value
  return written


def median(values):
  """Returns the middle value, or the mean of the two in the middle."""
  ordered = sorted(values)
  middle = len(ordered) // 2
  if len(ordered) % 2 == 1:
    return ordered[middle]
  return (ordered[middle - 1] + ordered[middle]) / 2


def clamp(value, low, high):
  """Returns the number between low and high that is next to a value."""
  return max(low, min(value, high))
