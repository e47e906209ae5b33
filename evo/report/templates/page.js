"use strict";
/* What a page of evo does once it is open. All text of a run is put into the page as text, never as markup. */
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const run = data.run || null;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  /* ---- what is kept when the page loads itself again */
  const place = `evo:${location.pathname}`;
  const stored = (() => {
    try { return JSON.parse(sessionStorage.getItem(place)) || {}; } catch { return {}; }
  })();
  const keep = (change) => {
    Object.assign(stored, change);
    try { sessionStorage.setItem(place, JSON.stringify(stored)); } catch { /* a browser that keeps nothing for files */ }
  };

  /* ---- figures in the colours of the page */
  const quiet = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const config = { displaylogo: false, responsive: true, scrollZoom: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const plain = (markup) => markup.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function coloured(figure) {
    for (const trace of figure.data) {
      const role = trace.meta && trace.meta.role;
      if (role === "band" || role === "inner") trace.fillcolor = colour(role);
      else if (role === "heat") {
        trace.colorscale = [[0, colour("heat0")], [1, colour("heat1")]];
        trace.colorbar.tickfont = { color: colour("ink") };
      } else if (role) {
        const paint = colour({ best: "front", median: "accent", bar: "accent" }[role] || role);
        trace.marker = { ...trace.marker, color: paint };
        if (trace.line) trace.line = { ...trace.line, color: paint };
      }
    }
    const layout = figure.layout;
    layout.font = { ...layout.font, color: colour("ink") };
    layout.hoverlabel = { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("cloud"), activecolor: colour("accent") };
    for (const axis of ["xaxis", "yaxis"]) {
      layout[axis] = { ...layout[axis], gridcolor: colour("grid"), linecolor: colour("line"), tickcolor: colour("line") };
      if (layout[axis].title) layout[axis].title.font = { color: colour("quiet") };
    }
    for (const shape of layout.shapes || []) shape.line.color = colour(shape.type === "path" ? "ink" : "cloud");
    return figure;
  }

  const drawn = new Map(); // place -> the figure as it is drawn
  const figureOf = (name) => name.split("-").reduce((found, key) => {
    if (found && !Array.isArray(found.data) && /^\d+$/.test(key)) return Object.values(found)[Number(key)];
    return found && found[key];
  }, data.figures);

  function draw(name, figure) {
    drawn.set(name, figure);
    const narrow = innerWidth < 640;
    figure.layout.margin = { ...figure.layout.margin, l: narrow ? 44 : 60, r: narrow ? 8 : 16 };
    return Plotly.react(byId(`plot-${name}`), coloured(figure).data, figure.layout, config);
  }

  const plots = [...document.querySelectorAll("[data-figure]")];
  const visible = (element) => !element.closest("[hidden]");
  function drawVisible() {
    for (const element of plots) {
      const name = element.dataset.figure;
      if (visible(element) && !drawn.has(name)) draw(name, figureOf(name));
    }
  }
  function redraw() {
    for (const [name, figure] of drawn) draw(name, figure);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => { document.documentElement.dataset.scheme = "light"; redraw(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.scheme; redraw(); });

  /* ---- small tools */
  function make(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }
  const arrays = { f8: Float64Array, u4: Uint32Array, u1: Uint8Array };
  function unpacked(packed) {
    const bytes = Uint8Array.from(atob(packed.bdata), (character) => character.charCodeAt(0));
    return new arrays[packed.dtype](bytes.buffer);
  }
  const whole = new Intl.NumberFormat("en");
  function shown(value) {
    if (value === null || Number.isNaN(value)) return "–";
    if (Number.isInteger(value)) return whole.format(value);
    const size = Math.abs(value);
    return size >= 1e6 || size < 1e-4 ? value.toExponential(3) : value.toFixed(size >= 100 ? 2 : 4);
  }

  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  /* ---- how the search went: one objective at a time */
  const objective = byId("objective");
  if (objective) {
    const choose = () => {
      for (const part of document.querySelectorAll("[data-choice]")) part.hidden = part.dataset.choice !== objective.value;
      drawVisible();
      keep({ objective: objective.value });
    };
    if (stored.objective && objective.options[stored.objective]) objective.value = stored.objective;
    objective.addEventListener("change", choose);
    choose();
  }

  /* ---- the front, its table, and single individuals */
  if (run && byId("plot-front")) front();
  drawVisible();
  watch();

  function front() {
    const axes = run.axes, names = axes.map((axis) => axis.name), people = run.people, cloud = run.cloud;
    const columns = (rows) => Object.fromEntries(names.map((name) => [name, unpacked(rows.columns[name])]));
    const mine = columns(people), theirs = columns(cloud);
    const at = new Map(people.id.map((id, index) => [id, index]));
    const cloudAt = new Map(cloud.id.map((id, index) => [id, index]));
    const filters = unpacked(people.filters), weights = unpacked(people.weights), bits = people.bits && unpacked(people.bits);
    const count = run.layers.names.length;
    const selects = { x: byId("axis-x"), y: byId("axis-y") };
    const logs = { x: byId("log-x"), y: byId("log-y") };
    const by = byId("by"), filter = byId("filter"), table = byId("people");
    const state = { sort: null, down: false, chosen: null };

    for (const [key, select] of Object.entries(selects)) {
      names.forEach((name, index) => select.append(make("option", name, { value: index })));
      select.value = names.indexOf(run.start[key]);
      if (stored[key] !== undefined && stored[key] < names.length) select.value = stored[key];
      logs[key].checked = stored[`log-${key}`] ?? axes[select.value].cost;
      logs[key].addEventListener("change", () => { keep({ [`log-${key}`]: logs[key].checked }); picture(); });
      select.addEventListener("change", () => { logs[key].checked = axes[select.value].cost; keep({ [`log-${key}`]: undefined }); changed(); });
    }
    by.append(make("option", "the two axes", { value: "axes" }));
    if (run.all.length > 2) {
      by.append(make("option", run.all.join(", "), { value: "all" }));
      by.value = "all";
    } else byId("by-label").hidden = true;
    if (stored.by && [...by.options].some((option) => option.value === stored.by)) by.value = stored.by;
    filter.value = stored.filter || "";
    if (stored.sort && (stored.sort === "id" || stored.sort === "operator" || names.includes(stored.sort))) Object.assign(state, { sort: stored.sort, down: stored.down });

    const pair = () => (by.value === "all" ? "all" : [selects.x.value, selects.y.value].map(Number).sort((one, other) => one - other).join(","));
    function members() {
      if (run.fronts[pair()]) return run.fronts[pair()];
      // Twice the same axis: those with its best value; the fronts over it and any other end there.
      const axis = axes[selects.x.value], values = mine[axis.name], everyone = people.id.map((_, index) => index).filter((index) => !Number.isNaN(values[index]));
      const best = everyone.reduce((found, index) => (axis.up ? Math.max : Math.min)(found, values[index]), axis.up ? -Infinity : Infinity);
      return everyone.filter((index) => values[index] === best);
    }

    /* the picture */
    const figure = data.figures.front;
    function hover(rows, values, index) {
      const parts = names.map((name) => `${plain(name)} ${shown(values[name][index])}`);
      return `<b>id ${rows.id[index]}</b><br>${parts.join("<br>")}`;
    }
    function axisOf(letter) {
      const axis = axes[selects[letter].value], box = logs[letter];
      let least = Infinity, most = -Infinity;
      for (const value of theirs[axis.name]) { least = Math.min(least, value); most = Math.max(most, value); }
      box.disabled = !(least > 0);
      const logarithmic = box.checked && !box.disabled;
      // Over few powers of ten, the ticks between them have numbers as well.
      const dtick = logarithmic ? (most / least > 300 ? 1 : "D2") : undefined;
      return {
        title: { text: plain(axis.name) + (axis.up ? " (more is better)" : "") }, type: logarithmic ? "log" : "linear",
        dtick, tickformat: most >= 1000 ? "~s" : "~r", automargin: true, zeroline: false, autorange: true,
      };
    }
    function picture() {
      const x = names[selects.x.value], y = names[selects.y.value], axis = axes[selects.x.value];
      const chosen = [...members()].sort((one, other) => mine[x][one] - mine[x][other]);
      const [grey, line] = figure.data;
      const same = chosen.length && by.value === "axes" && x !== y;
      Object.assign(grey, { x: [...theirs[x]], y: [...theirs[y]], customdata: cloud.id, text: cloud.id.map((_, index) => hover(cloud, theirs, index)), hovertemplate: "%{text}<extra></extra>" });
      Object.assign(line, {
        x: chosen.map((index) => mine[x][index]), y: chosen.map((index) => mine[y][index]), customdata: chosen.map((index) => people.id[index]),
        text: chosen.map((index) => hover(people, mine, index)), hovertemplate: "%{text}<extra></extra>",
        mode: same ? "lines+markers" : "markers", line: { ...line.line, shape: axis.up ? "vh" : "hv" },
      });
      figure.layout.xaxis = { ...figure.layout.xaxis, ...axisOf("x") };
      figure.layout.yaxis = { ...figure.layout.yaxis, ...axisOf("y") };
      figure.layout.shapes = [...dashes(x, y), ...rings(x, y)];
      const compared = by.value === "all" ? run.all : [...new Set([y, x])];
      const originals = dashes(x, y).map((shape) => shape.name);
      const dashed = originals.length ? ` A dashed line is the original network's ${originals.join(" or ")}.` : "";
      const all = run.sizes[pair()] ?? chosen.length;
      const many = all > chosen.length ? `${whole.format(chosen.length)} at even distances of the ${whole.format(all)}` : whole.format(chosen.length);
      byId("front-said").textContent = `${many} individual${all === 1 ? "" : "s"} that no other beats in ${compared.join(" and ")}, of all that were measured (grey).${dashed}`;
      return draw("front", figure);
    }
    function dashes(x, y) {
      return [[x, "x", "y"], [y, "y", "x"]].filter(([name]) => name in run.original).map(([name, letter, other]) => ({
        type: "line", name, [`${letter}0`]: run.original[name], [`${letter}1`]: run.original[name], [`${other}0`]: 0, [`${other}1`]: 1,
        [`${other}ref`]: "paper", line: { dash: "dash", width: 1.2 }, layer: "below",
      }));
    }
    // In pixels around a point. A "circle" of plotly's has no negative coordinates where an axis is logarithmic.
    const CIRCLE = "M9,0C9,5 5,9 0,9C-5,9 -9,5 -9,0C-9,-5 -5,-9 0,-9C5,-9 9,-5 9,0Z";
    function rings(x, y) {
      const [values, index] = at.has(state.chosen) ? [mine, at.get(state.chosen)] : [theirs, cloudAt.get(state.chosen)];
      if (index === undefined || Number.isNaN(values[x][index]) || Number.isNaN(values[y][index])) return [];
      return [{ type: "path", path: CIRCLE, xsizemode: "pixel", ysizemode: "pixel", xanchor: values[x][index], yanchor: values[y][index], line: { width: 2.5 } }];
    }

    /* the table */
    const heads = ["id", ...names, "operator"];
    for (const name of heads) {
      const head = make("th", undefined, { scope: "col" });
      if (name !== "operator") head.className = "number";
      const button = make("button", name, { type: "button" });
      button.addEventListener("click", () => {
        state.down = state.sort === name ? !state.down : false;
        state.sort = name;
        keep({ sort: name, down: state.down });
        rows();
      });
      head.append(button);
      table.tHead.rows[0].append(head);
    }
    const valueOf = (name, index) => (name === "id" ? people.id[index] : name === "operator" ? people.operator[index] : mine[name][index]);
    const tests = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };
    const escaped = [...heads].sort((one, other) => other.length - one.length).map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const condition = new RegExp(`(?<!\\S)(${escaped.join("|")})\\s*(<=|>=|<|>|=)\\s*(-?[\\d.,]+(?:e-?\\d+)?)(%?)`, "g");
    function wanted() {
      const conditions = [];
      const rest = filter.value.replace(condition, (_, name, sign, number, percent) => {
        const bound = Number(number.replaceAll(",", "")) / (percent ? 100 : 1);
        conditions.push((index) => tests[sign](valueOf(name, index), bound));
        return " ";
      });
      for (const word of rest.toLowerCase().split(/\s+/).filter(Boolean)) {
        conditions.push((index) => heads.some((name) => String(name === "operator" || name === "id" ? valueOf(name, index) : shown(valueOf(name, index))).toLowerCase().includes(word)));
      }
      return (index) => conditions.every((condition) => condition(index));
    }
    function rows() {
      const everyone = members(), listed = everyone.filter(wanted());
      if (state.sort) {
        const sign = state.down ? -1 : 1;
        listed.sort((one, other) => {
          const [a, b] = [valueOf(state.sort, one), valueOf(state.sort, other)];
          return sign * (a < b ? -1 : a > b ? 1 : 0) || one - other;
        });
      }
      [...table.tHead.rows[0].cells].forEach((head, index) => {
        if (heads[index] === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      table.tBodies[0].replaceChildren(...listed.map((index) => {
        const row = make("tr", undefined, { "data-id": people.id[index] });
        if (people.id[index] === state.chosen) row.setAttribute("aria-current", "true");
        for (const name of heads) {
          const cell = row.insertCell();
          if (name === "id") cell.append(make("button", people.id[index], { type: "button", class: "link", "aria-label": `individual ${people.id[index]}: show its layers` }));
          else cell.textContent = name === "operator" ? people.operator[index] : shown(valueOf(name, index));
          if (name !== "operator") cell.className = "number";
        }
        return row;
      }));
      byId("shown").textContent = listed.length === everyone.length ? `${whole.format(everyone.length)} rows` : `${whole.format(listed.length)} of ${whole.format(everyone.length)} rows`;
    }
    table.tBodies[0].addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) choose(Number(row.dataset.id), true);
    });

    /* one individual */
    function facts(list, pairs) {
      for (const [name, value] of pairs) list.append(make("dt", name), make("dd", value));
    }
    function panel(id) {
      const body = byId("panel-body"), index = at.get(id), list = make("dl");
      byId("panel-title").textContent = `Individual ${id}`;
      body.replaceChildren(list);
      if (index === undefined) {
        const other = cloudAt.get(id);
        if (other !== undefined) facts(list, names.map((name) => [name, shown(theirs[name][other])]));
        body.append(make("p", "Its layers are not in this file, which has those of fronts alone.", { class: "small" }));
        return;
      }
      const failure = people.failure[index], seconds = people.seconds[index];
      facts(list, names.filter((name) => !Number.isNaN(mine[name][index])).map((name) => {
        const before = run.original[name], value = mine[name][index];
        return [name, before !== undefined && value > 0 ? `${shown(value)} of ${shown(before)} (${(before / value).toFixed(1)}×)` : shown(value)];
      }));
      facts(list, [
        ["generation", people.generation[index]],
        ["made by", people.operator[index] + (people.parents[index] ? ` of ${people.parents[index]}` : "")],
      ]);
      if (seconds !== null) facts(list, [["evaluated", `in ${seconds < 100 ? seconds.toPrecision(3) : seconds.toFixed(0)} s${people.node[index] ? ` on ${people.node[index]}` : ""}`]]);
      if (people.reused[index]) facts(list, [["measured by", people.reused[index]]]);
      if (failure) {
        facts(list, [["status", failure.status], ["why", failure.reason]]);
        if (failure.log) body.append(make("pre", failure.log, { tabindex: 0 }));
      }
      body.append(layers(index));
      const command = data.shell ? `evo show ${quoted(data.folder)} ${id}` : `evo.Run(${JSON.stringify(data.folder)}, task).build(${id})`;
      body.append(make("p", "Also: ", { class: "small" }));
      body.lastChild.append(make("code", command));
    }
    const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);
    function layers(index) {
      const box = make("div", undefined, { class: "scroll", tabindex: 0, role: "region", "aria-label": "Layers" });
      const found = make("table", undefined, { class: "layers" });
      const head = found.createTHead().insertRow(), body = found.createTBody();
      for (const name of ["layer", "filters kept", ...(bits ? ["bits"] : []), "weights"]) head.append(make("th", name, { scope: "col", class: name === "layer" ? "" : "number" }));
      for (let layer = 0; layer < count; layer += 1) {
        const kept = filters[index * count + layer], all = run.layers.filters[layer];
        const row = body.insertRow();
        const name = make("th", run.layers.names[layer], { scope: "row" });
        const bar = make("span", undefined, { class: "bar" });
        bar.append(make("i"));
        bar.firstChild.style.width = `${(100 * kept) / all}%`;
        name.append(bar);
        row.append(name, make("td", `${whole.format(kept)} of ${whole.format(all)}`, { class: "number" }));
        if (bits) row.append(make("td", bits[index * count + layer], { class: "number" }));
        const left = weights[index * count + layer];
        row.append(make("td", `${whole.format(left)} (${(run.layers.weights[layer] / left).toFixed(1)}×)`, { class: "number" }));
      }
      box.append(found);
      return box;
    }
    function choose(id, jump) {
      state.chosen = id;
      panel(id);
      for (const row of table.tBodies[0].rows) {
        if (Number(row.dataset.id) === id) row.setAttribute("aria-current", "true");
        else row.removeAttribute("aria-current");
      }
      // Only the ring moves: thousands of points stay as they are.
      const [x, y] = [names[selects.x.value], names[selects.y.value]];
      figure.layout.shapes = [...dashes(x, y), ...rings(x, y)];
      Plotly.relayout(byId("plot-front"), { shapes: coloured(figure).layout.shapes });
      history.replaceState(null, "", `#id-${id}`);
      keep({ chosen: id });
      const box = byId("panel").getBoundingClientRect();
      if (jump && (box.bottom < 80 || box.top > innerHeight - 80)) byId("panel").scrollIntoView({ block: "start", behavior: quiet ? "auto" : "smooth" });
    }
    for (const button of document.querySelectorAll("[data-choose]")) button.addEventListener("click", () => choose(Number(button.dataset.choose), true));
    const known = (id) => at.has(id) || cloudAt.has(id);
    const addressed = () => Number((/^#id-(\d+)$/.exec(location.hash) || [])[1] ?? NaN);
    addEventListener("hashchange", () => { if (known(addressed())) choose(addressed(), true); });

    const changed = () => {
      keep({ x: Number(selects.x.value), y: Number(selects.y.value), by: by.value });
      picture();
      rows();
    };
    by.addEventListener("change", changed);
    filter.addEventListener("input", () => { keep({ filter: filter.value }); rows(); });
    state.chosen = [addressed(), stored.chosen, data.best].find(known) ?? null;
    if (state.chosen !== null) panel(state.chosen);
    picture().then((plot) => plot.on("plotly_click", (event) => choose(event.points[0].customdata, innerWidth < 1120)));
    rows();
  }

  /* ---- a page about a search that runs loads itself again */
  function watch() {
    const note = byId("watch");
    if (stored.scroll !== undefined) scrollTo({ top: stored.scroll, behavior: "instant" });
    keep({ scroll: undefined });
    if (!note) return;
    addEventListener("pagehide", () => keep({ scroll: scrollY }));
    const pause = byId("pause");
    let paused = stored.paused === true;
    const show = () => {
      pause.textContent = paused ? "Reload again" : "Stop reloading";
      pause.setAttribute("aria-pressed", String(paused));
    };
    pause.hidden = false;
    pause.addEventListener("click", () => { paused = !paused; keep({ paused }); show(); });
    show();
    setInterval(() => {
      if (!paused && document.activeElement !== byId("filter")) location.reload();
    }, 1000 * Number(note.dataset.refresh));
  }
})();
