"use strict";
// Reads what Python wrote: arrays, calls, steps, graphs, and each formula as a tree (see terms.py).

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
      if (!received.has(String(parent))) received.set(String(parent), []);
      received.get(String(parent)).push([i, input]);
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
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
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

/** Return the number of the value with a name; undefined if there is none. */
const numberOf = (name) => Object.keys(data.values).find((n) => data.values[n].name === name);

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
