"use strict";
// Shows a trace. Python wrote the data: arrays, calls, steps, graphs, and each formula as a tree
// (see terms.py). This script looks numbers up, multiplies and adds; it knows no rule of any op.

const MOST_CELLS = 400; // of a table of numbers; a larger array is a heat map
const MOST_TERMS = 12; // of a sum that are listed at first

let data;
let N_FORWARD; // moments of the forward pass
let N; // all moments
let makers; // of values: the call, and which of its results
let received; // of values: the steps and inputs that send to them

/** Take what the page shows. */
function take(found) {
  data = found;
  N_FORWARD = data.calls.length;
  N = N_FORWARD + data.steps.length;
  makers = new Map();
  data.calls.forEach((call, i) => call.results.forEach((n, k) => makers.set(String(n), [i, k])));
  received = new Map();
  data.steps.forEach((step, i) =>
    step.edges.forEach(([input, parent]) => {
      const list = received.get(String(parent)) || [];
      received.set(String(parent), [...list, [i, input]]);
    }),
  );
}

take(JSON.parse(document.getElementById("data").textContent));

// ---- arrays

const TYPES = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u1: Uint8Array };

/** Return the numbers of an array; they are decoded when they are first wanted. */
function numbersOf(key) {
  const entry = data.arrays[key];
  if (!entry.numbers) {
    const text = atob(entry.data);
    const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
    entry.numbers = new TYPES[entry.type](bytes.buffer);
    entry.data = "";
  }
  return entry.numbers;
}

const size = (shape) => shape.reduce((a, b) => a * b, 1);

function placeOf(flat, shape) {
  const place = [];
  for (let i = shape.length - 1; i >= 0; i--) {
    place[i] = flat % shape[i];
    flat = Math.floor(flat / shape[i]);
  }
  return place;
}

const flatOf = (place, shape) => place.reduce((flat, p, i) => flat * shape[i] + p, 0);

/** Return an element of an array by its flat place; undefined if the page does not hold it. */
function element(key, flat) {
  const { kept, shape, largest, whole } = data.arrays[key];
  if (!kept || whole) return numbersOf(key)[flat];
  const place = placeOf(flat, shape);
  if (place.every((p, i) => p < kept[i])) return numbersOf(key)[flatOf(place, kept)];
  const listed = largest.find(([at]) => at === flat);
  if (!listed) wanted.add(key);
  return listed ? Number(listed[1]) : undefined;
}

const wanted = new Set(); // the arrays of which the page wanted an element that it does not hold

/** Return whether the page holds all elements of an array, and not its corner alone. */
function isWhole(key) {
  const { kept, whole } = data.arrays[key];
  if (kept && !whole) wanted.add(key);
  return !kept || whole;
}

const short = (x) => (x === undefined ? "?" : x === 0 ? "0" : formatted(x));

function formatted(x) {
  const text = Number(x).toPrecision(4);
  const plain = Math.abs(x) >= 1e-4 && !text.includes("e");
  return plain ? String(Number(text)) : Number(text).toExponential();
}

const address = (place) => (place.length ? `[${place.join(", ")}]` : "");

// ---- what can be looked at: a value, a cotangent, a contribution, a part of a formula

const value = (n) => ({ kind: "value", n: String(n) });
const cotangent = (n) => ({ kind: "cotangent", n: String(n) });
const edge = (step, input) => ({ kind: "edge", step, input });
const part = (call, name) => ({ kind: "part", call, name });
const earlier = (target) => ({ ...target, kind: "earlier", of: target.kind }); // before a change

function arrayOf(target) {
  if (target.kind === "value") return data.values[target.n].array;
  if (target.kind === "cotangent") return data.values[target.n].cotangent;
  if (target.kind === "earlier") return data.values[target.n][target.of === "value" ? "earlier_array" : "earlier_cotangent"];
  if (target.kind === "edge") return data.steps[target.step].edges.find(([x]) => x === target.input)[2];
  const call = data.calls[target.call];
  const ref = (call.refs || []).find((r) => r.name === target.name);
  return ref ? ref.array : call.constants[target.name];
}

function labelOf(target) {
  if (target.kind === "value") return data.values[target.n].name;
  if (target.kind === "cotangent") return `d(${data.values[target.n].name})`;
  if (target.kind === "earlier") return `${labelOf({ ...target, kind: target.of })} before`;
  if (target.kind === "part") return `$${target.name}`; // as in the stepper: a symbol of the rule
  const step = data.steps[target.step];
  const parent = step.edges.find(([x]) => x === target.input)[1];
  const several = received.get(String(parent)).length > 1;
  return `d(${data.values[parent].name})${several ? ` by step ${N_FORWARD + target.step + 1}` : ""}`;
}

