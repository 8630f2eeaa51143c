// The bottom: the scrubber; the top: modes and search; the keys.

const scrubber = h("input", { type: "range", min: 0, max: N - 1, value: 0, id: "scrubber", "aria-label": "moment of the pass", oninput: () => go(Number(scrubber.value)) });
const controls = h("span", {});
const announcement = h("span", { role: "status", class: "unseen" }); // for a screen reader
const search = h("input", { id: "search", size: 14, list: "names", placeholder: "a name (press /)", "aria-label": "find a value by its name",
  onchange: () => openNamed(search.value.trim()),
  onkeydown: (event) => event.key === "Enter" && openNamed(search.value.trim()) }); // also the same name again

function openNamed(name) {
  const found = Object.entries(data.values).find(([, v]) => v.name === name);
  if (found) open(value(found[0]));
}

function showControls() {
  fill(controls,
    h("button", { onclick: () => go(state.at - 1), title: "b" }, "back"), " ",
    h("button", { onclick: () => go(state.at + 1), title: "n" }, "next"), " ",
    h("button", { onclick: () => go(N_FORWARD), title: "g" }, "to the backward pass"), " ",
    h("button", { "aria-pressed": String(state.hidden), onclick: () => { state.hidden = !state.hidden; showControls(); showInspector(); controls.querySelector("[aria-pressed]").focus(); } }, "predict"));
}

function cycleMode() {
  const modes = ["", "light", "dark", "projector"];
  const root = document.documentElement;
  root.dataset.mode = modes[(modes.indexOf(root.dataset.mode || "") + 1) % modes.length];
  fitMaps();
  keepLineInSight(); // the size of the text has changed
  showGraph();
}

document.addEventListener("keydown", (event) => {
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range" || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { n: () => go(state.at + 1), b: () => go(state.at - 1), g: () => go(N_FORWARD), i: () => unfold(1), o: () => unfold(-1), m: cycleMode, "/": () => { search.focus(); search.select(); }, Escape: () => open(null) };
  if (event.key in keys) {
    event.preventDefault();
    keys[event.key]();
  }
});
