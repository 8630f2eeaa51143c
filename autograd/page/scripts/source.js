// The left: source lines.

const source = h("section", { id: "source", "aria-label": "source", tabindex: 0 });

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
  const before = source.querySelector(".running");
  const running = source.querySelectorAll("li")[line - 1] ?? null;
  if (running === before) return;
  before?.classList.remove("running");
  running?.classList.add("running");
  keepLineInSight();
}

function keepLineInSight() {
  const running = source.querySelector(".running");
  if (running) bringInSight(source, running, true);
}