/** Return what a symbol of an op's formula means in a call. */
function meaning(at, name) {
  const call = data.calls[at];
  if (name in call.inputs) return value(call.inputs[name]);
  const output = /^(out|g)(\d*)$/.exec(name);
  if (output && !(name in call.constants)) {
    const n = call.results[Number(output[2] || 0)];
    return output[1] === "out" ? value(n) : cotangent(n);
  }
  if (name[0] === "d" && name.slice(1) in call.inputs && call.step >= 0) {
    if (data.steps[call.step].edges.some(([x]) => x === name.slice(1))) return edge(call.step, name.slice(1));
  }
  return part(at, name);
}

const symbol = (at, name) => labelOf(meaning(at, name));

// ---- sums: an element of an array, as the terms that Python's trees name

/** Return the flat place, in the array as recorded, of an element of a reference. */
function recordedPlace(ref, flat) {
  return "places" in ref ? element(ref.places, flat) : flat;
}

/** Return an element of a reference, with where it is; an index outside of the array means 0. */
function lookUp(at, ref, subscripts, env) {
  const lead = ref.shape.length - subscripts.length;
  const place = env.batch.slice(env.batch.length - lead);
  subscripts.forEach((s, i) => {
    const n = ref.shape[lead + i];
    place.push(n === 1 && s[0] === "i" ? 0 : evaluate(at, s, env));
  });
  ref.shape.forEach((n, i) => {
    if (n === 1 && i < lead) place[i] = 0;
  });
  if (place.some((p, i) => p < 0 || p >= ref.shape[i])) return { x: 0 };
  const flat = recordedPlace(ref, flatOf(place, ref.shape));
  if (flat === undefined) return { x: undefined }; // where it stands is not in this file
  return { x: element(ref.array, flat), flat, target: meaning(at, ref.name) };
}

const SIGNS = {
  "+": (a, b) => a + b, "-": (a, b) => a - b, "·": (a, b) => a * b, "/": (a, b) => a / b,
  "=": (a, b) => Number(a === b), "≠": (a, b) => Number(a !== b), "<": (a, b) => Number(a < b),
  ">": (a, b) => Number(a > b), "≤": (a, b) => Number(a <= b), "≥": (a, b) => Number(a >= b),
  mod: (a, b) => a - b * Math.floor(a / b), neg: (a) => -a, "[]": (a) => a,
};

/** Call a function for each environment in which the index of a sum has a value. */
function each([sign, letter, n], env, visit) {
  if (letter) {
    for (let i = 0; i < n; i++) visit({ ...env, [letter]: i });
  } else {
    for (let i = 0; i < n; i++) visit({ ...env, batch: placeOf(i, env.shape) });
  }
}

/** Return the number that a tree stands for; undefined if an element of it is not in this file. */
function evaluate(at, tree, env) {
  const [sign, ...rest] = tree;
  if (sign === "n") return rest[0];
  if (sign === "c") return Number(rest[1]);
  if (sign === "i") return env[rest[0]];
  if (sign === "a") return lookUp(at, data.calls[at].refs[rest[0]], rest[1], env).x;
  if (sign === "f") return computed(rest, env);
  if (sign === "Σ" || sign === "mean") {
    let sum = 0;
    let known = true;
    each(tree, env, (inner) => {
      const x = evaluate(at, rest[2], inner);
      known &&= x !== undefined;
      sum += x;
    });
    return !known ? undefined : sign === "Σ" ? sum : sum / rest[1];
  }
  const parts = rest.map((x) => evaluate(at, x, env));
  return parts.includes(undefined) ? undefined : SIGNS[sign](...parts);
}

/** Return a function's value, which Python has computed. */
function computed([word, parts, key, letters], env) {
  const { shape } = data.arrays[key];
  const whole = [...env.batch, ...letters.map((letter) => env[letter])];
  const place = whole.slice(whole.length - shape.length);
  return element(key, flatOf(place.map((p, i) => (shape[i] === 1 ? 0 : p)), shape));
}

/** Return a tree as a flat sum: a list of products, each a list of factors, without those that a
 *  condition makes 0. */
