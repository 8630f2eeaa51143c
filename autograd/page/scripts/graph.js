// The middle: the graph. Each module is one box, which unfolds to the picture of its inside.

const MOST_BOXES = 60; // that are shown at first
const MOST_WHOLE = 300; // boxes: of a larger graph, the part around the window is drawn
const MANY = 8; // uses of a value, whose lines are one line as far as they are the same
const [EDGE, HEAD, PORT] = [12, 26, 14]; // of an open module: the room around its inside, and above; of a port

const graph = h("section", { id: "graph", "aria-label": "graph" });
let drawn = null; // of the graph on the page: its boxes, its lines, and where each value is

// ---- places: from those of each picture, and the sizes of what is open in it

/** Return a picture with the places of its boxes in pixels. An open box pushes the others aside:
 *  those of the layers below it down, and those beside its middle to the left and to the right. */
function placed(picture, depth = 0) {
  const boxes = picture.boxes.map((box) => {
    const inner = box.inside && state.opened.has(box.title) ? placed(box.inside, depth + 1) : null;
    const wide = inner ? Math.max(box.width, inner.width + 2 * EDGE) : box.width;
    const own = box.kind === "port" ? PORT : data.graph.box;
    return { ...box, inner, depth, wide, high: inner ? inner.height + HEAD + EDGE : own };
  });
  const heights = Array(picture.layers).fill(0);
  const extra = new Map(); // by the middle of open boxes: half of what they need beyond their width
  for (const { layer, high, inner, x, wide, width } of boxes) {
    heights[layer] = Math.max(heights[layer], high);
    if (inner) extra.set(x, Math.max(extra.get(x) ?? 0, (wide - width) / 2));
  }
  const tops = [0];
  for (const high of heights) tops.push(tops.at(-1) + high + data.graph.gap);
  const aside = (x) => [...extra].reduce((at, [middle, by]) => at + by * Math.sign(x - middle), x);
  for (const box of boxes) Object.assign(box, { x: aside(box.x), y: tops[box.layer] });
  const passed = picture.lines.flatMap(([, , points]) => points.map(([x]) => aside(x)));
  const left = [...boxes.map(({ x, wide }) => x - wide / 2), ...passed].reduce((a, b) => Math.min(a, b));
  const right = [...boxes.map(({ x, wide }) => x + wide / 2), ...passed].reduce((a, b) => Math.max(a, b));
  for (const box of boxes) box.x -= left;
  const lines = picture.lines.map(([from, to, points]) => ({
    from: boxes[from], to: boxes[to], points: points.map(([x, layer]) => [aside(x) - left, tops[layer], tops[layer] + heights[layer]]),
  }));
  return { boxes, lines, width: right - left, height: tops.at(-1) - data.graph.gap };
}

// ---- drawing

/** Return the path of a line: curves between layers, and straight through the layers that it passes.
 *  Of a branch, it is the part that no longer line from the same box has. */
function pathOf({ from, to, points: all }, isBranch) {
  const points = isBranch ? all.slice(-2) : all;
  let [x, y] = [points[0][0], isBranch && all.length > 2 ? points[0][2] : from.y + from.high];
  let path = `M${x} ${y}`;
  points.slice(1).forEach(([nextX, top, bottom], i) => {
    const isLast = i === points.length - 2;
    const end = isLast ? to.y : top;
    const bend = (end - y) / 2;
    path += x === nextX ? ` V${end}` : ` C${x} ${y + bend} ${nextX} ${end - bend} ${nextX} ${end}`;
    [x, y] = [nextX, bottom];
    if (!isLast) path += ` V${bottom}`;
  });
  return path;
}

/** Draw a picture, with what is open in it, at a place in the picture around it, and at a height in
 *  the whole. */
function drawPicture(picture, left, top, above) {
  const index = new Map(picture.boxes.map((box) => [box, new Set(box.numbers.map(String))]));
  const longest = new Map(); // by box: the line to the lowest box, and how many lines there are
  for (const line of picture.lines) {
    const [other, n] = longest.get(line.from) ?? [line, 0];
    longest.set(line.from, [line.to.y > other.to.y ? line : other, n + 1]);
  }
  const lines = picture.lines.map((line) => {
    const [other, n] = longest.get(line.from);
    const isBranch = n > MANY && line !== other;
    const path = svg("path", { d: pathOf(line, isBranch), class: "line" });
    const begin = isBranch ? line.to.y - 2 * (data.graph.box + data.graph.gap) : line.from.y;
    drawn.lines.push({ path, from: index.get(line.from), to: index.get(line.to), top: above + begin, bottom: above + line.to.y });
    return path;
  });
  return svg("g", { transform: `translate(${left} ${top})` }, lines, picture.boxes.map((box) => drawBox(box, above)));
}

