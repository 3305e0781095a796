// The GradGuard tab. `state` holds everything that is shown; `set` changes it, and `refresh` draws it.

import * as Model from "./model.js";
import * as Views from "./views.js";

const TITLES = {grad_norm: "Gradient norm", update_ratio: "Update-to-weight ratio", param_norm: "Weight norm"};
const state = {
  runs: [], chosen: null, statistic: "grad_norm", optimizer: "", depth: "auto", within: "", layer: "",
  from: null, to: null, focus: null, full: false, theme: "light", figures: [],
};
const page = {};
let latest = 0, reloading = null;

export async function render() {
  document.head.append(
    Views.element("meta", {charset: "utf-8"}),
    Views.element("link", {rel: "stylesheet", href: new URL("style.css", import.meta.url).href}),
  );
  build();
  await loadPlotly();
  Model.onTheme((theme) => {
    state.theme = theme;
    document.documentElement.dataset.theme = theme;
    refresh();
  });
  Model.onReload(reload);
  window.addEventListener("resize", debounced(refresh, 200));
  await reload();
}

function loadPlotly() {
  return new Promise((resolve, reject) => document.head.append(Views.element("script", {
    src: new URL("plotly.min.js", import.meta.url).href, onload: resolve,
    onerror: () => reject(showError(new Error("plotly.min.js could not be loaded. Is the package `plotly` installed?"))),
  })));
}

function build() {
  const labeled = (text, control) => Views.element("label", {textContent: text}, [control]);
  const select = (id, key) => page[id] = Views.element("select", {id, onchange: () => set({[key]: page[id].value})});
  page.layer = Views.element("input", {
    id: "layer", type: "search", placeholder: "click a row or type a name", autocomplete: "off",
    onchange: () => set({layer: page.layer.value}),
  });
  page.layer.setAttribute("list", "rows");
  page.all = Views.element("button", {id: "all", textContent: "All steps", onclick: () => set({from: null, to: null, focus: null})});
  page.full = Views.element("button", {
    id: "full", textContent: "All values", title: "Axes that contain every value, also spikes that flatten the rest",
    onclick: () => set({full: !state.full}),
  });
  page.module = Views.element("button", {id: "module", hidden: true});
  page.rows = Views.element("datalist", {id: "rows"});
  page.runs = Views.element("div", {id: "runs"});
  page.incidents = Views.element("div", {id: "incidents"});
  page.main = Views.element("main", {id: "figures"});
  page.optimizerLabel = labeled("Optimizer", select("optimizer", "optimizer"));
  document.body.replaceChildren(
    Views.element("header", {}, [
      labeled("Statistic", select("statistic", "statistic")), page.optimizerLabel,
      labeled("Rows", select("depth", "depth")), labeled("Layer", page.layer), page.module, page.full, page.all, page.rows,
    ]),
    Views.element("aside", {}, [
      Views.element("h2", {textContent: "Runs"}), page.runs,
      Views.element("h2", {textContent: "Incidents"}), page.incidents,
    ]),
    page.main,
  );
  document.body.addEventListener("keydown", (event) => {
    if (event.key === "Escape") set({from: null, to: null, focus: null, layer: "", within: ""});
  });
}

function set(changes) {
  Object.assign(state, changes);
  return refresh();
}

// At most one request at a time: otherwise responses to fast clicks would overwrite one another.
function reload() {
  reloading ??= readRuns().finally(() => reloading = null);
  return reloading;
}

async function readRuns() {
  try {
    state.runs = await Model.getRuns();
  } catch (error) {
    return showError(error);
  }
  const names = state.runs.map((run) => run.run);
  state.chosen = state.chosen?.filter((run) => names.includes(run));
  if (!state.chosen?.length) state.chosen = names.slice(0, names.length === 2 ? 2 : 1);
  await refresh();
}

async function refresh() {
  if (state.chosen === null) return;
  document.body.classList.toggle("empty", !state.runs.length);
  if (!state.runs.length) return page.main.replaceChildren(Views.emptyState());
  showRuns();
  if (!state.chosen.length) return page.main.replaceChildren(Views.element("p", {className: "message", textContent: "Choose a run."}));
  const request = ++latest;
  const width = Math.floor(page.main.clientWidth / state.chosen.length) - 16;
  const height = Math.max(window.innerHeight - page.main.offsetTop - 80, 560); // below a header of two lines
  const {statistic, optimizer, depth, within, layer, from, to, full, theme} = state;
  page.main.setAttribute("aria-busy", "true");
  try {
    const query = {statistic, optimizer, depth, within, layer, from, to, full, theme, width, height};
    const figures = await Model.getFigures(state.chosen, query);
    if (request !== latest) return; // the state has changed since
    state.figures = figures;
    showControls();
    showIncidents();
    await showFigures();
  } catch (error) {
    if (request === latest) showError(error);
  } finally {
    if (request === latest) page.main.setAttribute("aria-busy", "false");
  }
}

function showError(error) {
  page.main.replaceChildren(Views.errorState(error));
  return error;
}

function showRuns() {
  const focused = [...page.runs.querySelectorAll("input")].indexOf(document.activeElement);
  page.runs.replaceChildren(...state.runs.map((run) => Views.runChoice(run, state.chosen.includes(run.run), chooseRun)));
  if (focused >= 0) page.runs.querySelectorAll("input")[focused]?.focus();
}

