# SPDX-License-Identifier: Apache-2.0
"""Answers that are more than numbers: what is the same, and what is not."""

import subprocess
import sys
import time

import pytest

from srl_jax.domains.domain import marks_answer
from srl_jax.rewards import answer_reward, same_answer
from srl_jax.rewards.expressions import same_expression

SAME = r"""
\frac{3}{2}i | \frac{3i}{2}
\frac12+\frac32i | \frac{1+3i}{2}
1+2\sqrt{3}i | 1+2i\sqrt{3}
2(1+i) | 2+2i
-1 | e^{i\pi}
-i | i^3
7 | 7 \text{ times}
1 | 1 \text{ cup}
12 | 12 \text{ more apples}
x=8 | 8
8 | f(3)=8
8 | p+q=8
8 | 3+5=8
8 | |CD| = 8
y=3x+1 | y = 1 + 3x
K=LM | LM=K
8 | \displaystyle 8
\frac{3}{7} | \displaystyle\frac{3}{7}
49 | 49\text{ cm}^2
49\mbox{ ft}^2 | 49
49\text{ square meters} | 49 m^2
49 | 49\,\mathrm{cm}^{3}
7\pi\text{ cm}^2 | 7\pi
20^\circ | 20 \text{ degrees}
\begin{pmatrix} 6 \\ 1/2 \end{pmatrix} | \begin{bmatrix}6\\0.5\end{bmatrix}
\begin{pmatrix} 6 & 1 \end{pmatrix} | [\begin{array}{cc}6&1\end{array}]
3,-4 | -4, 3
3,-4 | x=3 \text{ or } x=-4
3,-4 | \{-4, 3\}
2 \pm \sqrt{7} | 2-\sqrt{7} \text{ and } 2+\sqrt7
x \in [1,5] | [1,5]
[1,5] | x\in\left[1,5\right]
[1,5] | 1 \le x \le 5
(6,\infty) | x > 6
(-\infty,1)\cup(6,\infty) | (6,+\infty) \cup (-\infty,1)
(-\infty,1)\cup(6,\infty) | x<1 \text{ or } x>6
x \geq 6 | 6 \leqslant x
\frac{\sqrt{7}}{3} | \sqrt7/3
\frac{7 a}{3} | \frac{7a}{3}
\frac{n}{7}p | \frac{np}{7}
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}}
(b+1)(c+4) | bc + 4b + c + 4
2-7i | -7i + 2
\frac43 | \cfrac{4}{3}
6.2e7 | 6.2 \times 10^{7}
1024 | 2^{10}
B | B. 31
31 | \textbf{(B) } 31
\text{(B)} | B
7π² | 7\pi^2
8 | ８
2,000,000 | 2\,000\,000
\{1,2\} | \lbrace 2,1 \rbrace
3\sqrt{13} | 3\sqrt{13}\text{ units}
-\sqrt{3} | -\sqrt{3}\text{ units}
12 | 12\text{ units}^2
12\pi | 12\pi\text{ units}^2
1.6 | \approx 1.6\text{ cm}
1.6 | ≈ 1.6
8 | x \approx 8
900 | T_e \simeq 900\text{ K}
3\sqrt{13} | 3\sqrt{13} \approx 10.82
3\sqrt{13} | x = 3\sqrt{13} \approx 10.82
10.82 | 3\sqrt{13} \approx 10.82
\frac13 | \frac13 \approx 0.333
1.2, 3.4 | x \approx 1.2, y \approx 3.4
9.8 | 9.8\ \mathrm{m/s^{2}}
15\mbox{ cm}^2 | 15\ \mathrm{cm^{2}}
\frac12 | \mathbf{\frac{1}{2}}
3R^2+R | R(3R+1)
AB+BC | B(A+C)
f'(x) | f^{\prime}(x)
\frac{E_1+2E_2}{3} | \frac{1}{3} E_{1}+\frac{2}{3} E_{2}
E_0(1+x) | E_{0} + x E_0
e_1+e_2 | e_{2}+e_{1}
e^{E_1} | e^{E_{1}}
\text{(E)} | \text{Option E}
\text{(C)} | \text{Choice (C)}
A | \text{OPTION A}
5000 | 5 \text{ thousand}
2.5 \text{ million} | 2{,}500{,}000
\begin{pmatrix} 6 \\ 1 \end{pmatrix} | \begin{pmatrix}6\\[0.5em]1\end{pmatrix}
\begin{pmatrix} 6 \\ 1 \end{pmatrix} | \begin{pmatrix}6\\[ -2pt ]1\end{pmatrix}
x \in [-2,7] | \{x \mid -2 \le x \le 7\}
[-2,7] | \{x \in \mathbb{R} : -2 \le x \le 7\}
x > 6 | \{ x \mid x > 6 \}
(-\infty,1)\cup(6,\infty) | (-\infty,1) \text{ or } (6,\infty)
(-\infty,1)\cup(6,\infty) | (-\infty,1) \bigcup (6,\infty)
(-\infty,1)\cup(6,\infty) | \{x \mid x<1 \text{ or } x>6\}
(1,2),(3,4) | (3,4) \text{ or } (1,2)
1.5 | 1.5\ \mu\mathrm{m}
1.5\text{ micrometers} | 1.5 µm
3.3 | 3.3\text{ \AA}
3.3 Å | 3.3\ \mathrm{\AA}
25 | 25 Ω
25\text{ ohms} | 25 Ω
2.19\times10^6 | 2.19\times10^6 \frac{\text{m}}{\text{s}}
9.8\text{ m/s}^2 | 9.8\ \frac{\mathrm{m}}{\mathrm{s}^{2}}
8.3\text{ J/mol/K} | 8.3 \frac{\text{J}}{\text{mol K}}
7 | 7℃
7^\circ C | 7℃
0.0015 | 1.5 x 10^-3
4.5e33 | 4.5 \times {10}^{33}
\$0.054 | 5.4\text{ cents}
5 | 5.
1/3 | 0.\overline{3}
-\frac{1}{6} | -0.1\bar 6
1 | .\overline{9}
\frac{137}{99}\text{ m} | 1.\overline{38}\text{ m}
\emptyset | \{\}
∅ | \left\{ \right\}
1,2,\ldots,10 | 1, 2, ..., 10
1+2+\cdots+n | 1+2+…+n
x=3,y=5 | x = 3 \\ y = 5
y=5,x=3 | x &= 3 \\[1mm] y &= 5
3,5 | x=3 \quad x=5
5 | x=2+3 \\ x=5
(-\infty,1)\cup(2,3)\cup(6,\infty) | x<1, 2<x<3, \text{ or } x>6
D | \text{(D) Both (A) and (B)}
D | (D) P(A) = 3
C | (C) angle A: 30
m \frac{dv}{dt}+bv=f | m \frac{d v}{d t}=f-b v
2x | \frac{d}{dx} x^2
no | No
\text{The red one} | the Red one
54 | 12 \times \$4.50
15.50 | \$20 - \$4.50
x \neq 7 | x \not= 7
x \notin A | x \not\in A
41.8 | \theta = \arcsin\left(\frac{2}{3}\right) \approx 41.8^\circ
8 | f(1) + f(2) = 8
8 | \alpha+\beta = 8
8 | P(X = 3) = 8
A | (A) -3
1e-8 | \frac{1}{10^8}
-6.5e-2 | -\frac{65}{10^3}
2 | 2km
2nm | 2mn
m \cdot n | mn
mg | m \times g
35 | 35\text{ a day}
35\text{ cm}^2 | 35\text{ sq. cm}
No | NO
NO | no.
Yes | YES
"""
DIFFERENT = r"""
3 x-5 | 3
k=4 n-1 | 4
8 | 8 t-2
8 | 2x=8
8 | 8 \text{ or } 9
8 | x > 8
8 | x \approx 8.1
8 | 2x \approx 8
8 | 3 \approx 8
8 | 6 \approx 7 \approx 8
x=8 | y \approx 8
B | A \sim B
9.8 | 9.7\ \mathrm{m/s^{2}}
15\mbox{ cm}^2 | 15\ \mathrm{cm^{3}}
A+a | 2a
3R^2 | 3r^2
f(x)+2 | 2+f'(x)
y+2 | 2+y^{\prime}
2E_1 | 2E_2
E_1+1 | e_1+1
e_1+1 | e+1
E_1+G | E_1+F
\text{(E)} | \text{Option A}
\text{(E)} | \text{Options E and A}
A | \text{option A is wrong}
5 | 5\text{ thousands}
5 | 5 millions
3 | 3\text{ tenths}
2 | 2\text{ thirds}
12 | 12 base seven
4 | 4 choose two
10 | 10 below zero
\begin{pmatrix} 6 \\ 1 \end{pmatrix} | \begin{pmatrix}6\\[0.5em]2\end{pmatrix}
x \in [-2,7] | \{x \mid -2 < x \le 7\}
x > 6 | \{x \in \mathbb{Z} \mid x > 6\}
(-\infty,1)\cup(6,\infty) | (-\infty,1) \text{ or } [6,\infty)
1.5\text{ mm} | 1.5\ \mu\mathrm{m}
1.5 | 1.5\ \mu
1.5 | 1.5\ \mu m g
25 | 25\Omega
9.8\text{ m/s} | 9.8\ \frac{\text{m}}{\text{s}^2}
9.8 | 9.8 \frac{m}{s}
9.8 | 9.8 \frac{x}{s}
9.8 | 9.8\frac{m}{s}
0.0015 | 1.5 x 10^3
\$0.054 | 0.054\text{ cents}
\$5.4 | 5.4\text{ cents}
0.333 | 0.333...
0.333 | 0.333…
0.333 | 0.333\ldots
1/3 | 0.333\ldots
0.3 | 0.\overline{3}
1/3 | 0.\overline{3}4
55 | 1+2+\cdots+10
\emptyset | \{0\}
50^\circ + 180^\circ k | 50
80^\circ, 10^\circ | 80
\frac{1}{7n} | \frac{1}{7}n
\frac{k}{7}m | \frac{k}{7m}
K=LM | J=LM
K=LM | LM
x=8 | y=8
49\text{ cm}^2 | 49\text{ cm}
49\text{ cm}^2 | 49\text{ m}^2
\$30 | 30\text{ cents}
7\pi\text{ cm} | 7\pi\text{ m}
3,-4 | 3
1,1,2 | 1,2,2
(3,-4) | (-4,3)
[1,5] | (1,5)
[1,5] | 1<x<5
x \geq 6 | x > 6
(-\infty,1)\cup(6,\infty) | (-\infty,1]\cup(6,\infty)
\begin{pmatrix} 6 \\ 1 \end{pmatrix} | \begin{pmatrix} 1 \\ 6 \end{pmatrix}
\begin{pmatrix} 6 \\ 1 \end{pmatrix} | \begin{pmatrix} 6 & 1 \end{pmatrix}
\begin{vmatrix} 6 \\ 1 \end{vmatrix} | \begin{pmatrix} 6 \\ 1 \end{pmatrix}
B | (B) or (C)
B | B, C
31 | (B) 32
(B) 31 | (B) 32
\sqrt{2} | 1.41421356
\frac{\pi}{2^{99}} | \frac{\pi}{2^{98}}
x^2=-3 | x^2=-5
2-7i | 2+7i
e^{t}/3 | e^{t/3}
52_8 | 52_9
n=2, 3, 4 | n=1, 2, 3
10:00 | 1:00
even | not even
the cat sat upon mats with dogs, foo | foo, the cat sat upon mats with dogs
i | -i
2i | 2
1+i | 1-i
7 | 7 \text{ more or less}
12\pi | 13\pi\text{ units}
12\pi | 12\text{ units}
5 | x = 3 \\ y = 5
5 | x=3 \quad y=5
5 | x=3 \\ x=5
x = 3\\ y = 5 | x = 9\\ y = 5
(-\infty,-1)\cup(2,\infty) | x<-1 \text{ and } x>2
(-\infty,2)\cup(-1,\infty) | x>-1 \text{ and } x<2
(-\infty,5]\cup[0,\infty) | x \ge 0, x \le 5
A | (A) 3 (B) 4
A | A. 3, B. 4, C. 5
A | (A) red (B) green
A | A. red, B. green
m \frac{dv}{dt}+bv=f | bv=f
m \frac{dv}{dt}+bv=f | 5 m \frac{dv}{dt}+bv=f
\frac{dx}{dt}=kx-a | -\frac{dx}{dt}=kx-a
\frac{dx}{dt}=kx-a | \frac{dy}{dt}=kx-a
\frac{\partial u}{\partial x}=u | \frac{\partial u}{\partial t}=u
\frac{d(mv)}{dt}+3 | 3+\frac{dI}{dt}
F = Mg | F = mg
Mgh | mgh
M - n | m - n
kT | kt
rr | Rr
AaBb | aabb
heterozygous Aabb | heterozygous aabb
No gas | NO gas
4.50 | 12 \times \$4.50
4.50 | \$20 - \$4.50
18 | 18\$7
7 | x \not= 7
7 | x =/= 7
7 | x = y \not= 7
7 | x \not\approx 7
7 | y \approx 8 = 7
204 | \pi \approx 204
7 | 2^{10} \approx 7
5 | x = \sqrt{3} \approx 5
1.73 | -\sqrt{3} \approx 1.73
48 | \arcsin\left(\frac{2}{3}\right) \approx 48^\circ
8 | -x = 8
8 | x+x = 8
8 | \sqrt{x} = 8
8 | \ln(x) = 8
8 | \log_2 x = 8
8 | x(x+1) = 8
8 | e^x = 8
8 | x! = 8
8 | -\theta = 8
8 | \frac{d}{2} = 8
58,500 | 500, 58
58,500 | \{58,500\}
A | (A)\cos(\omega t)
E | (E)x
E | (E)^2
E | (E)!
A | (A) + 1
1e-8 | e-8
2nm | 2
2mg | 2
ABC | CBA
35 | 35 a
"""


