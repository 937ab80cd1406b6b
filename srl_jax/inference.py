# SPDX-License-Identifier: Apache-2.0
"""Loads a model to ask it something: for evaluation, the chat and the server.

Weights are a run's working directory, a Hugging Face folder or a name on the
hub. The training loop does not use this: it already has its model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from srl_jax import config as config_lib
from srl_jax import initial_weights, loading, sharding, storage
from srl_jax.config import Config
from srl_jax.data.chat import ChatFormat
from srl_jax.data.messages import chat_of
from srl_jax.data.templates import Task, Template
from srl_jax.models.config import LoraConfig
from srl_jax.rollout import segments
from srl_jax.rollout.stream import Stream
from srl_jax.storage import hub
from srl_jax.storage.workdir import VERSIONS, model_folder
from srl_jax.tokenizers import SentencePieceTokenizer, tokenizer_folder
from srl_jax.tokenizers.folder import read_tokenizer_folder
from srl_jax.train.stage import Run


@dataclasses.dataclass(frozen=True)
class ReadyModel:
  """A model with its parameters, tokenizer and wording.

  Attributes:
    name: what the user called it.
    run: the run that it is used as; it has no data.
    params: the parameters, on the devices; of a model that was loaded, in the
      form of `LanguageModel.for_decoding`.
    checksum: of the parameters; see `checksum_of`.
    chat: the chat template; None if the model has none.
    first_ids: token ids in front of a text outside of any chat.
  """

  name: str
  run: Run
  params: Any
  checksum: str
  chat: ChatFormat | None
  first_ids: tuple[int, ...] = ()

  @property
  def max_positions(self) -> int:
    """The model's context length in tokens."""
    return self.run.policy.config.max_positions

  @property
  def stop_ids(self) -> tuple[int, ...]:
    """Token ids at which the model ends what it writes."""
    return self.run.stop_ids("solve")

  def key(self, seed: int, purpose: str) -> jax.Array:
    """The random key of a purpose."""
    return dataclasses.replace(self.run, seed=seed).key("inference", purpose)

  def param_bytes(self) -> int:
    """Bytes of the parameters, on all devices together."""
    return sum(x.nbytes for x in jax.tree.leaves(self.params))

  def cache_bytes(
    self, *, rows: int, slots: int, trunk_width: int, cache_width: int
  ) -> int:
    """Bytes of a stream's keys and values, on all devices together.

    Args:
      rows: trunks that are decoded together.
      slots: branches of each.
      trunk_width: width of the trunks in tokens.
      cache_width: width of the branches in tokens.
    """
    policy = self.run.policy
    make = functools.partial(
      segments.empty_rows,
      policy,
      rows=rows,
      slots=slots,
      entries=slots,
      trunk_width=trunk_width,
      cache_width=cache_width,
    )
    params = jax.eval_shape(policy.for_decoding, self.params)
    found = jax.tree.leaves(jax.eval_shape(make, params))
    return sum(x.size * x.dtype.itemsize for x in found)

  def stream(
    self,
    *,
    rows: int,
    slots: int,
    key: jax.Array,
    task: Task = "solve",
    **more,
  ) -> Stream:
    """A stream of samples; see `Stream` for the arguments."""
    return self.run.stream(
      self.params, task, rows=rows, slots=slots, key=key, **more
    )


def config_of(weights: str) -> Config:
  """Returns the config that suits weights: shape, tokenizer and template.

  Args:
    weights: a run's working directory, a Hugging Face folder, a name on the
      hub, or a name in loading.STUDENTS.

  Raises:
    ValueError: there is no such model, the run is not finished, or the model
      is not supported.
  """
  folder = storage.path(weights)
  if (folder / VERSIONS).is_file():
    return _config_of_run(folder)
  c = config_lib.default_config()
  source = loading.STUDENTS.get(weights, weights)
  config_lib.use_checkpoint(c, source)
  source = str(hub.fetch(source))
  c.weights = c.tokenizer.path = source
  c.template = _template_of(c, source)
  shown = storage.path(source) / loading.PROMPTS
  if shown.is_file():
    # A model of ours is asked as it was trained.
    found = json.loads(shown.read_text())
    c.template = found["template"]
    c.observation_tokens = found["observation_tokens"]
    c.srl.trunks.context_turns = found["context_turns"]
  # CPUs have no bfloat16 arithmetic; elsewhere it halves the memory.
  has_bfloat16 = jax.default_backend() != "cpu"
  c.model.dtype = "bfloat16" if has_bfloat16 else "float32"
  c.model.param_dtype = c.model.dtype
  return loading.on_this_machine(config_lib.to_config(c))


