// Arrays: a table of numbers if they are few, else a heat map.

const MOST_CELLS = 400; // of a table of numbers; a larger array is a heat map
const MOST_CELL = 24; // pixels of a cell
const [MARGINS, LABELS, HIGH] = [30, 90, 480]; // pixels: of a panel beside a map; of a high map

let room = { wide: 0, label: 0 }; // pixels: of the panel; of the least cell that has room for a label

/** Measure the panel before heat maps are drawn: once for all, since this costs a layout. */
function measureRoom() {
  room = { wide: inspector.clientWidth - MARGINS, label: 0.65 * parseFloat(getComputedStyle(inspector).fontSize) };
}

function arrayView(target, large = false) {
  const key = arrayOf(target);
  const entry = data.arrays[key];
  const kept = entry.kept || entry.shape;
  if (large) isWhole(key); // or it is fetched, if the page can fetch
  const type = { f4: "float32", f8: "float64", i4: "int", u1: "bool" }[entry.type];
  const marks = [entry.nonfinite ? `${entry.nonfinite} not finite` : "", entry.zeros ? `${entry.zeros} zeros` : "",
    entry.kept ? `only the corner [${entry.kept.join(", ")}] is ${entry.whole ? "drawn" : "in this file"}` : ""].filter(Boolean).join(", ");
  const parts = [h("figcaption", {},
    h("button", { class: "name", onclick: () => open(target) }, labelOf(target)),
    h("span", { class: "dim" }, ` ${type}[${entry.shape.join(", ")}], norm ${short(Number(entry.norm))}${marks ? `, ${marks}` : ""}`))];
  const shape = [1, 1, ...kept].slice(-2);
  const [rows, columns] = kept.length > 1 ? shape : [1, kept[0] ?? 1];
  const lead = kept.slice(0, -2);
  const slice = state.slice[key] || (state.slice[key] = lead.map(() => 0));
  if (lead.length) parts.push(h("p", {}, lead.map((n, axis) => h("label", {}, `${axisName(target, axis) || `axis ${axis}`}: `, h("input", {
    type: "number", min: 0, max: n - 1, value: slice[axis],
    onchange: (event) => { slice[axis] = Math.max(0, Math.min(n - 1, Number(event.target.value) || 0)); showInspector(); },
  }), " "))));
  const labels = labelsOf(target, kept.length, slice);
  const flatAt = (i, j) => flatOf(kept.length > 1 ? [...slice, i, j] : kept.length ? [j] : [], entry.shape);
  if (!size(kept)) parts.push(h("p", { class: "dim" }, "It has no elements."));
  else if (rows * columns <= MOST_CELLS && columns <= 24) parts.push(numberTable(target, key, rows, columns, flatAt, labels));
  else parts.push(heatMap(target, key, rows, columns, flatAt, labels, large));
  if (large && size(entry.shape) > MOST_CELLS) parts.push(largestList(target, entry), indexField(target, entry));
  return h("figure", {}, parts);
}

/** Return how the rows and the columns of an array are labelled: null, or a name and a function. */
function labelsOf(target, n, slice) {
  const along = (axis, placeAt) => axisName(target, axis) && {
    name: axisName(target, axis), view: (tag, attributes, i) => labelView(tag, attributes, target, axis, placeAt(i)),
    isMarked: (i) => isMarked(target, axis, placeAt(i)),
  };
  return {
    row: n > 1 && along(n - 2, (i) => [...slice, i, 0]),
    column: n > 0 && along(n - 1, (j) => (n > 1 ? [...slice, 0, j] : [j])),
  };
}

const axisNames = ({ row, column }) => [row && `↓ ${row.name}`, column && `→ ${column.name}`].filter(Boolean).join(" ");