function drawBox(box, above) {
  const { x, y, wide, high, inner, kind, label, detail, title, numbers } = box;
  if (kind === "port") return svg("text", { x, y: y + high - 3, class: "shape port" }, label || "▾");
  if (!inner) numbers.forEach((n) => drawn.of.set(String(n), drawn.boxes.length));
  const name = inner ? svg("text", { x: x - wide / 2 + 10, y: y + 17, class: "name" }, title.split(".").slice(-2).join("."))
    : svg("text", { x, y: y + 17 }, label);
  const shape = svg("text", { x, y: y + 32, class: "shape" }, detail);
  const group = svg("g", { class: `box ${kind}${inner ? " open" : ""}`, tabindex: 0, role: "button", "aria-label": `${title} ${detail}`,
    onclick: () => choose(box), onkeydown: (event) => event.key === "Enter" && choose(box) },
    svg("title", {}, title),
    svg("rect", { x: x - wide / 2, y, width: wide, height: high, rx: isInput(box) ? 18 : 5 }), name, inner ? [] : shape);
  drawn.boxes.push({ group, box, shape, top: above + y, bottom: above + y + high });
  if (kind !== "module") return group;
  return svg("g", {}, group, inner && [drawJoints(box), drawPicture(inner, x - inner.width / 2, y + HEAD, above + y + HEAD)], foldButton(box));
}

/** Return whether a box stands for a leaf, or for an array off the tape. */
const isInput = ({ kind }) => kind === "leaf" || kind === "data";

/** Return the lines from the upper end of an open module to its ports, and from the last to the lower end. */
function drawJoints({ x, y, high, inner }) {
  const left = x - inner.width / 2;
  return inner.boxes.filter(({ kind }) => kind === "port").map((port) => {
    const [inside, end] = [y + HEAD + port.y + (port.label ? 0 : port.high), port.label ? y : y + high];
    const bend = (inside - end) / 2;
    return svg("path", { class: "joint", d: `M${x} ${end} C${x} ${end + bend} ${left + port.x} ${inside - bend} ${left + port.x} ${inside}` });
  });
}

/** Return what opens or closes a module, at the corner of its box. */
function foldButton({ x, y, wide, inner, title }) {
  const find = () => [...graph.querySelectorAll(".fold")].find((button) => button.dataset.title === title);
  const fold = () => {
    const before = find().getBoundingClientRect();
    if (!state.opened.delete(title)) state.opened.add(title);
    drawGraph();
    showGraph();
    const after = find().getBoundingClientRect(); // the button stays where it was in the window
    graph.scrollBy(after.left - before.left, after.top - before.top);
    find().focus({ preventScroll: true });
  };
  const [middle, high] = [x + wide / 2 - 11, y + 11];
  return svg("g", { class: "fold", role: "button", tabindex: 0, "data-title": title, "aria-expanded": String(Boolean(inner)),
    "aria-label": `${inner ? "close" : "open"} ${title}`, onclick: fold, onkeydown: (event) => event.key === "Enter" && fold() },
    svg("title", {}, `${inner ? "close" : "open"} ${title}`),
    svg("circle", { cx: middle, cy: high, r: 8 }), svg("text", { x: middle, y: high + 4 }, inner ? "−" : "+"));
}

function drawGraph() {
  const margin = 14;
  const whole = placed(data.graph);
  drawn = { boxes: [], lines: [], of: new Map(), closed: whole.boxes.some(({ inside }) => inside) };
  const picture = svg("svg", {
    width: whole.width + 2 * margin, height: whole.height + 2 * margin, role: "group", "aria-label": "graph of the pass",
    viewBox: `${-margin} ${-margin} ${whole.width + 2 * margin} ${whole.height + 2 * margin}`,
  }, drawPicture(whole, 0, 0, 0));
  drawn.picture = picture;
  drawn.flows = findFlows();
  data.calls.forEach(({ results }, at) => results.forEach((n) => {
    const box = drawn.boxes[drawn.of.get(String(n))];
    if (box) box.begin = Math.min(box.begin ?? at, at);
  }));
  const folds = !drawn.closed ? null : h("p", {},
    h("button", { onclick: () => unfold(-1), disabled: !state.opened.size, title: "o" }, "close modules"), " ",
    h("button", { onclick: () => unfold(1), disabled: !closedBoxes().length, title: "i" }, "open modules"));
  fill(graph, h("h2", {}, "graph"), folds, picture);
  drawNear();
}

/** Draw, of a large graph, what is at most a window away from what is seen. */
function drawNear() {
  if (drawn.boxes.length <= MOST_WHOLE) return;
  const zoom = Number(getComputedStyle(drawn.picture).zoom) || 1; // of a projector
  const [first, last] = [graph.scrollTop - graph.clientHeight, graph.scrollTop + 2 * graph.clientHeight].map((y) => y / zoom);
  const show = (part, node) => {
    const isAway = part.bottom < first || part.top > last;
    if (part.isAway !== isAway) node.toggleAttribute("data-away", isAway);
    part.isAway = isAway;
  };
  for (const box of drawn.boxes) show(box, box.group);
  for (const line of drawn.lines) show(line, line.path);
}

graph.addEventListener("scroll", drawNear);

