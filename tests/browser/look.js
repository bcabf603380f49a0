"use strict";
// Put into every page of the tests: `look` answers what a test asks.
(() => {
  const shifts = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      // What a click moves is no shift, nor is a column that gets a pixel wider for its figures.
      if (entry.hadRecentInput || entry.value < 0.0005) continue;
      for (const source of entry.sources) {
        shifts.push(`${entry.value.toFixed(4)}: ${named(source.node)}`);
      }
    }
  }).observe({ type: "layout-shift", buffered: true });

  const named = (node) => {
    if (!node) return "something that is gone";
    const element = node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement;
    const words = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
    const classes = [...element.classList].map((name) => `.${name}`).join("");
    return `${element.localName}${element.id && "#" + element.id}${classes} "${words}"`;
  };

  const visible = (element) => element.checkVisibility({ visibilityProperty: true });

  // Any CSS colour as [red, green, blue, alpha], the last from 0 to 1.
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) =>
    [0, 1, 2].map((at) => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);

  const ground = (element) => {
    const own = rgba(getComputedStyle(element).backgroundColor);
    if (own[3] === 1) return own;
    const below = element.parentElement ? ground(element.parentElement) : [255, 255, 255, 1];
    return over(own, below);
  };

  // WCAG 2.2, relative luminance.
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (element) => {
    const below = ground(element);
    const ink = over(rgba(getComputedStyle(element).color), below);
    const [dark, light] = [luminance(below), luminance(ink)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };

  // What an element is called: by its own words and those of the pictures in it.
  const words = (element) => [
    element.textContent,
    ...[...element.querySelectorAll("img[alt]")].map((image) => image.alt),
    ...[...element.querySelectorAll("[aria-label]")].map((part) => part.ariaLabel),
  ];
  const own = (element) => {
    if (/^(submit|button|reset)$/.test(element.type) && element.value) return [element.value];
    return /^(input|select|textarea)$/.test(element.localName) ? [] : words(element);
  };
  const name = (element) =>
    [
      element.ariaLabel,
      element.title,
      ...(element.ariaLabelledByElements || []).flatMap(words),
      ...[...(element.labels || [])].flatMap(words),
      ...own(element),
    ].some((text) => text && text.trim());

  window.look = {
    shifts: () => [...shifts],
    forget: () => shifts.splice(0),
    // Two frames: in the first, scripts may still hear of a new size.
    drawn: () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))),
    // Whether one can see where the focus is.
    focus: () => {
      const element = document.activeElement;
      const read = () => {
        const { outlineStyle, outlineWidth, boxShadow, borderColor, backgroundColor } = getComputedStyle(element);
        return [outlineStyle !== "none" && outlineWidth, boxShadow, borderColor, backgroundColor].join();
      };
      const focused = read();
      element.blur();
      const blurred = read();
      element.focus({ focusVisible: true, preventScroll: true });
      return focused !== blurred;
    },
    // How many pixels of a canvas have a colour.
    pixels: (canvas, colour) => {
      const wanted = rgba(colour);
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let at = 0; at < data.length; at += 4) {
        if (wanted.every((value, part) => data[at + part] === (part < 3 ? value : 255))) count++;
      }
      return count;
    },
    // Whether something reaches the right edge of a canvas.
    cut: (canvas) => {
      const brush = canvas.getContext("2d");
      const { data } = brush.getImageData(canvas.width - 1, 0, 1, canvas.height);
      return data.some((value) => value);
    },
    overflow: () => {
      const width = document.documentElement.clientWidth;
      if (document.documentElement.scrollWidth <= width) return [];
      const wide = [...document.body.querySelectorAll("*")].filter(
        (element) => visible(element) && element.getBoundingClientRect().right > width + 1,
      );
      return [`${document.documentElement.scrollWidth} px`, ...wide.slice(0, 8).map(named)];
    },
    faint: (selector) =>
      [...document.querySelectorAll(selector)]
        .filter((element) => visible(element) && contrast(element) < 4.5)
        .map((element) => `${contrast(element).toFixed(2)}: ${named(element)}`),
    nameless: () => {
      const found = [];
      const used = "a[href], button, input:not([type=hidden]), select, textarea, summary";
      for (const element of document.querySelectorAll(used)) {
        if (visible(element) && !name(element)) found.push(`no name: ${named(element)}`);
      }
      const silent = "svg:not([aria-hidden=true], [aria-label], [aria-labelledby], :has(> title))";
      for (const picture of document.querySelectorAll(`img:not([alt]), ${silent}`)) {
        const hidden = picture.closest("[aria-hidden=true]") || name(picture.parentElement);
        if (visible(picture) && !hidden) found.push(`no text: ${picture.outerHTML.slice(0, 120)}`);
      }
      const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
      for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) {
        found.push(`twice: #${id}`);
      }
      for (const table of document.querySelectorAll("table")) {
        if (visible(table) && !table.querySelector("th")) found.push(`no heads: ${named(table)}`);
      }
      if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
      if (!document.documentElement.lang) found.push("no lang");
      return found;
    },
  };
})();
