# SPDX-License-Identifier: Apache-2.0
"""Finding final answers, and comparing them exactly."""

import time
from fractions import Fraction

import pytest

from srl_jax.rewards import answer_reward, extract_answers, same_answer
from srl_jax.rewards.quantity import Quantity, parse_quantity


@pytest.mark.parametrize(
  ("text", "value", "unit"),
  [
    ("72", 72, ""),
    ("007", 7, ""),
    ("1,234,567.50", Fraction(2469135, 2), ""),
    (".5", Fraction(1, 2), ""),
    ("5.", 5, ""),
    ("27.0", 27, ""),
    ("+3", 3, ""),
    ("- 3", -3, ""),
    ("-3/4", Fraction(-3, 4), ""),
    ("-3./2", Fraction(-3, 2), ""),
    ("\\frac{3}{4}", Fraction(3, 4), ""),
    ("\\frac34", Fraction(3, 4), ""),
    ("-\\frac{1,000}{-3}", Fraction(1000, 3), ""),
    ("1\\frac12", Fraction(3, 2), ""),
    ("-1 1/2", Fraction(-3, 2), ""),
    ("4.5e3", 4500, ""),
    ("4.5 \\times 10^{-3}", Fraction(9, 2000), ""),
    ("2*10^3", 2000, ""),
    ("10^5", 100000, ""),
    ("€5", 5, "euro"),
    ("50%", 50, "%"),
    ("50 percent", 50, "%"),
    ("45°", 45, "°"),
    ("5 cm", 5, "cm"),
    ("5 m", 5, "m"),
    ("5 m / s", 5, "m.s^-1"),
    ("5 cm^2", 5, "cm^2"),
    ("3 apples", 3, "apple"),
  ],
)
def test_numbers_are_read_exactly(text, value, unit):
  assert parse_quantity(text) == Quantity(Fraction(value), unit)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "x",
    "5x",
    "5ab",
    "5 x",
    "2pi",
    "2 pi",
    "5!",
    "12,34",
    "1,2",
    "3 or 4",
    "5 and 6",
    "2^{10}",
    "1/0",
    "\\frac{1}{0}",
    "--5",
    "-$-5",
    "1e999999999",
    "10^{999999999}",
    "1" * 5000,
    "4 (approximately)",
  ],
)
def test_what_is_not_a_plain_number_is_not_read_as_one(text):
  assert parse_quantity(text) is None


@pytest.mark.parametrize(
  ("candidate", "reference"),
  [
    ("72.00", "72"),
    ("$72$", "72"),
    ("\\$72", "72"),
    ("1{,}234", "1234"),
    ("1\\,234", "1,234"),
    ("33", "033"),
    ("27", "27.0"),
    ("\\dfrac12", "0.5"),
    ("\\(\\tfrac{1}{2}\\)", "1/2"),
    ("50\\%", "0.5"),
    ("50%", "50"),
    ("33\\frac13\\%", "1/3"),
    ("1½", "1.5"),
    ("10½%", "10.5%"),
    ("x½", "x/2"),
    ("3 kgs", "3 kg"),
    ("5 lbs", "5 pounds"),
    ("60 km per hour", "60 km/h"),
    ("5 per cent", "5%"),
    ("1,000 and 2,000", "1000 and 2000"),
    ("1,000, 2,000", "1000, 2000"),
    ("**18**.", "18"),
    ("x = 5", "5"),
    ("x_{1}=5", "5"),
    ("45^{\\circ}", "45"),
    ("5\\text{ cm}", "5 cm"),
    ("5\\,\\mathrm{~cm}", "5"),
    ("18 dollars", "$18"),
    ("−4", "-4"),
    (".5", "1/2"),
    ("\\left(1,\\tfrac12\\right)", "(1, 0.5)"),
    ("\\{1, 2\\}", "\\{1,2\\}"),
    ("((1,2),3)", "((1, 2), 3.0)"),
    ("(1,2), (3,4)", "(1,2.0),(3,4)"),
    ("(A)", "A"),
    ("\\text{Yes}", "yes"),
    ("x^{2}+1", "x^2 + 1"),
    ("\\frac{x}{2}", "x/2"),
    ("\\frac{x+1}{2}", "(x+1)/2"),
    ("\\sqrt{2}", "\\sqrt 2"),
  ],
)
def test_equal_answers(candidate, reference):
  assert same_answer(candidate, reference)
  assert same_answer(reference, candidate)


