# SPDX-License-Identifier: Apache-2.0
"""Writes golden.npz: what transformers computes with the tiny models.

  python -m tests.models.make_golden    (needs the extra 'parity')

The tests compare with it where transformers is not installed.
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np

from tests.support import families

PATH = pathlib.Path(__file__).with_name("golden.npz")
# More tokens than the windows are wide.
TOKENS = np.random.default_rng(0).integers(1, 64, (2, 24))
NEW_TOKENS = 12


def main() -> None:
  import torch
  import transformers

  found = {"versions": f"transformers {transformers.__version__}"}
  for family in families.CONFIGS:
    with tempfile.TemporaryDirectory() as parent:
      folder = families.write(f"{parent}/model", family)
      model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager"
      )
    ids = torch.from_numpy(TOKENS)
    with torch.no_grad():
      logits = model(ids).logits
      written = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        pad_token_id=0,
      )
    # Every third position: early ones and ones whose window has moved on.
    found[f"{family}/logits"] = logits[:, ::3].numpy()
    found[f"{family}/written"] = written[:, ids.shape[1] :].numpy()
  np.savez_compressed(PATH, **found)
  print(f"wrote {PATH}: {PATH.stat().st_size:,} bytes")


if __name__ == "__main__":
  main()
