// The right: the op of a moment, a value, and the terms of a sum.

const MOST_TERMS = 12; // of a sum that are listed at first

const inspector = h("section", { id: "inspector", "aria-label": "inspector" });

/** Show the moment, or what was opened. While the reader scrubs, only what the op computes is shown,
 *  and the rest when the reader rests. */
function showInspector(isScrubbing = false) {
  wanted.clear();
  measureRoom();
  const { call: at, step } = moment(state.at);
  const call = data.calls[at];
  const back = state.target && h("p", {}, h("button", { onclick: () => open(null) }, "← the step"));
  fill(inspector,
    h("h2", { tabindex: -1 }, `${state.at + 1} of ${N}: `, step === null ? `forward, ${call.op}` : `backward, ${call.op}`),
    h("p", { class: "dim" }, [call.scope, call.at].filter(Boolean).join(" · ")),
    state.target ? [back, targetView(state.target)] : momentView(at, step, isScrubbing),
  );
  clearTimeout(settling);
  settling = setTimeout(isScrubbing ? showInspector : letScroll, 150);
  hooks.fetch(wanted);
}

let settling;

/** Let Tab come to what is wider than the panel and holds nothing else that Tab comes to. */
function letScroll() {
  const wide = [...inspector.querySelectorAll(".scroll:not(:has(button))")].filter((part) => part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight);
  for (const part of wide) part.tabIndex = 0;
}

function momentView(at, step, isScrubbing) {
  const call = data.calls[at];
  const names = call.results.map((_, k) => (call.results.length > 1 ? `out${k}` : "out"));
  const backward = (name) => name[0] === "d" || !names.includes(name);
  const lines = (call.equations || []).filter((e) => (step === null ? !/^d/.test(e.name) : backward(e.name)));
  const formula = lines.length ? lines.map((e) => h("div", { class: "scroll" }, equationLine(at, e)))
    : "from" in call ? [h("p", { class: "dim" }, step === null ? "Each element of the result is an element of an input." : "Each element of the cotangent goes back to the place from which the element of the result came.")]
    : call.formula.length ? [h("pre", {}, call.formula.join("\n"))] : [h("p", { class: "dim" }, "This op states no formula.")];
  const parts = [h("div", { class: "formula" }, formula)];
  const add = (heading, targets) => targets.length && parts.push(h("h3", {}, heading), ...targets.map((t) => arrayView(t)));
  const inputs = [...new Set(Object.values(call.inputs))].map(value);
  const constants = Object.entries(call.constants).filter(([, x]) => typeof x === "number").map(([name]) => part(at, name));
  if (step === null) {
    add("result", call.results.map(value));
    if (!isScrubbing) add("inputs", [...inputs, ...constants]);
  } else {
    if (!isScrubbing) add("received", call.results.filter((n) => data.values[n].cotangent >= 0).map(cotangent));
    const sent = data.steps[step].edges.map(([input]) => edge(step, input));
    if (state.hidden) parts.push(h("h3", {}, "sends"), ...sent.map(question));
    else add("sends", sent);
    parts.push(...data.steps[step].edges.map(([, parent]) => waits(parent, step)));
    if (!isScrubbing) add("inputs", [...inputs, ...constants]);
  }
  return parts;
}

/** Say how many contributions to a cotangent have arrived. */
function waits(parent, step) {
  const from = received.get(String(parent));
  if (from.length < 2) return null;
  const arrived = from.filter(([i]) => i <= step).length;
  return h("p", { class: "dim" }, `${labelOf(cotangent(parent))}: ${arrived} of ${from.length} contributions have arrived`);
}

function targetView(target) {
  const parts = [];
  if (target.kind === "value" && !makers.has(target.n)) parts.push(h("p", { class: "dim" }, "A leaf: no op has computed it."));
  parts.push(arrayView(target, true));
  if (state.flat !== null) parts.push(...hooks.change(target, state.flat), ...sumView(target, state.flat));
  const old = earlier(target);
  if (/^(value|cotangent)$/.test(target.kind) && arrayOf(old) !== undefined) parts.push(h("h3", {}, "before the change"), arrayView(old));
  if (target.kind === "value" && data.values[target.n].cotangent >= 0)
    parts.push(h("h3", {}, "its cotangent"), arrayView(cotangent(target.n)));
  if (target.kind === "cotangent") {
    const from = received.get(target.n) || [];
    if (from.length > 1) parts.push(h("h3", {}, "the sum of"), ...from.map(([s, input]) => arrayView(edge(s, input))));
    parts.push(h("h3", {}, "its value"), arrayView(value(target.n)));
  }
  return parts;
}

