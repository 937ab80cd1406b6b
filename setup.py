# SPDX-License-Identifier: Apache-2.0
"""Package metadata and dependencies; tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r'^__version__ = "([^"]+)"$',
  (ROOT / "srl_jax" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
).group(1)

# Oldest releases that are tried; the exact ones tested are in constraints.txt.
REQUIRED = [
  "absl-py>=2.3",
  "array_record>=0.8",
  "cydifflib>=1.2",
  "etils[epath]>=1.12",
  "flax>=0.12",
  "grain>=0.2.15",
  "jax>=0.10",
  "levenshtein>=0.27",
  "ml-collections>=1.1",
  "numpy>=2.2",
  "optax>=0.2.6",
  "orbax-checkpoint>=0.12",
  "sentencepiece>=0.2.1",
  "tensorboardX>=2.6.4",
  "tensorflow-datasets>=4.9.9",
  "tokenizers>=0.22",
  "tqdm>=4.67",
]
COLAB = ["ipykernel>=6", "matplotlib>=3.10"]

setuptools.setup(
  name="srl_jax",
  version=VERSION,
  description="Supervised reinforcement learning from expert trajectories",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["srl_jax", "srl_jax.*"]),
  package_data={"srl_jax": ["assets/**"]},
  install_requires=REQUIRED,
  extras_require={
    "tpu": ["jax[tpu]"],
    "gpu": ["jax[cuda12]"],
    "colab": COLAB,
    # Notebooks are executed by the tests.
    "dev": [
      *COLAB,
      "nbclient>=0.10",
      "nbformat>=5.10",
      "pytest>=8.4",
      "pytest-xdist>=3.8",
      "ruff>=0.14",
    ],
    "parity": ["torch>=2.6", "transformers>=4.53"],
  },
)
