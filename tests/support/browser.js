// Rectangles of every line of text, cut by the boxes that scroll: two that overlap, one outside its figure or the page, and
// text of too little contrast with the page are findings.
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => (d.open = true));
  const found = new Set(), texts = [], wide = document.documentElement.clientWidth;
  const visible = (rect, element) => {
    let {left, right, top, bottom} = rect;
    for (let p = element; p && p !== document.body; p = p.parentElement)
      if (!p.closest("svg") && getComputedStyle(p).overflowX !== "visible") {
        const box = p.getBoundingClientRect();
        [left, right] = [Math.max(left, box.left), Math.min(right, box.right)];
      }
    return {left, right, top, bottom};
  };
  const linear = x => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  const luminance = colour => {
    const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map(x => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = luminance(getComputedStyle(document.body).backgroundColor);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement, text = node.data.trim().slice(0, 40);
    if (!text || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
    const range = document.createRange(), svg = element.closest("svg");
    range.selectNodeContents(node);
    for (const raw of range.getClientRects()) {
      const rect = visible(raw, element);
      if (rect.right - rect.left < 1 || raw.height < 1) continue;
      texts.push({rect, text, element});
      if (!element.closest(".scroll, pre") && (rect.left < -0.5 || rect.right > wide + 0.5)) found.add("outside the page: " + text);
      const box = svg && svg.getBoundingClientRect();
      if (box && (raw.left < box.left - 1 || raw.right > box.right + 1 || raw.top < box.top - 1 || raw.bottom > box.bottom + 1))
        found.add("cut in a figure: " + text);
    }
    const style = getComputedStyle(element), ink = luminance(svg ? style.fill : style.color);
    if ((Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05) < 4.5) found.add("little contrast: " + text);
  }
  texts.sort((a, b) => a.rect.top - b.rect.top);
  texts.forEach(({rect: a, text, element}, i) => {
    for (let j = i + 1; j < texts.length && texts[j].rect.top < a.bottom - 2; j++) {
      const b = texts[j].rect;
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - b.top;
      if (element !== texts[j].element && across > 2 && down > 3) found.add(`overlap: ${text} / ${texts[j].text}`);
    }
  });
  if (document.documentElement.scrollWidth > wide) found.add("the page is wider than the window");
  // What the network saw, and what the page names: a request for a file is not in the first list.
  const named = [...document.querySelectorAll("[src], link[href], [srcset], use")].map(e => e.src || e.href || e.outerHTML);
  const styles = [...document.querySelectorAll("style, [style]")].map(e => e.getAttribute("style") || e.textContent);
  const loaded = performance.getEntriesByType("resource").map(entry => entry.name);
  const requests = [...named, ...styles.flatMap(text => text.match(/url\([^)]*\)|@import[^;]*/g) || []), ...loaded];
  const said = {
    found: [...found],
    requests: requests.filter(name => !name.startsWith("data:")),
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    width: innerWidth,
    texts: texts.length,
  };
  console.log("SAID " + btoa(unescape(encodeURIComponent(JSON.stringify(said)))));
});
