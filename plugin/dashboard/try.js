/* Two sentences: their tokens, their vectors as stripes, how near they are, and how long it took. */
"use strict";

const Try = (() => {
  const MOST_ROWS = 20;

  const EXAMPLES = {
    "the same in other words": ["How do I reset my password?", "I forgot my login and need a new one."],
    "one word, two meanings": ["She sat down on the bank of the river.", "The bank raised its interest rate."],
    "a small word that matters": ["The film was good.", "The film was not good."],
    "nothing in common": ["Whisk the eggs with sugar.", "The compiler reports an error."],
  };

  class View {
    /** `server` gives the address to ask. */
    constructor(server) {
      this.server = server;
      this.vectors = [null, null];
      this.running = null;
      Dom.byId("try-form").addEventListener("submit", event => {
        event.preventDefault();
        this.compare();
      });
      for (const index of [0, 1]) {
        Dom.byId(`text-${index}`).addEventListener("keydown", event => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.compare();
        });
        new ResizeObserver(() => this.stripes()).observe(Dom.byId(`stripes-${index}`));
      }
      Dom.byId("examples").append(...Object.entries(EXAMPLES).map(([title, texts]) => {
        const button = Dom.el("button", {type: "button"}, title);
        button.addEventListener("click", () => {
          texts.forEach((text, index) => Dom.byId(`text-${index}`).value = text);
          this.compare();
        });
        return button;
      }));
      Dom.byId("swap").addEventListener("click", () => {
        const [one, other] = [Dom.byId("text-0"), Dom.byId("text-1")];
        [one.value, other.value] = [other.value, one.value];
        this.compare();
      });
    }

    async compare() {
      if (this.running) this.running.abort();
      const running = this.running = new AbortController();
      const texts = [0, 1].map(index => Dom.byId(`text-${index}`).value.trim());
      const empty = texts.findIndex(text => text === "");
      this.say("", false);
      if (empty >= 0) {
        this.say(`Sentence ${"AB"[empty]} is empty: type something.`, true);
        Dom.byId(`text-${empty}`).focus();
        return;
      }
      Dom.byId("compare").setAttribute("aria-busy", "true");
      try {
        const answer = await Api.encode(this.server(), texts, {signal: running.signal});
        if (running !== this.running) return;
        this.vectors = answer.vectors;
        this.similarity(Pca.cosine(...answer.vectors));
        this.stripes();
        this.timings(answer);
        this.compared(texts, answer);
        await this.tokens(texts, answer, running);
      } catch (error) {
        if (running !== this.running) return;
        this.say(`That did not work: ${error.message}.`, true);
      } finally {
        if (running === this.running) {
          this.running = null;
          Dom.byId("compare").removeAttribute("aria-busy");
        }
      }
    }

    say(text, isBad) {
      const note = Dom.byId("try-note");
      Dom.setText(note, text);
      note.classList.toggle("bad", isBad);
    }

    similarity(cosine) {
      Dom.byId("try-result").hidden = false;
      Dom.setText(Dom.byId("similarity"), cosine === null ? Format.NOTHING : cosine.toFixed(3).replace("-", "−"));
      Dom.byId("needle").style.left = `${((cosine || 0) + 1) * 50}%`;
    }

    /** One more row on top of what was compared before. */
    compared(texts, answer) {
      const rows = Dom.byId("compared"), cosine = Pca.cosine(...answer.vectors);
      rows.prepend(Dom.el("tr", {}, ...texts.map(text => Dom.el("td", {}, text)),
        Dom.el("td", {}, Dom.el("b", {}, cosine === null ? Format.NOTHING : cosine.toFixed(3).replace("-", "−"))),
        Dom.el("td", {}, Format.milliseconds(answer.ms))));
      while (rows.children.length > MOST_ROWS) rows.lastChild.remove();
    }

    timings(answer, tokensMs = null) {
      const rows = [["both vectors, in one request", Format.milliseconds(answer.ms)],
        ["for each sentence", Format.milliseconds(answer.ms / answer.vectors.length)],
        ...tokensMs === null ? [] : [["their tokens, in another request", Format.milliseconds(tokensMs)]],
        ["numbers in a vector", Format.count(answer.vectors[0].length)]];
      Dom.byId("timings").replaceChildren(...rows.map(([label, value]) => Dom.el("div", {},
        Dom.el("dt", {}, label), Dom.el("dd", {}, value))));
    }

    async tokens(texts, answer, running) {
      const begin = performance.now();
      let told = null, problem = "this server does not tell its tokens";
      try {
        told = await Api.tokenize(this.server(), texts);
      } catch (error) {
        problem = `the tokens did not come: ${error.message}`;
      }
      if (running !== this.running) return;
      if (told) this.timings(answer, performance.now() - begin);
      for (const index of [0, 1]) {
        const tokens = told && told.tokens[index];
        Dom.setText(Dom.byId(`token-count-${index}`), tokens ? Format.counted(tokens.length, "token") : "");
        Dom.byId(`tokens-${index}`).replaceChildren(...tokens ? tokens.map((token, place) => Dom.el("li",
          {class: kind(token), title: told.ids && `id ${told.ids[index][place]}`}, token))
          : [Dom.el("li", {class: "none"}, problem)]);
      }
    }

    stripes() {
      this.vectors.forEach((vector, index) => vector && drawStripes(Dom.byId(`stripes-${index}`), vector));
    }
  }

  /** How a token is shown: a special one, the rest of a word, or a word. */
  const kind = token => /^\[.*\]$/.test(token) ? "special" : token.startsWith("##") ? "rest" : "word";

  /** A vector as stripes: each number's colour says its sign, the strength its size beside the others. */
  function drawStripes(canvas, vector) {
    const box = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
    if (box.width === 0) return;
    canvas.width = Math.round(box.width * scale);
    canvas.height = Math.round(box.height * scale);
    const paint = canvas.getContext("2d"), width = canvas.width / vector.length;
    const sizes = Array.from(vector, Math.abs).sort((a, b) => a - b);
    const strong = sizes[Math.floor(sizes.length * 0.98)] || 1;
    const tones = [Dom.style("--tone-a"), Dom.style("--tone-b")];
    vector.forEach((value, index) => {
      paint.globalAlpha = Math.min(1, Math.abs(value) / strong);
      paint.fillStyle = tones[value < 0 ? 1 : 0];
      paint.fillRect(index * width, 0, width + 0.5, canvas.height);
    });
  }

  return {View};
})();
