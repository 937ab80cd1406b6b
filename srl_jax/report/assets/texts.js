// SPDX-License-Identifier: Apache-2.0
// What all viewers share: texts of models and experts as elements, and forms of
// filters. Everything goes in as text, never as HTML; characters that would be
// obeyed instead of shown are replaced.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);

// Control characters, and those that turn the direction of writing.
const OBEYED = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

function shown(text) {
  return text.replace(OBEYED, "\ufffd");
}

/** An element: make("p", {class: "x", onclick: f}, "text", otherElement). */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.map((x) => (typeof x === "string" ? shown(x) : x)));
  return element;
}

/** Calls a function soon after a form of filters has changed. */
function onChange(form, call) {
  let timer = 0;
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(call, 60);
  });
  form.addEventListener("reset", () => setTimeout(call, 0));
  form.addEventListener("submit", (event) => event.preventDefault());
}

/** The text of an index, and how many of its characters were left out. */
function textOf(index) {
  const text = DATA.rollouts.texts[index];
  return typeof text === "string" ? [text, 0] : text;
}

/** A text with its spans marked; spans are [start, length] in code points. */
function textElement(index, spans = []) {
  const [text, left] = textOf(index);
  const element = make("div", {class: "text"});
  if (spans.length) {
    const points = Array.from(text);
    let at = 0;
    for (const [start, length] of spans) {
      element.append(shown(points.slice(at, start).join("")));
      element.append(make("mark", {}, points.slice(start, start + length).join("")));
      at = start + length;
    }
    element.append(shown(points.slice(at).join("")));
  } else {
    element.append(shown(text));
  }
  if (left) {
    element.append(make("span", {class: "cut"}, ` […${left.toLocaleString("en")} more characters]`));
  }
  return element;
}

/** CSS variables of a reward: red below 0, then from amber to teal at 1. */
function rewardStyle(reward) {
  if (reward === null || Number.isNaN(reward)) return "--reward: #8a949e; --on-reward: #fff";
  if (reward < 0) return "--reward: #b3365f; --on-reward: #fff";
  const share = Math.min(1, reward);
  const hue = 65 + 140 * share;
  const light = 0.87 - 0.42 * share;
  return `--reward: oklch(${light} 0.11 ${hue}); --on-reward: ${share > 0.62 ? "#fff" : "#1b1b10"}`;
}

function rewardText(reward) {
  return reward === null ? "none" : reward.toFixed(2);
}
