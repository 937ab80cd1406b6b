# SPDX-License-Identifier: Apache-2.0
"""What users type: presets, overrides, misspelt names, experiment files."""

import dataclasses
import importlib.util
import pathlib
import re

import jax
import pytest

from srl_jax import config as config_lib
from srl_jax.config import Config, RlConfig, SftConfig
from srl_jax.data.readers import DataConfig
from srl_jax.data.trunks import ExpertTrunkConfig, TrunkConfig
from srl_jax.models import LanguageModel
from srl_jax.rewards import RewardConfig
from srl_jax.sharding import ShardingRules
from srl_jax.train.rl_config import EpisodesConfig, RoundConfig
from srl_jax.update.groups import DynamicSamplingConfig
from srl_jax.update.grpo import LossConfig
from tests.support import families

ROOT = pathlib.Path(__file__).parents[1]
PRESETS = ("small", "large", "large_tpu")


@pytest.mark.parametrize(
  ("argument", "preset", "overrides"),
  [
    (None, "small", {}),
    ("", "small", {}),
    ("large", "large", {}),
    ("seed=3", "small", {"seed": "3"}),
    ("large,seed=3", "large", {"seed": "3"}),
    (
      "large_tpu,data.path=a=b.jsonl, srl.update_steps = 4,",
      "large_tpu",
      {"data.path": "a=b.jsonl", "srl.update_steps": "4"},
    ),
  ],
)
def test_the_part_after_the_colon(argument, preset, overrides):
  got = config_lib.parse_argument(argument, "small", PRESETS)
  assert got == (preset, overrides)


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    (
      "lrage",
      r"no preset 'lrage'; choose one of small, large, large_tpu "
      r"\(did you mean 'large'\?\)",
    ),
    ("seed=3,large", "'large' in .*:seed=3,large is neither the preset"),
    ("small,large", "'large' in .* is neither the preset, which comes first"),
  ],
)
def test_what_is_no_preset_is_refused(argument, message):
  with pytest.raises(ValueError, match=message):
    config_lib.parse_argument(argument, "small", PRESETS)


def overridden(**overrides):
  config = config_lib.default_config()
  names = {name.replace("__", "."): x for name, x in overrides.items()}
  config_lib.override(config, names)
  return config_lib.to_config(config)


def test_overrides_are_read_by_the_type_of_what_is_there():
  config = overridden(
    seed="7",
    srl__optim__learning_rate="1e-3",
    rlvr__update_steps="20",
    srl__loss__divide_by_group_std="False",
    stages="('sft', 'srl')",
    data__format="jsonl",
    data__path="runs/data v2.jsonl",
    template="chat",
    srl__dynamic_sampling__enabled="false",
    evaluate__modes="solve,turns",
    rules__batch="data",
    rules__embed="('data', 'fsdp')",
    rules__tokens="'tensor'",
    name="007",
  )
  assert config.seed == 7
  assert config.srl.optim.learning_rate == 1e-3
  assert (config.rlvr.update_steps, config.srl.update_steps) == (
    20,
    RlConfig().update_steps,
  )
  assert config.srl.loss.divide_by_group_std is False
  assert config.stages == ("sft", "srl")
  assert config.data.path == "runs/data v2.jsonl"
  assert config.template == "chat"
  assert config.srl.dynamic_sampling.enabled is False
  assert config.evaluate.modes == ("solve", "turns")
  assert config.rules.batch == ("data",)
  assert config.rules.embed == ("data", "fsdp")
  assert config.rules.tokens == "tensor"
  assert config.name == "007"


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"sed": "1"}, r"config\.sed does not exist; did you mean config\.seed\?"),
    (
      {"srl.optim.learning_rat": "1"},
      r"did you mean config\.srl\.optim\.learning_rate\?",
    ),
    # Spelt right, but one level too high.
    (
      {"srl.temperature": "1"},
      r"config\.srl\.temperature does not exist; did you mean "
      r"config\.srl\.sampling\.temperature\?",
    ),
    # In the stage that was meant, not in the first that has such a field.
    (
      {"rlvr.max_new_tokens": "1"},
      r"did you mean config\.rlvr\.sampling\.max_new_tokens\?",
    ),
    (
      {"rlvr.optim.temperature": "1"},
      r"did you mean config\.rlvr\.sampling\.temperature\?",
    ),
    ({"rlvr.steps": "1"}, r"did you mean config\.rlvr\.update_steps\?"),
    ({"rlvr.lr": "1"}, r"did you mean config\.rlvr\.optim\.learning_rate\?"),
    # In no stage at all.
    ({"srl.test_size": "1"}, r"did you mean config\.data\.test_size\?"),
    # Nothing is like it.
    (
      {"srl.optim.optimizer": "muon"},
      r"optim\.optimizer does not exist; the fields of config\.srl\.optim are",
    ),
    (
      {"slr.steps": "1"},
      r"config\.slr does not exist; did you mean config\.srl",
    ),
    (
      {"srl.update_steps.x": "1"},
      r"config\.srl\.update_steps got .* allowed is int",
    ),
    ({"seed": "many"}, r"config\.seed got 'many' of type str, allowed is int"),
    ({"seed": "1.5"}, r"config\.seed got 1\.5 of type float"),
    ({"srl": "1"}, r"config\.srl got 1 of type int, allowed is the fields of"),
    (
      {"rules.embed": "fsdb"},
      r"config\.rules: embed='fsdb' .* 'fsdb' is no mesh axis",
    ),
    ({"template": "caht"}, "did you mean 'chat'"),
    ({"stages": "srl,rl"}, r"config\.stages\[1\] got 'rl'"),
  ],
)
def test_a_wrong_override_is_refused_by_its_path(overrides, message):
  with pytest.raises(ValueError, match=message):
    overridden(**overrides)


