// A widget of a notebook around the page: shows the page in a frame, and carries the messages of the
// page to Python and the answers back.

function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts allow-forms"; // and no more: the page cannot reach the notebook
  frame.title = "backpropagation";
  frame.srcdoc = model.get("page");
  frame.style = `width: 100%; height: ${model.get("height")}px; border: 1px solid #8888`;
  el.append(frame);
  const ask = ({ source, data }) => {
    if (source === frame.contentWindow) model.send({ id: data.id, request: data.request });
  };
  const answer = (message, buffers) => {
    const [view] = buffers ?? [];
    const bytes = view && view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
    frame.contentWindow?.postMessage({ id: message.id, answer: bytes ?? message.answer }, "*");
  };
  window.addEventListener("message", ask);
  model.on("msg:custom", answer);
  return () => {
    window.removeEventListener("message", ask);
    model.off("msg:custom", answer);
  };
}

export default { render };
