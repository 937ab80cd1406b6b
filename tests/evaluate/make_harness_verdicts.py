# SPDX-License-Identifier: Apache-2.0
"""Writes harness_verdicts.json: what other harnesses say about answers.

It needs nothing of srl_jax, so that it runs in an environment per harness,
whose requirements exclude each other. Each run fills in one harness:

  pip install 'lm-eval[math]==0.4.13'
  python tests/evaluate/make_harness_verdicts.py lm_eval
  pip install lighteval==0.13.0
  python tests/evaluate/make_harness_verdicts.py lighteval
  git clone https://github.com/QwenLM/Qwen2.5-Math
  pip install sympy==1.12 antlr4-python3-runtime==4.11.1 word2number regex
  python tests/evaluate/make_harness_verdicts.py qwen_math \\
    Qwen2.5-Math/evaluation

lighteval imports torch, which its rules do not need. Problems and answers are
our own. --cases fills in another file of the same form, such as one with the
references of real suites, which are not ours to keep.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import sys
import types

FILE = pathlib.Path(__file__).with_name("harness_verdicts.json")
# Reference answers by suite.
REFERENCES = {
  "aime24": ["204", "25", "7"],
  "aime25": ["113", "960"],
  "amc23": ["27", "-1", "3159"],
  "gsm8k": ["72", "1024", "-7", "18.5"],
  "minerva": [
    *("1.6", "4.5e33", "\\frac{1}{2} m v^{2}", "x_{0} \\cos (\\omega t)"),
    *("6.1 \\times 10^{23}", "I e^{-t / \\tau}", "-13.6"),
  ],
  "math500": [
    *("\\left( 5, \\frac{\\pi}{3} \\right)", "\\frac{14}{5}", "\\text{Nora}"),
    *("60^\\circ", "3\\sqrt{11}", "2, 3", "[2, 5)", "x^2 + 3x - 5", "35\\%"),
    *("(-\\infty, 3] \\cup [5, \\infty)", "\\$36", "5 \\text{ cm}", "0.35"),
    *("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\text{(C)}"),
    *("y = 2x + 1", "6 - 5i", "\\text{even}", "1{,}000", "\\sqrt[3]{2}"),
    *("-\\frac{1}{3}", "2^{10}", "421_5", "2\\pi", "0", "\\dfrac{9}{7}"),
    *("1 \\pm \\sqrt{5}", "p - q", "C", "\\frac{x+2}{7}", "11,\\!111"),
  ],
}
# How a model may give the answer R; W is a wrong one.
FORMS = (
  "We add both sides and get $\\boxed{R}$.",
  "Therefore, the final answer is: $\\boxed{R}$. I hope it is correct",
  "Final Answer: The final answer is $R$. I hope it is correct.",
  "So it follows.\nANSWER: R",
  "The answer is R.",
  "Half of it is W.\n#### R",
  "First $\\boxed{W}$ seems right. No: \\[ \\boxed{R} \\]",
  "It is $\\boxed{R}$. Or rather $\\boxed{W}$.",
  "<think>Perhaps $\\boxed{W}$.</think>\n\nSo $x = R$, that is \\boxed{x = R}.",
  "This gives \\boxed{R \\text{ units}}.",
  "Then we find \\boxed{R",
  "$$x = W + 1 - 1$$ and hence **R**",
  "R",
  "The final answer is $\\boxed{W}$.",
  "Thus $\\boxed{R}$.\n\nProblem: what is 1 + 1?\nQuestion: Q: $\\boxed{W}$",
  "I do not know.",
  "The value is $R$ or $W$.",
  "The answer is $R",
)
# Other spellings of a reference, and what is close to it.
SPELLINGS = {
  "204": [
    "204.0",
    "0204",
    "203.99",
    "204\\%",
    "2.04 \\times 10^2",
    "204^\\circ",
  ],
  "25": ["025", "25.", "\\frac{50}{2}", "5^2", "twenty-five", "25, 26"],
  "-1": ["-1.0", "- 1", "1", "\\cos \\pi", "-\\frac{2}{2}"],
  "1024": ["1,024", "\\$1024", "1024.00", "1 024", "2^{10}", "one thousand"],
  "1.6": ["1.60", "1.6 \\mathrm{~cm}", "\\frac{8}{5}", "1.59", "160", "1.6001"],
  "4.5e33": ["4.5 \\times 10^{33}", "4.5e33 \\text{ erg}", "4500"],
  "\\frac{1}{2} m v^{2}": ["\\frac{m v^2}{2}", "0.5mv^2", "m v^{2}"],
  "6.1 \\times 10^{23}": ["6.1e23", "6.1 \\cdot 10^{23}", "61 \\times 10^{22}"],
  "\\left( 5, \\frac{\\pi}{3} \\right)": [
    *("(5, \\pi/3)", "(5,\\frac{\\pi}{3})", "5, \\frac{\\pi}{3}"),
    *("\\left[5, \\frac{\\pi}{3}\\right]", "(\\frac{\\pi}{3}, 5)"),
  ],
  "\\frac{14}{5}": ["14/5", "2.8", "\\tfrac{14}{5}", "2\\frac{4}{5}", "280"],
  "60^\\circ": ["60", "60 \\text{ degrees}", "\\frac{\\pi}{3}", "60^{\\circ}"],
  "3\\sqrt{11}": ["\\sqrt{99}", "3 \\sqrt 11", "9.9498743", "3*sqrt(11)"],
  "2, 3": ["3, 2", "\\{2, 3\\}", "2 \\text{ and } 3", "(2, 3)", "2", "x=2,x=3"],
  "[2, 5)": ["[2,5)", "2 \\le x < 5", "(2, 5)", "[2, 5]", "x \\in [2, 5)"],
  "x^2 + 3x - 5": ["3x + x^2 - 5", "x(x+3)-5", "x^2+3x+5", "f(x) = x^2+3x-5"],
  "35\\%": ["35", "0.35", "35 \\text{ percent}", "\\frac{7}{20}"],
  "5 \\text{ cm}": ["5", "5cm", "5 \\text{ m}", "5\\,\\mathrm{cm}", "0.05"],
  "\\text{(C)}": ["C", "(C)", "\\textbf{(C)}\\ 7", "(B)"],
  "y = 2x + 1": ["2x + 1", "y=1+2x", "2x - y = -1", "y - 2x = 1"],
  "6 - 5i": ["-5i + 6", "6-5j", "6 + 5i"],
  "\\text{even}": ["even", "Even", "\\mathrm{even}", "odd"],
  "1{,}000": ["1000", "1,000", "10^3", "1\\,000"],
  "2^{10}": ["1024", "4^5", "2^10"],
  "2\\pi": ["6.2832", "\\pi \\cdot 2", "6.28", "2 \\pi \\text{ rad}"],
  "1 \\pm \\sqrt{5}": ["1 + \\sqrt{5}, 1 - \\sqrt{5}", "1 + \\sqrt{5}"],
  "\\frac{x+2}{7}": ["\\frac{x}{7}+\\frac{2}{7}", "(x+2)/7", "x + 2/7"],
  "11,\\!111": ["11111", "11,111", "11 111"],
  "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}": [
    "\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}",
    "\\begin{pmatrix}1&2\\\\3&\\frac{8}{2}\\end{pmatrix}",
    "\\begin{pmatrix} 1 & 3 \\\\ 2 & 4 \\end{pmatrix}",
  ],
}


def problems() -> list[dict]:
  """Returns problems with made-up texts and solutions."""
  made = []
  for suite, answers in REFERENCES.items():
    for answer in answers:
      solution = f"Adding up, we get $\\boxed{{{answer}}}$."
      if suite == "gsm8k":
        solution = f"In all 3+4 = <<3+4=7>>7.\n#### {answer}"
      text = f"What is quantity {len(made)}, if $x_1 = {len(made) + 2}$?"
      made.append(
        {"suite": suite, "text": text, "answer": answer, "solution": solution}
      )
  return made


def cases(made: list[dict]) -> list[tuple[int, str]]:
  """Returns (number of the problem, text of the model)."""
  found = []
  for number, problem in enumerate(made):
    right = problem["answer"]
    wrong = made[(number + 5) % len(made)]["answer"]
    for i in range(8):
      form = FORMS[(5 * number + 7 * i) % len(FORMS)]
      found.append((number, form.replace("R", right).replace("W", wrong)))
    for i, other in enumerate(SPELLINGS.get(right, ())):
      found.append((number, FORMS[(0, 1, 2, 4)[i % 4]].replace("R", other)))
      found.append((number, FORMS[0].replace("R", other)))
  return list(dict.fromkeys(found))


def lm_eval(folder: str):
  """Returns ({task: judge}, prompt function) of lm-evaluation-harness."""
  del folder
  import yaml
  from lm_eval import tasks
  from lm_eval.api.metrics import exact_match_hf_evaluate
  from lm_eval.filters.extraction import RegexFilter
  from lm_eval.models.utils import postprocess_generated_text
  from lm_eval.tasks.aime import utils as aime
  from lm_eval.tasks.minerva_math import utils as minerva

  root = pathlib.Path(tasks.__file__).parent

  def config(name):
    text = (root / name).read_text(encoding="utf-8")
    return yaml.load(text.replace("!function", ""), yaml.SafeLoader)

  gsm = config("gsm8k/gsm8k-cot-zeroshot.yaml")
  of_suite = {
    "gsm8k": gsm,
    "aime24": config("aime/aime24.yaml"),
    "aime25": config("aime/aime25.yaml"),
  }
  math = config("minerva_math/minerva_math_algebra.yaml")

  def cut(problem, text):
    until = of_suite.get(problem["suite"], math)["generation_kwargs"]["until"]
    return postprocess_generated_text(text, until, None)

  def judge(problem, text):
    text = cut(problem, text)
    if problem["suite"] == "gsm8k":
      [metric] = gsm["metric_list"]
      keys = ("regexes_to_ignore", "ignore_case", "ignore_punctuation")
      options = {key: metric[key] for key in keys}
      verdicts = []
      for pipeline in reversed(gsm["filter_list"]):  # Flexible comes first.
        arguments = dict(pipeline["filter"][0])
        assert arguments.pop("function") == "regex"
        [[final]] = RegexFilter(**arguments).apply([[text]], [{}])
        score = exact_match_hf_evaluate(
          [final], [problem["solution"]], **options
        )
        verdicts.append(score["exact_match"])
      return verdicts
    if problem["suite"] in of_suite:
      result = aime.process_results({"answer": problem["answer"]}, [text])
      return [result["exact_match"]]
    [doc] = minerva.process_docs(
      types.SimpleNamespace(
        map=lambda f: [
          f(Document(problem=problem["text"], solution=problem["solution"]))
        ]
      )
    )
    result = minerva.process_results(doc, [text])
    return [result["math_verify"], result["exact_match"]]

  def prompt(problem):
    fields = {"question": problem["text"], "Problem": problem["text"]}
    fields["problem"] = problem["text"]
    task = of_suite.get(problem["suite"])
    if task is None:
      return minerva.doc_to_text(fields)
    from lm_eval.utils import apply_template

    return apply_template(task["doc_to_text"], fields)

  return judge, prompt


class Document(dict):
  """A row of a data set, which has no examples of its own."""

  few_shot = None


def lighteval(folder: str):
  """Returns (judge, prompt function) of lighteval."""
  del folder
  from lighteval.metrics.metrics import Metrics
  from lighteval.models.model_output import ModelResponse
  from lighteval.tasks.tasks import aime, gsm8k, math_500

  of_suite = {
    "gsm8k": (gsm8k.gsm8k, gsm8k.gsm8k_prompt),
    "aime24": (aime.aime24_avg, aime.aime_prompt),
    "aime25": (aime.aime25_avg, aime.aime_prompt),
  }
  other = (math_500.math_500, math_500.math_500_prompt)
  scores = {
    "gsm8k": Metrics.expr_gold_metric.value.sample_level_fn.compute,
    "": Metrics.avg_at_n_math.value.sample_level_fn.compute_score,
  }

  def document(problem):
    _, make = of_suite.get(problem["suite"], other)
    row = {"problem": problem["text"], "question": problem["text"]}
    row |= {"answer": problem["answer"], "solution": problem["solution"]}
    if problem["suite"] == "gsm8k":
      row["answer"] = problem["solution"]
    return make(row, problem["suite"])

  def judge(problem, text):
    task = of_suite.get(problem["suite"], other)[0]
    for stop in task.stop_sequence or ():
      text = text.split(stop)[0]
    score = scores.get(problem["suite"], scores[""])
    return [score(document(problem), ModelResponse(text=[text]))]

  return judge, lambda problem: document(problem).query


QWEN_NAMES = {"math500": "math", "minerva": "minerva_math", "aime25": "aime24"}


def qwen_math(folder: str):
  """Returns (judge, prompt function) of Qwen2.5-Math's evaluation."""
  sys.path[:0] = [folder, f"{folder}/latex2sympy"]
  import grader
  import parser as qwen
  import utils

  arguments = types.SimpleNamespace(
    prompt_type="qwen25-math-cot", num_shots=0, adapt_few_shot=False
  )

  def example(problem):
    name = QWEN_NAMES.get(problem["suite"], problem["suite"])
    row = {"problem": problem["text"], "answer": problem["answer"]}
    if name == "gsm8k":
      row = {"question": problem["text"], "answer": problem["solution"]}
    row["solution"] = problem["solution"]
    return name, row | {"question": qwen.parse_question(row, name)}

  def judge(problem, text):
    # As main() of math_eval.py and evaluate() of evaluate.py do.
    name, row = example(problem)
    row["gt_cot"], row["gt"] = qwen.parse_ground_truth(row, name)
    code = text.strip()
    for stop in ("</s>", "<|im_end|>", "<|endoftext|>"):
      if stop in code:
        code = code.split(stop)[0].strip()
    final, _ = qwen.run_execute(None, code, arguments.prompt_type, name)
    choices = ["A", "B", "C", "D", "E"]
    if row["gt"] in choices and final not in choices:
      final = qwen.choice_answer_clean(code)
    elif all(c in choices for c in row["gt"]) and not all(
      c in choices for c in final
    ):
      final = "".join(c for c in final if c in choices)
    _, gold = qwen.parse_ground_truth(row, name)
    return [grader.math_equal_process((0, final, gold))]

  def prompt(problem):
    name, row = example(problem)
    return utils.construct_prompt(row, name, arguments)

  return judge, prompt


