// The middle: the graph.

const graph = h("section", { id: "graph", "aria-label": "graph" });
let drawn = null; // of the graph on the page: its boxes, its lines, and where each value is

function drawGraph() {
  const { width, height, box, boxes, lines } = data.graphs[state.level];
  const margin = 14;
  const picture = svg("svg", {
    width: width + 2 * margin, height: height + margin, role: "group",
    viewBox: `${-margin} ${-margin} ${width + 2 * margin} ${height + margin}`,
  });
  drawn = { boxes: [], lines: [], of: new Map() };
  boxes.forEach((b, i) => b.numbers.forEach((n) => drawn.of.set(String(n), i)));
  for (const [from, to, points] of lines) {
    const [x0, y0] = points[0];
    let path = `M${x0} ${y0 + box}`;
    points.slice(1).forEach(([x, y], i) => {
      const [px, py] = [points[i][0], points[i][1] + box];
      const bend = (y - py) / 2;
      path += ` C${px} ${py + bend} ${x} ${y - bend} ${x} ${y}`;
      if (i < points.length - 2) path += ` V${y + box}`;
    });
    const line = svg("path", { d: path, class: "line" });
    picture.append(line);
    drawn.lines.push({ line, from, to });
  }
  boxes.forEach((b, i) => {
    const left = b.x - b.width / 2;
    const group = svg("g", { class: `box ${b.kind}`, tabindex: 0, role: "button", "aria-label": `${b.title} ${b.detail}` },
      svg("title", {}, b.title),
      svg("rect", { x: left, y: b.y, width: b.width, height: box, rx: b.kind === "leaf" ? 18 : 5 }),
      svg("text", { x: b.x, y: b.y + 17 }, b.label),
      svg("text", { x: b.x, y: b.y + 32, class: "shape" }, b.detail));
    group.addEventListener("click", () => choose(i));
    group.addEventListener("keydown", (event) => event.key === "Enter" && choose(i));
    picture.append(group);
    drawn.boxes.push(group);
  });
  const depth = data.graphs.length < 2 ? null : h("p", {},
    h("button", { onclick: () => unfold(-1), disabled: state.level === 0, title: "o" }, "close modules"), " ",
    h("button", { onclick: () => unfold(1), disabled: state.level === data.graphs.length - 1, title: "i" }, "open modules"));
  fill(graph, h("h2", {}, "graph"), depth, h("div", { class: "scroll" }, picture));
}

function unfold(by) {
  const level = state.level + by;
  if (level < 0 || level >= data.graphs.length) return;
  state.level = level;
  drawGraph();
  showGraph();
}

/** Go to the moment of a box: to its step if the pass has come back, else to its call. */
function choose(i) {
  const { numbers } = data.graphs[state.level].boxes[i];
  const made = numbers.filter((n) => makers.has(String(n)));
  if (!made.length) return open(state.at < N_FORWARD || data.values[numbers[0]].cotangent < 0 ? value(numbers[0]) : cotangent(numbers[0]));
  const [call] = makers.get(String(made[made.length - 1]));
  const { step } = data.calls[call];
  go(state.at >= N_FORWARD && step >= 0 ? N_FORWARD + step : call);
}

function showGraph() {
  const { call, step } = moment(state.at);
  const here = drawn.of.get(String(data.calls[call].results[0]));
  const began = new Set(data.calls.slice(0, state.at + 1).flatMap((c) => c.results.map((n) => drawn.of.get(String(n)))));
  drawn.boxes.forEach((box, i) => {
    box.classList.toggle("here", i === here);
    box.classList.toggle("ahead", state.at < N_FORWARD && !began.has(i) && data.graphs[state.level].boxes[i].kind !== "leaf");
  });
  const flows = new Map(); // from box to box: the norm of what has been sent
  if (step !== null) data.steps.slice(0, step + 1).forEach(({ call: at, edges }) => {
    const to = drawn.of.get(String(data.calls[at].results[0]));
    for (const [, parent, key] of edges) {
      const from = `${drawn.of.get(String(parent))} ${to}`;
      flows.set(from, Math.hypot(flows.get(from) || 0, Number(data.arrays[key].norm)));
    }
  });
  const most = Math.max(...[...flows.values()].filter(Number.isFinite), 1e-300);
  for (const { line, from, to } of drawn.lines) {
    const norm = flows.get(`${from} ${to}`);
    line.setAttribute("class", norm === undefined ? "line" : !Number.isFinite(norm) ? "line nonfinite" : norm === 0 ? "line zero" : "line flow");
    const wide = norm > 0 && Number.isFinite(norm) ? Math.max(1.5, 7 + 1.2 * Math.log10(norm / most)) : 1.5;
    line.style.strokeWidth = norm === undefined ? "" : `${wide}px`;
  }
  drawn.boxes[here]?.scrollIntoView({ block: "nearest", inline: "nearest" });
}