function expand(at, tree, env) {
  const [sign, ...rest] = tree;
  if (sign === "[]") {
    const holds = evaluate(at, tree, env);
    return holds === undefined ? [single(at, tree, env)] : holds ? [{ sign: 1, index: "", factors: [] }] : [];
  }
  if (sign === "+") return [...expand(at, rest[0], env), ...expand(at, rest[1], env)];
  if (sign === "-") return [...expand(at, rest[0], env), ...expand(at, rest[1], env).map(negated)];
  if (sign === "neg") return expand(at, rest[0], env).map(negated);
  if (sign === "Σ" || sign === "mean") {
    const terms = [];
    each(tree, env, (inner) => {
      const index = rest[0] ? `${rest[0]} = ${inner[rest[0]]}` : address(inner.batch);
      for (const t of expand(at, rest[2], inner)) terms.push({ ...t, index: t.index ? `${index}, ${t.index}` : index });
    });
    if (sign === "Σ" || rest[1] === 1) return terms;
    const n = { x: rest[1], text: String(rest[1]), below: true };
    return terms.map((t) => ({ ...t, factors: [...t.factors, n] }));
  }
  if (sign === "·") {
    const [left, right] = [expand(at, rest[0], env), expand(at, rest[1], env)];
    if (left.length > 1 && right.length > 1) return [single(at, rest[0], env, single(at, rest[1], env))];
    return left.flatMap((a) => right.map((b) => ({
      sign: a.sign * b.sign, index: a.index || b.index, factors: [...a.factors, ...b.factors],
    })));
  }
  if (sign === "/") {
    const below = { ...factor(at, rest[1], env), below: true };
    return expand(at, rest[0], env).map((t) => ({ ...t, factors: [...t.factors, below] }));
  }
  return [single(at, tree, env)];
}

const negated = (term) => ({ ...term, sign: -term.sign });
const single = (at, tree, env, other) => ({
  sign: 1, index: "", factors: [factor(at, tree, env), ...(other ? other.factors : [])],
});

/** Return a factor: its number, how it is written, and what it leads to. */
function factor(at, tree, env) {
  if (tree[0] === "a") {
    const found = lookUp(at, data.calls[at].refs[tree[1]], tree[2], env);
    return { ...found, text: symbol(at, data.calls[at].refs[tree[1]].name) };
  }
  return { x: evaluate(at, tree, env), text: written(at, tree), parts: () => spelled(at, tree, env) };
}

/** Return an expression with its numbers in the place of names; a sum in it is one number. */
function spelled(at, tree, env) {
  const [sign, ...rest] = tree;
  if (sign === "a" || sign === "n" || sign === "c" || sign === "i") return [number(factor(at, tree, env))];
  const inside = (x, least) => {
    const parts = spelled(at, x, env);
    const negative = least > 1 && (x[0] === "a" || x[0] === "c") && evaluate(at, x, env) < 0;
    return strength(x) < least || negative ? ["(", parts, ")"] : parts;
  };
  if (sign === "f" && rest[0] === "^") return [inside(rest[1][0], 5), "^", inside(rest[1][1], 5)];
  if (sign === "f" && !rest[0].includes("_")) return [rest[0], "(", rest[1].map((x, i) => [i ? ", " : "", spelled(at, x, env)]), ")"];
  if (sign === "neg") return ["−", inside(rest[0], 2)];
  if (sign in SIGNS && rest.length === 2 && sign !== "mod" && !("=≠<>≤≥".includes(sign)))
    return [inside(rest[0], strength(tree)), ` ${sign} `, inside(rest[1], strength(tree) + 1)];
  return [h("span", { title: written(at, tree) }, short(evaluate(at, tree, env)))];
}

const product = (term) => term.factors.reduce((p, f) => (f.below ? p / f.x : p * f.x), term.sign);

/** Return the terms of one element of the left side of an equation. */
function termsOf(at, equation, flat) {
  const ref = data.calls[at].refs[equation.left];
  const inverse = "places" in ref ? numbersOf(ref.places).indexOf(flat) : flat;
  const place = placeOf(inverse, ref.shape);
  const whole = [...equation.spread, ...equation.lengths];
  const full = Array(whole.length - place.length).fill(0).concat(place);
  const shape = Array(whole.length - place.length).fill(1).concat(ref.shape);
  // An input that was broadcast has fewer elements than the equation: its uses are added.
  const missing = whole.map((n, i) => (shape[i] === 1 && n > 1 ? n : 1));
  const terms = [];
  for (let i = 0; i < size(missing); i++) {
    const shifted = placeOf(i, missing).map((p, k) => p + full[k]); // batch axes, then indices
    const env = { batch: shifted.slice(0, equation.batch.length), shape: equation.batch };
    equation.letters.forEach((letter, k) => (env[letter] = shifted[equation.batch.length + k]));
    const found = expand(at, equation.tree, env);
    const use = size(missing) > 1 ? address(shifted.filter((_, k) => missing[k] > 1)) : "";
    terms.push(...found.map((t) => ({ ...t, index: t.index || use })));
  }
  return terms;
}

