# SPDX-License-Identifier: Apache-2.0
"""The whole configuration of a run: the dataclasses of all parts, gathered.

Each part is declared, documented and given its defaults beside the code that
reads it; here they only get their names, and the stages get theirs. An
experiment file edits `default_config()`, a locked ConfigDict; `to_config`
turns the result into the frozen `Config` that the program uses.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any, Literal

import ml_collections

from srl_jax import strict
from srl_jax.checkpoint import CheckpointConfig
from srl_jax.data import templates
from srl_jax.data.readers import DataConfig
from srl_jax.data.trunks import TrunkConfig
from srl_jax.device_rewards.reward import DeviceRewardConfig
from srl_jax.evaluate.solve import EvalConfig
from srl_jax.models import ModelConfig, hf_files, zoo
from srl_jax.rewards import RewardConfig
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.sharding import MeshConfig, ShardingRules
from srl_jax.tokenizers import TokenizerConfig
from srl_jax.update.groups import DynamicSamplingConfig
from srl_jax.update.grpo import LossConfig
from srl_jax.update.optim import OptimConfig


def _check_stage(stage):
  for name in ("update_steps", "trunks_per_micro_batch"):
    if getattr(stage, name) < 1:
      raise ValueError(f"{name}={getattr(stage, name)}; set it to 1 or more")


def _check_divides(small_name, small, large_name, large):
  if large % small:
    raise ValueError(
      f"{large_name}={large} is not a multiple of {small_name}={small}; "
      f"change one of them"
    )


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """A stage of supervised fine-tuning on expert steps or solutions.

  Attributes:
    update_steps: update steps, one per batch.
    trunks_per_batch: trajectories per optimizer step.
    trunks_per_micro_batch: of those, how many at a time; all processes
      together.
    validate_every: steps between validations (cross-entropy), the best of
      which gives the stage's result; 0 validates at the end only.
    validation_trunks: trajectories per validation; 0 for all.
    max_logits: see LossConfig.
    trunks: which branch points are made of a trajectory.
    split: "pretrain" keeps the trajectories of "train" for the RL stages.
    alternate_solve: every other step trains on whole solutions (task
      "solve") instead, for a model that shall do both.
    optim: the optimizer.
  """

  update_steps: int = 100
  trunks_per_batch: int = 64
  trunks_per_micro_batch: int = 16
  validate_every: int = 0
  validation_trunks: int = 64
  max_logits: int = 1 << 26
  trunks: TrunkConfig = TrunkConfig(include_thoughts=True)
  split: Literal["pretrain", "train"] = "train"
  alternate_solve: bool = False
  optim: OptimConfig = OptimConfig(
    learning_rate=5e-6, schedule="cosine", warmup_ratio=0.3
  )

  def __post_init__(self):
    _check_stage(self)
    _check_divides(
      "trunks_per_micro_batch",
      self.trunks_per_micro_batch,
      "trunks_per_batch",
      self.trunks_per_batch,
    )


@dataclasses.dataclass(frozen=True)
class RlConfig:
  """A stage of GRPO: SRL on single steps, or RLVR on whole solutions.

  Attributes:
    update_steps: batches, each of them trained on; see passes.
    groups_per_batch: kept groups per batch (the paper's batch size B).
    passes: optimizer steps on each batch, all on the whole of it.
    trunks_per_round: trajectories sampled at a time; all processes together.
    parts_per_round: in how many parts a round is sampled, so that the host
      scores one while the device decodes the next; divides trunks_per_round.
    trunks_per_micro_batch: rows per micro-batch of the update, likewise.
    reward_on: "device" computes rewards in the program, "host" in Python,
      "auto" on the device where that is possible and, by measurement, faster.
    device_reward: static sizes of the reward on the device.
    fuse: sample, score and update in one program where that is possible:
      reward on the device, dynamic_sampling.refill=False, one pass.
    validate_every: steps between validations (mean reward, at the sampling
      temperature), the best of which gives the stage's result; 0 validates
      at the end only.
    validation_trunks: trajectories per validation; 0 for all.
    max_logp_gap: the run stops when sampler and trainer disagree about a
      fresh token's log-prob by more than this many nats: they then compute
      different things, and no result would mean anything.
    trunks: task "step" is SRL, task "solve" is RLVR.
    sampling: how completions are drawn.
    reward: how they are rewarded: by the domain's reward of single steps, or
      its verdict on whole solutions, if nothing else is set.
    dynamic_sampling: which groups are kept.
    loss: the objective.
    optim: the optimizer.
  """

  update_steps: int = 100
  groups_per_batch: int = 512
  passes: int = 1
  trunks_per_round: int = 64
  parts_per_round: int = 1
  trunks_per_micro_batch: int = 16
  validate_every: int = 0
  validation_trunks: int = 64
  max_logp_gap: float = 1.0
  reward_on: Literal["auto", "device", "host"] = "auto"
  device_reward: DeviceRewardConfig = DeviceRewardConfig()
  fuse: bool = True
  trunks: TrunkConfig = TrunkConfig()
  sampling: SamplingConfig = SamplingConfig()
  reward: RewardConfig = RewardConfig(function="domain")
  dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()
  loss: LossConfig = LossConfig()
  optim: OptimConfig = OptimConfig()

  def __post_init__(self):
    _check_stage(self)
    _check_divides(
      "parts_per_round",
      self.parts_per_round,
      "trunks_per_round",
      self.trunks_per_round,
    )
    s = self.sampling
    if s.samples < 2:
      raise ValueError(
        f"sampling.samples={s.samples}: the advantage compares the samples of "
        "a group, so a group needs at least 2; set sampling.samples=8, as the "
        "paper does"
      )
    if s.temperature == 0 or s.top_k or s.top_p < 1:
      raise ValueError(
        f"sampling with temperature={s.temperature}, top_k={s.top_k}, "
        f"top_p={s.top_p} draws from another distribution than the loss "
        "scores, so their ratio means nothing; for training set temperature "
        "above 0, top_k=0 and top_p=1.0"
      )


@dataclasses.dataclass(frozen=True)
class Config:
  """A run.

  Attributes:
    name: what the first line of output calls the run.
    seed: names every random number of the run.
    stages: what is trained, in order; each stage starts from the best
      parameters of the one before.
    weights: where the first stage starts: "random", "embedded" (the small
      student that ships with the package), a Hugging Face checkpoint folder
      (workdir/model of another run is one), or the name of one on the hub.
    template: wording of the prompts: "plain" (small models from scratch),
      "chat" (the checkpoint's own chat template), "chatml" (for a tokenizer
      with ChatML's control tokens and no template) or "text" (base models).
    log_every: steps between console lines.
    data: trajectories and their splits.
    tokenizer: the tokenizer.
    model: shape of the model; ignored parts are an error, see main.
    mesh: devices per mesh axis.
    rules: which mesh axes each logical axis is split over, at rest and in the
      update.
    rollout_rules: likewise while sampling. Where they differ, parameters are
      laid out anew once per round of sampling: gathered at every turn of the
      decoding loop, weights split over the batch's devices would be ruinous.
    sft: the stage "sft".
    srl: the stage "srl".
    rlvr: the stage "rlvr".
    checkpoint: how often to save.
    evaluate: what is measured before and after training.
  """

  name: str = "default"
  seed: int = 0
  stages: tuple[Literal["sft", "srl", "rlvr"], ...] = ("srl",)
  weights: str = "random"
  template: templates.Name = "plain"
  log_every: int = 1
  data: DataConfig = DataConfig()
  tokenizer: TokenizerConfig = TokenizerConfig()
  model: ModelConfig = ModelConfig()
  mesh: MeshConfig = MeshConfig()
  rules: ShardingRules = ShardingRules()
  rollout_rules: ShardingRules = ShardingRules()
  sft: SftConfig = SftConfig()
  srl: RlConfig = RlConfig()
  rlvr: RlConfig = RlConfig(
    groups_per_batch=128,
    trunks=TrunkConfig(task="solve"),
  )
  checkpoint: CheckpointConfig = CheckpointConfig()
  evaluate: EvalConfig = EvalConfig()

  def __post_init__(self):
    if len(set(self.stages)) < len(self.stages):
      raise ValueError(
        f"stages={self.stages} names a stage twice; each has one section, so "
        "name it once and raise its steps"
      )
    if self.log_every < 1:
      raise ValueError(f"log_every={self.log_every}; set it to 1 or more")


def default_config() -> ml_collections.ConfigDict:
  """Returns the defaults as a locked ConfigDict, for experiment files."""
  return strict.to_config_dict(Config())


def set_model(config: ml_collections.ConfigDict, name: str) -> None:
  """Gives a config the shape of a published model.

  Raises:
    ValueError: no such model; the message lists the known ones.
  """
  if name not in zoo.MODELS:
    raise ValueError(
      f"there is no model {name!r}; choose one of {', '.join(zoo.MODELS)}, or "
      "use_checkpoint for the folder of another one"
    )
  config.model.update(_fields_of(zoo.MODELS[name]))


def use_checkpoint(config: ml_collections.ConfigDict, source: str) -> None:
  """Starts from a Hugging Face checkpoint: shape, weights and tokenizer.

  Args:
    config: is changed.
    source: a folder, or a name on the hub, of which config.json is fetched.

  Raises:
    ValueError: no such folder, or a model that is not supported.
  """
  folder = hf_files.fetch(source, ("config.json",))
  config.model.update(_fields_of(hf_files.read_model_config(folder)))
  config.weights = source
  config.tokenizer.kind = "huggingface"
  config.tokenizer.path = source


def _fields_of(model: ModelConfig) -> dict[str, Any]:
  return strict.to_config_dict(model).to_dict()


def parse_argument(
  argument: str | None, default: str, presets: Collection[str]
) -> tuple[str, dict[str, str]]:
  """Reads the part after the colon of `--config=file.py:preset,key=value`.

  Args:
    argument: that part, or None.
    default: the preset when none is named.
    presets: the ones that exist.

  Returns:
    The preset's name and the overrides, which `override` applies.

  Raises:
    ValueError: unknown preset; the message lists the known ones.
  """
  preset, overrides = default, {}
  for index, part in enumerate((argument or "").split(",")):
    key, equals, value = part.partition("=")
    if equals:
      overrides[key.strip()] = value.strip()
    elif part and index == 0:
      preset = part
    elif part:
      raise ValueError(
        f"{part!r} in --config=...:{argument} is neither the preset, which "
        "comes first, nor of the form key=value"
      )
  if preset not in presets:
    near = difflib.get_close_matches(preset, presets, n=1)
    raise ValueError(
      f"there is no preset {preset!r}; choose one of {', '.join(presets)}"
      + (f" (did you mean {near[0]!r}?)" if near else "")
    )
  return preset, overrides


def override(
  config: ml_collections.ConfigDict, overrides: Mapping[str, str]
) -> None:
  """Sets dotted fields from text, which is read by the type of what is there.

  Text that fits no such reading is put in as it is, for `to_config` to refuse.

  Raises:
    ValueError: no such field; the message names the nearest.
  """
  for path, text in overrides.items():
    *parents, last = path.split(".")
    node = config
    for parent in parents:
      node = node.get(parent)
      if not isinstance(node, ml_collections.ConfigDict):
        node = {}
        break
    if last not in node:
      strict.to_dataclass(Config, _nested(path.split("."), text), "config")
    with node.ignore_type():
      node[last] = _read(text, node[last])


def _read(text, present):
  """The value that text means where now `present` stands."""
  if isinstance(present, str):
    # Rules are names or None. Nothing else is called so.
    return None if text == "None" else text
  if isinstance(present, bool) and text in ("true", "false"):
    return text == "true"
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return tuple(text.split(",")) if isinstance(present, tuple) else text


def _nested(names, value):
  return value if not names else {names[0]: _nested(names[1:], value)}


def to_config(config_dict: ml_collections.ConfigDict) -> Config:
  """Converts strictly; raises ValueError naming the nearest known field."""
  return strict.to_dataclass(Config, config_dict, "config")
