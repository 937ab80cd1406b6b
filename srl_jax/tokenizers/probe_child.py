# SPDX-License-Identifier: Apache-2.0
"""The process of probe.py: `python -m srl_jax.tokenizers.probe_child`.

It gets the path of a tokenizer file, reads it, tokenises texts with it, and
answers "" or what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import sentencepiece
import tokenizers

from srl_jax.processes.children import serve_lines

# The largest real tokenizers take 2 s and 1 GB.
_CPU_S = 20.0
_MAX_BYTES = 6 << 30
# Ids without a token that a file may have, besides as many as it has tokens.
_MAX_GAP = 1 << 20

# Long runs and near misses are what slow regular expressions are slow at.
_RUN = 2000
TEXTS = (
  *(
    unit * _RUN for unit in ("a", " ", "1", "!", "\n", "\t", "é", "你", "aA1! ")
  ),
  *(unit * _RUN + end for unit in ("a", " ", "1", "!") for end in ("\n", "!a")),
  "\\frac{1}{2} + x_1 = 3.14; def f(x):\n    return x\n\n" * (_RUN // 40),
)


def _start() -> Callable[[str], str]:
  def answer(path):
    try:
      if path.endswith(".model"):
        model = sentencepiece.SentencePieceProcessor(model_file=path)
        count = most = model.vocab_size()
        encode = model.encode
      else:
        model = tokenizers.Tokenizer.from_file(path)
        model.no_truncation()
        ids = model.get_vocab(with_added_tokens=True).values()
        count, most = len(ids), max(ids, default=0)
        encode = model.encode
      if most > 2 * count + _MAX_GAP:
        return f"has {count:,} tokens, and one with the id {most:,}"
      for text in TEXTS:
        encode(text)
    except MemoryError:
      return "needs too much memory"
    except Exception:
      return ""  # The parent meets it, too, and says what it means.
    except BaseException as error:  # A panic of the library in Rust.
      return f"tokenising some texts fails: {error}"
    return ""

  return answer


if __name__ == "__main__":
  serve_lines(_start, _CPU_S, _MAX_BYTES)
