# SPDX-License-Identifier: Apache-2.0
"""One token per byte, plus control tokens. For tests and tiny models."""

from __future__ import annotations

from collections.abc import Sequence

from srl_jax.tokenizers.tokenizer import Tokenizer

# Control tokens of the templates "plain" and "chatml" (srl_jax.data.templates).
BYTE_SPECIALS = (
  "<pad>",
  "<s>",
  "</s>",
  "<step>",
  "<solve>",
  "<|im_start|>",
  "<|im_end|>",
  "<|endoftext|>",
)


class ByteTokenizer(Tokenizer):
  """Ids 0 to 255 are the bytes; the control tokens follow in order."""

  def __init__(self, specials: Sequence[str] = BYTE_SPECIALS) -> None:
    """Makes the table; the first control token serves as padding."""
    if not specials or len(set(specials)) != len(specials):
      raise ValueError(
        f"specials must be one or more different names, got {specials!r}; "
        'give for example ("<pad>", "</s>").'
      )
    super().__init__(
      table=[bytes([b]) for b in range(256)] + [s.encode() for s in specials],
      specials={name: 256 + i for i, name in enumerate(specials)},
      byte_ids={byte: byte for byte in range(256)},
      pad_id=256,
    )

  def _encode_plain(self, text: str) -> list[int]:
    return list(text.encode())