function chooseRun(name, chosen) {
  const rest = state.chosen.filter((run) => run !== name);
  const order = state.runs.map((run) => run.run);
  const chosenNow = chosen ? [...rest, name].slice(-4) : rest;
  set({chosen: chosenNow.sort((a, b) => order.indexOf(a) - order.indexOf(b))});
}

function showControls() {
  const chosen = state.runs.filter((run) => state.chosen.includes(run.run));
  const optimizers = [...new Set(chosen.flatMap((run) => Object.keys(run.optimizers)))].sort();
  if (optimizers.length && !optimizers.includes(state.optimizer)) return set({optimizer: optimizers[0]});
  const statistics = [...new Set(chosen.flatMap((run) => run.optimizers[state.optimizer] ?? []))].sort();
  const deepest = Math.max(...state.figures.map((figure) => figure.max_depth));
  const parts = Array.from({length: deepest - 1}, (_, i) => [String(i + 1), `Modules at depth ${i + 1}`]);
  Views.options(page.statistic, statistics.map((name) => [name, TITLES[name] ?? name]), state.statistic);
  Views.options(page.optimizer, optimizers.map((name) => [name, `Optimizer ${name || 0}`]), state.optimizer);
  Views.options(page.depth, [["auto", "Automatic"], ["0", "Every layer"], ...parts], state.depth);
  page.optimizerLabel.hidden = optimizers.length < 2;
  page.rows.replaceChildren(...state.figures[0].rows.map((row) => Views.element("option", {value: row.name})));
  if (document.activeElement !== page.layer) page.layer.value = state.layer;
  showModuleButton();
  page.full.setAttribute("aria-pressed", String(state.full));
  page.all.disabled = state.from === null;
}

// The button opens a folded row, or closes an opened module.
function showModuleButton() {
  const row = state.figures[0].rows.find((each) => each.name === state.layer);
  page.module.hidden = !state.within && !(row?.layers > 1);
  const open = row?.layers > 1 && row.name !== state.within;
  page.module.textContent = open ? `Open ${row.name}` : `Close ${state.within}`;
  page.module.onclick = () => set(open ? {within: row.name, depth: "auto"} : {within: ""});
}

function showIncidents() {
  const focused = [...page.incidents.querySelectorAll("button")].indexOf(document.activeElement);
  page.incidents.replaceChildren(...state.figures.flatMap((figure) => {
    const items = figure.incidents.slice(0, 200).map((incident) => {
      const key = `${figure.run} ${incident.kind} ${incident.x}`;
      return Views.incidentItem(incident, state.focus === key, () => goTo(figure, incident, key));
    });
    const more = figure.incidents.length - items.length;
    const note = more > 0 ? [Views.element("p", {textContent: `and ${more} more, see incidents.jsonl in the run's directory`})] : [];
    const list = items.length ? Views.element("ul", {}, items) : Views.element("p", {textContent: "None."});
    return [...(state.figures.length > 1 ? [Views.element("h3", {textContent: figure.run})] : []), list, ...note];
  }));
  if (focused >= 0) page.incidents.querySelectorAll("button")[focused]?.focus();
}

// Zooms every panel of every run to an incident, with a margin on both sides.
function goTo(figure, incident, key) {
  if (state.focus === key) return set({from: null, to: null, focus: null});
  const length = figure.extent[1] - figure.extent[0];
  const last = Math.max(incident.x_last ?? incident.x, incident.x);
  const margin = Math.max((last - incident.x) * 0.5, length * 0.04, 5);
  return set({from: incident.x - margin, to: last + margin, focus: key});
}

async function showFigures() {
  const wanted = state.figures.map((figure) => figure.run);
  const present = [...page.main.querySelectorAll("section.figure")].map((section) => section.dataset.run);
  if (JSON.stringify(wanted) !== JSON.stringify(present)) {
    page.main.replaceChildren(...wanted.map((run) => {
      const section = Views.element("section", {className: "figure"}, [
        Views.element("div", {className: "runheader"}), Views.element("div", {className: "plot"}),
        Views.element("div", {className: "problems"}),
      ]);
      section.dataset.run = run;
      return section;
    }));
  }
  const sections = page.main.querySelectorAll("section.figure");
  await Promise.all(state.figures.map((figure, i) => showFigure(sections[i], figure)));
}

async function showFigure(section, figure) {
  const [header, plot, problems] = section.children;
  header.replaceChildren(...Views.runHeader(figure));
  problems.replaceChildren(...Views.problems(figure));
  const {data, layout} = figure.figure;
  await window.Plotly.react(plot, data, layout, {displayModeBar: false});
  if (plot.dataset.wired) return;
  plot.dataset.wired = "true";
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `Heatmap of ${figure.run} by layer and step, and curves; incidents are listed beside it`);
  plot.on("plotly_click", (event) => clicked(section, event.points[0]));
  plot.on("plotly_relayout", debounced((change) => zoomed(change), 150));
}

function clicked(section, point) {
  if (point.data.type !== "heatmap") return;
  const figure = state.figures.find((each) => each.run === section.dataset.run);
  const name = figure.rows[point.pointIndex[0]]?.name;
  if (name) set({layer: name === state.layer ? "" : name});
}

function zoomed(change) {
  const key = Object.keys(change).find((each) => /^xaxis\d*\.(range\[0\]|autorange)$/.test(each));
  if (!key) return;
  if (key.endsWith("autorange")) return set({from: null, to: null, focus: null});
  const [low, high] = [change[key], change[key.replace("[0]", "[1]")]];
  set({from: low, to: high});
}

function debounced(callback, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...values), milliseconds);
  };
}