@pytest.mark.parametrize(
  ("candidate", "reference"),
  [
    ("0.33", "1/3"),
    ("0.333333333333333333333", "1/3"),  # equal as float64
    ("1½", "5.5"),
    ("5 ms", "5 m"),
    ("1,000 and 2,000", "1, 0, 2 and 0"),
    ("5", "-5"),
    (".5", "5"),
    ("5!", "5"),
    ("5x", "5"),
    ("5 m", "5 cm"),
    ("5 m/s", "5 ms"),
    ("50%", "5000"),
    ("50%", "50 cm"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(2,1)"),
    ("1\\,23", "123"),
    ("(1,2),(3,4)", "(1,2,3,4)"),
    ("(1,2)", "(1,2,3)"),
    ("(1,2) and (3,4)", "(1,2)"),
    ("1,234", "(1,234)"),
    ("", "5"),
    ("$$", "5"),
    ("X", "x"),
    ("x+1", "1-x"),
    ("12", "1 2"),
  ],
)
def test_different_answers(candidate, reference):
  assert not same_answer(candidate, reference)
  assert not same_answer(reference, candidate)


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    # 1. All boxes that close, whatever comes later.
    ("\\boxed{3} no, \\boxed{\\frac{1}{2}}. So 7.", "3, \\frac{1}{2}"),
    ("\\boxed{0.5} is \\boxed{\\frac{1}{2}}. So 7.", "\\frac{1}{2}"),
    ("\\boxed {\\text{if } \\{x\\}}", "\\text{if } \\{x\\}"),
    ("\\boxed{5} and \\boxed{6", "5"),
    ("\\boxed{x \\} y}", "x \\} y"),
    ("\\boxed{1 \\boxed{2} 3}", "2"),
    ("#### 1\n#### 2", "2"),
    ("\\fbox{5} #### 6", "5"),
    # 2. As DeepSeek-R1 was asked.
    ("<answer>3</answer> no, <answer>\n5 cm\n</answer> #### 6", "5 cm"),
    ("<answer>3 <answer>5</answer> so </answer> 7 <answer>", "5"),
    # 3. GSM8K.
    ("answer is 3\n12 * 6 = 72\n#### 1,072 \n", "1,072"),
  ],
)
def test_explicit_answers_are_the_only_candidates(text, answer):
  assert extract_answers(text) == [answer]


