/* Elements of the overview: made, and brought up to date. Text only ever becomes textContent or an
   attribute. */
"use strict";
const durableElements = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  function make(tag, attributes, ...children) {
    const svg = tag === "svg" || tag === "polyline";
    const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value) element.setAttribute(name, value);
    }
    for (const child of children) if (child || child === "") element.append(child);
    return element;
  }

  function link(href, text, name) {
    return href ? make("a", {href, class: name}, text) : make("span", {class: name}, text);
  }

  // Let an element look as a new one, changing only what differs: what is focused or selected stays.
  // An element holds text or elements, never both.
  function morph(old, fresh) {
    for (const {name} of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const {name, value} of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    if (!fresh.childElementCount) {
      if (old.childElementCount || old.textContent !== fresh.textContent) {
        old.textContent = fresh.textContent;
      }
      return;
    }
    morphChildren(old, [...fresh.children]);
  }

  function morphChildren(parent, wanted) {
    if (!parent.childElementCount) parent.textContent = "";
    const byKey = new Map([...parent.children].map((each) => [each.dataset.key, each]));
    wanted.forEach((fresh, at) => {
      const here = parent.children[at];
      const key = fresh.dataset.key;
      let old = key === undefined ? here : byKey.get(key);
      if (!old || old.tagName !== fresh.tagName) {
        parent.insertBefore(fresh, here || null);
        return;
      }
      if (old !== here) parent.insertBefore(old, here || null);
      morph(old, fresh);
    });
    while (parent.children.length > wanted.length) parent.lastElementChild.remove();
  }

  return {make, link, morphChildren};
})();
