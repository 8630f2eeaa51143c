// Why an element of a gradient, or of a value such as the logits, is what it is: the answer of Python
// (see why.py), with a link to each element that it names.

/** Return parts of the page that answer when they are opened: about a value, and about its gradient. */
function whyView(target, flat) {
  const n = askedOf(target);
  if (n === undefined) return null;
  const parts = [];
  if (target.kind === "value" && data.asked.some(([number]) => String(number) === n))
    parts.push(answerView("why-value", target, flat, async () => splitView(data.why_values?.[`${n}:${flat}`] ?? (await hooks.why(Number(n), flat, "value")))));
  if (data.values[n].cotangent >= 0)
    parts.push(answerView("why", cotangent(n), flat, async () => {
      const found = data.why?.[`${n}:${flat}`] ?? (await hooks.why(Number(n), flat, "gradient"));
      return [whyAnswer(found), movedView(found, n, flat)];
    }));
  return parts;
}

/** Return the number of a value that is looked at, or whose gradient is; also as what its only use sends. */
function askedOf(target) {
  if (target.kind !== "edge") return /^(value|cotangent)$/.test(target.kind) ? target.n : undefined;
  const [, parent] = data.steps[target.step].edges.find(([input]) => input === target.input);
  return received.get(String(parent)).length === 1 ? String(parent) : undefined;
}

/** Return a part of the page that answers when it is opened, and stays open for the next element. */
function answerView(id, target, flat, answered) {
  const answer = h("div", {});
  const show = async () => {
    state.why[view.open ? "add" : "delete"](id);
    if (!view.open || answer.childNodes.length) return;
    fill(answer, "...");
    try {
      fill(answer, await answered());
    } catch (error) {
      fill(answer, h("p", { role: "status" }, error.message));
    }
  };
  const place = address(placeOf(flat, data.arrays[arrayOf(target)].shape));
  const view = h("details", { id, open: state.why.has(id), ontoggle: show }, h("summary", {}, `why ${labelOf(target)}${place}`), answer);
  return view;
}

function whyAnswer(found) {
  if (found.text !== undefined) return h("pre", {}, found.text);
  const { uses, path, total } = found;
  if (!uses.length) return h("p", {}, "The pass begins here.");
  return [uses.map((use) => useView(use, total)), path.length ? pathView(found) : null];
}

const share = (x, total) => `${(100 * Number(x) / total).toFixed(1)} %`;

/** Return a use: what it adds, the line that it stands on, its largest terms, and their sums. */
function useView({ amount, step, input, terms, others, by }, total) {
  const call = data.calls[data.steps[step].call];
  const rows = terms.map(([x, n, flat, g, d]) => h("tr", {},
    h("td", { class: "value" }, short(Number(x))), h("td", {}, elementLink(n, flat)),
    h("td", {}, `${short(Number(g))} · ${bracketedIfNegative(d)}`), h("td", { class: "dim" }, meaningOf(cotangent(n), flat).join(" · "))));
  if (others[0]) rows.push(h("tr", {}, h("td", { class: "value" }, short(Number(others[1]))), h("td", {}, `the ${others[0]} others`)));
  return h("section", { class: "use" },
    h("p", {}, h("b", { class: "amount" }, short(amount)), ` ${share(amount, total)} by `,
      h("button", { onclick: () => go(N_FORWARD + step) }, `${call.op}(${input})`),
      h("span", { class: "dim" }, ` ${[call.scope, call.at].filter(Boolean).join(" · ")}`)),
    h("table", { class: "terms" }, rows),
    by.map(([name, sums, n, rest]) => h("p", { class: "by" }, `by ${name}: `,
      [...sums.map(([key, x]) => `${short(Number(x))} at ${nameOf(name, key)}`), ...(n ? [`${short(Number(rest))} at ${n} others`] : [])].join(", "))));
}

const bracketedIfNegative = (x) => (Number(x) < 0 ? `(${short(Number(x))})` : short(Number(x)));

/** Return the name of a place that an axis counts: its number, and its text if it has one. */
const nameOf = (name, key) => [key, typeof key === "number" ? textOf(name, { [name]: key }) : undefined].filter((x) => x !== undefined).join(" ");

function elementLink(n, flat) {
  const place = address(placeOf(flat, data.arrays[data.values[n].array].shape));
  return h("button", { class: "number", onclick: () => open(cotangent(n), flat) }, `${labelOf(cotangent(n))}${place}`);
}

/** Return the path to the start of the pass, along the largest term each time. */
function pathView({ path, begin, along, total }) {
  const withBegin = Number(begin) === 1 ? "" : `, with the cotangent ${short(Number(begin))} at the end of the path`;
  return [
    h("p", {}, "along the largest term at each step, with the derivative of each element:"),
    h("ol", { class: "path" }, path.map(([n, flat, derivative, made, factor]) => h("li", {},
      `· ${bracketedIfNegative(derivative)} → `, elementLink(n, flat), " ",
      h("span", { class: "dim" }, [made, factor && `it is ${factor}`, ...meaningOf(cotangent(n), flat)].filter(Boolean).join(" · "))))),
    h("p", { class: "total" }, `product ${short(Number(along))}${withBegin}: ${share(along, total)} of ${short(total)}`),
  ];
}

// ---- a value: sums that give it

/** Return a value as a sum that unfolds, and the same value split in other ways. */
function splitView({ title, note, total, splits: [[, path], ...others] }) {
  return [
    h("p", {}, `${title}: `, h("b", {}, short(Number(total))), h("span", { class: "dim" }, ` ${note}`)),
    termTree(path, total, true),
    others.map(([name, terms]) => h("p", { class: "by" }, `by ${name}: `, terms.map(([what, x]) => `${short(Number(x))} ${what}`).join(", "))),
  ];
}

/** Return terms, each of which unfolds to its own terms; along the largest ones they are unfolded. */
function termTree(terms, total, isOpen) {
  const largest = terms.findIndex(([, , , inner]) => inner.length);
  return h("ul", {}, terms.map(([name, x, link, inner], i) => {
    const line = [h("b", { class: "amount" }, short(Number(x))), ` ${share(x, total)} ${name}`, link && [" ", placeLink(...link)]];
    const isLargest = isOpen && i === largest;
    return h("li", {}, inner.length ? h("details", { open: isLargest }, h("summary", {}, line), termTree(inner, total, isLargest)) : line);
  }));
}

function placeLink(number, symbol, place) {
  const target = symbol ? part(number, symbol) : value(number);
  return h("button", { class: "number", onclick: () => open(target, flatOf(place, data.arrays[arrayOf(target)].shape)) }, `${labelOf(target)}${address(place)}`);
}