function numberTable(target, key, rows, columns, flatAt, labels) {
  const most = scaleOf(key);
  const body = [];
  const { row, column } = labels;
  const indices = [...Array(columns).keys()];
  if (row || column) body.push(h("tr", {}, row ? h("td", {}) : null,
    column ? indices.map((j) => column.view("th", { scope: "col" }, j)) : null));
  for (let i = 0; i < rows; i++) {
    const cells = row ? [row.view("th", { scope: "row" }, i)] : [];
    for (let j = 0; j < columns; j++) {
      const flat = flatAt(i, j);
      const x = element(key, flat);
      const cell = h("button", {
        class: `number${state.flat === flat && same(state.target, target) ? " chosen" : ""}`, "data-flat": flat,
        title: `${labelOf(target)}${address(placeOf(flat, data.arrays[key].shape))}`, onclick: () => open(target, flat),
      }, short(x));
      cell.style.background = colour(x / most);
      cells.push(h("td", {}, cell));
    }
    body.push(h("tr", { class: row && row.isMarked(i) && "marked" }, cells));
  }
  const caption = row || column ? h("caption", { class: "dim" }, axisNames(labels)) : null;
  return h("div", { class: "scroll" }, h("table", { class: "numbers" }, caption, body));
}

/** Return the largest finite number of an array, without its sign: it has the full colour. */
function scaleOf(key) {
  const listed = data.arrays[key].largest.map(([, x]) => Math.abs(Number(x))).find(Number.isFinite);
  const found = listed ?? numbersOf(key).reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);
  return Math.max(found, 1e-300);
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** Blue for positive numbers, orange for negative ones: also for those who see few colours. */
function colour(share) {
  if (!Number.isFinite(share)) return "rgba(200, 0, 120, 0.6)";
  const alpha = (0.55 * Math.min(1, Math.abs(share))).toFixed(3);
  return share >= 0 ? `rgba(31, 119, 180, ${alpha})` : `rgba(214, 106, 0, ${alpha})`;
}

/** Return the width and the height of a cell of a heat map: as large as the room of its panel allows.
 *  Cells that are large enough for labels are squares. */
function cellSize(rows, columns, labels, large, zoom) {
  const fit = (pixels, n) => Math.max(1, pixels / n < 4 ? pixels / n : Math.min(MOST_CELL, Math.floor(pixels / n)));
  const [wide, high] = [fit(room.wide - (labels.row ? LABELS : 0), columns), fit(large ? HIGH : HIGH / 2, rows)];
  const least = Math.min(wide, high);
  return (least >= room.label ? [least, least] : [wide, high]).map((x) => Math.min(MOST_CELL, x * zoom));
}

/** Return of how many rows or columns one has a label, if a cell has so many pixels: 1, 2, 5, 10, ... */
function labelEvery(pixels) {
  const least = Math.max(1, room.label / pixels);
  const tens = 10 ** Math.floor(Math.log10(least));
  return tens * [1, 2, 5, 10].find((x) => x * tens >= least);
}

function heatMap(target, key, rows, columns, flatAt, labels, large) {
  const canvas = h("canvas", { width: columns, height: rows, role: "img", "aria-label": `heat map of ${labelOf(target)}, ${rows} rows and ${columns} columns` });
  canvas.getContext("2d").putImageData(coloured(key, rows, columns, flatAt), 0, 0);
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    const i = Math.min(rows - 1, Math.floor(((event.clientY - box.top) / box.height) * rows));
    const j = Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns));
    return flatAt(Math.max(0, i), Math.max(0, j));
  };
  canvas.addEventListener("mousemove", (event) => {
    const flat = where(event);
    const place = address(placeOf(flat, data.arrays[key].shape));
    canvas.title = [`${labelOf(target)}${place} = ${short(element(key, flat))}`, ...meaningOf(target, flat)].join("\n");
  });
  canvas.addEventListener("click", (event) => open(target, where(event)));
  const side = (of, n, pixels, name) => {
    const every = labelEvery(pixels);
    const shown = !of ? [] : [...Array(n).keys()].filter((i) => i % every === 0 || of.isMarked(i));
    return h("div", { class: name }, shown.map((i) => {
      const label = of.view("span", {}, i);
      label.style.setProperty("--place", `${i * pixels}px`);
      return label;
    }));
  };
  const map = h("div", { class: "map" });
  const around = h("div", { class: "scroll framed" }, map);
  const zoom = (by) => () => {
    const middle = [around.scrollLeft + around.clientWidth / 2, around.scrollTop + around.clientHeight / 2];
    const before = [canvas.clientWidth, canvas.clientHeight];
    state.zoom[key] = (state.zoom[key] ?? 1) * by;
    draw();
    letScroll();
    around.scrollTo(middle[0] * (canvas.clientWidth / before[0]) - around.clientWidth / 2, middle[1] * (canvas.clientHeight / before[1]) - around.clientHeight / 2);
    if (larger.disabled || smaller.disabled) (larger.disabled ? smaller : larger).focus(); // not a disabled button
  };
  const larger = h("button", { onclick: zoom(2), "aria-label": "larger cells" }, "+");
  const smaller = h("button", { onclick: zoom(0.5), "aria-label": "smaller cells" }, "−");
  const draw = () => {
    const [wide, high] = cellSize(rows, columns, labels, large, state.zoom[key] ?? 1);
    canvas.style.width = `${columns * wide}px`; // the browser enlarges the pixels
    canvas.style.height = `${rows * high}px`;
    const across = side(labels.column, columns, wide, "columns");
    fill(map, across, side(labels.row, rows, high, "rows"), canvas);
    const longest = Math.max(0, ...[...across.childNodes].map((label) => label.textContent.length));
    map.style.setProperty("--wide", `${Math.max(wide, room.label)}px`);
    map.style.setProperty("--high", `${Math.max(high, room.label)}px`);
    map.style.setProperty("--longest", Math.min(longest, 12));
    larger.disabled = Math.min(wide, high) >= MOST_CELL;
    smaller.disabled = (state.zoom[key] ?? 1) <= 1;
  };
  map.addEventListener("fit", draw);
  draw();
  return h("div", {}, h("p", { class: "dim" }, axisNames(labels), " ", larger, " ", smaller), around);
}