/** Return the sums behind an element: a list of sums, each with a heading and its terms. */
function sums(target, flat) {
  if (target.kind === "earlier") return [];
  if (target.kind === "value") {
    if (!makers.has(target.n)) return [];
    const [at, k] = makers.get(target.n);
    const name = data.calls[at].results.length > 1 ? `out${k}` : "out";
    return sumIn(at, name, flat, target);
  }
  if (target.kind === "part") return sumIn(target.call, target.name, flat, target);
  if (target.kind === "edge") return sumIn(data.steps[target.step].call, `d${target.input}`, flat, target);
  if (data.values[target.n].replaced) return [];
  const from = received.get(target.n) || [];
  if (from.length === 1 && target.n !== String(data.start)) return sums(edge(...from[0]), flat);
  const terms = from.map(([step, input]) => {
    const sent = edge(step, input);
    const x = element(arrayOf(sent), flat);
    return { sign: 1, index: "", factors: [{ x, flat, target: sent, text: labelOf(sent) }] };
  });
  if (target.n === String(data.start)) terms.unshift({
    sign: 1, index: "", factors: [{ x: element(arrayOf(target), flat), text: "where the pass begins" }],
  });
  return [{ heading: "the sum of what its uses send", terms }];
}

function sumIn(at, name, flat, target) {
  const call = data.calls[at];
  if ("from" in call) return isWhole(call.from) ? moved(at, name, flat) : [];
  const equation = (call.equations || []).find((e) => e.name === name);
  const left = equation && call.refs[equation.left];
  if (!left || ("places" in left && !isWhole(left.places))) return [];
  return [{ heading: target.kind === "value" ? call.op : `rule of ${call.op}`, equation, at, terms: termsOf(at, equation, flat) }];
}

/** Return the sum of an op that only moves elements: the elements that stand at the place. */
function moved(at, name, flat) {
  const call = data.calls[at];
  const from = numbersOf(call.from);
  const inputs = Object.entries(call.inputs).filter(([input]) => input in call.sizes);
  const terms = [];
  let begin = 0;
  for (const [input, n] of inputs) {
    const end = begin + call.sizes[input];
    if (/^out\d*$/.test(name)) {
      let before = 0;
      const k = Number(name.slice(3) || 0);
      for (let i = 0; i < k; i++) before += size(data.arrays[data.values[call.results[i]].array].shape);
      const place = from[before + flat];
      if (place >= begin && place < end) terms.push(oneFactor(value(n), place - begin));
    } else if (name === `d${input}`) {
      let before = 0;
      for (const n of call.results) {
        const key = data.values[n].cotangent;
        const count = size(data.arrays[data.values[n].array].shape);
        for (let i = 0; i < count && key >= 0; i++)
          if (from[before + i] === begin + flat) terms.push(oneFactor(cotangent(n), i));
        before += count;
      }
    }
    begin = end;
  }
  return [{ heading: `${call.op} only moves elements`, terms }];
}

function oneFactor(target, flat) {
  return { sign: 1, index: "", factors: [{ x: element(arrayOf(target), flat), flat, target, text: labelOf(target) }] };
}

// ---- formulas as text and as MathML

const STRENGTH = { "+": 1, "-": 1, neg: 1, "Σ": 2, mean: 2, "·": 2, "/": 3, "=": 0, "≠": 0, "<": 0, ">": 0, "≤": 0, "≥": 0 };
const strength = (tree) => (tree[0] === "f" && tree[1] === "^" ? 4 : tree[0] in STRENGTH ? STRENGTH[tree[0]] : 5);

