// What the page shows now: a moment, and a value or a number.

// What a page does that can compute (see live.js): fields to change an element, arrays that the page
// does not hold, other texts to read, and why an element is what it is.
const hooks = {
  change: () => [],
  fetch: () => {},
  read: () => null,
  history: null, // what updates of a run did to a weight
  why: async () => {
    throw new Error("This file has no answer for this element. A page that Python serves has an answer for each: npgpt step with --serve in the place of --html.");
  },
};

const state = { at: 0, target: null, flat: null, opened: new Set(), slice: {}, zoom: {}, hidden: false, why: new Set(), example: 0, beside: null };

/** Return the call of a moment, and its step if the moment is one of the backward pass. */
function moment(at) {
  if (at < N_FORWARD) return { call: at, step: null };
  return { call: data.steps[at - N_FORWARD].call, step: at - N_FORWARD };
}

const SCRUBBING = 100; // milliseconds from one move to the next, if the reader scrubs
let movedAt = -Infinity;

function go(at) {
  state.at = Math.max(0, Math.min(N - 1, at));
  state.target = state.flat = null;
  show(performance.now() - movedAt < SCRUBBING);
  movedAt = performance.now();
}

function open(target, flat = null) {
  state.target = target;
  state.flat = flat;
  if (flat !== null) showSliceOf(arrayOf(target), flat);
  const isInside = inspector.contains(document.activeElement); // then what has the focus goes away
  showInspector();
  if (isInside) focusInspector();
  remember();
}

function focusInspector() {
  (inspector.querySelector("#sum") ?? inspector.querySelector("h2")).focus({ preventScroll: true });
}

/** Choose the matrix of an array that has an element, if the page holds this matrix. */
function showSliceOf(key, flat) {
  const { shape, kept } = data.arrays[key];
  const lead = placeOf(flat, shape).slice(0, -2);
  if (!kept || lead.every((p, axis) => p < kept[axis])) state.slice[key] = lead;
}