HARNESSES = {
  "lm_eval": (lm_eval, ("lm_eval", "math-verify", "sympy")),
  "lighteval": (lighteval, ("lighteval", "latex2sympy2_extended", "sympy")),
  "qwen_math": (qwen_math, ("sympy", "antlr4-python3-runtime")),
}


def main() -> None:
  """Fills in the verdicts of one harness."""
  options = argparse.ArgumentParser(description=__doc__)
  options.add_argument("harness", choices=HARNESSES)
  options.add_argument("folder", nargs="?", default="")
  options.add_argument("--cases", help="a file like FILE to fill in instead")
  given = options.parse_args()
  file = pathlib.Path(given.cases) if given.cases else FILE
  stored = {"versions": {}, "prompts": {}, "verdicts": {}}
  if file.exists():
    stored |= json.loads(file.read_text(encoding="utf-8"))
  if not given.cases:
    stored["problems"] = problems()
    stored["cases"] = cases(stored["problems"])
  make, packages = HARNESSES[given.harness]
  judge, prompt = make(given.folder)
  stored["versions"][given.harness] = {
    name: importlib.metadata.version(name) for name in packages
  }
  stored["prompts"][given.harness] = [prompt(p) for p in stored["problems"]]
  stored["verdicts"][given.harness] = [
    "".join(str(int(x)) for x in judge(stored["problems"][number], text))
    for number, text in stored["cases"]
  ]
  text = json.dumps(stored, indent=0, ensure_ascii=False)
  file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