function sumView(target, flat) {
  const key = arrayOf(target);
  const place = address(placeOf(flat, data.arrays[key].shape));
  const x = element(key, flat);
  const meaning = meaningOf(target, flat);
  const parts = [h("h3", { id: "sum", tabindex: -1 }, `${labelOf(target)}${place} = ${short(x)}`)];
  if (meaning.length) parts.push(h("p", { id: "meaning" }, meaning.join(" · ")));
  const found = sums(target, flat);
  if (!found.length) parts.push(h("p", { class: "dim" }, whyNoSum(target)));
  for (const { heading, equation, at, terms } of found) {
    parts.push(h("p", { class: "dim" }, heading));
    if (equation) parts.push(h("div", { class: "scroll" }, equationLine(at, equation)));
    parts.push(termList(terms, meaning));
  }
  parts.push(whyView(target, flat));
  return parts;
}

function whyNoSum(target) {
  if (target.kind === "value" && !makers.has(target.n)) return "It was given.";
  if (target.kind === "cotangent" && data.values[target.n].replaced) return "It was replaced, by a hook or by you: it is not the sum of what its uses send.";
  return "The page holds no sum for it.";
}

/** Return the terms of a sum, the largest first, each number with a way to where it came from, and
 *  what its elements stand for, if this is not a part of the meaning of the sum. */
function termList(terms, meaning = [], most = MOST_TERMS) {
  const isMissing = (t) => t.factors.some((f) => f.x === undefined);
  const known = terms.map((t) => ({ ...t, x: isMissing(t) ? undefined : product(t) }));
  const rank = (t) => (t.x === undefined ? -1 : Number.isNaN(t.x) ? Infinity : Math.abs(t.x)); // the unknown last
  const order = [...known].sort((a, b) => rank(b) - rank(a));
  const total = known.reduce((sum, t) => sum + t.x, 0);
  const missing = known.filter((t) => t.x === undefined).length;
  const table = h("table", { class: "terms" }, order.slice(0, most).map((t) => h("tr", {},
    h("td", { class: "dim" }, t.index),
    h("td", {}, t.sign < 0 ? "− " : "", !t.factors.length ? "1" : t.factors.map((f, i) => [f.below ? (i ? " / " : "1 / ") : i ? " · " : "", bracketedNumber(f, i > 0 || t.sign < 0)])),
    h("td", { class: "value" }, short(t.x)),
    h("td", { class: "dim" }, newParts(t, meaning)))));
  const rest = order.slice(most);
  const parts = [table];
  if (rest.length) {
    const sum = rest.reduce((s, t) => s + t.x, 0);
    const more = h("p", {}, h("button", { onclick: () => whole.replaceWith(termList(terms, meaning, most * 8)) }, `and ${rest.length} more`), rest.some((t) => t.x === undefined) ? "" : ` with the sum ${short(sum)}`);
    parts.push(more);
  }
  parts.push(h("p", { class: "total" }, missing ? `${missing} terms need elements that are not in this file` : `together ${short(total)}`));
  const whole = h("div", {}, parts);
  return whole;
}

/** Return what the elements in a term stand for, without what is known already. */
function newParts(term, known) {
  const parts = term.factors.flatMap(({ target, flat }) => (target ? meaningOf(target, flat) : []));
  return [...new Set(parts)].filter((part) => !known.includes(part)).join(" · ");
}

/** Return a factor in a product; a negative number after a sign, and an expression, have brackets. */
function bracketedNumber(f, after) {
  if (f.parts) {
    const parts = f.parts();
    const whole = h("span", { title: `${f.text} = ${short(f.x)}` }, parts);
    return parts.flat(9).length > 1 && /[-+−/·]/.test(f.text) && !f.text.startsWith("[") ? ["(", whole, ")"] : whole;
  }
  return after && f.x < 0 ? ["(", number(f), ")"] : number(f);
}

function number(f) {
  const text = short(f.x);
  if (!f.target) return h("span", { title: f.text, class: "plain" }, text);
  const place = address(placeOf(f.flat, data.arrays[arrayOf(f.target)].shape));
  return h("button", { class: "number", title: `${f.text}${place}`, onclick: () => open(f.target, f.flat) }, text);
}