@pytest.mark.parametrize(
  ("text", "reference"),
  [
    ("The answer is 5. Then I checked 7.", "5"),
    ("The answer is 3; no, the answer is 5.", "5"),
    ("**Final Answer:** $x=7$.", "7"),
    ("The answer is:\n\n $\\frac{3}{4}$ cups.", "3/4"),
    ("answer = x^2", "x^2"),
    ("The answer is:\n\n\\[\n42\n\\]", "42"),
    ("**Answer:**\n\n$$\n\\frac12\n$$", "1/2"),
    ("Answer:\n```text\n42\n```", "42"),
    ("The answer is:\n\\begin{align*}\nx=42\n\\end{align*}", "42"),
    ("The answer is:\n- 42", "42"),
    ("The answer is:\n-42", "-42"),
    ("In all:\n> * 42 apples", "42"),
    ("The answer is 12 because 12 > 3", "12"),
    ("we get 2*3 => 6", "6"),
    ("It is -5", "-5"),
    ("In total, 5 apples", "5"),
    ("We get **5** apples", "5"),
    ("so <<2+3=5>>5 apples", "5"),
    ("Total (in dollars): \\$5", "5"),
    ("so $x \\Rightarrow 5$", "5"),
    ("The answer is negative 5.", "-5"),
    ("It is minus 5.", "-5"),
    ("The answer is 5 million.", "5000000"),
    ("The answer is \\$5 million.", "\\$5,000,000"),
    ("They earned 1.5 million dollars.", "1500000"),
    ("The answer is 5 square meters.", "5"),
    ("The answer is that she has 5 more apples than Bob.", "5"),
    ("The most that she can buy is 5.", "5"),
    ("The answer is about 5.", "5"),
    ("<answer>The answer is 42</answer>", "42"),
    ("<answer>\nJanet makes 42 dollars.\n</answer>", "42"),
    ("<answer>x = 42, so 42 apples</answer>", "42"),
    ("The answer is $3\\sqrt{13}$ because of Pythagoras.", "3\\sqrt{13}"),
    ("The answer is $(3,4)$, as required.", "(3,4)"),
    ("The answer is A because 3 > 2.", "A"),
    ("The answer is 42 (see Fig. 3).", "42"),
    ("The answer is 42 (or 6 (here) times 7).", "42"),
    ("Answer: Yes, it is.", "Yes"),
    ("so it must be\nx + 1\n", "x+1"),
    ("D8631\nE0042\nG0531", "0531"),  # the register task
    ("5\n3/4\ncups", "3/4"),  # not 5 3/4
    ("They sold 48 and then 1,024 clips.", "1024"),
    ("Step 3: 5", "5"),
    ("So we round 4.7 to 5", "5"),
    ("The total goes from 3 to 5.", "5"),
    ("They change 3 feet, 3 to 5", "5"),
    ("- Box 2 : 5", "5"),
    ("Total for week 2 : $5", "5"),
    ("She sold 48 and 24 clips, so a total of 48+24=72 clips.", "72"),
    ("The difference between them is $28 - $20 = $8.00.", "8"),
    ("7 of 28 and 12 of 24 give 7*(1/2) + 6.5 = 10 cups in all", "10"),
    ("Answer: He has 2 boxes.\nEach holds 3.\nSo 2 * 3 = 6.", "6"),
    ("**Answer:**\n9 - 7 = 2\n2 * 3 = 6", "6"),
    ("Answer: $x = 6$\nCheck: 6 - 2 = 4", "6"),
    ("Answer: Yes\nCheck: 6 - 2 = 4", "Yes"),
    ("Answer: Here are all boxes of his.\nHe has 2 of 3.\nSo 6.", "6"),
    ("Answer: He has 2 boxes because 4 - 2 equals 2.\n3 of it equals 6.", "6"),
    # An answer in a sentence, and a remark.
    ("Answer: There are 6 apples.\nI checked it in 3 steps.", "6"),
    ("**Answer:** Janet makes $18 a day.\n\nShe sells 9", "18"),
    ("Answer: 3 and 5\nBoth satisfy x^2 - 8x + 15 = 0.", "3, 5"),
    ("Answer: x = 3 or x = 5\n3 + 5 = 8", "3, 5"),
    ("Answer: 6 (since 2*3 = 6)\nAnd 6 / 3 = 2", "6"),
    ("Answer: Each pays 6.\n\n1. Add 2\n2. Divide", "6"),
    ("Answer: \\frac{3}{4} of the cake\nsee step 2", "3/4"),
    ("Answer: There are 6 apples.\n**Check:** 6 - 4 = 2", "6"),
    ("The answer is $1800 a month.", "1800"),
    ("So he makes 200*9=$1800 a month", "1800"),
    ("The answer is 6 I think.", "6"),
  ],
)
def test_unmarked_answers_are_found(text, reference):
  assert answer_reward(text, reference) == 1.0


