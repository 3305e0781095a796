// Talks to the backend (see ../http_api.md) and to TensorBoard around the tab.

export async function getRuns() {
  return (await getJson("runs", [])).runs;
}

export async function getFigures(runs, question) {
  const pairs = Object.entries(question).filter(([, value]) => value !== null && value !== "");
  return (await getJson("figures", [...runs.map((run) => ["run", run]), ...pairs])).figures;
}

async function getJson(route, pairs) {
  const url = new URL(route, import.meta.url);
  url.search = new URLSearchParams(pairs).toString();
  let response, body;
  try {
    response = await fetch(url);
    body = await response.json();
  } catch (error) {
    throw new Error(`TensorBoard does not answer (${error.message}). Is it still running?`);
  }
  if (body.error) throw new Error(body.error);
  return body;
}

// TensorBoard tells its iframes of new data through a message channel; each message wants a reply.
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

// TensorBoard marks its own page, not the iframe's, when it is dark.
export function onTheme(callback) {
  const body = window.parent.document.body;
  const read = () => (body.classList.contains("dark-mode") ? "dark" : "light");
  new MutationObserver(() => callback(read())).observe(body, {attributeFilter: ["class"]});
  callback(read());
}
