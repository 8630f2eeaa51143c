// Look inside a model: what every head of attention looks at, and what Python has computed beside the
// pass, such as what each layer would predict.

const HEAD_SIZE = 84; // pixels of a head's picture

const inside = h("details", { id: "inside", ontoggle: () => showInside() }, h("summary", {}, "look inside"));

/** Return the calls of attention whose weights the page knows. */
function attentions() {
  return data.calls.flatMap(({ op, refs }, at) => (op === "attention" && refs?.some(({ name }) => name === "p") ? [at] : []));
}

/** Show the heads and the tables, if there are any; nothing is drawn while the part is closed. */
function showInside() {
  inside.hidden = !attentions().length && !data.views.length && !data.reads;
  if (!inside.open || inside.hidden) return;
  state.beside ??= (data.beside ?? []).map(storedSide);
  fill(inside, inside.firstChild, hooks.read(), askedView(), h("div", { class: "sides" }, ...state.beside, sideView()));
  hooks.fetch(wanted);
}

/** Return what is to be seen of a pass. */
function sideView() {
  const layers = attentions();
  const parts = data.views.map(viewTable);
  if (layers.length) parts.push(h("section", { class: "maps" }, h("h3", {}, "what each head looks at"),
    h("p", { class: "dim" }, "Left the attention weights of a head, right their gradients. A row is a query, a column a key. Blue is positive, orange negative. A gradient where a mask forbids to look says what a weight there would change."),
    exampleField(layers), layers.map((at, layer) => headRow(at, layer))));
  return h("div", { class: "side" }, sideTitle(), parts);
}

/** Return the logits about which one may ask: a click opens one of them, and why it is what it is. */
function askedView() {
  if (!data.asked.length) return null;
  return h("section", {}, h("h2", {}, "why a logit is what it is"), h("p", { class: "dim" }, "A click shows what adds to the logit of a token."),
    h("p", {}, data.asked.map(([n, place, label]) => [h("button", { class: "ask", onclick: () => {
      state.why.add("why-value");
      open(value(n), flatOf(place, data.arrays[arrayOf(value(n))].shape));
      document.getElementById("why-value").scrollIntoView();
    } }, label), " "])));
}

/** Return what has read, the first text, and the value from which the pass begins. */
function sideTitle() {
  const [first] = data.texts.filter(([names]) => names.length > 1);
  const text = first ? first[1][0].join("") : "";
  return [h("h2", {}, [data.title, text].filter(Boolean).join(": ")), h("p", { class: "dim" }, `${data.name} = ${data.value}`)];
}

/** Keep what is shown now beside what comes next, to compare the two, or not. */
function keepInside(isKept) {
  const side = isKept && inside.querySelector(".side:not(.kept)");
  state.beside = side ? [asPicture(side)] : [];
}

/** Return a side that opens nothing, since the page shows another pass. */
function asPicture(side) {
  side.classList.add("kept");
  for (const x of side.querySelectorAll("button.head, input")) x.disabled = true;
  return side;
}

/** Return the side of another pass, which the file holds. */
function storedSide(other) {
  const shown = data;
  data = other;
  try {
    return asPicture(sideView());
  } finally {
    data = shown;
  }
}

/** Return the field that chooses the example, if there are several. */
function exampleField(layers) {
  const { shape } = data.arrays[arrayOf(part(layers[0], "p"))];
  if (shape.length < 3 || shape[0] === 1) return null;
  return h("label", {}, "example ", h("input", { type: "number", min: 0, max: shape[0] - 1, value: state.example,
    onchange: (event) => { state.example = Math.max(0, Math.min(shape[0] - 1, Number(event.target.value) || 0)); showInside(); } }));
}

/** Return the pictures of all heads of a layer. */
function headRow(at, layer) {
  const { shape } = data.arrays[arrayOf(part(at, "p"))];
  const between = shape.slice(shape.length < 3 ? 0 : 1, -2);
  const heads = [...Array(size(between)).keys()];
  return h("div", { class: "heads" }, h("h4", {}, `layer ${layer}`), heads.map((head) => {
    const lead = shape.length < 3 ? [] : [Math.min(state.example, shape[0] - 1), ...placeOf(head, between)];
    const kinds = [["p", "weights"], ["dp", "gradients"]].filter(([name]) => data.calls[at].refs.some((ref) => ref.name === name));
    return h("figure", {}, h("figcaption", {}, `head ${head}`), kinds.map(([name, what]) => headMap(part(at, name), lead, `layer ${layer}, head ${head}: ${what}`)));
  }));
}

/** Return the picture of one head, which opens the array; a page of corners may not hold it. */
function headMap(target, lead, label) {
  const key = arrayOf(target);
  const { shape } = data.arrays[key];
  const [rows, columns] = shape.slice(-2);
  const choose = () => { state.slice[key] = lead; open(target); };
  if (!isWhole(key)) return h("button", { class: "head", title: `${label} (not in this file)`, onclick: choose }, "…");
  const canvas = h("canvas", { width: columns, height: rows });
  canvas.style.width = canvas.style.height = `${HEAD_SIZE}px`;
  canvas.getContext("2d").putImageData(coloured(key, rows, columns, (i, j) => flatOf([...lead, i, j], shape)), 0, 0);
  return h("button", { class: "head", "aria-label": label, title: label, onclick: choose }, canvas);
}

/** Return a table of texts on the colours of numbers; a click on a cell says more. */
function viewTable({ title, note, rows, columns, cells, shares, tips }) {
  const more = h("p", { role: "status", class: "tip" });
  const cell = (i, j) => {
    const button = h("button", { class: "number", title: tips[i][j], onclick: () => { more.textContent = tips[i][j]; } }, cells[i][j]);
    button.style.background = colour(shares[i][j]);
    return h("td", {}, button);
  };
  return h("section", {}, h("h3", {}, title), h("p", { class: "dim" }, note),
    h("div", { class: "scroll" }, h("table", { class: "numbers view" },
      h("tr", {}, h("td", {}), columns.map((text) => h("th", { scope: "col", class: "label" }, text))),
      rows.map((text, i) => h("tr", {}, h("th", { scope: "row" }, text), columns.map((_, j) => cell(i, j)))))), more);
}
