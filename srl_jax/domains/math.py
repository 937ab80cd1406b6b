# SPDX-License-Identifier: Apache-2.0
"""The domain of mathematics problems, and the suites that measure it.

Answers are numbers or expressions. The commits of the hub's repositories were
taken from public code that pins them; the numbers of problems are those of
their data set cards. Files that circulate elsewhere under these names are read
too, as far as their fields are known.
"""

from __future__ import annotations

import dataclasses

from srl_jax.domains import general
from srl_jax.domains.suite import Suite

# AIME 2024 I and II. The problems are the MAA's; the repository states no
# licence. math-ai/aime24 has the same problems without the field "answer".
AIME24 = Suite(
  name="aime24",
  title="AIME 2024 I and II",
  size=30,
  repository="HuggingFaceH4/aime_2024",
  revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
  file="data/train-00000-of-00001.parquet",
  split="default/train",
  references=(("answer", "integer"), ("solution", "boxed")),
)

# AIME 2025 I and II, which opencompass/AIME2025 has in two configurations,
# AIME2025-I and AIME2025-II, with the field "question". Apache-2.0.
AIME25 = Suite(
  name="aime25",
  title="AIME 2025 I and II",
  size=30,
  repository="math-ai/aime25",
  revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
  file="test.jsonl",
  split="default/test",
  references=(("answer", "integer"),),
)

# The problems of AMC 12A and 12B of 2023 whose answer is a whole number; the
# choices are left out. The problems are the MAA's; no licence is stated.
AMC23 = Suite(
  name="amc23",
  title="AMC 12 of 2023, answers without choices",
  size=40,
  repository="math-ai/amc23",
  revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
  file="test-00000-of-00001.parquet",
  split="default/test",
  references=(("answer", "integer"),),
)

# Undergraduate science from MIT OpenCourseWare (Lewkowycz et al. 2022, section
# 3.3 and appendix). Not MATH, which lm-eval's tasks "minerva_math" hold.
MINERVA = Suite(
  name="minerva",
  title="Minerva's OCWCourses",
  size=272,
  repository="math-ai/minervamath",
  revision="ee46ddc498933b1977577953250ca5c66be64f96",
  file="test.jsonl",
  split="default/test",
  local="minerva_math",
  references=(("answer", "text"), ("solution", "boxed")),
  foreign=(("level", "MATH (Hendrycks et al. 2021)"),),
)

# 500 test problems of MATH (Hendrycks et al. 2021; MIT), which Lightman et al.
# 2023 drew.
MATH500 = Suite(
  name="math500",
  title="MATH-500",
  size=500,
  repository="HuggingFaceH4/MATH-500",
  revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
  file="test.jsonl",
  split="default/test",
  references=(("answer", "text"), ("solution", "boxed")),
  id=("unique_id",),
)

# The test split of GSM8K (Cobbe et al. 2021; MIT).
GSM8K = Suite(
  name="gsm8k",
  title="GSM8K, test split",
  size=1319,
  repository="openai/gsm8k",
  revision="740312add88f781978c0658806c59bc2815b9866",
  file="main/test-00000-of-00001.parquet",
  split="main/test",
  local="gsm8k_test",
  references=(("answer", "marked"),),
  solution=("answer",),
)

MATH = dataclasses.replace(
  general.of_subject("math", "mathematics problems"),
  suites=(AIME24, AIME25, AMC23, MINERVA, MATH500, GSM8K),
)
