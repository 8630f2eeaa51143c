// Puts the parts together, and shows the moment that the address names.

function show(isScrubbing = false) {
  scrubber.value = state.at;
  const { call, step } = moment(state.at);
  const place = `${step === null ? "forward" : "backward"}, ${state.at + 1} of ${N}`;
  scrubber.setAttribute("aria-valuetext", place);
  announcement.textContent = `${place}: ${data.calls[call].op}`;
  showSource();
  showGraph();
  showInspector(isScrubbing);
  remember();
}

const title = h("h1", {});
const names = h("datalist", { id: "names" });

/** Show the whole of the data from the beginning, after `take`. */
function redraw() {
  fill(title, `${data.name} = ${data.value}`);
  fill(names, Object.values(data.values).map((v) => h("option", { value: v.name })));
  scrubber.max = N - 1;
  showTokens();
  showInside();
  drawGraph();
  showControls();
  showRun();
}

/** Show another pass, at the same moment, and if it has an element of this name, at this element. */
function replacePass(contents) {
  const old = data;
  const focused = document.activeElement;
  take(contents);
  const kept = (entry) => entry && (entry.kept || entry.shape);
  for (const key of Object.keys(state.slice))
    if (!same(kept(old.arrays[key]), kept(data.arrays[key]))) delete state.slice[key];
  const moved = old.calls.length !== data.calls.length || old.steps.length !== data.steps.length;
  state.target = renumbered(state.target, old);
  if (state.target && (moved && !("n" in state.target) || !exists(state.target))) state.target = null;
  if (!state.target || state.flat >= size(data.arrays[arrayOf(state.target)].shape)) state.flat = null;
  state.at = Math.min(state.at, N - 1);
  redraw();
  show();
  if (focused.id) document.getElementById(focused.id)?.focus();
  if (!focused.isConnected && document.activeElement === document.body) focusInspector();
}

/** Return a target with the number that its value has in this pass, if the pass before had another. */
function renumbered(target, old) {
  const name = target && "n" in target ? old.values[target.n].name : undefined;
  if (name === undefined || data.values[target.n]?.name === name) return target;
  const n = numberOf(name);
  return n === undefined ? null : { ...target, n };
}

function exists(target) {
  try {
    return arrayOf(target) >= 0;
  } catch {
    return false; // its value, or its step, is no part of the new pass
  }
}

document.body.append(
  h("header", {}, title,
    h("span", {}, search, names, " ",
      h("button", { onclick: cycleMode, title: "m" }, "light, dark, projector"))),
  tokens,
  h("aside", { "aria-label": "look inside" }, inside),
  h("main", {}, source, graph, inspector),
  run,
  h("footer", {}, controls, scrubber, announcement),
);
openSome();
redraw();
restore();
window.addEventListener("hashchange", restore); // somebody has changed the address of the open page
watchSize(inspector, fitMaps);
watchSize(source, keepLineInSight);
watchSize(graph, showGraph);

/** Call a function whenever a part of the page has got another size. */
function watchSize(part, react) {
  const sizeOf = () => [part.clientWidth, part.clientHeight];
  let before = sizeOf();
  new ResizeObserver(() => {
    if (!same(before, sizeOf())) react();
    before = sizeOf();
  }).observe(part);
}