@pytest.mark.parametrize(
  ("text", "reference"),
  [
    ("", "5"),
    ("<think>#### 5</think>", "5"),
    ("<think>The answer is 5</think>The answer is 6", "5"),
    ("5 and then 6", "5"),
    ("\\boxed{}, 5", "5"),
    ("The answer is 6. Maybe 5.", "5"),
    ("It is 8 or 2+3 = 5", "5"),
    ("x is 8 and 2+3 = 5", "5"),
    ("x is 8 and -2+7 = 5", "5"),
    ("The roots are 8 and 5, since 2+3 = 5", "5"),
    ("It is between 2 and 2+3 = 5", "5"),
    ("Of 8 and 6 it isn't 2+3 = 5", "5"),
    ("8 and 6 give 2+3 = 5x", "5"),
    ("8 and 6 give x = 5", "5"),
    # Parts of terms, also of such as were cut.
    ("Therefore the length is $3\\sqrt{5}$.", "5"),
    ("So it is $\\sqrt 5$", "5"),
    ("So $x = \\frac{7}{2", "2"),
    ("Hence \\boxed{5", "5"),
    ("we look at $a_{5}", "5"),
    ("we look at $a_5", "5"),
    ("We get (x-2)^2", "2"),
    ("We get x - 5", "-5"),
    ("We get $7-5$", "5"),
    ("We get $3 \\times 5$", "5"),
    ("We get 3 x 5", "5"),
    ("the point (3,5)", "5"),
    ("the point (3, 5)", "5"),
    ("It is $[3, 5)$", "5"),
    ("so x > 5", "5"),
    ("The roots are 3, 5", "5"),
    ("The ratio is 3:5", "5"),
    ("3 : 5", "5"),
    ("The ratio is 3 : 5", "5"),
    ("It takes 3 to 5 days", "5"),
    ("From this on it takes 3 to 5 days", "5"),
    # Words that make another number of it.
    ("The answer is negative 5.", "5"),
    ("It is minus 5", "5"),
    ("10 minus 5", "-5"),
    ("The answer is 5 million.", "5"),
    ("They earned 5 million dollars.", "5"),
    ("The answer is 5 squared.", "5"),
    ("The answer is 5 factorial.", "5"),
    ("The answer is 5 tenths.", "5"),
    ("The answer is 0.333...", "0.333"),
    ("The answer is 5 dozen.", "5"),
    ("The answer is the square root of 5.", "5"),
    ("The answer is half of 5.", "5"),
    ("The answer is twice 5.", "5"),
    ("The answer is at least 5.", "5"),
    ("The answer is more than 5.", "5"),
    ("The answer isn't 5.", "5"),
    ("The answer is not 5.", "5"),
    ("The answer cannot be 5.", "5"),
    ("It is $\\log_{2} 5$", "5"),
    ("The answer is a multiple of 5.", "5"),
    ("The answer is reduced mod 5.", "5"),
    ("The answer is 5 (if x > 0) or 8 (otherwise).", "5"),
    ("The answer is 5(x+1)", "5"),
    ("<answer>3, 5</answer>", "5"),
    ("<answer>It is 3 or 5</answer>", "5"),
    ("<answer>3\n5</answer>", "5"),
    ("The answer is not $\\sqrt{5}$ because of this.", "\\sqrt{5}"),
    ("The answer is A or B because both hold.", "A"),
    ("Answer: Yes, or no.", "Yes"),
    # One of several, or no answer.
    ("Hence, a=2 and b=5.", "5"),
    ("Thus $a = 2$, $b = 5$.", "5"),
    ("Therefore, Alice has 2 apples and Bob has 5 apples.", "5"),
    ("The roots: 2; 5", "5"),
    ("The solutions are 2 & 5", "5"),
    ("Thus $2 \\equiv 7 \\pmod 5$.", "5"),
    ("The remainder is 3 when divided by 5.", "5"),
    ("The number is 24 in base 5.", "5"),
    ("The probability is 1 out of 5.", "5"),
    ("as shown in Figure 5.", "5"),
    ("It follows from Step 5", "5"),
    ("The answer is 5 a", "5"),
    ("Answer: He has 5 boxes.\nEach holds 3.\nSo 5 * 3 = 15.", "5"),
    ("**Answer:**\n9 - 4 = 5\n5 * 3 = 15", "5"),
    ("Answer: There are 6 apples.\nI checked it in 5 steps.", "5"),
    ("**Answer:** Janet makes $18 a day.\n\nShe sells 5", "5"),
    ("Answer: x = 2 or x = 3\n2 + 3 = 5", "5"),
    ("Answer: There are 6 apples.\nExplanation:\n6 - 1 = 5", "5"),
  ],
)
def test_other_numbers_do_not_count(text, reference):
  assert answer_reward(text, reference) == 0.0


def test_thoughts_are_dropped_before_looking():
  text = "<think>#### 4</think>a\n<think>\\boxed{4}</think>\n#### 5"
  assert answer_reward(text, "5") == 1.0


@pytest.mark.parametrize(
  "text",
  [
    "(" * 20000 + "5" + ")" * 20000,
    "\\boxed{" * 4000,
    "\\boxed{" + "{" * 20000 + "}" * 20001,
    "answer" + ":" * 20000,
    "#" * 20000,
    "1," * 20000,
    "1 " * 20000,
    "1" * 20000 + "/",
    "\\frac" * 5000,
    "\\boxed{" + "(1," * 5000 + "2" + ")" * 5000 + "}",
    "<think>" * 5000,
    "<answer>" * 30000,
    "-" * 20000,
    "1 and 2 " + "1+" * 20000 + "7",
    "1+1 = 2 and 3 " * 1500,
    "is from 3 to 1 : " * 1500 + "x 7x",
    "\\text{" * 5000,
    "Answer: In 2 steps.\n" + ")" * 20000,
    "Answer: In 2 steps.\n" + ".\n" * 20000,
  ],
)
def test_degenerate_outputs_are_cheap(text):
  start = time.thread_time()
  assert answer_reward(text, "(7,8)") == 0.0
  # Milliseconds if linear; a hundred times more on a slow machine is fine.
  assert time.thread_time() - start < 10