/** Return a tree as a line of text. */
function written(at, tree) {
  const [sign, ...rest] = tree;
  const inside = (x, least) => (strength(x) < least ? `(${written(at, x)})` : written(at, x));
  if (sign === "n") return short(rest[0]);
  if (sign === "c") return `$${rest[0]}`;
  if (sign === "i") return rest[0];
  if (sign === "a") {
    const letters = rest[1].map((s) => written(at, s)).join(", ");
    return symbol(at, data.calls[at].refs[rest[0]].name) + (letters ? `[${letters}]` : "");
  }
  if (sign === "f") {
    if (rest[0] === "^") return `${inside(rest[1][0], 5)}^${inside(rest[1][1], 5)}`;
    return `${rest[0]}(${rest[1].map((x) => written(at, x)).join(", ")})`;
  }
  if (sign === "[]") return `[${written(at, rest[0])}]`;
  if (sign === "neg") return `-${inside(rest[0], 2)}`;
  if (sign === "mod") return `mod(${written(at, rest[0])}, ${written(at, rest[1])})`;
  if (sign === "Σ" || sign === "mean") return `${sign}${rest[0] ? `_${rest[0]}` : ""} ${inside(rest[2], 2)}`;
  const least = strength(tree);
  return `${inside(rest[0], least)} ${sign} ${inside(rest[1], least + 1)}`;
}

const MATH = "http://www.w3.org/1998/Math/MathML";
const math = (tag, ...children) => build(document.createElementNS(MATH, tag), {}, children);
const row = (...children) => math("mrow", ...children);
const bracketed = (x) => row(math("mo", "("), x, math("mo", ")"));

/** Return a tree in the notation of mathematics. */
function notation(at, tree) {
  const [sign, ...rest] = tree;
  const inside = (x, least) => (strength(x) < least ? bracketed(notation(at, x)) : notation(at, x));
  if (sign === "n") return math("mn", short(rest[0]));
  if (sign === "c") return math("mi", `$${rest[0]}`);
  if (sign === "i") return math("mi", rest[0]);
  if (sign === "a") {
    const name = math("mi", symbol(at, data.calls[at].refs[rest[0]].name));
    if (!rest[1].length) return name;
    return math("msub", name, row(...rest[1].flatMap((s, i) => [...(i ? [math("mo", ",")] : []), notation(at, s)])));
  }
  if (sign === "f") {
    if (rest[0] === "sqrt") return math("msqrt", notation(at, rest[1][0]));
    if (rest[0] === "^") return math("msup", inside(rest[1][0], 5), notation(at, rest[1][1]));
    return row(math("mi", rest[0]), bracketed(row(...rest[1].flatMap((x, i) => [...(i ? [math("mo", ",")] : []), notation(at, x)]))));
  }
  if (sign === "[]") return row(math("mo", "["), notation(at, rest[0]), math("mo", "]"));
  if (sign === "neg") return row(math("mo", "−"), inside(rest[0], 2));
  if (sign === "mod") return row(notation(at, rest[0]), math("mo", "mod"), notation(at, rest[1]));
  if (sign === "Σ" || sign === "mean") {
    const head = sign === "Σ" ? math("mo", "∑") : math("mi", "mean");
    return row(rest[0] ? math("munder", head, math("mi", rest[0])) : head, inside(rest[2], 2));
  }
  if (sign === "/") return math("mfrac", notation(at, rest[0]), notation(at, rest[1]));
  const least = strength(tree);
  return row(inside(rest[0], least), math("mo", sign === "-" ? "−" : sign), inside(rest[1], least + 1));
}

function equationLine(at, equation) {
  const letters = equation.letters.map((letter) => ["i", letter]);
  const left = notation(at, ["a", equation.left, letters]);
  const whole = math("math", row(left, math("mo", "="), notation(at, equation.tree)));
  whole.setAttribute("displaystyle", "true");
  return whole;
}

// ---- elements of the page

function build(node, attributes, children) {
  for (const [key, x] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), x);
    else if (x !== false && x !== undefined) node.setAttribute(key, x === true ? "" : x);
  }
  return fill(node, ...children);
}

/** Replace what is inside a node; an empty child is left out. */
function fill(node, ...children) {
  node.replaceChildren(...children.flat(9).filter((x) => x !== null && x !== undefined));
  return node;
}

const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// ---- the state

// What a page does that can compute (see live.js): fields to change an element, and arrays that the
// page does not hold.
const hooks = { change: () => [], fetch: () => {} };

const state = { at: 0, target: null, flat: null, level: 0, slice: {}, hidden: false };

/** Return the call of a moment, and its step if the moment is one of the backward pass. */
function moment(at) {
  if (at < N_FORWARD) return { call: at, step: null };
  return { call: data.steps[at - N_FORWARD].call, step: at - N_FORWARD };
}

