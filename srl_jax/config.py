# SPDX-License-Identifier: Apache-2.0
"""The whole configuration of a run: the dataclasses of all parts, gathered.

Each part is declared, documented and given its defaults beside the code that
reads it. This file gives them their names in the configuration. An experiment
file edits `default_config()`, a locked ConfigDict; `to_config`
turns the result into the frozen `Config` that the program uses.
"""

from __future__ import annotations

import dataclasses
import operator
import pathlib
import runpy
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import ml_collections

from srl_jax import overrides as overrides_lib
from srl_jax import strict
from srl_jax.checkpoint import CheckpointConfig
from srl_jax.data import templates
from srl_jax.data.readers import DataConfig
from srl_jax.data.trunks import TrunkConfig, check_solutions
from srl_jax.device_rewards.reward import DeviceRewardConfig
from srl_jax.evaluate.solve import EvalConfig
from srl_jax.models import ModelConfig, hf_files, zoo
from srl_jax.overrides import parse_argument as parse_argument
from srl_jax.processes.watchdog import WatchdogConfig
from srl_jax.rewards import WorkersConfig
from srl_jax.rollout.record import RolloutsConfig
from srl_jax.sharding import MeshConfig, ShardingRules
from srl_jax.storage import hub
from srl_jax.tokenizers import TokenizerConfig
from srl_jax.trackers.trackers import TrackersConfig
from srl_jax.train.profile import ProfileConfig
from srl_jax.train.rl_config import EpisodesConfig, RlConfig
from srl_jax.train.sft import SftConfig

StageName = Literal["sft", "srl", "rlvr", "episodes"]
# What evaluation reads of the section "srl" whether or not that stage runs:
# which branch points single steps are measured at.
_READ_BY_EVALUATION = ("srl.trunks",)


