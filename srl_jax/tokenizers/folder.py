# SPDX-License-Identifier: Apache-2.0
"""What the JSON files of a checkpoint say about its tokens.

  tokenizer_config.json    special tokens by role, the chat template
  special_tokens_map.json  special tokens by role, in older checkpoints
  added_tokens.json        ids of added tokens, in older checkpoints
  chat_template.jinja      the chat template, where it has a file of its own
  generation_config.json   ids at which generation stops
  config.json              the same, if generation_config.json has none

The files that turn text into ids, tokenizer.json and tokenizer.model, have
readers of their own. srl_jax.data.chat renders the template.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

from srl_jax import storage
from srl_jax.tokenizers.tokenizer import Tokenizer

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@dataclasses.dataclass(frozen=True)
class TokenizerFolder:
  """What the files of a checkpoint say about its tokens.

  Attributes:
    folder: the checkpoint folder.
    tokenizer_file: its tokenizer.json, or else its tokenizer.model.
    special_tokens: names by role ("bos_token": "<s>"), as a chat template
      sees them.
    control: id of each token that the files flag as special.
    named: names that the files give to special tokens, with or without an id.
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
  named: tuple[str, ...]
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
    node = read_json(self.tokenizer_file).get("post_processor") or {}
    try:
      for step in node.get("processors", [node]):
        for part in step.get("single", [])[:1]:
          if "SpecialToken" in part:
            return part["SpecialToken"]["id"]
    except (AttributeError, KeyError, TypeError) as error:
      raise ValueError(
        f"{self.tokenizer_file}: its post_processor is none that the "
        f"tokenizers library writes ({error!r}); fetch it again"
      ) from error
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
  config = read_json(folder / "tokenizer_config.json")
  control = _flagged(folder, config)
  # transformers reads the map only beside files without a list of tokens.
  sources = ["tokenizer_config.json", "special_tokens_map.json"]
  if not control:
    sources.reverse()
  special_tokens: dict[str, str] = {}
  named = list(control)
  for name in sources:
    of_file = _special_tokens(folder / name)
    special_tokens = of_file | special_tokens
    named += [*of_file.values(), *_more_tokens(folder / name)]
  added = read_json(folder / "added_tokens.json")
  for name in named:
    if name in added and name not in control:
      control |= {name: _ids(folder / "added_tokens.json", name)[0]}
  stops = [
    _ids(folder / name, "eos_token_id")
    for name in ("generation_config.json", "config.json")
  ]
  starts = [
    _ids(folder / name, "bos_token_id")
    for name in ("generation_config.json", "config.json")
  ]
  return TokenizerFolder(
    folder=folder,
    tokenizer_file=tokenizer_file,
    special_tokens=special_tokens,
    control=control,
    named=tuple(dict.fromkeys(named)),
    chat_template=_chat_template(folder),
    add_bos=bool(config.get("add_bos_token")),
    ids={
      "bos": tuple(dict.fromkeys(itertools.chain(*starts))),
      "eos": tuple(dict.fromkeys(itertools.chain(*stops))),
    },
    stop_ids=next(filter(None, stops), ()),
  )


def stop_names(
  checkpoint: TokenizerFolder, tokenizer: Tokenizer
) -> tuple[str, ...]:
  """Returns the control tokens at which generation stops.

  Besides those of `stop_ids` it is the tokenizer's own eos_token: fine-tunes
  often end their turns in it and leave the configs of the base model as they
  are.
  """
  names = [tokenizer.token_bytes(i).decode() for i in checkpoint.stop_ids]
  own = checkpoint.special_tokens.get("eos_token")
  if own in tokenizer.control_names:
    names.append(own)
  return tuple(dict.fromkeys(names))


def check_ids(checkpoint: TokenizerFolder, tokenizer: Tokenizer) -> None:
  """Raises ValueError unless the files agree about the control tokens.

  They disagree if a tokenizer was put beside the files of another model. The
  control tokens of tokenizer_config.json must be those of the tokenizer, with
  the same ids. The ids that the configs name as bos or eos must be control
  tokens, and so must the bos and eos of tokenizer_config.json. They may be
  other ones: a fine-tune that was taught another end of turn is no other model.
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
        f"{role}_token is {name!r} in tokenizer_config.json or "
        f"special_tokens_map.json, which is no control token in {file}"
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
  folder = storage.local_copy(path)
  if not folder.is_dir():
    return folder  # Its reader says what is wrong with it.
  found = find_tokenizer(folder)
  if found is None:
    raise ValueError(
      f"tokenizer.path={path!r} holds neither {' nor '.join(_TOKENIZERS)}; set "
      "it to a checkpoint's folder with one of them"
    )
  return found


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns the object in a JSON file; {} if there is no such file.

  Raises:
    ValueError: not a JSON object, or one too large or too deep.
  """
  return storage.read_object(path) if path.is_file() else {}


