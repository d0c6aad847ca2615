/* What the server was started with, in groups, searchable; a key that this page does not know is shown all the same. */
"use strict";

const Config = (() => {
  const GROUPS = {
    "Model": ["model_name", "model_dir", "tuned_model_dir", "ckpt_name", "config_name", "graph_tmp_dir", "engine",
      "do_lower_case", "max_seq_len", "pooling_strategy", "pooling_layer", "mask_cls_sep", "no_special_token",
      "no_position_embeddings", "num_labels", "fixed_embed_length", "show_tokens_to_client"],
    "Workers and batches": ["num_worker", "max_batch_size", "priority_batch_size", "prefetch_size", "cpu", "device_map",
      "gpu_memory_fraction", "precision", "fp16", "xla"],
    "Network": ["host", "port", "port_out", "http_port", "http_max_connect", "cors", "num_concurrent_socket",
      "ventilator -> worker", "worker -> sink", "ventilator <-> sink"],
    "Limits": ["max_queue_mb", "max_queue_size", "max_message_mb", "max_held_mb", "max_held_client_mb", "hold_timeout",
      "job_timeout", "drain_timeout", "start_timeout"],
    "Versions": ["bert_serving_version", "server_version", "report_version", "protocol_version", "request_options",
      "python_version", "tensorflow_version", "zmq_version", "pyzmq_version", "server_start_time"],
  };

  class View {
    constructor() {
      this.configuration = {};
      this.shown = "";
      Dom.byId("config-filter").addEventListener("input", () => this.draw());
      Dom.byId("config-copy").addEventListener("click", () => this.copy());
    }

    show(configuration) {
      const text = JSON.stringify(configuration);
      if (text === this.shown) return;
      this.shown = text;
      this.configuration = configuration;
      this.draw();
    }

    draw() {
      const wanted = Dom.byId("config-filter").value.trim().toLowerCase();
      const matches = key => `${key} ${words(this.configuration[key])}`.toLowerCase().includes(wanted);
      const groups = grouped(Object.keys(this.configuration))
        .map(([title, keys]) => [title, keys.filter(matches)]).filter(([, keys]) => keys.length > 0);
      Dom.byId("config").replaceChildren(...groups.map(([title, keys]) => Dom.el("section", {class: "card"},
        Dom.el("h3", {}, title),
        Dom.el("dl", {class: "pairs"}, ...keys.map(key => Dom.el("div", {},
          Dom.el("dt", {}, key), value(this.configuration[key])))))));
      Dom.byId("config-none").hidden = groups.length > 0;
    }

    async copy() {
      const note = Dom.byId("config-note");
      try {
        await navigator.clipboard.writeText(JSON.stringify(this.configuration, null, 2));
        Dom.setText(note, "Copied.");
      } catch {
        Dom.setText(note, "The browser does not allow copying here.");
      }
      setTimeout(() => Dom.setText(note, ""), 3000);
    }
  }

  /** [title, keys] of every group that has any of these keys; the rest is "Other". */
  function grouped(keys) {
    const known = new Set(Object.values(GROUPS).flat());
    const groups = Object.entries(GROUPS).map(([title, members]) => [title, members.filter(key => keys.includes(key))]);
    return [...groups, ["Other", keys.filter(key => !known.has(key))]].filter(([, members]) => members.length > 0);
  }

  function words(one) {
    if (one === null || one === "") return "none";
    if (one === true) return "yes";
    if (one === false) return "no";
    if (Array.isArray(one)) return one.length ? one.map(words).join(", ") : "none";
    return typeof one === "object" ? JSON.stringify(one) : String(one);
  }

  const value = one => Dom.el("dd", {class: words(one) === "none" || one === false ? "off" : null}, words(one));

  return {View, grouped, words};
})();
