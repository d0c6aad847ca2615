/* Making elements. Whatever comes from a server or a person goes in as text, never as markup. */
"use strict";

const Dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  const byId = id => document.getElementById(id);

  /** An element with attributes and children; strings among the children become text. `null` children are left out. */
  function el(name, attributes = {}, ...children) {
    return fill(document.createElement(name), attributes, children);
  }

  function svg(name, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, name), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter(child => child !== null));
    return element;
  }

  /** Set text only where it changes, so that nothing is laid out or announced again without need. */
  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  /** The value of a custom property of the style sheet, such as --ink. */
  const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  return {byId, el, svg, setText, style};
})();
