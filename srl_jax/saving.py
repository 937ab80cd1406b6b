# SPDX-License-Identifier: Apache-2.0
"""Writes the model of a run as a folder that other software loads.

Other software should prompt the model as it was trained, and stop where it
learnt to stop. So the folder has the chat template and the stop tokens of the
run, which need not be those of the checkpoint that it started from, and a
tokenizer.json where the run's tokenizer is of another kind.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from srl_jax.config import Config
from srl_jax.data.messages import chat_of
from srl_jax.loading import PROMPTS
from srl_jax.models import weights
from srl_jax.tokenizers import TokenizerFolder
from srl_jax.tokenizers.folder import read_json, read_tokenizer_folder
from srl_jax.tokenizers.to_json import tokenizer_json
from srl_jax.train.stage import Run

# By which other software turns texts into tokens.
FAST_TOKENIZER = "tokenizer.json"
_CHAT = "chat_template.jinja"
_SETTINGS = "tokenizer_config.json"
_GENERATION = "generation_config.json"


def save_model(
  folder: str | os.PathLike, params: Any, run: Run, config: Config, dtype: str
) -> None:
  """Writes a Hugging Face checkpoint folder; see `weights.save_params`.

  Args:
    folder: where to write; a folder that is there is replaced.
    params: parameters of the run's model, on its mesh.
    run: the run, whose tokenizer is written too.
    config: the config of the run.
    dtype: "float32" or "bfloat16", of the weights in the files.
  """
  files = {file.name: file for file in run.files}
  checkpoint = None
  if config.tokenizer.kind == "huggingface":
    checkpoint = read_tokenizer_folder(str(run.files[0].parent))
  token_ids = _token_ids(run, checkpoint)
  generation = _read(files, _GENERATION)
  stops = {"eos_token_id": token_ids["eos_token_id"]}
  texts = {
    PROMPTS: _json(_prompts(config)),
    _GENERATION: _json(token_ids | generation | stops),
  }
  if checkpoint is None:
    texts |= _tokenizer(run)
  if config.template in ("chat", "chatml"):
    source = chat_of(config.template, run.template).source
    if checkpoint is None or source != checkpoint.chat_template:
      texts[_CHAT] = source
      # No other template may stand beside it.
      files.pop("chat_template.json", None)
      settings = _read(files, _SETTINGS)
      if settings.pop("chat_template", None) is not None:
        texts[_SETTINGS] = _json(settings)
  weights.save_params(
    folder,
    params,
    run.policy,
    dtype=dtype,
    files=[file for name, file in files.items() if name != "config.json"],
    texts=texts,
    token_ids=token_ids,
  )


def _tokenizer(run: Run) -> dict[str, str]:
  """The files by which other software turns texts into the ids of the run."""
  found = tokenizer_json(run.tokenizer)
  if found is None:
    return {}
  names = {
    "eos_token": run.stop_ids("solve")[0],
    "pad_token": run.tokenizer.pad_id,
  }
  settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | {
    role: run.tokenizer.token_bytes(i).decode() for role, i in names.items()
  }
  return {FAST_TOKENIZER: found, _SETTINGS: _json(settings)}


def _prompts(config: Config) -> dict[str, Any]:
  """How the model was shown its problems."""
  return {
    "template": config.template,
    "observation_tokens": config.observation_tokens,
    "context_turns": config.srl.trunks.context_turns,
  }


def _token_ids(run: Run, checkpoint: TokenizerFolder | None) -> dict[str, Any]:
  """The ids of first, last and padding tokens, as configs name them.

  None stands for no such token: where config.json leaves one out, transformers
  takes the id that it has in the first models of the family.
  """
  bos: tuple[int, ...] = ()
  if checkpoint is not None:
    name = checkpoint.special_tokens.get("bos_token")
    bos = checkpoint.ids["bos"]
    if not bos and name in run.tokenizer.control_names:
      bos = (run.tokenizer.special_id(name),)
  stops = list(run.stop_ids("solve"))
  return {
    "bos_token_id": bos[0] if bos else None,
    "eos_token_id": stops if len(stops) > 1 else stops[0],
    "pad_token_id": run.tokenizer.pad_id,
  }


def _read(files: Mapping[str, pathlib.Path], name: str) -> dict[str, Any]:
  return read_json(files[name]) if name in files else {}


def _json(value: Mapping[str, Any]) -> str:
  return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
