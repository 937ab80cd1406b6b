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

# What constraints.txt tests on Python 3.11. Older ones are not tried, and TFDS
# 4.9.9, for one, fails with the protobuf of today.
REQUIRED = [
  "absl-py>=2.5.1",
  "array_record>=0.8.6",
  "cydifflib>=1.2.0",
  "etils[epath]>=1.15.0",
  "flax>=0.12.8",
  "grain>=0.2.18",
  "huggingface_hub>=2.4.0",
  "jax>=0.10.2",
  "jinja2>=3.1.6",
  "levenshtein>=0.27.5",
  "ml-collections>=1.1.0",
  "numpy>=2.4.6",
  "optax>=0.2.8",
  "orbax-checkpoint>=0.12.8",
  "pyarrow>=26.0.1",
  "safetensors>=0.8.0",
  "sentencepiece>=0.2.3",
  "tensorboardX>=2.6.5",
  "tensorflow-datasets>=4.9.10",
  "tokenizers>=0.23.3",
  "tqdm>=4.70.1",
]
COLAB = ["ipykernel>=7.4.0", "matplotlib>=3.11.2"]

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
    # The tests execute notebooks, build docs/ as a site, and compile programs
    # for TPUs by the compiler in libtpu, which needs no TPU.
    "dev": [
      *COLAB,
      "libtpu; sys_platform == 'linux' and platform_machine == 'x86_64'",
      "mkdocs>=1.6.1",
      "mkdocs-material>=9.8.2",
      "nbclient>=0.11.0",
      "nbformat>=5.11.1",
      "pytest>=9.2.0",
      "pytest-xdist>=3.8.0",
      "ruff>=0.17.6",
    ],
    "parity": ["peft>=0.20.0", "torch>=2.6", "transformers>=4.53"],
    # What benchmarks/engine.py compares with.
    "peers": ["torch>=2.6", "transformers>=4.53", "trl>=1.16.0"],
  },
)
