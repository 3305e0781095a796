// The GradGuard tab. `state` holds everything that is shown; `set` changes it, and `refresh` draws it.

import * as Incidents from "./incidents.js";
import * as Layers from "./layers.js";
import * as Link from "./link.js";
import * as Model from "./model.js";
import * as Readout from "./readout.js";
import * as Runs from "./runs.js";
import * as Views from "./views.js";

const TITLES = {grad_norm: "Gradient norm", update_ratio: "Update-to-weight ratio", param_norm: "Weight norm"};
const WHOLE = {from: null, to: null, focus: "", step: null};
// What a link carries, as it is at first.
const DEFAULTS = {
  chosen: null, statistic: "grad_norm", optimizer: "", depth: "auto", within: "", layer: "", full: false, ...WHOLE,
};
const PAGE = 4; // runs drawn at a time
const NARROWEST = 480; // pixels of a figure beside others
const state = {
  ...DEFAULTS, runs: null, page: 0, theme: "light", figures: [], filter: {run: "", verdict: "", kind: "", outcome: "", layer: ""},
};
const page = {};
const opened = new Map(); // kinds of incidents that were opened or closed by hand
let latest = 0, reloading = null;
let paths = [], suggested = ""; // layers and modules, and of which runs

export async function render() {
  document.head.append(
    Views.element("meta", {charset: "utf-8"}),
    Views.element("meta", {name: "viewport", content: "width=device-width"}),
    Views.element("link", {rel: "stylesheet", href: new URL("style.css", import.meta.url).href}),
  );
  Object.assign(state, Link.read(DEFAULTS));
  build();
  await loadPlotly();
  Model.onTheme((theme) => {
    state.theme = theme;
    document.documentElement.dataset.theme = theme;
    refresh();
  });
  Model.onReload(reload);
  window.addEventListener("resize", debounced(refresh, 200));
  window.focus(); // so that the keys work before the first click
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
  const button = (id, textContent, onclick, title = "") => page[id] = Views.element("button", {id, textContent, onclick, title});
  page.layer = Views.element("input", {
    id: "layer", type: "search", placeholder: "click a row or type a name", autocomplete: "off", onchange: search,
  });
  page.found = Views.element("span", {id: "found"});
  page.found.setAttribute("role", "status");
  page.path = Views.element("nav", {id: "path"});
  page.layer.setAttribute("list", "rows");
  button("side", "☰ Runs and incidents", () => document.body.classList.toggle("folded") || refresh(), "Fold or unfold the side bar");
  button("all", "All steps", () => set(WHOLE), "Show every step (Escape)");
  button("full", "All values", () => set({full: !state.full}), "Axes that contain every value, also spikes that flatten the rest");
  button("help_button", "?", async () => Readout.helpDialog(await Model.getHelp()), "What is shown");
  page.readout = Views.element("footer", {id: "readout"});
  page.rows = Views.element("datalist", {id: "rows"});
  page.runs = Views.element("div", {id: "runs"});
  page.pages = Views.element("div", {id: "pages"});
  page.incidents = Views.element("div", {id: "incidents"});
  page.main = Views.element("main", {id: "figures"});
  page.optimizerLabel = labeled("Optimizer", select("optimizer", "optimizer"));
  document.body.classList.toggle("folded", window.innerWidth < 760);
  document.body.replaceChildren(
    Views.element("header", {}, [
      page.side, labeled("Statistic", select("statistic", "statistic")), page.optimizerLabel,
      labeled("Rows", select("depth", "depth")), labeled("Layer", page.layer), page.found, page.path, page.full, page.all, page.help_button, page.rows,
    ]),
    Views.element("aside", {}, [
      Views.element("h2", {textContent: "Runs"}), filters(["run", "verdict"], showRuns), page.runs, page.pages,
      Views.element("h2", {textContent: "Incidents", title: "n: next, p: previous"}),
      filters(["kind", "outcome", "layer"], showIncidents), page.incidents,
    ]),
    page.main, page.readout,
  );
  document.body.addEventListener("keydown", pressed);
}

