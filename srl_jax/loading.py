# SPDX-License-Identifier: Apache-2.0
"""Loads the parts of a run: data, tokenizer, template, model, parameters.

run.py decides what is done with them. The commands that read a run afterwards
(show, export) load it here too.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import jax

from srl_jax import agreement, held_out, progress, sharding, storage, strict
from srl_jax.config import Config
from srl_jax.data import readers, records
from srl_jax.data.templates import (
  ChatTemplate,
  PlainTemplate,
  Special,
  make_template,
)
from srl_jax.models import LanguageModel
from srl_jax.models.config import ModelConfig
from srl_jax.models.hf_config import to_hf_config
from srl_jax.rewards.format import think_block
from srl_jax.rollout.record import Recorder
from srl_jax.storage import hub
from srl_jax.storage.workdir import COMMITS, RefusedError, no_run
from srl_jax.tokenizers import (
  Tokenizer,
  TokenizerConfig,
  check_tokenizer_of_weights,
  make_tokenizer,
  tokenizer_folder,
  with_local_files,
)
from srl_jax.train.stage import Run
from srl_jax.trajectory import Trajectory

_ASSETS = importlib.resources.files("srl_jax") / "assets"
# The small students that ship with the package, and their folders.
STUDENTS = {
  name: str(_ASSETS / name) for name in ("registers_student", "lookup_student")
}
# File in the workdir for a tokenizer that the run trains itself.
TRAINED_TOKENIZER = "tokenizer.model"
# Beside a model: how it was shown its problems.
PROMPTS = "srl_jax.json"
# Folder in the workdir for a copy of a tokenizer that the run did not train.
KEPT_TOKENIZER = "tokenizer"
# Files of a checkpoint folder that say what its tokens are and mean. In older
# checkpoints only config.json names the tokens at which generation stops.
_BESIDE = (
  "config.json",
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
  "generation_config.json",
)


def read_run_config(workdir: pathlib.Path) -> Config:
  """Returns the config of the run in `workdir`.

  Raises:
    ValueError: there is no run in `workdir`, or its config has fields or
      values that this version of srl_jax does not know.
  """
  path = workdir / "config.json"
  found = agreement.read_json(path)
  if found is None:
    raise no_run(workdir)
  try:
    return strict.to_dataclass(Config, found, "config")
  except ValueError as error:
    raise ValueError(
      f"{path} cannot be read by this version of srl_jax: {error}; use the "
      f"version that wrote it (see {workdir / 'versions.json'}), or mend the "
      "field there"
    ) from error


def load_run(
  config: Config,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  *,
  is_kept: bool = False,
) -> Run:
  """Loads data and tokenizer and builds the model of a run.

  Args:
    config: of the run.
    mesh: the devices.
    workdir: folder of the run.
    is_kept: whether the tokenizer must be the one that is kept in workdir.

  Raises:
    RefusedError: it is another one.
    ValueError: a part cannot be used, or the parts do not belong together.
  """
  # Before the weights are fetched, which may take long.
  loaded = readers.load_trajectories(config.data)
  config = with_paths(config, workdir)
  if loaded.rejects and jax.process_index() == 0:
    path = workdir / "rejects.jsonl"
    records.write_rejects(loaded.rejects, path)
    progress.say(f"{len(loaded.rejects)} records were refused; see {path}")
  for reason, ids in loaded.left_out.items():
    progress.say(f"{len(ids):,} trajectories are left out: {reason}")
  for warning in loaded.warnings:
    progress.warn(warning)
  splits = loaded.splits
  texts = [*splits["pretrain"], *splits["train"]]
  run = load_model(config, mesh, texts)
  if isinstance(run.template, ChatTemplate):
    run.template.chat.check_thinking()
  if is_kept:
    _check_kept(run, config, workdir)
  else:
    _keep(run, config, workdir)
  recorder = Recorder(workdir / "rollouts", config.rollouts)
  return dataclasses.replace(run, **splits, recorder=recorder)


def compute_exactly(dtype: str, platform: str) -> None:
  """Lets products of float32 be products of float32, for the whole process.

  Unless they are told otherwise, TPUs round the operands to bfloat16 and NVIDIA
  GPUs to TF32. In bfloat16 nobody is told: kernels for TPUs refuse it.
  """
  is_told = dtype == "float32" and platform != "cpu"
  precision = "highest" if is_told else None
  jax.config.update("jax_default_matmul_precision", precision)


def load_model(
  config: Config,
  mesh: jax.sharding.Mesh,
  trajectories: Sequence[Trajectory] = (),
) -> Run:
  """Loads the tokenizer and builds the model: a run without data.

  Args:
    config: what `with_paths` returned.
    mesh: the devices.
    trajectories: what a new tokenizer is trained on, if the run trains one.

  Raises:
    ValueError: a part cannot be used, or the parts do not belong together.
  """
  tokenizer = _load_tokenizer(config.tokenizer, trajectories)
  check_tokenizer_of_weights(
    config.tokenizer, tokenizer, _with_small_files(config.weights)
  )
  model_config = _model_config(config, tokenizer)
  tokenizer = tokenizer.limited(model_config.vocab_size)
  template = make_template(
    config.template,
    tokenizer,
    tokenizer_folder(config.tokenizer),
    config.observation_tokens,
  )
  for task in ("step", "solve"):
    for name in template.stop(task):
      tokenizer.special_id(name)
  compute_exactly(model_config.dtype, mesh.devices.flat[0].platform)
  return Run(
    seed=config.seed,
    mesh=mesh,
    rules=config.rules,
    rollout_rules=config.rollout_rules,
    policy=LanguageModel(model_config, config.rules),
    tokenizer=tokenizer,
    template=template,
    weights=config.weights,
    files=_tokenizer_files(config.tokenizer),
    reward_workers=config.reward_workers,
    device_reward=config.device_reward,
    checkpoint=config.checkpoint,
    log_every=config.log_every,
    profile=config.profile,
  )


def _check_kept(run: Run, config: Config, workdir: pathlib.Path) -> None:
  """Refuses another tokenizer than the one that is kept in the workdir."""
  folder = workdir / KEPT_TOKENIZER
  kept, now = (
    {file.name: file.read_bytes() for file in of}
    for of in (folder.iterdir(), run.files)
  )
  if len(kept) == len(now) == 1:  # A file, which may have another name.
    kept = dict(zip(now, kept.values(), strict=True))
  names = sorted(kept.keys() | now.keys())
  if different := [x for x in names if kept.get(x) != now.get(x)]:
    raise RefusedError(
      f"the tokenizer in {config.tokenizer.path} is not the one that {workdir} "
      f"was begun with, which is kept in {folder} (not the same: "
      f"{', '.join(different)}); give c.tokenizer.path of the same files, or "
      "this run a --workdir of its own"
    )


def _keep(run: Run, config: Config, workdir: pathlib.Path) -> None:
  """Copies the tokenizer of others to the workdir, for `load_saved`."""
  folder = workdir / KEPT_TOKENIZER
  is_own = config.tokenizer.train_vocab_size
  if jax.process_index() != 0 or is_own or not run.files:
    return
  if storage.is_remote(folder):
    for file in run.files:
      if not (folder / file.name).exists():
        storage.upload(file, folder / file.name)
    return
  if folder.exists():
    return
  temporary = folder.with_name(f"{folder.name}.tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  for file in run.files:
    shutil.copyfile(file, temporary / file.name)
  temporary.rename(folder)


def load_saved(
  config: Config, mesh: jax.sharding.Mesh, workdir: pathlib.Path
) -> Run:
  """Loads the run in `workdir` from that folder alone, to read its parameters.

  It has the held-out trajectories and no others. The weights that it started
  from may be gone; `initial_weights.base_params` reads them if needed.

  Raises:
    ValueError: a part cannot be used; or `workdir` is of a version that left
      less there, and what the config names is gone.
  """
  pin_commits(workdir)
  config = with_kept_tokenizer(config, workdir)
  config = dataclasses.replace(config, weights="random")
  run = load_model(with_paths(config, workdir), mesh)
  return dataclasses.replace(run, **held_out.read(workdir))


def pin_commits(workdir: pathlib.Path) -> None:
  """Lets the hub give the commits that the run in `workdir` has read."""
  hub.COMMITS.update(agreement.read_json(workdir / COMMITS) or {})


def with_kept_tokenizer(config: Config, workdir: pathlib.Path) -> Config:
  """Returns a run's config with the tokenizer that is kept in its workdir.

  Raises:
    ValueError: the run trains its tokenizer, and has not yet.
  """
  tokenizer, folder = config.tokenizer, workdir / KEPT_TOKENIZER
  if tokenizer.train_vocab_size:
    path = workdir / TRAINED_TOKENIZER
    if not path.is_file():
      raise ValueError(f"the run in {workdir} has no {TRAINED_TOKENIZER} yet")
  elif folder.is_dir():
    name = pathlib.Path(tokenizer.path).name
    path = folder / name if (folder / name).is_file() else folder
    if len(kept := [*folder.iterdir()]) == 1:  # It may have another name.
      path = kept[0]
  else:
    return config
  tokenizer = dataclasses.replace(tokenizer, path=str(path))
  return dataclasses.replace(config, tokenizer=tokenizer)


def on_this_machine(config: Config) -> Config:
  """Returns the config of a model that is read and not trained.

  All devices of this machine (or pod) hold its parameters between them, as far
  as its shape allows, whatever layout the config had. Sampling gathers them
  along the model width, so that no turn sends any: each device then has the
  part of its heads.
  """
  model = config.model
  devices = jax.devices()
  devices = len(devices) // sharding.slice_count(devices)
  tensor = math.gcd(
    devices, model.n_kv_heads, model.d_mlp, model.vocab_size or 1
  )
  fsdp = math.gcd(devices // tensor, model.d_model)
  return dataclasses.replace(
    config,
    mesh=sharding.MeshConfig(data=-1, fsdp=fsdp, tensor=tensor),
    rules=sharding.ShardingRules(),
    rollout_rules=sharding.ShardingRules(embed=None),
  )


def with_paths(config: Config, workdir: pathlib.Path) -> Config:
  """Returns the config with paths for packaged files and for the tokenizer."""
  tokenizer, source = config.tokenizer, config.weights
  path = tokenizer.path
  if path in STUDENTS:
    path = os.path.join(STUDENTS[path], TRAINED_TOKENIZER)
  elif tokenizer.train_vocab_size and not path:
    path = str(workdir / TRAINED_TOKENIZER)
  tokenizer = dataclasses.replace(tokenizer, path=path)
  return dataclasses.replace(
    config,
    weights=STUDENTS.get(source, source),
    tokenizer=with_local_files(tokenizer),
  )


def _with_small_files(source: str) -> str:
  """Where to find what is beside weights, which themselves may not be there."""
  if source == "random":
    return source
  folder = hub.folder_of(source)
  if storage.is_remote(folder):
    return str(folder)
  return str(hub.fetch(source, storage.SMALL_FILES))


def _load_tokenizer(
  config: TokenizerConfig, trajectories: Sequence[Trajectory]
) -> Tokenizer:
  if config.train_vocab_size and jax.process_count() > 1:
    # Process 0 trains the tokenizer; the others read the file it wrote.
    if jax.process_index() == 0:
      make_tokenizer(config, _texts(trajectories))
    agreement.wait_for_all()
  return make_tokenizer(config, _texts(trajectories))


def _texts(trajectories: Sequence[Trajectory]) -> Iterator[str]:
  """Yields all plain text of the trajectories that a model will see."""
  # A tokenizer trained here has the control tokens of this template only.
  template = PlainTemplate()
  for trajectory in trajectories:
    segments = [template.problem(trajectory, "step")]
    for number, step in enumerate(trajectory.steps, start=1):
      segments.append(template.step(step, number))
      if step.thought:
        segments.append((think_block(step.thought),))
    for segment in segments:
      yield from (part for part in segment if not isinstance(part, Special))


def _model_config(config: Config, tokenizer: Tokenizer) -> ModelConfig:
  model_config = config.model
  if not model_config.vocab_size:
    model_config = dataclasses.replace(
      model_config, vocab_size=tokenizer.vocab_size
    )
  # Refuses now a model that could not be written after training.
  to_hf_config(model_config, model_config.param_dtype)
  return model_config


def _tokenizer_files(config: TokenizerConfig) -> tuple[pathlib.Path, ...]:
  if config.kind == "byte":
    return ()
  path = storage.local_copy(config.path)
  if path.is_file() and config.kind == "huggingface":
    path = path.parent
  if path.is_file():
    return (path,)
  return tuple(path / name for name in _BESIDE if (path / name).is_file())