@pytest.mark.parametrize(
  ("stages", "argument", "flag"),
  [
    # Flags and argument may make up a run between them.
    ("srl,rlvr", "rlvr.update_steps=3", "seed=1"),
    # Evaluation reads these in a run of any stages.
    ("sft", "srl.trunks.last_step=exclude", "reward_workers.count=1"),
    ("sft", "srl.trunks.task=step", "sft.optim.beta1=0.8"),
  ],
)
def test_an_override_that_something_reads_is_allowed(stages, argument, flag):
  source = f"{ROOT / 'experiments' / 'registers.py'}:srl,{argument}"
  flags = [f"--config.stages={stages}", f"--config.{flag}"]
  config = config_lib.load(source, flags)
  assert config.stages == tuple(stages.split(","))


@pytest.mark.parametrize(
  "name",
  ["srl.update_steps", "srl.reward.function", "srl.trunk", "rlvr.trunks"],
)
def test_an_override_that_nothing_reads_is_refused(name):
  message = rf"config\.{name} is set, .* config\.stages is \('sft',\); set a"
  with pytest.raises(ValueError, match=message):
    config_lib.check_overridden(Config(stages=("sft",)), ["seed", name])


def test_what_is_typed_wins_over_what_a_file_sets_afterwards(tmp_path):
  file = tmp_path / "seven.py"
  file.write_text(
    "from srl_jax import config\n\n\n"
    "def get_config(argument=None):\n"
    "  c = config.base_config(__file__, 'registers', argument)\n"
    "  c.srl.update_steps, c.seed = 7, 7\n"
    "  return c\n"
  )
  config = config_lib.load(f"{file}:srl,srl.update_steps=3")
  assert (config.srl.update_steps, config.seed) == (3, 7)


def test_a_misspelt_field_cannot_be_set_in_an_experiment_file():
  config = config_lib.default_config()
  with pytest.raises(AttributeError, match="stepz"):
    config.srl.stepz = 3


