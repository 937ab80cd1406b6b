// SPDX-License-Identifier: Apache-2.0
// The viewer of rollouts: filters, the list of trajectories, and the one that
// is open, alone or beside another moment.
"use strict";

(function viewer() {
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("list");
  const detail = document.getElementById("detail");
  // More entries than anybody scrolls through; filters find the others.
  const MOST_ENTRIES = 300;

  const samples = [];
  const entries = readEntries();
  let open = null;
  let other = null;
  let found = new Set(samples);
  let passes = () => true;

  function readEntries() {
    const {trajectories, groups, samples: rows} = DATA.rollouts;
    const byKey = new Map();
    const made = groups.map(([run, stage, split, updateStep, at, step, target, kept]) => {
      const moment = `${stage} ${updateStep} ${split === "valid" ? "validation" : "training"}`;
      const key = `${run}\n${moment}\n${at}`;
      if (!byKey.has(key)) {
        const when = (DATA.runs.length > 1 ? `${run}, ` : "") +
          `${stage}, update step ${updateStep}, ${split === "valid" ? "validation" : "training"}`;
        byKey.set(key, {run, moment, updateStep, when, at, trajectory: trajectories[at], groups: [], samples: []});
      }
      const group = {entry: byKey.get(key), step, target, kept, samples: []};
      group.entry.groups.push(group);
      return group;
    });
    for (const [at, number, thought, action, failure, reward, value, tokens, isStopped, blocks] of rows) {
      const group = made[at];
      const sample = {group, number, thought, action, failure, reward, value, tokens, isStopped, blocks};
      group.samples.push(sample);
      group.entry.samples.push(sample);
      samples.push(sample);
    }
    // Validations first: they show the same trajectories at every moment.
    const isTraining = (entry) => Number(entry.moment.endsWith("training"));
    return [...byKey.values()].sort((a, b) => isTraining(a) - isTraining(b));
  }

  // Searched texts, in lower case, made when they are first searched.
  const lower = [];
  function holds(index, words) {
    lower[index] ??= textOf(index)[0].toLowerCase();
    return lower[index].includes(words);
  }

  function options(name, values) {
    form.elements[name].replaceChildren(...values.map(([value, text]) => make("option", {value}, text)));
  }

  function fillFilters() {
    const runs = [...new Set(entries.map((x) => x.run))];
    const moments = [...new Set(entries.map((x) => x.moment))];
    const steps = [...new Set(entries.flatMap((x) => x.groups.map((g) => g.step)))].sort((a, b) => a - b);
    const causes = [...new Set(samples.map((x) => x.failure))].filter(Boolean).sort();
    options("run", [["", "all"], ...runs.map((x) => [x, x])]);
    options("moment", [["", "all"], ["training", "all of training"], ["validation", "all validations"], ...moments.map((x) => [x, x])]);
    options("step", [["", "all"], ...steps.map((x) => [x, `step ${x + 1}`])]);
    options("failure", [["", "all"], ["whole", "whole"], ["broken", "broken"], ...causes.map((x) => [x, x])]);
  }

  const valueOf = (name) => form.elements[name].value;

  /** A function that tells whether an entry is of the run and the moment. */
  function entryFilter() {
    const [run, moment] = ["run", "moment"].map(valueOf);
    return (entry) => (!run || entry.run === run) && (!moment || entry.moment.endsWith(moment));
  }

  /** A function that tells whether a sample passes the other filters. */
  function sampleFilter() {
    const [step, failure] = ["step", "failure"].map(valueOf);
    const low = valueOf("low") === "" ? -Infinity : Number(valueOf("low"));
    const high = valueOf("high") === "" ? Infinity : Number(valueOf("high"));
    const words = valueOf("text").trim().toLowerCase();
    const isTrajectory = new Map();
    const isOfTrajectory = (entry) => {
      const [id, problem, steps] = entry.trajectory;
      return id.toLowerCase().includes(words) || holds(problem, words) || steps.some(([, text]) => holds(text, words));
    };
    return (sample) => {
      const {entry} = sample.group;
      if (step && sample.group.step !== Number(step)) return false;
      if (failure === "whole" && sample.failure) return false;
      if (failure === "broken" && !sample.failure) return false;
      if (failure && !["whole", "broken"].includes(failure) && sample.failure !== failure) return false;
      if ((low > -Infinity || high < Infinity) && sample.reward === null) return false;
      // Rewards are shown with two digits, and meant so.
      if (sample.reward < low - 5e-7 || sample.reward > high + 5e-7) return false;
      if (!words) return true;
      if (!isTrajectory.has(entry)) isTrajectory.set(entry, isOfTrajectory(entry));
      return isTrajectory.get(entry) || holds(sample.thought, words) || holds(sample.action, words);
    };
  }

  function apply() {
    passes = sampleFilter();
    const isOfMoment = entryFilter();
    found = new Set(samples.filter((x) => isOfMoment(x.group.entry) && passes(x)));
    const shownEntries = entries.filter((entry) => entry.samples.some((x) => found.has(x)));
    document.getElementById("found").textContent =
      `${found.size.toLocaleString("en")} of ${samples.length.toLocaleString("en")} samples, ` +
      `${shownEntries.length.toLocaleString("en")} trajectories`;
    list.replaceChildren(...shownEntries.slice(0, MOST_ENTRIES).map(entryElement));
    if (shownEntries.length > MOST_ENTRIES) {
      list.append(make("p", {class: "empty"}, `${shownEntries.length - MOST_ENTRIES} more; filter to see them.`));
    }
    if (!shownEntries.length) list.append(make("p", {class: "empty"}, "No sample passes these filters."));
    if (!shownEntries.includes(open)) show(shownEntries[0] ?? null, null);
    else show(open, other);
  }

  function entryElement(entry) {
    const ticks = make("span", {class: "ticks", "aria-hidden": "true"});
    for (const group of entry.groups) {
      const row = make("span");
      for (const sample of group.samples) {
        row.append(make("i", {style: rewardStyle(sample.reward), class: found.has(sample) ? null : "off"}));
      }
      ticks.append(row);
    }
    const count = entry.samples.filter((x) => found.has(x)).length;
    const element = make("button", {type: "button", class: "entry", role: "option", "aria-selected": "false"},
      make("span", {class: "name"}, entry.trajectory[0]),
      make("span", {class: "when"}, make("span", {}, entry.when), make("span", {}, `${count}`)),
      ticks);
    element.entry = entry;
    element.addEventListener("click", () => show(entry, null));
    return element;
  }

  /** All moments of a trajectory, run by run, in the order of time. */
  function momentsOf(entry) {
    return entries.filter((x) => x.trajectory[0] === entry.trajectory[0] && x.trajectory[1] === entry.trajectory[1]);
  }

  function show(entry, beside) {
    [open, other] = [entry, beside];
    for (const element of list.children) {
      element.setAttribute("aria-selected", String(element.entry === entry));
    }
    if (!entry) {
      detail.replaceChildren(make("p", {class: "empty"}, "Nothing to show."));
      return;
    }
    const moments = momentsOf(entry);
    const picker = (name, chosen, values, act) => {
      const select = make("select", {name}, ...values.map(([i, text]) => make("option", {value: i, selected: String(i) === String(chosen)}, text)));
      select.addEventListener("change", () => act(select.value === "" ? null : moments[Number(select.value)]));
      return select;
    };
    const all = moments.map((x, i) => [i, x.when]);
    const head = make("div", {class: "head"}, make("h3", {}, entry.trajectory[0]),
      make("label", {}, "at ", picker("open", moments.indexOf(entry), all, (x) => show(x, other))));
    if (moments.length > 1) {
      const others = all.filter(([i]) => moments[i] !== entry);
      head.append(make("label", {}, "beside ",
        picker("beside", beside ? moments.indexOf(beside) : "", [["", "nothing"], ...others], (x) => show(entry, x))));
    }
    const shownEntries = beside && beside !== entry ? [entry, beside] : [entry];
    detail.replaceChildren(head, trunkElement(shownEntries, passes));
    openFirst(shownEntries.length);
  }

  /** Opens the sample of the lowest reward of the first step that has any. */
  function openFirst(count) {
    const all = [...detail.querySelectorAll(".branches")];
    const first = all.findIndex((x) => x.querySelector(".chip:not(.off)"));
    if (first < 0) return;
    // Of two moments, the same step at both.
    const from = first - (first % count);
    for (const branches of all.slice(from, from + count)) {
      const passing = branches.querySelectorAll(".chip:not(.off)");
      const chips = [...(passing.length ? passing : branches.querySelectorAll(".chip"))];
      chips.sort((a, b) => a.textContent - b.textContent);
      chips[0]?.click();
    }
  }

  function move(elements, element, by) {
    const next = elements[elements.indexOf(element) + by];
    next?.focus();
    return next;
  }

  document.addEventListener("keydown", (event) => {
    const {key, target} = event;
    const isTyping = target.matches("input, select");
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
    const by = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1}[key];
    if (key === "/") {
      form.elements.text.focus();
    } else if ((key === "[" || key === "]") && open) {
      const moments = momentsOf(open).filter((x) => x.run === open.run);
      const next = moments[moments.indexOf(open) + (key === "]" ? 1 : -1)];
      if (next) show(next, null);
    } else if (by && target.matches(".entry")) {
      move([...list.querySelectorAll(".entry")], target, by)?.click();
    } else if (by && target.matches(".chip")) {
      move([...detail.querySelectorAll(".chip")], target, by);
    } else {
      return;
    }
    event.preventDefault();
  });

  onChange(form, apply);
  fillFilters();
  apply();
})();
