/* Joins the parts: the address, the looks at the server, the views, the theme. */
"use strict";

const App = (() => {
  const VIEWS = ["live", "try", "map", "config"];
  const history_ = new Measure.History();
  const live = new Live.View(history_);
  const attempt = new Try.View(() => server);
  const map = new VectorMap.View(() => server);
  const config = new Config.View();
  let server = "";
  let last = null;  // the last reading of this server
  let keyIsNew = false;  // whether a key was typed for the server that is asked next
  let failure = null;  // why the last look failed; null if it did not
  const poller = new Poll.Poller(() => Api.status(server), answered, failed);

  // ---- looks at the server ---------------------------------------------------------------------------------------------

  function answered(status) {
    const reading = Reading.read(status, Date.now());
    const point = Measure.between(last, reading);
    history_.add(point);
    last = reading;
    failure = null;
    live.show(reading, point);
    config.show(Reading.configuration(status));
    Dom.setText(Dom.byId("model"), `${reading.model} · ${reading.version}`);
    document.title = `${reading.model} · bert-as-service`;
    pulse();
  }

  function failed(error) {
    failure = error;
    if (error.kind === "locked") askForKey();
    history_.gone(Date.now());
    live.draw(Date.now());
    pulse();
  }

  /** Say how things stand; runs every second, since "in 3 seconds" changes by itself. */
  function pulse() {
    const state = failure !== null ? failure.kind === "locked" ? "locked" : "gone" : last === null ? "asking" : last.ready ? "live" : "starting";
    const box = Dom.byId("pulse");
    box.dataset.state = state;
    Dom.setText(box.querySelector(".pulse-word"), {live: "Live", gone: "Gone", locked: "Locked", asking: "Asking", starting: "Starting"}[state]);
    document.body.dataset.state = state;
    const alarm = Dom.byId("alarm");
    alarm.hidden = failure === null;
    if (failure === null) return;
    Dom.setText(Dom.byId("alarm-what"), headline());
    Dom.setText(Dom.byId("alarm-why"), `${server}: ${failure.message}.` +
      (last === null ? "" : ` Last seen at ${Format.clock(last.at)}; what you see below is from then.`));
    const wait = poller.nextAt === null ? 0 : Math.ceil((poller.nextAt - Date.now()) / 1000);
    Dom.setText(Dom.byId("alarm-next"), wait > 0 ? `Trying again in ${wait} s` : "Trying …");
  }

  /** A server wants a key: show where to type it, and go there unless somebody types elsewhere. */
  function askForKey() {
    const box = Dom.byId("key");
    if (!box.hidden) return;
    box.hidden = false;
    if (document.activeElement === document.body) box.focus();
  }

  function headline() {
    if (failure.kind === "locked") {
      return Api.key(server) ? "The server does not know this key" : "This server wants a key: type it beside its address";
    }
    if (failure.kind === "foreign") return "This is not the address of a server";
    if (failure.kind === "refused") return "The HTTP proxy answers, the server behind it does not";
    return last === null ? "No server answers" : "The server does not answer any more";
  }

  // ---- the address -----------------------------------------------------------------------------------------------------

  function watch(typed) {
    const box = Dom.byId("endpoint");
    try {
      server = Api.endpoint(typed);
      box.setCustomValidity("");
    } catch (error) {
      box.setCustomValidity(error.message);
      box.reportValidity();
      return;
    }
    box.value = server;
    // What was typed is for the address beside it; what was not typed is for the server that it was given to.
    const field = Dom.byId("key");
    if (keyIsNew) Api.setKey(server, field.value.trim());
    keyIsNew = false;
    field.value = Api.key(server);
    field.hidden = field.value === "";
    Dom.byId("api-link").href = server + "/docs";
    last = failure = null;
    history_.points = [];
    history_.outages = [];
    live.draw(Date.now());
    const address = new URL(location.href);
    if (server === served()) address.searchParams.delete("server");
    else address.searchParams.set("server", server);
    try {
      history.replaceState(null, "", address);
    } catch {
      // a page from a file may not change its address in some browsers
    }
    pulse();
    poller.now();
  }

  /** The address that this page came from, if it came from one; else the usual address of a proxy. */
  const served = () => location.protocol.startsWith("http") ? Api.endpoint(new URL(".", location.href).href)
    : "http://localhost:8125";

  // ---- views and theme -------------------------------------------------------------------------------------------------

  function open(name, focus = false) {
    for (const view of VIEWS) {
      const tab = Dom.byId(`tab-${view}`), isOpen = view === name;
      tab.setAttribute("aria-selected", String(isOpen));
      tab.tabIndex = isOpen ? 0 : -1;
      Dom.byId(`view-${view}`).hidden = !isOpen;
      if (isOpen && focus) tab.focus();
    }
    if (location.hash.slice(1) !== name) {
      try {
        history.replaceState(null, "", "#" + name);
      } catch {
        // as above
      }
    }
  }

  const opened = () => VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "live";

  function listenToTabs() {
    VIEWS.forEach((view, index) => {
      const tab = Dom.byId(`tab-${view}`);
      tab.addEventListener("click", () => open(view));
      tab.addEventListener("keydown", event => {
        const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
        if (step) open(VIEWS[(index + step + VIEWS.length) % VIEWS.length], true);
      });
    });
    window.addEventListener("hashchange", () => open(opened()));
  }

  /** "light", "dark", or null for what the system says. */
  function theme(name) {
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    attempt.stripes();
    map.repaint();
  }

  function listenToTheme() {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
    const memory = access => {
      try {
        return access();
      } catch {
        return null;  // a page from a file may have no storage
      }
    };
    Dom.byId("theme").addEventListener("click", () => {
      const wanted = isDark() ? "light" : "dark";
      memory(() => localStorage.setItem("bert-serving-theme", wanted));
      theme(wanted);
    });
    dark.addEventListener("change", () => theme(document.documentElement.dataset.theme));
    theme(memory(() => localStorage.getItem("bert-serving-theme")));
  }

  function start() {
    listenToTabs();
    listenToTheme();
    open(opened());
    live.range(5);
    Dom.byId("server").addEventListener("submit", event => {
      event.preventDefault();
      watch(Dom.byId("endpoint").value);
    });
    Dom.byId("key").addEventListener("input", () => keyIsNew = true);
    Dom.byId("endpoint").addEventListener("input", event => event.target.setCustomValidity(""));
    Dom.byId("alarm-now").addEventListener("click", () => poller.now());
    setInterval(pulse, 1000);
    watch(new URLSearchParams(location.search).get("server") || served());
  }

  start();
  return {history: history_};
})();
