# SPDX-License-Identifier: Apache-2.0
"""What each column of a run's metrics is: the text of metrics.txt.

Most columns are fields of metrics dataclasses, which explain themselves. The
others are computed by the loop and the stages, and explained here.
"""

from __future__ import annotations

from collections.abc import Sequence

from srl_jax.reductions import explanations
from srl_jax.rollout.metrics import RolloutMetrics
from srl_jax.update.grpo import GrpoMetrics, SftMetrics
from srl_jax.update.updater import UpdateMetrics

# What stages tell of a round of sampling, whatever they sample.
_OF_ROUNDS = (
  *("reward", "completion_tokens", "kept_share", "differing_share"),
  *("groups_sampled", "groups_kept", "rounds", "tokens_sampled", "rollout_s"),
)

# (name, reduction, unit, help). "*" is a number from 1, NAME a name.
_MORE_OF_ALL = (
  (
    "micro_batches",
    "-",
    "1",
    "micro-batches of the update step, all passes; none in a fused one",
  ),
  (
    "update_step_s",
    "-",
    "s",
    "time of the update step with its sampling, from the end of the one before "
    "or of what was measured and saved after it",
  ),
  (
    "tokens_per_s",
    "-",
    "tokens/s",
    "tokens sampled (sft: trained on) per second of the update step",
  ),
  ("programs", "-", "1", "programs of training that are compiled so far"),
  (
    "suite_NAME",
    "mean",
    "1",
    "share of right greedy answers to a part of the suite NAME",
  ),
)
_MORE_OF_SAMPLING = (
  ("rollout_tokens_per_s", "-", "tokens/s", "tokens sampled per rollout_s"),
  (
    "validation_reward",
    "mean",
    "1",
    "reward of samples on validation trajectories; the best step is kept",
  ),
)
_MORE_OF_RL = (
  ("groups_carried", "-", "groups", "kept groups that wait for the next batch"),
  (
    "groups_expired",
    "-",
    "groups",
    "groups dropped because they had waited for more than max_age update steps",
  ),
  (
    "stale_share",
    "mean",
    "1",
    "share of the batch's groups that earlier parameters sampled",
  ),
  (
    "reward_step_*",
    "mean",
    "1",
    "reward of the groups trained on, at step * of their trajectories; the "
    "filter hides steps that are mastered, and hopeless ones; none in a fused "
    "update step",
  ),
  (
    "validation_exact",
    "mean",
    "1",
    "share of validation samples that equal the expert's step (srl)",
  ),
  (
    "validation_format_failure",
    "mean",
    "1",
    "share of these samples whose format is broken",
  ),
  (
    "validation_similarity",
    "mean",
    "1",
    "their similarity to the expert's step, by the stage's own "
    "c.STAGE.reward.function, so only runs with the same one compare; 0 for a "
    "broken format",
  ),
  (
    "validation_similarity_step_*",
    "mean",
    "1",
    "the same at step * of the trajectories",
  ),
  (
    "validation_value",
    "mean",
    "1",
    "what the run's own reward function or verdict (c.STAGE.reward.function) "
    "says of them, instead of a similarity; 0 for a broken format",
  ),
  (
    "validation_value_step_*",
    "mean",
    "1",
    "the same at step * of the trajectories",
  ),
)
_MORE_OF_EPISODES = (
  ("turns", "mean", "turns", "turns of an episode"),
  ("cut_turns", "mean", "1", "share of turns that the token limit cut off"),
  (
    "no_verdict",
    "mean",
    "1",
    "share of episodes whose environment could not tell whether the problem is "
    "solved; they are left out of rewards and groups",
  ),
  (
    "validation_no_verdict",
    "mean",
    "1",
    "the same of validation episodes; to choose the best step they count as "
    "not solved",
  ),
)
_MORE_OF_SFT = (
  (
    "solve_loss",
    "ratio",
    "nats",
    "with alternate_solve: loss of the update steps on whole solutions, which "
    "have no loss, accuracy and confident_share",
  ),
  ("solve_accuracy", "ratio", "1", "accuracy of these"),
  ("solve_confident_share", "ratio", "1", "confident_share of these"),
  (
    "validation_loss",
    "ratio",
    "nats",
    "cross-entropy per target token of validation trajectories; the step with "
    "the lowest is kept",
  ),
  (
    "validation_accuracy",
    "ratio",
    "1",
    "share of these tokens that were the most likely",
  ),
  (
    "validation_step_loss",
    "ratio",
    "nats",
    "with alternate_solve: validation_loss of the steps alone",
  ),
  (
    "validation_solve_loss",
    "ratio",
    "nats",
    "with alternate_solve: validation_loss of the whole solutions alone",
  ),
)
_OF_TEST = (
  (
    "NAME",
    "-",
    "1",
    "a value of results.json, before (update_step is -1) or after a stage; "
    "NAME is its name there, as aime24_avg_at_32 of aime24 avg@32",
  ),
)


def _of_rounds(is_shared: bool) -> list[tuple[str, ...]]:
  """Of RolloutMetrics, what episodes have too, or what they have not."""
  return [
    row
    for row in explanations(RolloutMetrics)
    if (row[0] in _OF_ROUNDS) == is_shared
  ]


_SECTIONS = {
  "all stages": [*explanations(UpdateMetrics), *_MORE_OF_ALL],
  "srl, rlvr and episodes": [
    *_of_rounds(True),
    *explanations(GrpoMetrics),
    *_MORE_OF_SAMPLING,
  ],
  "srl and rlvr": [*_of_rounds(False), *_MORE_OF_RL],
  "episodes": [*_MORE_OF_EPISODES],
  "sft": [*explanations(SftMetrics), *_MORE_OF_SFT],
  "test": [*_OF_TEST],
}
HEAD = """\
Columns of metrics.csv, metrics.jsonl and all trackers. Their names begin with
the stage, as in srl/reward, or with test/. update_step counts over all stages,
from 0.
Each line: name, how parts combine, unit, meaning. A ratio is of
sums; "-" is measured once, by process 0.
Metrics of sampling, such as reward and format_failure, are of all samples of
the update step, before the filter. Metrics of the update, such as loss, entropy
and ratio_max, are of the groups trained on, older ones included, in all passes.
"""


def sections() -> dict[str, list[tuple[str, ...]]]:
  """Returns the columns by the stages that have them.

  Each is (name, how parts combine, unit, meaning).
  """
  return _SECTIONS


def describe_columns() -> str:
  """Returns the text of metrics.txt."""
  parts = [f"{title}\n{_table(rows)}\n" for title, rows in sections().items()]
  return "\n".join([HEAD, *parts])


def _table(rows: Sequence[tuple[str, ...]]) -> str:
  widths = [max(len(row[i]) for row in rows) for i in range(3)]
  return "\n".join(
    "  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]])
    for row in rows
  )
