// Builds DOM elements from plain data. All text is set through textContent, so names are never interpreted as HTML.

export function element(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function badge(state, incidents) {
  const count = incidents ? ` ${incidents}` : "";
  const symbols = {healthy: "✓", resolved: "✓", recovered: "✓", open: "!", degraded: "!", unrecoverable: "✕"};
  return element("span", {
    className: `badge ${state}`, textContent: `${symbols[state] ?? "!"}${count}`,
    title: incidents ? `${incidents} incident${incidents > 1 ? "s" : ""}, ${state}` : state,
  });
}

export function runHeader(figure) {
  return [
    element("h2", {textContent: figure.run, title: figure.run}),
    element("span", {className: `state ${figure.state}`, textContent: figure.state}),
    element("span", {className: "headline", textContent: figure.headline}),
  ];
}

export function problems(figure) {
  const lines = [...new Set(figure.problems)].slice(0, 5);
  return lines.map((line) => element("p", {className: "problem", textContent: `Note: ${line}`}));
}

export function emptyState() {
  const code = "from lightning_gradguard import GradGuard\n\ntrainer = Trainer(\n    callbacks=[GradGuard()],\n" +
    "    logger=TensorBoardLogger(\"lightning_logs\"),\n)";
  return element("section", {className: "message"}, [
    element("h2", {textContent: "No runs with GradGuard data"}),
    element("p", {textContent: "Add the callback to the Trainer:"}),
    element("pre", {textContent: code}),
    element("p", {textContent: "A run of any logger below TensorBoard's log directory appears here when TensorBoard reloads its data."}),
  ]);
}

export function errorState(error) {
  return element("section", {className: "message error"}, [
    element("h2", {textContent: "GradGuard could not show the data"}),
    element("p", {textContent: error.message}),
    element("p", {textContent: "The rest of TensorBoard is not affected. TensorBoard's log has the full traceback."}),
  ]);
}

export function options(select, choices, chosen) {
  select.replaceChildren(...choices.map(([value, text]) =>
    element("option", {value, textContent: text, selected: value === chosen})));
}