def pairs(table):
  return [line.split(" | ") for line in table.strip().splitlines()]


@pytest.mark.parametrize(("reference", "candidate"), pairs(SAME))
def test_the_same_in_other_words_is_right(reference, candidate):
  assert same_answer(candidate, reference)


@pytest.mark.parametrize(("reference", "candidate"), pairs(DIFFERENT))
def test_what_only_looks_alike_is_wrong(reference, candidate):
  assert not same_answer(candidate, reference)


@pytest.mark.parametrize(
  ("text", "reference", "reward"),
  [
    ("The answer is 6 or 9.", "6", 0),
    ("The answer is between 3 and 9.", "3", 0),
    ("The answer is 4 hours and 20 minutes.", "4", 0),
    ("The answer is $30x$.", "30", 0),
    ("It weighs 30 kg.", "30 cm", 0),
    ("It weighs 30 kg.", "30", 1),
    ("Either 6 or 9", "9", 0),
    ("The answer is 9.", "9", 1),
    ("**Answer:** **\\frac{x}{2}**", "\\frac{x}{2}", 1),
    ("The correct option is B.", "B", 1),
    ("We get \\boxed{4} and \\boxed{6}.", "4,6", 1),
    ("We get \\boxed{4} and \\boxed{6}.", "6", 0),
    ("\\boxed{4} and \\boxed{6}, so \\boxed{4, 6}.", "6,4", 1),
    ("#### Part 1: add\n3x = 27\n#### Part 2: divide\nx = 9", "9", 1),
    ("#### Result\n3x = 27\nThe answer is 9.", "9", 1),
    ("3x = 27\n#### 9", "9", 1),
    ("<answer>A = 3\nB = 5\nC = 7</answer>", "7", 0),
    ("<answer>- A = 3\n- B = 5</answer>", "B=5, A=3", 1),
  ],
)
def test_a_solution_gives_one_answer(text, reference, reward):
  assert answer_reward(text, reference) == reward