function go(at) {
  state.at = Math.max(0, Math.min(N - 1, at));
  state.target = state.flat = null;
  show();
}

function open(target, flat = null) {
  state.target = target;
  state.flat = flat;
  showInspector();
  remember();
}

// ---- the left: source lines

const source = h("section", { id: "source", "aria-label": "source" });

function showSource() {
  const { call } = moment(state.at);
  const { file, line } = data.calls[call];
  if (source.dataset.file !== String(file)) {
    source.dataset.file = file;
    const lines = file < 0 ? [] : data.files[file].lines;
    fill(source,
      h("h2", {}, file < 0 ? "source" : data.files[file].name),
      file < 0 ? h("p", { class: "dim" }, "The source of this line is not in the trace.") : h("ol", {}, lines.map((text) => h("li", {}, h("code", {}, text || " ")))),
    );
  }
  source.querySelector(".running")?.classList.remove("running");
  const running = source.querySelectorAll("li")[line - 1];
  if (running) {
    running.classList.add("running");
    const box = source.getBoundingClientRect();
    const place = running.getBoundingClientRect();
    if (place.top < box.top || place.bottom > box.bottom) running.scrollIntoView({ block: "center" });
  }
}

// ---- the middle: the graph

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

// ---- the right: the inspector

const inspector = h("section", { id: "inspector", "aria-label": "inspector" });

function showInspector() {
  wanted.clear();
  const { call: at, step } = moment(state.at);
  const call = data.calls[at];
  const back = state.target && h("p", {}, h("button", { onclick: () => open(null) }, "← the step"));
  fill(inspector,
    h("h2", {}, `${state.at + 1} of ${N}: `, step === null ? `forward, ${call.op}` : `backward, ${call.op}`),
    h("p", { class: "dim" }, [call.scope, call.at].filter(Boolean).join(" · ")),
    state.target ? [back, targetView(state.target)] : momentView(at, step),
  );
  hooks.fetch(wanted);
}

function momentView(at, step) {
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
    add("inputs", [...inputs, ...constants]);
  } else {
    add("received", call.results.filter((n) => data.values[n].cotangent >= 0).map(cotangent));
    const sent = data.steps[step].edges.map(([input]) => edge(step, input));
    if (state.hidden) parts.push(h("h3", {}, "sends"), ...sent.map(question));
    else add("sends", sent);
    parts.push(...data.steps[step].edges.map(([, parent]) => waits(parent, step)));
    add("inputs", [...inputs, ...constants]);
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
  const parts = [h("h3", { id: "sum" }, `${labelOf(target)}${place} = ${short(x)}`)];
  const found = sums(target, flat);
  if (!found.length) parts.push(h("p", { class: "dim" }, whyNoSum(target)));
  for (const { heading, equation, at, terms } of found) {
    parts.push(h("p", { class: "dim" }, heading));
    if (equation) parts.push(h("div", { class: "scroll" }, equationLine(at, equation)));
    parts.push(termList(terms));
  }
  return parts;
}

function whyNoSum(target) {
  if (target.kind === "value" && !makers.has(target.n)) return "It was given.";
  if (target.kind === "cotangent" && data.values[target.n].replaced) return "It was replaced, by a hook or by you: it is not the sum of what its uses send.";
  return "The page holds no sum for it.";
}

