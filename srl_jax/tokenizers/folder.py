# SPDX-License-Identifier: Apache-2.0
"""What the JSON files of a checkpoint say about its tokens.

  tokenizer_config.json    special tokens by role, the chat template
  chat_template.jinja      the chat template, where it has a file of its own
  generation_config.json   ids at which generation stops
  config.json              the same, if generation_config.json has none

The files that turn text into ids, tokenizer.json and tokenizer.model, have
readers of their own. srl_jax.data.chat renders the template.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from srl_jax.tokenizers.protocol import Tokenizer

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@dataclasses.dataclass(frozen=True)
class TokenizerFolder:
  """What the files of a checkpoint say about its tokens.

  Attributes:
    folder: the checkpoint folder.
    tokenizer_file: its tokenizer.json, or else its tokenizer.model.
    special_tokens: names by role ("bos_token": "<s>"), as a chat template
      sees them.
    control: id of each token that tokenizer_config.json flags as special.
    chat_template: its source in Jinja; None if there is none.
    add_bos: the field add_bos_token of tokenizer_config.json; see
      `first_token`.
    ids: for the roles "bos" and "eos", the ids that generation_config.json and
      then config.json name.
    stop_ids: ids at which generation stops.
  """

  folder: pathlib.Path
  tokenizer_file: pathlib.Path
  special_tokens: Mapping[str, str]
  control: Mapping[str, int]
  chat_template: str | None
  add_bos: bool
  ids: Mapping[str, tuple[int, ...]]
  stop_ids: tuple[int, ...]

  def first_token(self) -> str:
    """Name of the token in front of a text outside of any chat; "" if none.

    It is bos_token if tokenizer_config.json says so, else the token that the
    post-processor of tokenizer.json puts in front.
    """
    if self.add_bos:
      return self.special_tokens.get("bos_token", "")
    if self.tokenizer_file.suffix != ".json":
      return ""
    node = _read_json(self.tokenizer_file).get("post_processor") or {}
    for step in node.get("processors", [node]):
      for part in step.get("single", [])[:1]:
        if "SpecialToken" in part:
          return part["SpecialToken"]["id"]
    return ""


def read_tokenizer_folder(path: str) -> TokenizerFolder:
  """Reads the files of a checkpoint; only the tokenizer's must be there.

  Args:
    path: the folder, or the tokenizer file in it.

  Raises:
    ValueError: no tokenizer file, or a file that cannot be read.
  """
  tokenizer_file = _tokenizer_file(path)
  folder = tokenizer_file.parent
  config = _read_json(folder / "tokenizer_config.json")
  flagged = config.get("added_tokens_decoder") or {}
  generation = _read_json(folder / "generation_config.json")
  model = _read_json(folder / "config.json")
  ids = {
    role: tuple(
      dict.fromkeys(
        i
        for source in (generation, model)
        for i in _as_tuple(source.get(f"{role}_token_id"))
      )
    )
    for role in ("bos", "eos")
  }
  return TokenizerFolder(
    folder=folder,
    tokenizer_file=tokenizer_file,
    special_tokens={
      role: _name(token)
      for role, token in config.items()
      if role.endswith("_token") and isinstance(token, (str, dict))
    },
    control={
      token["content"]: int(i)
      for i, token in flagged.items()
      if token.get("special")
    },
    chat_template=_chat_template(folder, config),
    add_bos=bool(config.get("add_bos_token")),
    ids=ids,
    stop_ids=_as_tuple(generation.get("eos_token_id"))
    or _as_tuple(model.get("eos_token_id")),
  )


def stop_names(
  checkpoint: TokenizerFolder, tokenizer: Tokenizer
) -> tuple[str, ...]:
  """Returns the control tokens at which generation stops."""
  return tuple(tokenizer.token_bytes(i).decode() for i in checkpoint.stop_ids)


def check_ids(checkpoint: TokenizerFolder, tokenizer: Tokenizer) -> None:
  """Raises ValueError unless the files agree about the control tokens.

  They disagree if a tokenizer was put beside the files of another model. The
  control tokens of tokenizer_config.json must be those of the tokenizer, with
  the same ids. The ids that the configs name as bos or eos must be control
  tokens, and the bos and eos of tokenizer_config.json must be among those ids.
  """
  for problem in _disagreements(checkpoint, tokenizer):
    raise ValueError(
      f"{checkpoint.folder}: {problem}: the files belong to different models; "
      "set tokenizer.path to the folder of the model that c.weights holds, or "
      "fetch its files again"
    )


def _disagreements(checkpoint: TokenizerFolder, tokenizer: Tokenizer):
  file = checkpoint.tokenizer_file.name
  known = {x: tokenizer.special_id(x) for x in tokenizer.control_names}
  for name, i in checkpoint.control.items():
    if known.get(name) != i:
      yield (
        f"{name!r} is token {i} in tokenizer_config.json, and "
        f"{known.get(name, 'no control token')} in {file}"
      )
  for role, ids in checkpoint.ids.items():
    for i in ids:
      if i not in known.values():
        token = tokenizer.token_bytes(i).decode("utf-8", "replace")
        what = f"the plain token {token!r}" if token else "no token"
        yield (
          f"{role}_token_id is {i} in generation_config.json or config.json, "
          f"which is {what} in {file}"
        )
    name = checkpoint.special_tokens.get(f"{role}_token")
    if name is not None and name not in known:
      yield (
        f"{role}_token is {name!r} in tokenizer_config.json, which is no "
        f"control token in {file}"
      )
    elif name is not None and ids and known[name] not in ids:
      yield (
        f"{role}_token_id is {' or '.join(map(str, ids))} in "
        f"generation_config.json or config.json, and {role}_token is {name!r}, "
        f"{known[name]}, in tokenizer_config.json"
      )


def find_tokenizer(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the tokenizer file in a folder; None if there is none."""
  paths = (folder / name for name in _TOKENIZERS)
  return next((path for path in paths if path.is_file()), None)


def _tokenizer_file(path: str) -> pathlib.Path:
  if not path:
    raise ValueError(
      "tokenizer.path is empty; set tokenizer.path to a checkpoint's folder"
    )
  if not pathlib.Path(path).is_dir():
    return pathlib.Path(path)  # Its reader says what is wrong with it.
  found = find_tokenizer(pathlib.Path(path))
  if found is None:
    raise ValueError(
      f"tokenizer.path={path!r} holds neither {' nor '.join(_TOKENIZERS)}; set "
      "it to a checkpoint's folder with one of them"
    )
  return found


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  if not path.exists():
    return {}
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{path}: not JSON ({error}); fetch it again") from error
  if not isinstance(value, dict):
    raise ValueError(f"{path}: holds no JSON object; fetch it again")
  return value


def _as_tuple(ids: int | list[int] | None) -> tuple[int, ...]:
  if ids is None:
    return ()
  return (ids,) if isinstance(ids, int) else tuple(ids)


def _name(token: str | dict[str, Any]) -> str:
  return token if isinstance(token, str) else token["content"]


def _chat_template(folder: pathlib.Path, config: dict[str, Any]) -> str | None:
  own_file = folder / "chat_template.jinja"
  if own_file.exists():
    return own_file.read_text(encoding="utf-8")
  template = config.get("chat_template")
  if not isinstance(template, list):
    return template
  named = {entry["name"]: entry["template"] for entry in template}
  if "default" not in named:
    raise ValueError(
      f"{folder}/tokenizer_config.json has chat templates named "
      f"{', '.join(named)}, but none named 'default'; write the one to use to "
      f"{own_file}"
    )
  return named["default"]