@dataclasses.dataclass(frozen=True)
class Config:
  """A run.

  Attributes:
    name: what the first line of output calls the run.
    note: what is said before that line, if anything; an experiment that
      chooses what it runs says here what it chose and why.
    seed: every random number of the run follows from it, except what data.seed
      draws: generated problems, and the trajectories of a task.
    stages: what is trained, in order; each stage starts from the best
      parameters of the one before.
    weights: where the first stage starts: "random", "registers_student" or
      "lookup_student" (small students that ship with the package), a Hugging
      Face checkpoint folder, the working directory of a finished run, or a
      name on the hub, as ORG/NAME or ORG/NAME@COMMIT.
    template: wording of the prompts: "plain" (small models from scratch),
      "chat" (the checkpoint's own chat template), "chatml" (for a tokenizer
      with ChatML's control tokens and no template) or "text" (base models).
    observation_tokens: longest observation shown to the model, in tokens.
      Longer ones keep their head and their tail, half each; a line between says
      how much is left out. 0 shows all.
    log_every: update steps between console lines.
    data: trajectories and their splits.
    tokenizer: the tokenizer.
    model: shape and numerics of the model.
    mesh: devices per mesh axis.
    rules: which mesh axes each logical axis is split over, at rest and in the
      update.
    rollout_rules: which mesh axes each logical axis is split over while
      sampling. Where they differ from `rules`, parameters are resharded once
      per round. Weights that are split over the devices of the batch
      would be gathered at every turn of the decoding loop instead, which is
      ruinously slow.
    sft: the stage "sft".
    srl: the stage "srl".
    rlvr: the stage "rlvr".
    episodes: the stage "episodes".
    reward_workers: processes that compute rewards on the host.
    device_reward: whether the device computes rewards, and at which sizes.
    checkpoint: how often to save.
    watchdog: when a run of several processes is taken to hang.
    rollouts: which rollouts are kept, for people to look at.
    trackers: where metrics are shown, besides metrics.csv.
    profile: which update steps are profiled.
    evaluate: what is measured before and after training.
  """

  name: str = "default"
  note: str = ""
  seed: int = 0
  stages: tuple[StageName, ...] = ("srl",)
  weights: str = "random"
  template: templates.Name = "plain"
  observation_tokens: int = 0
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
  episodes: EpisodesConfig = EpisodesConfig()
  reward_workers: WorkersConfig = WorkersConfig()
  device_reward: DeviceRewardConfig = DeviceRewardConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  watchdog: WatchdogConfig = WatchdogConfig()
  rollouts: RolloutsConfig = RolloutsConfig()
  trackers: TrackersConfig = TrackersConfig()
  profile: ProfileConfig = ProfileConfig()
  evaluate: EvalConfig = EvalConfig()

  def __post_init__(self):
    strict.check_literals(self)
    strict.check_numbers(
      self,
      seed="[0, 4294967295]",
      log_every="[1, )",
      observation_tokens="[0, )",
    )
    if len(set(self.stages)) < len(self.stages):
      raise ValueError(
        f"stages={self.stages} names a stage twice; each has one section, so "
        "name it once and raise its update_steps"
      )
    self._check_tasks()
    self._check_contexts()
    if self.data.reasoning_thoughts and not (
      "sft" in self.stages and self.sft.trunks.include_thoughts
    ):
      raise ValueError(
        "data.reasoning_thoughts=True reads thoughts, and only a stage sft "
        "with sft.trunks.include_thoughts=True trains on them; set that, or "
        "data.reasoning_thoughts=False"
      )
    if self.data.reasoning_thoughts and self.sft.trunks.task == "step":
      raise ValueError(
        "data.reasoning_thoughts=True puts all that was thought before the "
        "first step, and sft.trunks.task='step' would train on it there alone; "
        "set sft.trunks.task='solve'"
      )
    rows, tokens = map(self.rules.mesh_axes, ("batch", "tokens"))
    both = {*rows} & {*tokens}
    if both:
      raise ValueError(
        f"rules.tokens={self.rules.tokens!r} and rules.batch="
        f"{self.rules.batch!r} share {', '.join(sorted(both))}, and an axis "
        "splits either the rows or their tokens; take it out of one of them"
      )
    if self.rollout_rules.tokens:
      raise ValueError(
        f"rollout_rules.tokens={self.rollout_rules.tokens!r}: only the update "
        "splits the tokens of a row; set it to None, and rules.tokens instead"
      )

  def _check_tasks(self) -> None:
    """Refuses branch points that the stages srl and rlvr are not made for."""
    for name, task in (("srl", "step"), ("rlvr", "solve")):
      trunks = getattr(self, name).trunks
      if trunks.task != task:
        raise ValueError(
          f"{name}.trunks.task={trunks.task!r}: the stage srl trains on single "
          "steps, and rlvr on whole solutions; leave it at "
          f"{task!r}, and choose the stage by config.stages"
        )
    check_solutions(self.rlvr.trunks, "rlvr")

  def _check_contexts(self) -> None:
    """Refuses stages that show other contexts than evaluation does."""
    fields = []
    if "sft" in self.stages and self.sft.trunks.task == "step":
      fields += ["sft.trunks.context_turns", "sft.trunks.step_title_hint"]
    if "episodes" in self.stages:
      fields.append("episodes.context_turns")
    for path in fields:
      name = path.rpartition(".")[2]
      value = operator.attrgetter(path)(self)
      shown = getattr(self.srl.trunks, name)
      if value != shown:
        raise ValueError(
          f"{path}={value} and srl.trunks.{name}={shown}: evaluation, and the "
          "stage srl, show the model the latter; set both to the same"
        )


def default_config() -> ml_collections.ConfigDict:
  """Returns the defaults as a locked ConfigDict, for experiment files."""
  return strict.to_config_dict(Config())


def shipped_experiments() -> dict[str, str]:
  """Returns the files of the experiments that ship with the package."""
  package = pathlib.Path(__file__).parent
  # Beside the package in a clone, inside of it where it is installed.
  folders = package.parent / "experiments", package / "experiments"
  return {x.stem: str(x) for folder in folders for x in folder.glob("*.py")}


def base_config(
  file: str, name: str, argument: str | None = None
) -> ml_collections.ConfigDict:
  """Returns what another experiment does, for an experiment that changes it.

  Args:
    file: __file__ of the experiment that asks.
    name: the other one, without ".py"; it lies beside that file, or is one that
      ships with the package.
    argument: its preset and overrides.

  Raises:
    ValueError: there is no such experiment.
  """
  # By its path: experiments are run from any folder, and are no package.
  path = pathlib.Path(file).with_name(f"{name}.py")
  shipped = shipped_experiments()
  if not path.is_file():
    if name not in shipped:
      raise ValueError(
        f"there is no experiment {name!r}: neither {path} nor one of "
        f"{', '.join(sorted(shipped))}"
      )
    path = shipped[name]
  return runpy.run_path(str(path))["get_config"](argument)