// Controls that only hide items of a list: text fields for names, otherwise menus.
function filters(names, show) {
  const placeholders = {run: "name (regular expression)", layer: "layer"};
  return Views.element("div", {className: "filters"}, names.map((name) => {
    const change = () => { state.filter[name] = control.value; show(); };
    const control = page[`filter_${name}`] = name in placeholders
      ? Views.element("input", {type: "search", placeholder: placeholders[name], oninput: change})
      : Views.element("select", {onchange: change});
    control.id = `filter_${name}`;
    control.setAttribute("aria-label", `Filter by ${name}`);
    return control;
  }));
}

function pressed(event) {
  if (event.target.matches("input[type=search], select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") set({...WHOLE, layer: "", within: ""});
  const direction = {n: 1, p: -1}[event.key];
  if (!direction) return;
  const next = Incidents.neighbor(Incidents.filtered(state.figures, state.filter), state.focus, direction);
  if (next && next.id !== state.focus) goTo(next.figure, next.incident);
}

function set(changes) {
  Object.assign(state, changes);
  Link.write(state, DEFAULTS);
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
  state.chosen = state.chosen?.filter((run) => names.includes(run)) ?? null;
  if (!state.chosen?.length && names.length) state.chosen = [Runs.firstChoice(state.runs)];
  await refresh();
}

// The chosen runs that are drawn now.
function shownRuns() {
  state.page = Math.max(0, Math.min(state.page, Math.ceil(state.chosen.length / PAGE) - 1));
  return state.chosen.slice(state.page * PAGE, (state.page + 1) * PAGE);
}

async function refresh() {
  if (state.runs === null) return; // not read yet
  document.body.classList.toggle("empty", !state.runs.length);
  if (!state.runs.length) return page.main.replaceChildren(Views.emptyState());
  showRuns();
  if (!state.chosen.length) return page.main.replaceChildren(Views.element("p", {className: "message", textContent: "Choose a run."}));
  const request = ++latest;
  const runs = shownRuns();
  const columns = Math.max(1, Math.min(runs.length, Math.floor(page.main.clientWidth / NARROWEST)));
  page.main.style.setProperty("--columns", columns);
  const width = Math.floor(page.main.clientWidth / columns) - 16;
  const height = Math.max(page.main.clientHeight - 70, 560); // below a header of two lines
  const {statistic, optimizer, depth, within, layer, from, to, full, theme} = state;
  page.main.setAttribute("aria-busy", "true");
  try {
    const query = {statistic, optimizer, depth, within, layer, from, to, full, theme, width, height};
    const figures = await Model.getFigures(runs, query);
    if (request !== latest) return; // the state has changed since
    state.figures = figures;
    state.step ??= figures[0].extent[1];
    showControls();
    showIncidents();
    await showFigures();
    showStep();
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
  const states = [...new Set(state.runs.map((run) => run.state))].sort();
  const verdicts = [["", "any verdict"], ["attention", "needs attention"], ...states.map((name) => [name, name])];
  Views.options(page.filter_verdict, verdicts, state.filter.verdict);
  const focused = [...page.runs.querySelectorAll("input")].indexOf(document.activeElement);
  const runs = Runs.listed(state.runs, state.filter.run, state.filter.verdict);
  page.runs.replaceChildren(...runs.map((run) => Runs.choice(run, state.chosen.includes(run.run), chooseRun)));
  if (!runs.length) page.runs.append(Views.element("p", {textContent: "No run matches."}));
  if (focused >= 0) page.runs.querySelectorAll("input")[focused]?.focus();
  showPages();
}

// Buttons to the previous and the next runs, where more are chosen than fit on a page.
function showPages() {
  const [first, last] = [state.page * PAGE, Math.min((state.page + 1) * PAGE, state.chosen.length)];
  const turn = (textContent, by, disabled) => Views.element("button", {textContent, disabled, onclick: () => set({page: state.page + by})});
  page.pages.hidden = state.chosen.length <= PAGE;
  page.pages.replaceChildren(
    turn("‹", -1, !first), Views.element("span", {textContent: `runs ${first + 1} to ${last} of ${state.chosen.length}`}),
    turn("›", 1, last === state.chosen.length),
  );
}

function chooseRun(name, chosen) {
  const rest = state.chosen.filter((run) => run !== name);
  const order = state.runs.map((run) => run.run);
  set({chosen: (chosen ? [...rest, name] : rest).sort((a, b) => order.indexOf(a) - order.indexOf(b))});
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
  suggest();
  if (document.activeElement !== page.layer) page.layer.value = state.layer;
  page.path.replaceChildren(...Layers.breadcrumbs(state.within, (path) => set({within: path, depth: "auto"})));
  page.full.setAttribute("aria-pressed", String(state.full));
  page.all.disabled = state.from === null;
}

// Offers the names of all layers and modules of the shown runs.
async function suggest() {
  const key = JSON.stringify([shownRuns(), state.optimizer, state.figures.map((figure) => figure.rows.length)]);
  if (key === suggested) return;
  suggested = key;
  paths = await Model.getLayers(shownRuns(), state.optimizer).catch(() => []);
  page.rows.replaceChildren(...paths.map((value) => Views.element("option", {value})));
}

function search() {
  const {path, message} = Layers.find(page.layer.value.trim(), paths);
  page.found.textContent = message;
  if (path === undefined) return;
  set(Layers.isModule(path, paths) ? {layer: path, within: path, depth: "auto"} : {layer: path});
}

function showIncidents() {
  const all = Incidents.filtered(state.figures, {});
  const counted = (key, any) => [["", `${any} (${all.length})`], ...[...new Set(all.map((item) => item.incident[key]))].sort()
    .map((value) => [value, `${value} (${all.filter((item) => item.incident[key] === value).length})`])];
  Views.options(page.filter_kind, counted("kind", "any kind"), state.filter.kind);
  Views.options(page.filter_outcome, counted("outcome", "any outcome"), state.filter.outcome);
  const focused = page.incidents.contains(document.activeElement);
  const items = Incidents.filtered(state.figures, state.filter);
  page.incidents.replaceChildren(
    ...Incidents.list(items, {focus: state.focus, several: state.figures.length > 1, opened}, choose));
  const chosen = page.incidents.querySelector('[aria-pressed="true"]');
  chosen?.scrollIntoView({block: "nearest"});
  if (focused) (chosen ?? page.incidents.querySelector("button"))?.focus();
}

function choose(figure, incident) {
  if (state.focus === Incidents.idOf(figure, incident)) set({...WHOLE, layer: ""});
  else goTo(figure, incident);
}

// Zooms every panel of every run to an incident, with a margin on both sides, and shows its worst layer.
function goTo(figure, incident) {
  const length = figure.extent[1] - figure.extent[0];
  const last = Math.max(incident.x_last ?? incident.x, incident.x);
  const margin = Math.max((last - incident.x) * 0.5, length * 0.04, 5);
  opened.delete(incident.kind);
  const from = Math.max(incident.x - margin, Math.min(0, figure.extent[0]));
  set({from, to: last + margin, focus: Incidents.idOf(figure, incident), layer: incident.layers?.[0] ?? "", step: incident.x});
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
  plot.on("plotly_hover", (event) => hovered(Math.round(event.xvals?.[0] ?? event.points[0].x), plot));
  plot.on("plotly_click", (event) => clicked(section, event.points[0]));
  plot.on("plotly_relayout", debounced((change) => zoomed(change), 150));
}

function hovered(step, plot) {
  Readout.showLine(page.main.querySelectorAll(".plot"), step, plot);
  state.step = step;
  showStep();
}

const showStep = debounced(async () => {
  if (state.step === null) return;
  const {step, optimizer, statistic, layer} = state;
  try {
    page.readout.replaceChildren(Readout.table(await Model.getStep(shownRuns(), {step, optimizer, statistic, layer})));
  } catch { /* the next figure tells the error */ }
}, 60);

// A click opens a row of several layers; it chooses a single layer, or the incident of a marker.
function clicked(section, point) {
  const figure = state.figures.find((each) => each.run === section.dataset.run);
  if (point.data.name === "incidents") return choose(figure, figure.incidents[point.customdata]);
  if (point.data.type !== "heatmap") return;
  const row = figure.rows[point.pointIndex[0]];
  if (!row) return;
  page.found.textContent = "";
  if (row.layers > 1) set({within: row.name, layer: row.name, depth: "auto"});
  else set({layer: row.name === state.layer ? "" : row.name});
}

function zoomed(change) {
  if ("xaxis.autorange" in change) return set(WHOLE);
  if ("xaxis.range[0]" in change) set({from: change["xaxis.range[0]"], to: change["xaxis.range[1]"]});
}

function debounced(callback, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...values), milliseconds);
  };
}
