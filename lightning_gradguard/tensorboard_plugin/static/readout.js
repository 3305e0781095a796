// The step under the mouse: a line through the panels of every run, and a table of the runs' values there.

import {element} from "./views.js";

// Draws the line in every plot but the one under the mouse, where plotly draws its own.
export function showLine(plots, step, own) {
  for (const plot of plots) {
    const {xaxis, height, margin} = plot._fullLayout;
    const [x, line] = [xaxis.d2p(step), plot.querySelector(".crosshair") ?? plot.appendChild(element("div", {className: "crosshair"}))];
    line.hidden = plot === own || x < 0 || x > xaxis._length;
    Object.assign(line.style, {left: `${margin.l + x}px`, top: `${margin.t}px`, height: `${height - margin.t - margin.b}px`});
  }
}

// A row for each run, a column for each curve.
export function table({step, runs, curves}) {
  const number = (value) => (typeof value === "number" ? Number(value.toPrecision(4)).toString() : "–");
  const cells = (tag, texts) => element("tr", {}, texts.map((textContent) => element(tag, {textContent})));
  return element("table", {}, [
    cells("th", [`step ${step}`, ...curves.map((curve) => curve.title)]),
    ...runs.map((run, i) => cells("td", [run, ...curves.map((curve) => number(curve.values[i]))])),
  ]);
}

export function helpDialog(entries) {
  const rows = entries.map(({title, text, page}) => element("p", {}, [
    element("strong", {textContent: title}), element("span", {textContent: ` ${text} `}),
    element("code", {textContent: page}),
  ]));
  const dialog = element("dialog", {id: "help"}, [
    element("h2", {textContent: "What is shown"}), ...rows,
    element("p", {textContent: "Keys: n and p go to the next and the previous incident, Escape shows every step. " +
      "Drag across a panel to zoom, double-click to return."}),
    element("form", {method: "dialog"}, [element("button", {textContent: "Close"})]),
  ]);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
