// SPDX-License-Identifier: Apache-2.0
// Draws the charts by Vega in the colours of the page, and again when the
// reader changes them, the axis, the run or the split.
"use strict";

(function charts() {
  const {curves, charts: specifications, runs} = DATA;
  // Shown first, if the runs have them, in this order.
  const FIRST = ["reward", "validation_reward", "validation_exact", "format_failure", "thought_chars", "completion_tokens",
    "kept_share", "differing_share", "loss", "validation_loss", "entropy", "grad_norm", "tokens_per_s"];
  const PALETTE = ["#1f8fa8", "#c8553d", "#6a5acd", "#8a9a2c", "#b5658f", "#8c6d46"];
  const axis = document.getElementById("axis");
  const metrics = [...new Set(curves.series.map((x) => x.metric))].sort();
  const views = [];

  function config() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const text = {labelColor: color("--muted"), titleColor: color("--muted"), titleFontWeight: "normal"};
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: {stroke: null},
      axis: {...text, gridColor: color("--line"), domainColor: color("--line"), tickColor: color("--line")},
      legend: text,
      range: {category: PALETTE},
    };
  }

  /** The rows of a metric; the mean of a group is drawn over its runs. */
  function points(metric) {
    const rows = [];
    for (const x of curves.series.filter((s) => s.metric === metric)) {
      const places = curves.axes[x.axis];
      const hasMean = curves.series.some((s) => s.metric === metric && s.stage === x.stage && s.group === x.group && s.runs);
      const name = x.run ?? `mean of ${x.runs} runs of ${x.group}`;
      x.y.forEach((y, i) => rows.push({
        name, group: x.group, stage: x.stage, y, x: places[axis.value][i], update_step: places.update_step[i],
        low: x.low?.[i], high: x.high?.[i], is_thin: hasMean && !x.runs, is_lone: x.y.length < 15,
      }));
    }
    return rows;
  }

  async function draw(element, specification) {
    element.querySelector(".drawing")?.remove();
    const place = make("div", {class: "drawing"});
    element.append(place);
    await vegaEmbed(place, specification, {actions: false, renderer: "svg", config: config()});
  }

  /** A chart of the run and the split that are chosen, if there is anything. */
  async function drawChosen(element) {
    const specification = specifications[element.dataset.chart];
    const params = specification.params.map((p) => ({...p, value: chosen[p.name]}));
    const isChosen = (row) => params.every((p) => row[p.name] === p.value);
    if (specification.data.values.some(isChosen)) {
      await draw(element, {...specification, params});
    } else {
      element.querySelector(".drawing")?.remove();
      element.append(make("p", {class: "empty drawing"}, "There is nothing to draw yet."));
    }
  }

  const panels = document.getElementById("panels");
  function addPanel(metric, isFirst) {
    const element = make("div", {class: "panel"}, make("h4", {}, metric.replaceAll("_", " ")));
    isFirst ? panels.prepend(element) : panels.append(element);
    const view = () => {
      const rows = points(metric);
      const [band, ...lines] = specifications.curve.layer;
      const layer = rows.some((x) => x.low !== undefined) ? [band, ...lines] : lines;
      return draw(element, {...specifications.curve, layer, datasets: {points: rows}});
    };
    views.push(view);
    return view;
  }

  const chosen = {run: runs[0], split: "train"};
  const hasOnlyValidation = !DATA.rollouts.groups.some((g) => g[2] === "train");
  if (hasOnlyValidation) chosen.split = "valid";
  const others = [...document.querySelectorAll("[data-chart]")].map((element) =>
    () => drawChosen(element));

  function fill() {
    for (const select of document.querySelectorAll("[data-signal]")) {
      const name = select.dataset.signal;
      if (name === "run") select.append(...runs.map((x) => make("option", {value: x}, x)));
      select.value = chosen[name];
      select.addEventListener("change", () => {
        chosen[name] = select.value;
        for (const same of document.querySelectorAll(`[data-signal=${name}]`)) same.value = select.value;
        drawAll(others);
      });
    }
    if (runs.length < 2) document.querySelectorAll(".for-many-runs").forEach((x) => x.classList.add("hidden"));
    const metric = document.getElementById("metric");
    const names = metrics.filter((x) => !FIRST.includes(x));
    metric.append(make("option", {value: ""}, "…"), ...names.map((x) => make("option", {value: x}, x)));
    metric.addEventListener("change", () => {
      if (metric.value) addPanel(metric.value, true)();
      metric.selectedOptions[0].disabled = true;
      metric.value = "";
    });
    axis.addEventListener("change", () => drawAll(views));
    const legend = document.getElementById("legend");
    const groups = specifications.curve.layer[1].encoding.color.scale.domain;
    const drawn = new Set(curves.series.map((x) => x.group));
    if (drawn.size > 1) {
      groups.forEach((x, i) => drawn.has(x) && legend.append(make("span", {class: "swatch", style: `background: ${PALETTE[i % PALETTE.length]}`}), x));
    }
    const most = Math.max(0, ...curves.series.map((x) => x.runs ?? 0));
    document.getElementById("curves-note").textContent = !metrics.length ? "No update step is logged yet." :
      "Seconds are those of update steps, without validations." +
      (new Set(curves.series.map((x) => x.stage)).size > 1 ? " Lines break between stages." : "") +
      (most ? " Thick lines are means over runs that differ in their seed only; bands go from the lowest to the highest run." : "");
  }

  async function drawAll(these) {
    for (const view of these) {
      await view();
      // So that the page answers between two charts.
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    document.documentElement.dataset.drawn = "yes";
  }

  fill();
  FIRST.filter((x) => metrics.includes(x)).forEach((x) => addPanel(x, false));
  drawAll([...views, ...others]);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll([...views, ...others]));
})();
