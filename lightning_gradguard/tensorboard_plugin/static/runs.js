// The list of runs: which ones are listed, and which one is shown first.

import {badge, element} from "./views.js";

const FINE = ["healthy", "resolved", "recovered"];

export const needsAttention = (run) => !FINE.includes(run.state);

// The newest run that needs attention; the newest of all where none does.
export function firstChoice(runs) {
  const candidates = runs.some(needsAttention) ? runs.filter(needsAttention) : runs;
  return candidates.reduce((newest, run) => (run.written >= newest.written ? run : newest)).run;
}

// The runs whose names match a regular expression; every run while it is not a valid one.
export function listed(runs, pattern, verdict) {
  let matches = () => true;
  try {
    const expression = new RegExp(pattern, "i");
    matches = (run) => expression.test(run.run);
  } catch { /* still being typed */ }
  const tests = {"": () => true, attention: needsAttention};
  return runs.filter((run) => matches(run) && (tests[verdict] ?? ((each) => each.state === verdict))(run));
}

export function choice(run, chosen, onChange) {
  const box = element("input", {type: "checkbox", checked: chosen, onchange: () => onChange(run.run, box.checked)});
  const name = element("span", {className: "name", textContent: run.run, title: run.run});
  return element("label", {className: "run"}, [box, badge(run.state, run.incidents), name]);
}
