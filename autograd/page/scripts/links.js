// Links to a moment and an element, such as #step=11&el=2,7: an element of what the moment computes, or
// sends first; or with `of`, which the page writes, an element of any array.

function remember() {
  const parts = new URLSearchParams({ step: state.at + 1 });
  if (data.run) parts.set("update", data.run.step);
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
  const pass = stored?.find(({ run }) => String(run.step) === parts.get("update"));
  if (pass) replacePass(pass);
  const step = Number(parts.get("step"));
  go(Number.isInteger(step) && step > 0 ? step - 1 : N_FORWARD < N ? N_FORWARD : 0);
  try {
    const target = parts.has("of") ? JSON.parse(parts.get("of")) : parts.has("el") ? firstOf(state.at) : null;
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

/** Return the first array that a moment computes, or sends. */
function firstOf(at) {
  const { call, step } = moment(at);
  return step === null ? value(data.calls[call].results[0]) : edge(step, data.steps[step].edges[0][0]);
}