def devices_found() -> tuple[str, int]:
  """The platform ("cpu", "gpu", "tpu") and how many devices of it JAX finds.

  Not to be asked before processes join.
  """
  return jax.default_backend(), jax.device_count()


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
    source: as c.weights; config.json is fetched.

  Raises:
    ValueError: no such folder, or a model that is not supported.
  """
  folder = hub.fetch(source, ("config.json",))
  config.model.update(_fields_of(hf_files.read_model_config(folder)))
  config.weights = source
  config.tokenizer.kind = "huggingface"
  config.tokenizer.path = source


def _fields_of(model: ModelConfig) -> dict[str, Any]:
  return strict.to_config_dict(model).to_dict()


def override(
  config: ml_collections.ConfigDict, overrides: Mapping[str, str]
) -> None:
  """Sets dotted fields from text, which is read by the type of what is there.

  Text that fits no such reading is put in as it is, for `to_config` to refuse.

  Raises:
    ValueError: no such field; the message names the nearest.
  """
  overrides_lib.apply(Config, config, overrides)


def check_overridden(config: Config, names: Iterable[str]) -> None:
  """Refuses what a user has set of a stage that does not run.

  Experiment files may fill in stages that they do not run, for others to use;
  a user who sets one field means to change something.

  Args:
    config: the whole, with all overrides.
    names: dotted names of the fields that were overridden.

  Raises:
    ValueError: nothing would read such a field.
  """
  idle = set(get_args(StageName)) - set(config.stages)
  for name in names:
    stage = name.partition(".")[0]
    is_read = any(f"{name}.".startswith(f"{x}.") for x in _READ_BY_EVALUATION)
    if stage in idle and not is_read:
      raise ValueError(
        f"config.{name} is set, but the stage {stage!r} does not run: "
        f"config.stages is {config.stages}; set a field of "
        f"{' or '.join(config.stages)}, or add the stage to config.stages"
      )


def to_config(config_dict: ml_collections.ConfigDict) -> Config:
  """Converts strictly; raises ValueError naming the nearest known field."""
  return strict.to_dataclass(Config, config_dict, "config")


def load(source: str | None, overrides: Sequence[str] = ()) -> Config:
  """Loads an experiment file and converts its config strictly.

  Args:
    source: experiment, as file.py[:argument], or name[:argument] for one that
      ships with the package.
    overrides: texts --config.key=value, as on the command line.

  Raises:
    ValueError: there is no such file, or the file or an override has an error.
  """
  if not source:
    raise ValueError(
      "which experiment? For example --config=experiments/math.py"
    )
  path, colon, argument = source.partition(":")
  file = find_experiment(path)
  if file is None:
    raise ValueError(
      f"--config={source}: there is no file {path!r} (from "
      f"{pathlib.Path.cwd()}) and no experiment of that name; give a file, or "
      f"one of {', '.join(sorted(shipped_experiments()))}"
    )
  config = _get_config(file, *([argument] if colon else []))
  # Again, for a file that sets a field after it has read its argument: what a
  # user types wins.
  fields = overrides_lib.fields_in(argument, config)
  for text in overrides:
    key, equals, value = text.partition("=")
    if not equals or not key.startswith(("--config.", "-config.")):
      raise ValueError(
        f"{text!r} is not understood: no option of this command, and fields of "
        "the experiment are set by --config.FIELD=VALUE"
      )
    fields[key.partition(".")[2]] = value
  override(config, fields)
  converted = to_config(config)
  check_overridden(converted, fields)
  return converted


def find_experiment(path: str) -> str | None:
  """Returns the file of an experiment: the user's, or else the package's."""
  if pathlib.Path(path).is_file():
    return path
  name = path.removeprefix("experiments/").removesuffix(".py")
  return shipped_experiments().get(name)


def _get_config(path: str, *argument: str) -> ml_collections.ConfigDict:
  try:
    config = runpy.run_path(path)["get_config"](*argument)
  except ValueError:
    # `config.parse_argument` and the like have a message for the user.
    raise
  except Exception as error:
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == path
    ]
    where = f" line {lines[-1]}" if lines else ""
    raise ValueError(
      f"{path}{where}: {type(error).__name__}: {error}; an experiment file "
      "defines get_config(argument=None), which returns the changed "
      "config.default_config()"
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      f"get_config() of {path} returned {config!r}; end it with 'return c', "
      "where c = config.default_config()"
    )
  return config
