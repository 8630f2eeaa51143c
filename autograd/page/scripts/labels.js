// Labels: what the axes of arrays count, and the texts of what they count (see axes.py).

const mark = { names: [], places: [] }; // the token that is marked: example 0, position 3

/** Return what each axis of an array counts: lists of a name, and a length or the places. */
function axesOf(target) {
  if (target.kind === "part") return data.calls[target.call].axes?.[target.name] ?? [];
  const n = target.kind === "edge" ? data.steps[target.step].edges.find(([x]) => x === target.input)[1] : target.n;
  return data.values[n].axes;
}

/** Return what an index of an axis stands for: pairs of a name, and the place of what it counts. */
const counted = (axis, index) => (axis ?? []).map(([name, at]) => [name, typeof at === "number" ? index : at[index]]);

/** Return the text of what an axis counts, such as a token; undefined if it has none. */
function textOf(name, here) {
  const found = data.texts.find(([names]) => names.at(-1) === name);
  return found && found[0].reduce((texts, part) => texts?.[here[part] ?? (texts.length === 1 ? 0 : -1)], found[1]);
}

/** Return the places of what an axis and the axes before it count; its own replace theirs. */
function hereAt(target, axis, place) {
  return Object.fromEntries(axesOf(target).slice(0, axis + 1).flatMap((other, i) => counted(other, place[i])));
}

/** Return the parts of the label of an axis at a place: a name, a number, and a text if there is one. */
function labelParts(target, axis, place) {
  const here = hereAt(target, axis, place);
  return counted(axesOf(target)[axis], place[axis]).map(([name, number]) => ({ name, number, text: textOf(name, here) }));
}

/** Return whose index an axis has, if two axes of a part of a formula count the same: query or key. */
function ownerOf(target, axis) {
  if (target.kind !== "part" || !axesOf(target)[axis]?.length) return undefined;
  const { equations, owners } = data.calls[target.call];
  const letters = equations.find(({ name }) => name === target.name)?.letters ?? [];
  const axes = axesOf(target);
  const alike = axes.filter((other) => same(other.map(([name]) => name), axes[axis].map(([name]) => name)));
  return alike.length > 1 ? owners[letters[axis - axes.length + letters.length]] : undefined;
}

/** Return what an axis counts, such as `position`, or whose position: `query`. */
function axisName(target, axis) {
  const names = (axesOf(target)[axis] ?? []).map(([name]) => name).join(", ");
  return names && (ownerOf(target, axis) ?? names);
}

/** Return what an element stands for, in parts: head 2, query 3 " cat", key 0 "The". */
function meaningOf(target, flat) {
  const place = placeOf(flat, data.arrays[arrayOf(target)].shape);
  return place.flatMap((_, axis) => labelParts(target, axis, place).map(({ name, number, text }) =>
    `${ownerOf(target, axis) ?? name} ${number}${text === undefined ? "" : ` ${text}`}`));
}

/** Return the label of a row or a column: its text, or else its number; empty if it is unknown. */
const shortLabel = (target, axis, place) => labelParts(target, axis, place).map(({ number, text }) => text ?? number).join(", ");

/** Return the label of a row or a column as an element, which is marked with its token. */
function labelView(tag, attributes, target, axis, place) {
  const parts = labelParts(target, axis, place).map(({ name, number, text }) => `${name} ${number} ${text ?? ""}`);
  const marked = isMarked(target, axis, place) ? "label marked" : "label";
  return h(tag, { ...attributes, class: marked, title: parts.join(", ") }, shortLabel(target, axis, place));
}

/** Return whether an index of an axis stands for the token that is marked. */
function isMarked(target, axis, place) {
  if (!axesOf(target)[axis]?.some(([name]) => name === mark.names.at(-1))) return false;
  const here = hereAt(target, axis, place);
  return mark.names.every((name, i) => !(name in here) || here[name] === mark.places[i]);
}

// ---- the top: the tokens of the batch

const tokens = h("section", { id: "tokens", "aria-label": "tokens" });

/** Show the texts that are read, one line for each example; a click marks a token everywhere. */
function showTokens() {
  const read = data.texts.filter(([names]) => names.length > 1);
  tokens.hidden = !read.length;
  fill(tokens, read.map(([names, rows]) => h("div", { role: "group", "aria-label": names.at(-1) }, rows.map((row, example) => h("p", {},
    row.map((text, position) => h("button", {
      class: "token", title: `${names[1]} ${position} of ${names[0]} ${example}`,
      "aria-pressed": String(same(mark, { names, places: [example, position] })),
      onclick: () => markToken(names, [example, position]),
    }, text)))))));
}

/** Mark a token, or take the mark away if the token has it. */
function markToken(names, places) {
  const off = same(mark, { names, places });
  Object.assign(mark, off ? { names: [], places: [] } : { names, places });
  showTokens();
  showInspector();
}
