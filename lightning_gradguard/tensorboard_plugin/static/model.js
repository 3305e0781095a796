// Communicates with the backend (see ../http_api.md) and with TensorBoard's own page.

export async function getRuns() {
  return (await getJson("runs", [])).runs;
}

export async function getFigures(runs, query) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== "");
  return (await getJson("figures", [...runs.map((run) => ["run", run]), ...pairs])).figures;
}

// The names of all layers and modules.
export async function getLayers(runs, optimizer) {
  return (await getJson("layers", [...runs.map((run) => ["run", run]), ["optimizer", optimizer]])).layers;
}

// The value of every curve at a step.
export const getStep = (runs, query) => getJson("step", [...runs.map((run) => ["run", run]), ...Object.entries(query)]);

export const getHelp = async () => (await getJson("help", [])).help;

async function getJson(route, pairs) {
  const url = new URL(route, import.meta.url);
  url.search = new URLSearchParams(pairs).toString();
  let response, body;
  try {
    response = await fetch(url);
    body = await response.json();
  } catch (error) {
    throw new Error(`TensorBoard does not respond (${error.message}). Is it still running?`);
  }
  if (body.error) throw new Error(body.error);
  return body;
}

// TensorBoard announces new data to its iframes through a message channel and expects a reply to each message.
export function onReload(callback) {
  const channel = new MessageChannel();
  window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
  channel.port1.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    channel.port1.postMessage(JSON.stringify({...message, payload: null, error: null, isReply: true}));
    if (message.type === "experimental.DataReloaded") callback();
  };
}

// TensorBoard sets the class `dark-mode` on its own page, not on the iframe's.
export function onTheme(callback) {
  const body = window.parent.document.body;
  const read = () => (body.classList.contains("dark-mode") ? "dark" : "light");
  new MutationObserver(() => callback(read())).observe(body, {attributeFilter: ["class"]});
  callback(read());
}