/** Return which lines show what a step sends along each of its edges. */
function findFlows() {
  const arriving = new Map(); // by value: the lines that arrive at a box of it
  for (const line of drawn.lines)
    for (const n of line.to) {
      if (!arriving.has(n)) arriving.set(n, []);
      if (!line.from.has(n)) arriving.get(n).push(line);
    }
  return data.steps.map(({ call, edges }) => {
    const results = data.calls[call].results.map(String);
    const lines = [...new Set(results.flatMap((n) => arriving.get(n) ?? []))];
    return edges.map(([, parent, key]) => ({
      lines: lines.filter(({ from }) => from.has(String(parent))), norm: Number(data.arrays[key].norm),
    }));
  });
}

// ---- opening and closing

/** Return the closed modules of several ops. */
const closedBoxes = () => drawn.boxes.filter(({ box }) => hasSeveral(box) && !box.inner).map(({ box }) => box);
const hasSeveral = (box) => box.inside && box.numbers.length > 1;

/** Open the modules that lie least deep of those that are closed, or close the deepest open ones. */
function unfold(by) {
  const open = drawn.boxes.filter(({ box }) => box.inner).map(({ box }) => box);
  const found = by > 0 ? closedBoxes() : open;
  if (!found.length) return;
  const depth = (by > 0 ? Math.min : Math.max)(...found.map((box) => box.depth));
  for (const box of found.filter((b) => b.depth === depth)) state.opened[by > 0 ? "add" : "delete"](box.title);
  drawGraph();
  showGraph();
}

/** Open modules, level by level, as long as few boxes are shown. */
function openSome() {
  const count = ({ boxes }) => boxes.reduce((n, { inner }) => n + (inner ? count(inner) : 1), 0);
  const levels = (picture, depth = 0) => picture.boxes.flatMap((box) => (hasSeveral(box) ? [[box.title, depth], ...levels(box.inside, depth + 1)] : []));
  const all = levels(data.graph);
  for (let depth = 0; all.some(([, of]) => of === depth); depth++) {
    const before = new Set(state.opened);
    all.forEach(([title, of]) => of === depth && state.opened.add(title));
    if (count(placed(data.graph)) > MOST_BOXES) {
      state.opened = before;
      return;
    }
  }
}

/** Go to the moment of a box: to its step if the pass has come back, else to its call. */
function choose({ numbers }) {
  const made = numbers.filter((n) => makers.has(String(n)));
  if (!made.length) return open(state.at < N_FORWARD || data.values[numbers[0]].cotangent < 0 ? value(numbers[0]) : cotangent(numbers[0]));
  const [call] = makers.get(String(made[made.length - 1]));
  const { step } = data.calls[call];
  go(state.at >= N_FORWARD && step >= 0 ? N_FORWARD + step : call);
}

// ---- the moment

function showGraph() {
  const { call, step } = moment(state.at);
  const here = drawn.of.get(String(data.calls[call].results[0]));
  drawn.boxes.forEach(({ group, begin }, i) => {
    group.classList.toggle("here", i === here);
    group.classList.toggle("ahead", state.at < N_FORWARD && begin > state.at);
  });
  showNorms(step !== null);
  showFlows(step);
  const box = drawn.boxes[here];
  if (box?.isAway) box.isAway = box.group.toggleAttribute("data-away", false); // or it has no place
  if (box) bringInSight(graph, box.group);
}

/** Write the norm of what each closed module returns, or in the backward pass of its cotangent. */
function showNorms(backward) {
  if (drawn.backward === backward) return;
  drawn.backward = backward;
  for (const { box, shape } of drawn.boxes) {
    if (box.kind !== "module" || box.inner) continue;
    const { array, cotangent } = data.values[box.numbers.at(-1)];
    const key = backward ? cotangent : array;
    shape.textContent = key < 0 ? box.detail : `${box.detail}, norm ${short(Number(data.arrays[key].norm))}`;
  }
}

/** Make each line as wide as the norm of what has been sent along it; a line that stays as it is, is
 *  not touched. */
function showFlows(step) {
  const flows = new Map(); // of lines: the norm of what has been sent
  let most = 1e-300;
  for (let i = 0; step !== null && i <= step; i++)
    for (const { lines, norm } of drawn.flows[i])
      for (const line of lines) {
        const sent = Math.hypot(flows.get(line) ?? 0, norm);
        flows.set(line, sent);
        if (Number.isFinite(sent)) most = Math.max(most, sent);
      }
  for (const line of drawn.lines) {
    const norm = flows.get(line);
    const name = norm === undefined ? "line" : !Number.isFinite(norm) ? "line nonfinite" : norm === 0 ? "line zero" : "line flow";
    const wide = norm > 0 && Number.isFinite(norm) ? Math.max(1.5, 7 + 1.2 * Math.log10(norm / most)) : 1.5;
    const width = norm === undefined ? "" : `${wide.toFixed(1)}px`;
    if (line.name !== name) line.path.setAttribute("class", name);
    if (line.width !== width) line.path.style.strokeWidth = width;
    Object.assign(line, { name, width });
  }
}
