// The list of incidents: grouped by kind, filtered by kind, outcome and layer, and walked through by keyboard.

import {element} from "./views.js";

const MOST = 100; // shown of each kind
const FEW = 30; // shown without unfolding a kind

export const idOf = (figure, incident) => `${incident.kind}@${incident.x}@${figure.run}`;

// Every incident of the shown runs that passes the filter, in the order of steps.
export function filtered(figures, {kind, outcome, layer}) {
  const all = figures.flatMap((figure) => figure.incidents.map((incident) => ({figure, incident, id: idOf(figure, incident)})));
  const passes = ({incident}) => (!kind || incident.kind === kind) && (!outcome || incident.outcome === outcome) &&
    (!layer || (incident.layers ?? []).some((name) => name.includes(layer)));
  return all.filter(passes).sort((a, b) => a.incident.x - b.incident.x);
}

// The next incident after the chosen one, or the previous one before it, around the end.
export function neighbor(items, focus, direction) {
  const at = items.findIndex((item) => item.id === focus);
  if (!items.length) return null;
  return items[at < 0 ? (direction > 0 ? 0 : items.length - 1) : (at + direction + items.length) % items.length];
}

export function list(items, {focus, several, opened}, onChoose) {
  const kinds = [...new Set(items.map((item) => item.incident.kind))].sort();
  if (!kinds.length) return [element("p", {textContent: "None."})];
  return kinds.map((kind) => {
    const group = items.filter((item) => item.incident.kind === kind);
    const at = group.findIndex((item) => item.id === focus);
    const first = Math.max(0, Math.min(at - MOST / 2, group.length - MOST));
    const rows = group.slice(first, first + MOST).map((item) => entry(item, item.id === focus, several, onChoose));
    const rest = group.length - rows.length;
    const note = rest ? [element("p", {textContent: `${rest} more: filter by outcome or layer, or zoom in`})] : [];
    return element("details", {open: opened.get(kind) ?? (items.length <= FEW || at >= 0), className: "kind",
      ontoggle: (event) => opened.set(kind, event.target.open)}, [
      element("summary", {}, [
        element("strong", {textContent: `${group[0].incident.symbol} ${kind}`}),
        element("span", {className: "count", textContent: group.length}),
      ]),
      element("ul", {}, rows), ...note,
    ]);
  });
}

function entry({figure, incident}, pressed, several, onChoose) {
  const steps = incident.x_last > incident.x ? `steps ${incident.x}–${incident.x_last}` : `step ${incident.x}`;
  const button = element("button", {
    className: `incident ${incident.outcome}`, title: incident.text, onclick: () => onChoose(figure, incident),
  }, [
    element("strong", {textContent: several ? `${steps} of ${figure.run}` : steps}),
    element("span", {className: "outcome", textContent: incident.outcome}),
    element("span", {className: "text", textContent: incident.text}),
  ]);
  button.setAttribute("aria-pressed", String(pressed));
  return element("li", {}, pressed && incident.trials.length ? [button, trialTable(incident.trials)] : [button]);
}

// What an experiment about the incident has tried beside the run, the best first.
function trialTable(trials) {
  const number = (value) => (typeof value === "number" ? value.toPrecision(3) : String(value));
  const cells = (tag, texts) => element("tr", {}, texts.map((textContent) => element(tag, {textContent})));
  return element("table", {className: "trials"}, [
    element("caption", {textContent: "Tried beside the run"}), cells("th", ["remedies", "loss", ""]),
    ...trials.map((trial) => cells("td", [String(trial.remedies), number(trial.loss), String(trial.outcome)])),
  ]);
}