def test_the_defaults_survive_the_trip_through_an_experiment_file():
  assert config_lib.to_config(config_lib.default_config()) == Config()


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Config(stages=("srl", "srl")), "names a stage twice"),
    (
      lambda: Config(rollout_rules=ShardingRules(tokens="tensor")),
      "set it to None, and rules.tokens instead",
    ),
    (
      lambda: Config(
        rules=ShardingRules(batch=("data", "tensor"), tokens="tensor")
      ),
      "share tensor, and an axis splits either the rows or their tokens",
    ),
    (lambda: Config(log_every=0), "log_every=0; set it to 1 or more"),
    (
      lambda: Config(data=DataConfig("s1k", "x", reasoning_thoughts=True)),
      "only a stage sft with sft.trunks.include_thoughts=True trains on them",
    ),
    (
      lambda: Config(
        data=DataConfig("s1k", "x", reasoning_thoughts=True), stages=("sft",)
      ),
      "would train on it there alone; set sft.trunks.task='solve'",
    ),
    (
      lambda: Config(
        stages=("sft",),
        sft=SftConfig(trunks=ExpertTrunkConfig(step_title_hint=True)),
      ),
      "sft.trunks.step_title_hint=True and srl.trunks.step_title_hint=False",
    ),
    (lambda: SftConfig(update_steps=0), "update_steps=0; set it to 1 or more"),
    (lambda: RlConfig(trunks_per_micro_batch=0), "trunks_per_micro_batch=0"),
    (
      lambda: Config(
        rlvr=RlConfig(trunks=TrunkConfig("solve", context_turns=2))
      ),
      "rlvr.trunks.context_turns=2 has no effect with rlvr.trunks.task='solve'",
    ),
    (
      lambda: Config(
        rlvr=RlConfig(trunks=TrunkConfig("solve", points_per_trunk=2))
      ),
      "rlvr.trunks.points_per_trunk=2 has no effect with rlvr.trunks.task=",
    ),
    (
      lambda: Config(srl=RlConfig(trunks=TrunkConfig("solve"))),
      "srl.trunks.task='solve': .* leave it at 'step', and choose the stage",
    ),
    (lambda: Config(rlvr=RlConfig()), "rlvr.trunks.task='step': .* at 'solve'"),
    (
      lambda: SftConfig(
        trunks=ExpertTrunkConfig(task="solve", last_step="exclude")
      ),
      "sft.trunks.last_step='exclude' has no effect",
    ),
    (
      lambda: SftConfig(
        trunks=ExpertTrunkConfig(task="solve"), alternate_solve=True
      ),
      "would train on each batch of these twice; set task='step'",
    ),
    (
      lambda: LossConfig(divisor_tokens=9),
      "divisor_tokens=9 has no effect with aggregation='sequence_mean'",
    ),
    (
      lambda: LossConfig(importance_cap=9.0),
      "importance_cap=9.0 has no effect with surrogate='clipped'; leave it at",
    ),
    # The advantage of a group of one is always zero.
    (
      lambda: RoundConfig(samples=1),
      "a group needs at least 2; set samples=8",
    ),
    (lambda: EpisodesConfig(samples=1), "a group needs at least 2"),
    # Sampler and loss would speak of different distributions.
    (
      lambda: RoundConfig(temperature=0.0),
      "for training set a temperature above 0",
    ),
  ],
)
def test_what_cannot_work_is_refused_at_construction(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_the_defaults_are_the_settings_of_the_paper():
  # Batch, learning rate, samples, temperature, warm-up (Section 4 and the
  # appendix; the SFT peak 5e-6 is with a cosine).
  c = Config()
  assert (c.srl.groups_per_batch, c.rlvr.groups_per_batch) == (512, 128)
  for stage in (c.srl, c.rlvr):
    assert stage.optim.learning_rate == 5e-7
    assert stage.optim.schedule == "constant"
    assert stage.optim.warmup_ratio == 0
    assert stage.optim.max_grad_norm == 1.0
    assert (stage.sampling.samples, stage.sampling.temperature) == (8, 1.0)
    assert stage.loss.kl_coefficient == 0
    assert stage.loss.aggregation == "sequence_mean"
    assert stage.dynamic_sampling == DynamicSamplingConfig()
  assert c.sft.trunks_per_batch == 64
  assert c.sft.optim.learning_rate == 5e-6
  assert c.sft.optim.schedule == "cosine"
  assert c.sft.optim.warmup_ratio == 0.3
  assert (c.srl.trunks.task, c.rlvr.trunks.task) == ("step", "solve")
  assert c.srl.reward == c.rlvr.reward == RewardConfig(function="domain")
  assert not c.srl.reward.autojunk


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config


def experiments():
  """Every preset of every experiment file."""
  for path in sorted((ROOT / "experiments").glob("*.py")):
    get_config = load(path)
    try:
      get_config("no_preset_has_this_name")
    except ValueError as error:
      [names] = re.findall(r"choose one of ([\w, ]+)", str(error))
    for preset in names.split(", "):
      yield pytest.param(get_config, preset, id=f"{path.stem}:{preset}")


EXPERIMENTS = list(experiments())


@pytest.mark.parametrize(("get_config", "preset"), EXPERIMENTS)
def test_every_experiment_builds_and_its_model_has_a_shape(
  get_config, preset, tmp_path
):
  if preset == "checkpoint":
    with pytest.raises(ValueError, match="wants a folder, or a name on the"):
      get_config(preset)
    preset += f",weights={families.write(tmp_path / 'x', 'qwen3')}"
  config = config_lib.to_config(get_config(preset))
  again = config_lib.to_config(get_config(f"{preset},seed=12"))
  assert again == dataclasses.replace(config, seed=12)
  # The tokenizer's size, where it decides, is not known without its file.
  model = dataclasses.replace(
    config.model, vocab_size=config.model.vocab_size or 1000
  )
  params = jax.eval_shape(LanguageModel(model).init, jax.random.key(0))
  assert len(jax.tree.leaves(params)) >= 10
  for stage in {"srl", "rlvr"} & set(config.stages):
    section = getattr(config, stage)
    assert section.sampling.max_new_tokens < model.max_positions
  # It ends in a table of results, and answers leave room for the problem.
  assert config.data.test_size > 0
  limits = {
    "turns": config.evaluate.max_turn_tokens,
    "solve": config.evaluate.max_solve_tokens,
  }
  for mode in config.evaluate.modes:
    assert limits[mode] < model.max_positions


def test_an_objective_is_no_method():
  get_config = load(ROOT / "experiments" / "math.py")
  for preset in ("registers", "qwen2_5_0_5b"):
    with pytest.raises(ValueError, match=r"no method 'dapo'.*docs/configure"):
      get_config(f"{preset},method=dapo")


@pytest.mark.parametrize(("get_config", "preset"), EXPERIMENTS[:1])
def test_an_experiment_refuses_a_misspelt_override(get_config, preset):
  with pytest.raises(ValueError, match=r"did you mean config\.seed\?"):
    get_config(f"{preset},sede=1")


def test_presets_of_a_file_differ_in_more_than_their_names():
  names = {}
  for parameter in EXPERIMENTS:
    get_config, preset = parameter.values
    # These are another preset, and one that wants an argument.
    if preset not in ("auto", "checkpoint"):
      config = config_lib.to_config(get_config(preset))
      anonymous = dataclasses.replace(config, name="")
      file = parameter.id.partition(":")[0]
      former = names.setdefault((file, anonymous), config.name)
      assert former == config.name, f"{config.name} is {former}"