def test_a_heading_does_not_end_a_solution():
  assert not marks_answer("#### Step 1: add the lengths")
  assert not marks_answer("#### Work\n3x = 27")
  assert not marks_answer("#### So we have:")
  assert marks_answer("3x = 27\n#### 9")
  assert marks_answer("#### \\frac{1}{2}")


class Never:
  """A pattern that is never found."""

  @staticmethod
  def search(text):
    return None


@pytest.mark.slow
def test_the_judge_is_killed_and_starts_again(monkeypatch):
  monkeypatch.setattr("srl_jax.rewards.expressions._TOO_BIG", Never)
  start = time.monotonic()
  assert not same_expression("9^{(9^{(9^{9})})}+x", "3+x")
  assert time.monotonic() - start < 120  # Seconds of CPU on a busy machine.
  assert same_expression("3+x", "x+3")


def test_long_prose_is_cheap():
  start = time.thread_time()
  words = "the sum of all numbers that were counted " * 8
  assert answer_reward(words + "is large\n" + words, "x+1") == 0
  assert not same_answer("a" * 30 + " bb" * 60 + "!", "12\\pi")
  assert time.thread_time() - start < 10


def test_rewards_do_not_import_sympy():
  code = (
    "import sys, srl_jax.rewards as r; assert r.same_answer('1/2', '0.5');"
    "assert not r.same_answer('3', '4'); assert 'sympy' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
