# SPDX-License-Identifier: Apache-2.0
"""Worker processes import the data modules, which must therefore stay light."""

import subprocess
import sys

LIGHT = ("schema", "templates", "trunks", "batching", "readers", "prepare")
HEAVY = ("jax", "grain", "tensorflow", "tensorflow_datasets", "pyarrow")


def test_nothing_but_the_pipeline_and_tfds_imports_a_heavy_package():
  code = "import sys\n"
  code += "".join(f"import srl_jax.data.{name}\n" for name in LIGHT)
  code += f"print([m for m in {HEAVY!r} if m in sys.modules])"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"
