// Puts the parts together, and shows the moment that the address names.

function show() {
  scrubber.value = state.at;
  const { call, step } = moment(state.at);
  const place = `${step === null ? "forward" : "backward"}, ${state.at + 1} of ${N}`;
  scrubber.setAttribute("aria-valuetext", place);
  announcement.textContent = `${place}: ${data.calls[call].op}`;
  showSource();
  showGraph();
  showInspector();
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
}

document.body.append(
  h("header", {}, title,
    h("span", {}, search, names, " ",
      h("button", { onclick: cycleMode, title: "m" }, "light, dark, projector"))),
  tokens,
  inside,
  h("main", {}, source, graph, inspector),
  h("footer", {}, controls, scrubber, announcement),
);
openSome();
redraw();
restore();
let width = inspector.clientWidth;
new ResizeObserver(() => {
  if (inspector.clientWidth !== width) fitMaps();
  width = inspector.clientWidth;
}).observe(inspector);