/** Return the terms of a sum, the largest first, each number with a way to where it came from. */
function termList(terms, most = MOST_TERMS) {
  const isMissing = (t) => t.factors.some((f) => f.x === undefined);
  const known = terms.map((t) => ({ ...t, x: isMissing(t) ? undefined : product(t) }));
  const rank = (t) => (t.x === undefined ? -1 : Number.isNaN(t.x) ? Infinity : Math.abs(t.x)); // the unknown last
  const order = [...known].sort((a, b) => rank(b) - rank(a));
  const total = known.reduce((sum, t) => sum + t.x, 0);
  const missing = known.filter((t) => t.x === undefined).length;
  const table = h("table", { class: "terms" }, order.slice(0, most).map((t) => h("tr", {},
    h("td", { class: "dim" }, t.index),
    h("td", {}, t.sign < 0 ? "− " : "", !t.factors.length ? "1" : t.factors.map((f, i) => [f.below ? (i ? " / " : "1 / ") : i ? " · " : "", bracketedNumber(f, i > 0 || t.sign < 0)])),
    h("td", { class: "value" }, short(t.x)))));
  const rest = order.slice(most);
  const parts = [table];
  if (rest.length) {
    const sum = rest.reduce((s, t) => s + t.x, 0);
    const more = h("p", {}, h("button", { onclick: () => whole.replaceWith(termList(terms, most * 8)) }, `and ${rest.length} more`), rest.some((t) => t.x === undefined) ? "" : ` with the sum ${short(sum)}`);
    parts.push(more);
  }
  parts.push(h("p", { class: "total" }, missing ? `${missing} terms need elements that are not in this file` : `together ${short(total)}`));
  const whole = h("div", {}, parts);
  return whole;
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

// ---- arrays: numbers if they are few, else a heat map

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
  if (lead.length) parts.push(h("p", {}, lead.map((n, axis) => h("label", {}, `axis ${axis}: `, h("input", {
    type: "number", min: 0, max: n - 1, value: slice[axis],
    onchange: (event) => { slice[axis] = Math.max(0, Math.min(n - 1, Number(event.target.value) || 0)); showInspector(); },
  }), " "))));
  const flatAt = (i, j) => flatOf(kept.length > 1 ? [...slice, i, j] : kept.length ? [j] : [], entry.shape);
  if (!size(kept)) parts.push(h("p", { class: "dim" }, "It has no elements."));
  else if (rows * columns <= MOST_CELLS && columns <= 24) parts.push(numberTable(target, key, rows, columns, flatAt));
  else parts.push(heatMap(target, key, rows, columns, flatAt));
  if (large && size(entry.shape) > MOST_CELLS) parts.push(largestList(target, entry), indexField(target, entry));
  return h("figure", {}, parts);
}

function numberTable(target, key, rows, columns, flatAt) {
  const most = scaleOf(key);
  const body = [];
  for (let i = 0; i < rows; i++) {
    const cells = [];
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
    body.push(h("tr", {}, cells));
  }
  return h("div", { class: "scroll" }, h("table", { class: "numbers" }, body));
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

function heatMap(target, key, rows, columns, flatAt) {
  const cell = Math.max(1, Math.min(14, Math.floor(420 / columns), Math.ceil(420 / rows)));
  const canvas = h("canvas", { width: columns, height: rows, role: "img", "aria-label": `heat map of ${labelOf(target)}, ${rows} rows and ${columns} columns` });
  canvas.style.width = `${columns * cell}px`; // the browser enlarges the pixels
  canvas.style.height = `${rows * cell}px`;
  canvas.getContext("2d").putImageData(coloured(key, rows, columns, flatAt), 0, 0);
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    const i = Math.min(rows - 1, Math.floor(((event.clientY - box.top) / box.height) * rows));
    const j = Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns));
    return flatAt(Math.max(0, i), Math.max(0, j));
  };
  canvas.addEventListener("mousemove", (event) => {
    const flat = where(event);
    canvas.title = `${labelOf(target)}${address(placeOf(flat, data.arrays[key].shape))} = ${short(element(key, flat))}`;
  });
  canvas.addEventListener("click", (event) => open(target, where(event)));
  return h("div", { class: "scroll" }, canvas);
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
  return h("p", {}, "largest: ", entry.largest.map(([flat, x]) => [
    h("button", { class: "number", title: address(placeOf(flat, entry.shape)), onclick: () => open(target, flat) }, `${address(placeOf(flat, entry.shape))} ${short(Number(x))}`), " "]));
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

// ---- predictions: the numbers of a step are asked for before they are shown

function question(target) {
  const key = arrayOf(target);
  const { shape, largest } = data.arrays[key];
  const flat = largest.length ? largest[0][0] : 0;
  const place = address(placeOf(flat, shape));
  const parent = data.values[data.steps[target.step].edges.find(([x]) => x === target.input)[1]].name;
  const answer = h("p", { role: "status" });
  const ask = (label, judge) => {
    const field = h("input", { size: 12 });
    const check = (event) => {
      event.preventDefault();
      answer.textContent = judge(field.value);
    };
    return h("form", { onsubmit: check }, h("label", {}, `${label} `, field), " ", h("button", {}, "check"));
  };
  return h("figure", { class: "question" }, h("figcaption", {}, labelOf(target), " is hidden"),
    ask("its shape:", (text) => {
      const given = text.match(/\d+/g)?.map(Number) ?? [];
      return same(given, shape) ? "Right." : `Not right: a cotangent has the shape of its value, which is ${parent}.`;
    }),
    shape.length || flat === 0 ? ask(`its element ${place || "(a number)"}:`, (text) => {
      const x = element(key, flat);
      const given = Number(text);
      if (text.trim() === "" || Number.isNaN(given)) return "Type a number.";
      if (Math.abs(given - x) <= 0.006 * Math.abs(x) + 1e-12) return "Right.";
      if (Math.abs(given + x) <= 0.006 * Math.abs(x)) return "The sign is wrong.";
      return `Not right: your number is ${short(given / x)} times the true one.`;
    }) : null,
    answer,
    h("button", { onclick: () => { state.hidden = false; showControls(); showInspector(); } }, "show it"));
}

