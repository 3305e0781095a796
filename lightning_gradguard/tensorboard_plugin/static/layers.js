// The search for a layer, and the path of modules that are open.

import {element} from "./views.js";

const SPAN = " … "; // between the first and the last of neighbors in one row

// What typed words mean: a layer or module, or the reason why none is meant.
export function find(typed, paths) {
  const matches = paths.includes(typed) ? [typed] : paths.filter((path) => path.toLowerCase().includes(typed.toLowerCase()));
  if (!typed || matches.length === 1) return {path: matches.length && typed ? matches[0] : "", message: ""};
  return {message: matches.length ? `${matches.length} layers match; choose one` : "No layer matches."};
}

// Whether a path is a module with layers inside.
export const isModule = (path, paths) => paths.some((other) => other.startsWith(`${path}.`));

// Buttons that lead from the open module to those around it.
export function breadcrumbs(within, onOpen) {
  if (!within) return [];
  const [first, rest] = within.split(SPAN);
  const parts = first.split(".");
  const steps = parts.slice(0, -1).map((part, i) => [part, parts.slice(0, i + 1).join(".")]);
  const link = ([textContent, path]) => element("button", {textContent, title: `Show ${path || "all layers"}`, onclick: () => onOpen(path)});
  return [link(["all layers", ""]), ...steps.map(link), element("span", {textContent: parts.at(-1) + (rest ? SPAN + rest : "")})];
}