def _refuse(path: pathlib.Path, field: str, value: Any, allowed: str) -> Any:
  shown = repr(value)
  shown = shown if len(shown) < 80 else shown[:80] + ".."
  raise ValueError(
    f"{path}: {field} is {shown}, but must be {allowed}; fetch the file again, "
    "or mend the field there"
  )


def _is_id(value: Any) -> bool:
  return type(value) is int and 0 <= value < 1 << 31


def _ids(path: pathlib.Path, field: str) -> tuple[int, ...]:
  """Returns the token ids in a field: one, a list, or none."""
  value = read_json(path).get(field)
  if value is None:
    return ()
  ids = value if isinstance(value, list) else [value]
  if not all(map(_is_id, ids)):
    # Fine-tunes write -1 where there is no such token.
    return () if ids == [-1] else _refuse(path, field, value, "token ids")
  return tuple(ids)


def _name(path: pathlib.Path, field: str, token: Any) -> str:
  """Returns a token's name, which stands alone or in a dict with flags."""
  name = token.get("content") if isinstance(token, dict) else token
  if not isinstance(name, str):
    _refuse(path, field, token, 'a name or {"content": name}')
  return name


_ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


def _special_tokens(path: pathlib.Path) -> dict[str, str]:
  """Returns the names of special tokens by role."""
  found = read_json(path)
  roles = {f"{role}_token" for role in _ROLES}
  roles |= {
    field
    for field, token in found.items()
    if field.endswith("_token") and isinstance(token, (str, dict))
  }
  return {
    role: _name(path, role, found[role])
    for role in sorted(roles)
    if found.get(role) is not None and found[role] != ""
  }


def _more_tokens(path: pathlib.Path) -> list[str]:
  """Returns the names of special tokens without a role."""
  field = "additional_special_tokens"
  tokens = read_json(path).get(field)
  if not isinstance(tokens or [], list):
    _refuse(path, field, tokens, "a list of names")
  return [_name(path, field, token) for token in tokens or ()]


def _flagged(folder: pathlib.Path, config: dict[str, Any]) -> dict[str, int]:
  """Returns the ids of the tokens that tokenizer_config.json flags."""
  path, field = folder / "tokenizer_config.json", "added_tokens_decoder"
  tokens = config.get(field) or {}
  if not isinstance(tokens, dict):
    _refuse(path, field, tokens, "an object of tokens by id")
  control = {}
  for i, token in tokens.items():
    where = f"{field}[{i!r}]"
    if not (i.isascii() and i.isdigit() and _is_id(int(i[:12]))):
      _refuse(path, field, i, "an object of tokens by id")
    if not isinstance(token, dict):
      _refuse(path, where, token, "an object")
    if token.get("special"):
      control[_name(path, where, token)] = int(i)
  return control


_OWN_FOLDERS = ("additional_chat_templates", "chat_templates")


def _chat_template(folder: pathlib.Path) -> str | None:
  """Returns the chat template, from the first place that has one."""
  own_file = folder / "chat_template.jinja"
  files = [own_file, *(folder / x / "default.jinja" for x in _OWN_FOLDERS)]
  for path in files:
    if path.is_file():
      try:
        return path.read_text(encoding="utf-8")
      except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from error
  others = {
    path.stem: str(path)
    for name in _OWN_FOLDERS
    for path in sorted((folder / name).glob("*.jinja"))
  }
  field = "chat_template"
  for name in ("chat_template.json", "tokenizer_config.json"):
    template = read_json(folder / name).get(field)
    if isinstance(template, list) and all(
      isinstance(x, dict) and {"name", "template"} <= x.keys() for x in template
    ):
      others |= {str(x["name"]): x["template"] for x in template}
      template = others.get("default")
    if isinstance(template, str):
      return template
    if template is not None:
      _refuse(folder / name, field, template, "a template, or a list of such")
  if others:
    raise ValueError(
      f"{folder} has chat templates named {', '.join(others)}, but none named "
      f"'default'; write the one to use to {own_file}"
    )
  return None
