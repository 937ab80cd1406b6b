# SPDX-License-Identifier: Apache-2.0
"""Recomputed equations: what is read, what is right, what is left out."""

import gc
import time
from fractions import Fraction

import pytest

from srl_jax.evaluate.equations import scan


def verdicts(text):
  return [equation.is_right for equation in scan(text).equations]


RIGHT = [
  "so 48 + 24 = 72 clips altogether",
  "she sold 48/2 = <<48/2=24>>24 clips",
  r"$2 \times 3 \cdot 4 = 24$",
  r"\frac{3}{4} + \frac14 = 1",
  r"1 \frac{1}{2} + \frac{1}{2} = 2",
  r"\left(2 + 3\right)^2 = 25",
  "2**3 = 8",
  "2(3+4) = 14",
  "**3 + 4 = 7**",
  "- 3 + 4 = 7",
  "Step 1: 3 + 4 = 7",
  "So -3 + 5 = 2",
  "10 − 3 = 7 and 6 ÷ 2",
  "1,234 + 1 = 1,235",
  r"729,\!000 / 9 = 81{,}000",
  "20% of 50 = 10",
  "10/50*100 = 20%",
  "1/3 = 33.3%",
  "100% - 20% = 80%",
  "$12/60 = $0.2 per minute",
  "12 dollars per hour * 5 hours = 60 dollars",
  "4 cookies/dog * 3 dogs = 12 cookies",
  "0.2 x 50 = $10",
  "3 + 4 \\\\\n= 7",
  r"3 + 4 = \boxed{7}.",
  "10/3 = 3.33",
  r"2/3 \approx 0.66",
  "1234 + 1 ≈ 1200",
  r"2 \times 10^{5} / 3 = 6.67 \times 10^4",
  "3 + 4 = 7 < 8",
]
WRONG = [
  "3 + 4 = 8",
  # A number written with decimals is rounded, not cut; an integer is exact.
  "2/3 = 0.66",
  "10/3 = 3",
  "10/3 ≈ 4.5",
  "1,234 + 1 = 1,236",
  "20% of 50 = 11",
  "192*100=$1920",
  r"2 \times 10^{5} / 3 = 6.68 \times 10^4",
]
LEFT_OUT = [
  # Variables, functions, and words that compute.
  *("x + 3 + 4 = 9", "2x = 6", "y - 3 + 5 = 9", "f(3) + 4 = 9", "x^2 + 3 = 4"),
  *("3 + 4 = 7x", "3 + 4 = 7 x", r"3 + 4 = 7\sqrt{2}", "17 mod 5 + 1 = 3"),
  *(r"\sqrt{16} + 3 + 4 = 11", "5! + 1 = 2", "4xy/10 = 5", "100/5 = 5A/5"),
  "apples - 3 + 5 = 9",
  # A ratio, an index, a list, digits that go on, a leading zero.
  *("8 : 2 + 1 = 5", "x_1 + 2 = 4", "1,2 + 3 = 9", r"1/3 = 0.\overline{3}"),
  *("1/3 = 0.33...", "0900 - 0130 = 0730", "3.5.6 + 1 = 2"),
  # Units that differ.
  "2 hours + 30 minutes = 150 minutes",
  "5 km / 2 hours = 2.5 m",
  "2*25 cents = $0.50",
  "2 kg = 2 * 1000",
  "across all 4 subjects = 186 + 62",
  "12 x 1 and 1/4 = 15",
  # Nothing is computed.
  *("24 = 25", "3 + 4 = ?", "=", "3 + 4 =", "= 7", "1 + 1 != 3", "3 + 4 => 8"),
]


@pytest.mark.parametrize("text", RIGHT)
def test_right_equations_are_right(text):
  found = verdicts(text)
  assert found and all(found)


@pytest.mark.parametrize("text", WRONG)
def test_wrong_equations_are_wrong(text):
  assert verdicts(text) == [False]


@pytest.mark.parametrize("text", LEFT_OUT)
def test_what_has_no_value_is_left_out(text):
  assert verdicts(text) == []


def test_chains_are_read_link_by_link():
  assert verdicts("3+4 = 7 = 8") == [True, False]
  # The sign runs on: 3 + 4 is not 14.
  assert verdicts("3+4 = 7*2 = 14") == [False, True]
  # A variable breaks a chain, and what is computed after it counts.
  assert verdicts("x = 3 + 4 = 7") == [True]
  assert verdicts("60 + 60 minutes = 120 minutes = 2 hours") == [True]
  # Words between make a chain of its own.
  found = scan("-11 + 50 = 39 and 1 + 2 = 4").equations
  assert [(e.left.text, e.is_right) for e in found] == [
    ("- 11 + 50", True),
    ("1 + 2", False),
  ]
  assert verdicts("3 + 4 = 7 and 8 = 9") == [True]


def test_statements_give_values_to_names():
  def values(text):
    return [(s.name, s.value) for s in scan(text).statements]

  assert values("So $x = 3 \\cdot 4 = 12$.") == [("x", 12)]
  assert values("x = 5 or x = 7") == [("x", 5), ("x", 7)]
  assert values(r"\theta = 0.5 and x_{1} = -3") == [
    (r"\theta", Fraction(1, 2)),
    ("x_{1}", -3),
  ]
  for text in ("if x = 5", "Let x = 5", "2x = 6", "x+y = 5", "x = 2y", "I = 5"):
    assert values(text) == [], text
  sentences = [
    s.sentence for s in scan("x = 1, y = 2. z = 3\nx = 2").statements
  ]
  assert sentences[0] == sentences[1] < sentences[2] < sentences[3]


def test_places_are_those_of_the_text():
  text = "- so 1 + 1 = 2. Then $x = 5$"
  found = scan(text)
  assert text[found.equations[0].at :].startswith("1 + 1")
  assert text[found.statements[0].at :].startswith("x = 5")
  assert text[found.first_equality] == "="
  assert scan("no equation").first_equality is None


def test_numbers_that_would_take_long_are_left_out():
  assert verdicts("9^64^64 = 1") == []
  assert verdicts("9" * 5000 + " + 1 = 2") == []
  assert verdicts("2^64 * 2^64 = 1") == [False]
  assert verdicts("(" * 90 + "1" + ")" * 90 + " + 1 = 2") == []
  assert verdicts("1 + " * 5000 + "1 = 2") == []
  assert verdicts("1/0 = 1") == []


PIECES = (
  "1=1+|=|(|1,234|1.|1 x |x_{|\\text{|\\frac{|\n=|1+1=3.|x=1.|1 per a |0|- "
)


@pytest.mark.parametrize("piece", [*PIECES.split("|"), "**", "  ", "1:", "|"])
def test_time_grows_with_the_length_only(piece):
  def seconds(count):
    text = piece * (count // len(piece))
    # All that other tests have left would be looked through in between.
    gc.disable()
    start = time.thread_time()
    scan(text)
    taken = time.thread_time() - start
    gc.enable()
    return taken

  # Sixteen times the text takes 256 times as long in a quadratic scan; below
  # half a second the clock of a busy machine says little.
  short, long = min(seconds(2_500) for _ in range(3)), seconds(40_000)
  assert long < max(0.5, 64 * short)
