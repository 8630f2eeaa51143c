// Returns what is cut, too small, or lies over something else, on a page of a pass.
() => {
  const found = [];
  const place = (node) => node.getBoundingClientRect();
  const isInside = (a, b) =>
    a.left >= b.left - 2 && a.right <= b.right + 2 && a.top >= b.top - 2 && a.bottom <= b.bottom + 2;
  const areApart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page is wider than the window");
  for (const name of ["source", "graph", "inspector"]) {
    const { width, height } = place(document.getElementById(name));
    if (width < 160 || height < 100) found.push(`${name} is small: ${width} x ${height}`);
  }
  for (const node of document.querySelectorAll("header *, footer *")) {
    const { left, right } = place(node);
    if (left < 0 || right > innerWidth) found.push(`cut: ${node.outerHTML}`);
  }
  const boxes = drawn.boxes.map(({ group, box }) => ({
    title: box.title, isOpen: Boolean(box.inner), at: place(group.querySelector("rect")),
    texts: [...group.querySelectorAll("text")],
  }));
  for (const { at, texts } of boxes)
    for (const text of texts)
      if (!isInside(place(text), at)) found.push(`wider than its box: ${text.textContent}`);
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
    const isPart = (a.isOpen && isInside(b.at, a.at)) || (b.isOpen && isInside(a.at, b.at));
    if (!areApart(a.at, b.at) && !isPart) found.push(`${a.title} lies over ${b.title}`);
  }));
  return found;
}
