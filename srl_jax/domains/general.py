# SPDX-License-Identifier: Apache-2.0
"""The domains of general and of science problems, and wording for others."""

from __future__ import annotations

from srl_jax.domains.domain import Domain


def step_prompt(subject: str) -> str:
  """Returns the system prompt that asks for the next step of a solution."""
  return (
    f"You are a helpful assistant for {subject}. The user gives you a problem"
    " and the part of its solution that exists so far, which may be empty."
    " Write the very next step of that solution and nothing after it; do not"
    " finish the whole solution.\nFirst think it through between <think> and"
    " </think>: an informal inner monologue, as long as you need, in which you"
    " may explore and correct yourself. After </think> write that one step in"
    " the style of the steps before it."
  )


def solve_prompt(subject: str) -> str:
  """Returns the system prompt that asks for a solution in one go."""
  return (
    f"You are a helpful assistant for {subject}. Reason step by step and give"
    " the final answer in \\boxed{}. Scratch work may stand between <think> and"
    " </think> anywhere in your solution."
  )


def of_subject(name: str, subject: str) -> Domain:
  """Returns a domain with the wording above."""
  return Domain(name, step_prompt(subject), solve_prompt(subject))


GENERAL = of_subject("general", "reasoning problems")
# s1K-1.1 marks such problems.
SCIENCE = of_subject("science", "science problems")