def with_weights(
  config: Config, weights: str, given: Sequence[str] = ()
) -> Config:
  """Returns an experiment's config with other weights, and what suits them.

  Args:
    config: the experiment's.
    weights: as in `config_of`.
    given: options of the command line. Of what suits the weights, a template
      that they name stays as they say.

  Raises:
    ValueError: see `config_of`.
  """
  mine = config_of(weights)
  is_given = any(x.startswith("--config.template") for x in given)
  return dataclasses.replace(
    config,
    weights=mine.weights,
    tokenizer=mine.tokenizer,
    model=mine.model,
    template=config.template if is_given else mine.template,
    observation_tokens=mine.observation_tokens,
    srl=dataclasses.replace(
      config.srl,
      trunks=dataclasses.replace(
        config.srl.trunks,
        context_turns=mine.srl.trunks.context_turns,
        points_per_trunk=0,  # Only training draws points.
      ),
    ),
  )


def _config_of_run(workdir: pathlib.Path) -> Config:
  config = loading.read_run_config(workdir)
  weights = str(model_folder(workdir))
  # The folder holds the adapters merged, and nothing is trained any more.
  model = dataclasses.replace(
    config.model, lora=LoraConfig(), param_dtype=config.model.dtype
  )
  config = loading.with_kept_tokenizer(config, workdir)
  config = loading.with_paths(
    dataclasses.replace(config, weights=weights, model=model), workdir
  )
  return loading.on_this_machine(config)


def _template_of(c, folder: str) -> str:
  """The checkpoint's own chat template, or what it has instead of one."""
  checkpoint = read_tokenizer_folder(folder)
  if checkpoint.chat_template is not None:
    return "chat"
  if checkpoint.tokenizer_file.suffix == ".model":
    names = SentencePieceTokenizer(checkpoint.tokenizer_file).control_names
    if "<solve>" in names:
      c.tokenizer.kind = "sentencepiece"
      c.tokenizer.path = str(checkpoint.tokenizer_file)
      return "plain"
  return "text"


def load(config: Config, name: str = "") -> ReadyModel:
  """Loads the model of a config.

  Args:
    config: what `config_of` returned, or a config of an experiment, changed as
      the user likes.
    name: what to call it.

  Raises:
    ValueError: a part cannot be used, or the parts do not belong together.
  """
  mesh = sharding.make_mesh(config.mesh)
  with jax.set_mesh(mesh):
    config = loading.with_paths(config, pathlib.Path(os.devnull))
    run = loading.load_model(config, mesh)
    params = initial_weights.initial_params(run)
    checksum = checksum_of(params)
    # The only copy that stays. Sampling would make one like it.
    params = jax.jit(run.sampling_policy.for_decoding)(params)
  chat = chat_format(config.template, run.template)
  return ReadyModel(
    name or config.weights,
    run,
    params,
    checksum,
    chat,
    _first_ids(config, run),
  )


def checksum_of(params: Any) -> str:
  """Tells parameters apart by all of their bits.

  It is the same on every mesh. All processes must call this together.
  """
  sums = map(int, jax.device_get(_sums_of_bits(jax.tree.leaves(params))))
  return hashlib.sha256(repr([*sums]).encode()).hexdigest()[:16]


@jax.jit
def _sums_of_bits(arrays: Sequence[jax.Array]) -> list[jax.Array]:
  return [_sum_of_bits(x) for x in arrays]


def _sum_of_bits(x: jax.Array) -> jax.Array:
  """A sum modulo 2**32, in which every place has an odd weight of its own."""
  place = jnp.uint32(0)
  for axis, length in enumerate(x.shape):
    place = place * length + jax.lax.broadcasted_iota("uint32", x.shape, axis)
  # In float32, a checkpoint in bfloat16 has the same bits in either dtype.
  bits = jax.lax.bitcast_convert_type(x.astype("float32"), jnp.uint32)
  return jnp.sum(bits * (2 * place + 1), dtype="uint32")


def _first_ids(config: Config, run: Run) -> tuple[int, ...]:
  checkpoint = tokenizer_folder(config.tokenizer)
  name = checkpoint.first_token() if checkpoint else ""
  return (run.tokenizer.special_id(name),) if name else ()


def chat_format(name: str, template: Template) -> ChatFormat | None:
  """Returns the chat format of a run's template; None if it has no roles."""
  return chat_of(name, template) if name in ("chat", "chatml") else None