// ---- the bottom: the scrubber, and the top: modes and search

const scrubber = h("input", { type: "range", min: 0, max: N - 1, value: 0, id: "scrubber", "aria-label": "moment of the pass", oninput: () => go(Number(scrubber.value)) });
const controls = h("span", {});
const search = h("input", { id: "search", size: 14, list: "names", placeholder: "a name (press /)", "aria-label": "find a value by its name",
  onchange: () => {
    const found = Object.entries(data.values).find(([, v]) => v.name === search.value.trim());
    if (found) open(value(found[0]));
  } });

function showControls() {
  fill(controls,
    h("button", { onclick: () => go(state.at - 1), title: "b" }, "back"), " ",
    h("button", { onclick: () => go(state.at + 1), title: "n" }, "next"), " ",
    h("button", { onclick: () => go(N_FORWARD), title: "g" }, "begin of the backward pass"), " ",
    h("button", { "aria-pressed": String(state.hidden), onclick: () => { state.hidden = !state.hidden; showControls(); showInspector(); } }, "predict"));
}

function cycleMode() {
  const modes = ["", "light", "dark", "projector"];
  const root = document.documentElement;
  root.dataset.mode = modes[(modes.indexOf(root.dataset.mode || "") + 1) % modes.length];
}

document.addEventListener("keydown", (event) => {
  if (/^(INPUT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range" || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { n: () => go(state.at + 1), b: () => go(state.at - 1), g: () => go(N_FORWARD), i: () => unfold(1), o: () => unfold(-1), m: cycleMode, "/": () => search.focus(), Escape: () => open(null) };
  if (event.key in keys) {
    event.preventDefault();
    keys[event.key]();
  }
});

// ---- links to a moment and an element: #step=11&of=value 12&el=2,7

function remember() {
  const parts = new URLSearchParams({ step: state.at + 1 });
  if (state.target) parts.set("of", JSON.stringify(state.target));
  if (state.flat !== null) parts.set("el", placeOf(state.flat, data.arrays[arrayOf(state.target)].shape).join(","));
  try {
    history.replaceState(null, "", `#${parts}`);
  } catch {
    // a page in a frame may not change its address
  }
}

/** Go to the moment and the element that the address names; what does not fit is left out. */
function restore() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const step = Number(parts.get("step"));
  go(Number.isInteger(step) && step > 0 ? step - 1 : N_FORWARD < N ? N_FORWARD : 0);
  try {
    const target = JSON.parse(parts.get("of"));
    const key = target && arrayOf(target);
    if (!(key in data.arrays)) return;
    const { shape } = data.arrays[key];
    const place = (parts.get("el") || "").split(",").filter(Boolean).map(Number);
    const fits = place.length === shape.length && place.every((p, i) => Number.isInteger(p) && p >= 0 && p < shape[i]);
    open(target, parts.has("el") && fits ? flatOf(place, shape) : null);
  } catch {
    // an address that somebody has changed
  }
}

function show() {
  scrubber.value = state.at;
  const { step } = moment(state.at);
  scrubber.setAttribute("aria-valuetext", `${step === null ? "forward" : "backward"}, ${state.at + 1} of ${N}`);
  showSource();
  showGraph();
  showInspector();
  remember();
}

const title = h("h1", {});
const names = h("datalist", { id: "names" });

/** Show the whole of the data from the beginning, after `take`. */
function redraw() {
  fill(title, `${data.values[data.start].name} = ${data.value}`);
  fill(names, Object.values(data.values).map((v) => h("option", { value: v.name })));
  scrubber.max = N - 1;
  drawGraph();
  showControls();
}

document.body.append(
  h("header", {}, title,
    h("span", {}, search, names, " ",
      h("button", { onclick: cycleMode, title: "m" }, "light, dark, projector"))),
  h("main", {}, source, graph, inspector),
  h("footer", {}, controls, scrubber),
);
state.level = Math.max(0, data.graphs.findLastIndex((g) => g.small));
redraw();
restore();
