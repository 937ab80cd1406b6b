// SPDX-License-Identifier: Apache-2.0
// The viewer of episodes: what agents did at whole problems, turn by turn.
"use strict";

(function episodes() {
  const form = document.getElementById("episode-filters");
  if (!form) return;
  const list = document.getElementById("episode-list");
  const detail = document.getElementById("episode-detail");
  const MOST_ITEMS = 300;
  const OUTCOMES = new Map([[true, "solved"], [false, "not solved"], [null, "unknown"]]);

  const all = DATA.episodes.map(([source, moment, problem, text, turns, outcome, ending]) => ({
    source, moment, problem, text, outcome: OUTCOMES.get(outcome), ending,
    when: [DATA.runs.length > 1 || !moment ? source : "", moment].filter(Boolean).join(", "),
    turns: turns.map(([thought, action, observation, reward, target, blocks]) => ({thought, action, observation, reward, target, blocks})),
  }));
  let open = null;

  const valueOf = (name) => form.elements[name].value;

  function fillFilters() {
    for (const [name, values] of [["when", all.map((x) => x.when)], ["outcome", all.map((x) => x.outcome)]]) {
      const options = [["", "all"], ...[...new Set(values)].map((x) => [x, x])];
      form.elements[name].replaceChildren(...options.map(([value, text]) => make("option", {value}, text)));
    }
  }

  function passes(episode) {
    const [when, outcome] = ["when", "outcome"].map(valueOf);
    const words = valueOf("text").trim().toLowerCase();
    if (when && episode.when !== when) return false;
    if (outcome && episode.outcome !== outcome) return false;
    const holds = (index) => index !== null && textOf(index)[0].toLowerCase().includes(words);
    return !words || episode.problem.toLowerCase().includes(words) || holds(episode.text) ||
      episode.turns.some((x) => holds(x.thought) || holds(x.action) || holds(x.observation));
  }

  function apply() {
    const found = all.filter(passes);
    document.getElementById("episodes-found").textContent =
      `${found.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} episodes`;
    list.replaceChildren(...found.slice(0, MOST_ITEMS).map(itemElement));
    if (found.length > MOST_ITEMS) {
      list.append(make("p", {class: "empty"}, `${found.length - MOST_ITEMS} more; filter to see them.`));
    }
    if (!found.length) list.append(make("p", {class: "empty"}, "No episode passes these filters."));
    show(found.includes(open) ? open : found[0] ?? null);
  }

  function badge(episode) {
    const [mark, kind] = {solved: ["✓", "done"], "not solved": ["✗", "going"], unknown: ["?", "unknown"]}[episode.outcome];
    return make("span", {class: `badge ${kind}`}, `${mark} ${episode.outcome}`);
  }

  function itemElement(episode) {
    const ticks = make("span", {class: "ticks", "aria-hidden": "true"},
      ...episode.turns.map((x) => make("i", {style: rewardStyle(x.reward)})));
    const element = make("button", {type: "button", class: "item", role: "option", "aria-selected": "false"},
      make("span", {class: "name"}, episode.problem),
      make("span", {class: "when"}, make("span", {}, episode.when), badge(episode)), ticks);
    element.episode = episode;
    element.addEventListener("click", () => show(episode));
    return element;
  }

  function show(episode) {
    open = episode;
    for (const element of list.children) {
      element.setAttribute("aria-selected", String(element.episode === episode));
    }
    if (!episode) {
      detail.replaceChildren(make("p", {class: "empty"}, "Nothing to show."));
      return;
    }
    const head = make("div", {class: "head"}, make("h3", {}, episode.problem), badge(episode),
      make("span", {class: "muted"}, [`${episode.turns.length} turns`, episode.ending && `ended by: ${episode.ending}`].filter(Boolean).join(", ")));
    const others = all.filter((x) => x.problem === episode.problem && x.text === episode.text);
    if (others.length > 1) {
      const select = make("select", {name: "episode"}, ...others.map((x, i) =>
        make("option", {value: i, selected: x === episode}, `${x.when}, ${x.outcome} (${i + 1})`)));
      select.addEventListener("change", () => show(others[Number(select.value)]));
      head.append(make("label", {}, "at ", select));
    }
    const turns = make("div", {class: "episode"});
    if (textOf(episode.text)[0]) turns.append(nodeElement("problem", "problem", episode.text));
    episode.turns.forEach((turn, i) => turns.append(turnElement(turn, i, i === episode.turns.length - 1)));
    detail.replaceChildren(head, turns);
  }

  /** A turn: thought, action beside the expert's step, observation. */
  function turnElement(turn, number, isLast) {
    const title = make("div", {class: "title"}, `turn ${number + 1} `);
    if (turn.reward !== null) {
      title.append(make("span", {class: "chip", style: rewardStyle(turn.reward),
        title: "similarity to the expert's step of this number"}, rewardText(turn.reward)));
    }
    const element = make("div", {class: `node turn${isLast ? " last" : ""}`}, title);
    if (textOf(turn.thought)[0]) element.append(part("Thought", "thought", textElement(turn.thought)));
    const spans = (from) => turn.blocks.flatMap((start, i) => (i % 3 === from ? [[start, turn.blocks[i + 2 - from]]] : []));
    const sides = [make("div", {}, make("h4", {}, "action"), textElement(turn.action, spans(0)))];
    if (turn.target !== null) {
      sides.push(make("div", {}, make("h4", {}, `expert's step ${number + 1}`), textElement(turn.target, spans(1))));
    }
    element.append(make("div", {class: sides.length > 1 ? "pair" : "pair one"}, ...sides));
    if (turn.observation !== null) {
      element.append(make("h4", {}, "observation"), part("Observation", "seen", textElement(turn.observation)));
    }
    return element;
  }

  function part(name, kind, element) {
    element.classList.add(kind);
    element.tabIndex = 0;
    element.setAttribute("aria-label", name);
    return element;
  }

  list.addEventListener("keydown", (event) => {
    const by = {ArrowDown: 1, ArrowUp: -1}[event.key];
    const items = [...list.querySelectorAll(".item")];
    const next = by && items[items.indexOf(event.target) + by];
    if (!next) return;
    next.focus();
    next.click();
    event.preventDefault();
  });

  onChange(form, apply);
  fillFilters();
  apply();
})();
