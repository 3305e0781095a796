// The state in the address of TensorBoard's page, under the names that TensorBoard reserves for a plugin, so that a link
// shows the same runs, incident and layer again.

const PREFIX = "p.gradguard.";
const storage = () => window.parent.tensorboard?.tf_storage; // absent where the page is opened on its own

// Runs are separated by commas; those in their names are encoded.
const encode = (value) => (Array.isArray(value) ? value.map(encodeURIComponent).join(",") : String(value ?? ""));
const DECODE = {
  chosen: (text) => text.split(",").map(decodeURIComponent), from: Number, to: Number, step: Number, full: (text) => text === "true",
};

export function read(defaults) {
  const texts = Object.keys(defaults).map((key) => [key, storage()?.getString(PREFIX + key, {defaultValue: ""}) ?? ""]);
  return Object.fromEntries(texts.filter(([, text]) => text).map(([key, text]) => [key, (DECODE[key] ?? String)(text)]));
}

export function write(state, defaults) {
  for (const [key, standard] of Object.entries(defaults)) {
    const [text, known] = [encode(state[key]), storage()?.getString(PREFIX + key, {defaultValue: encode(standard)})];
    if (text !== known) storage()?.setString(PREFIX + key, text, {defaultValue: encode(standard), useLocationReplace: true});
  }
}