/** Fit the heat maps to the panel. */
function fitMaps() {
  measureRoom();
  inspector.querySelectorAll(".map").forEach((map) => map.dispatchEvent(new Event("fit")));
  letScroll();
}

const [BLUE, ORANGE, RED] = [[31, 119, 180], [214, 106, 0], [200, 0, 120]]; // as in `colour`

/** Return a picture with a pixel for each element of a matrix: opaque where the element is large. */
function coloured(key, rows, columns, flatAt) {
  const entry = data.arrays[key];
  const isCorner = entry.kept && !entry.whole; // then the corner alone is stored
  const first = isCorner ? flatOf(state.slice[key], entry.kept.slice(0, -2)) * rows * columns : flatAt(0, 0);
  const step = isCorner ? columns : entry.shape.at(-1);
  const [numbers, most, picture] = [numbersOf(key), scaleOf(key), new ImageData(columns, rows)];
  for (let i = 0, at = 0; i < rows; i++)
    for (let j = 0; j < columns; j++, at += 4) {
      const share = numbers[first + i * step + j] / most;
      const colour = !Number.isFinite(share) ? RED : share >= 0 ? BLUE : ORANGE;
      picture.data[at] = colour[0];
      picture.data[at + 1] = colour[1];
      picture.data[at + 2] = colour[2];
      picture.data[at + 3] = Number.isFinite(share) ? 255 * Math.min(1, Math.abs(share)) : 255;
    }
  return picture;
}

function largestList(target, entry) {
  const line = ([flat, x]) => h("li", {},
    h("button", { class: "number", title: address(placeOf(flat, entry.shape)), onclick: () => open(target, flat) }, `${address(placeOf(flat, entry.shape))} ${short(Number(x))}`),
    h("span", { class: "dim" }, ` ${meaningOf(target, flat).join(" · ")}`));
  return h("details", { open: true }, h("summary", {}, "largest"), h("ol", { class: "largest" }, entry.largest.map(line)));
}

function indexField(target, entry) {
  const field = h("input", { size: 10, placeholder: entry.shape.map(() => "0").join(", "), "aria-label": "index of an element" });
  const message = h("span", { class: "dim", role: "status" });
  const openIt = (event) => {
    event.preventDefault();
    const place = field.value.split(",").map((x) => Number(x.trim()));
    const fits = place.length === entry.shape.length && place.every((p, i) => Number.isInteger(p) && p >= 0 && p < entry.shape[i]);
    if (fits) open(target, flatOf(place, entry.shape));
    else message.textContent = ` expected ${entry.shape.length} numbers below ${entry.shape.join(", ")}`;
  };
  return h("form", { onsubmit: openIt }, h("label", {}, "element ", field), " ", h("button", {}, "open"), message);
}
