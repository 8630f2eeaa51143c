// Asks Python: over HTTP, or by messages to the window around this frame.

/** Send a request; return a promise of the answer, which is bytes for an array. */
const ask = data.channel === "http" ? askServer : askWindow;

async function askServer(request) {
  const silent = () => {
    throw new Error("Python does not answer: does its program still run?");
  };
  if (request.do === "array") {
    const response = await fetch(`array/${request.key}?version=${request.version}`).catch(silent);
    if (!response.ok) throw new Error(await response.text());
    return response.arrayBuffer();
  }
  const response = await fetch("recompute", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) }).catch(silent);
  if (response.status === 404) throw new Error("Python serves another page here now: open the address that it has printed.");
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

const waiting = new Map(); // of requests to the window: the functions that take their answers

function askWindow(request) {
  return new Promise((resolve) => {
    const id = Math.random(); // several frames of a notebook may get the same answers
    waiting.set(id, resolve);
    window.parent.postMessage({ id, request }, "*");
  });
}

window.addEventListener("message", (event) => {
  if (event.source !== window.parent || !waiting.has(event.data?.id)) return;
  waiting.get(event.data.id)(event.data.answer);
  waiting.delete(event.data.id);
});
