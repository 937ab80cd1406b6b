// SPDX-License-Identifier: Apache-2.0
// A trajectory as its trunk: the problem, the expert's steps, and the branches
// that hang off each step. Which one is shown is the business of viewer.js.
"use strict";

/**
 * The trunk of one trajectory with the branches of one or two moments.
 * entries: of the same trajectory; isFound: whether a sample passes the filter.
 */
function trunkElement(entries, isFound) {
  const [, problem, steps] = entries[0].trajectory;
  const root = make("div", {class: entries.length > 1 ? "trunk two" : "trunk"});
  root.append(nodeElement("problem", "problem", problem));
  for (const entry of entries) {
    root.append(make("div", {class: "moment"}, entries.length > 1 ? entry.when : ""));
  }
  steps.forEach(([title, text], step) => {
    const name = textOf(title)[0];
    const kind = step === steps.length - 1 ? "last" : "";
    root.append(nodeElement(kind, `step ${step + 1}${name ? ": " + name : ""}`, text));
    for (const entry of entries) root.append(branchesElement(entry, step, isFound));
  });
  return root;
}

function nodeElement(kind, title, text) {
  return make("div", {class: `node ${kind}`}, make("div", {class: "title"}, title), textElement(text));
}

/** The chips of a step's samples, and below them the one that is open. */
function branchesElement(entry, step, isFound) {
  const groups = entry.groups.filter((group) => group.step === step);
  const element = make("div", {class: groups.length ? "branches" : "branches none"});
  const place = make("div", {class: "place"});
  for (const group of groups) {
    const chips = make("div", {class: "chips", role: "group", "aria-label": `Samples of step ${step + 1}, ${entry.when}`});
    for (const sample of group.samples) chips.append(chipElement(sample, place, isFound(sample)));
    if (group.kept !== null) {
      chips.append(make("span", {class: "fate"}, group.kept ? "kept" : "dropped"));
    }
    element.append(chips);
  }
  element.append(place);
  return element;
}

function chipElement(sample, place, isIn) {
  const chip = make("button", {
    type: "button",
    class: `chip${sample.failure ? " failed" : ""}${isIn ? "" : " off"}`,
    style: rewardStyle(sample.reward),
    "aria-expanded": "false",
    title: `sample ${sample.number + 1}${sample.failure ? ": " + sample.failure : ""}`,
  }, rewardText(sample.reward));
  chip.addEventListener("click", () => {
    const isOpen = chip.getAttribute("aria-expanded") === "true";
    for (const other of place.parentElement.querySelectorAll(".chip")) {
      other.setAttribute("aria-expanded", "false");
    }
    chip.setAttribute("aria-expanded", String(!isOpen));
    place.replaceChildren(...(isOpen ? [] : [sampleElement(sample)]));
  });
  return chip;
}

/** A sample beside the expert's step, with their matching blocks marked. */
function sampleElement(sample) {
  const ours = [];
  const theirs = [];
  for (let i = 0; i < sample.blocks.length; i += 3) {
    const [a, b, size] = sample.blocks.slice(i, i + 3);
    ours.push([a, size]);
    theirs.push([b, size]);
  }
  const facts = make("div", {class: "facts"},
    `sample ${sample.number + 1}: reward `, make("b", {}, sample.reward === null ? "none" : sample.reward.toFixed(3)));
  if (sample.value !== null && Math.abs(sample.value - sample.reward) > 5e-4) {
    facts.append(`, value ${sample.value.toFixed(3)}`);
  }
  facts.append(`, ${sample.tokens} tokens, ${sample.isStopped ? "stopped" : "cut by the limit"}`);
  if (sample.failure) {
    facts.append(", ", make("span", {class: "broken"}, `format broken: ${sample.failure}`));
  }
  const element = make("div", {class: "sample", style: rewardStyle(sample.reward)}, facts);
  if (textOf(sample.thought)[0]) {
    const thought = textElement(sample.thought);
    thought.classList.add("thought");
    thought.tabIndex = 0;
    thought.setAttribute("aria-label", "Thought");
    element.append(thought);
  }
  element.append(make("div", {class: "pair"},
    make("div", {}, make("h4", {}, sample.failure ? "model, all of its text" : "model"), textElement(sample.action, ours)),
    make("div", {}, make("h4", {}, "expert"), textElement(sample.group.target, theirs))));
  return element;
}
