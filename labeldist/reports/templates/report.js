(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
  const number = (value) => value.toLocaleString("en");
  const rowsWord = (value) => `${number(value)} ${value === 1 ? "row" : "rows"}`;

  // Text from data is only ever set as text.
  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const option = (value, text) => {
    const made = element("option", text);
    made.value = value;
    return made;
  };
  const redraws = [];

  // Theme

  const theme = byId("theme");
  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const showTheme = () => {
    theme.setAttribute("aria-pressed", String(isDark()));
    redraws.forEach((redraw) => redraw());
  };
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

  // In a notebook's frame a link to a part of the page would load the notebook.
  document.querySelectorAll('a[href^="#"]').forEach((link) => {
    link.addEventListener("click", (event) => {
      const target = byId(link.getAttribute("href").slice(1));
      event.preventDefault();
      target.scrollIntoView();
      target.tabIndex = -1;
      target.focus({ preventScroll: true });
    });
  });

  // Copying, downloading, sorting

  document.querySelectorAll(".copy").forEach((button) => {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
    });
  });
  const download = byId("matrix-file");
  if (download) {
    download.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([data.matrixFile], { type: "application/json" }));
      link.download = "confusable-pairs.json";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
  document.querySelectorAll("table.sortable").forEach((table) => {
    const headers = [...table.querySelectorAll("thead th")];
    headers.forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => {
        const ascending = header.getAttribute("aria-sort") !== "ascending";
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const key = (row) => {
          const text = row.cells[column].textContent.trim();
          const value = parseFloat(text.replaceAll(",", ""));
          return row.cells[column].classList.contains("number") ? (Number.isNaN(value) ? Infinity : value) : text;
        };
        const compare = (a, b) => (typeof a === "number" ? a - b || 0 : a.localeCompare(b));
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (ascending ? 1 : -1));
        body.append(...rows);
      });
    });
  });

  // Colors and canvases

  const rgb = (color) => [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  const mix = (from, to, share) => {
    const [a, b] = [rgb(from), rgb(to)];
    return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * share)).join(",")})`;
  };
  const prepare = (canvas, width, height) => {
    const scale = devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.font = "12px system-ui, sans-serif";
    return context;
  };
  const cutTo = (context, text, width) => {
    if (context.measureText(text).width <= width) return text;
    const characters = [...text];
    let kept = characters.length;
    while (kept > 1 && context.measureText(`${characters.slice(0, kept).join("")}…`).width > width) kept -= 1;
    return `${characters.slice(0, kept).join("")}…`;
  };

  // Confusion matrix

  const size = data.matrix.classes.length;
  const table = (cells) => {
    const counts = new Map();
    if (cells) cells[0].forEach((row, i) => counts.set(row * size + cells[1][i], cells[2][i]));
    return counts;
  };
  const counts = table(data.matrix.cells);
  const baseline = data.matrix.baseline ? table(data.matrix.baseline) : null;
  const name = (index) => data.classes[index];
  const classAt = (place) => data.matrix.classes[place];
  const countOf = (row, column) => counts.get(row * size + column) || 0;
  const baseOf = (row, column) => (baseline && baseline.get(row * size + column)) || 0;
  const all = [...Array(size).keys()];
  const view = { places: all, mode: "rates", row: 0, column: 0, cell: 10, left: 0, top: 0 };
  const canvas = byId("matrix-canvas");

  const zoom = byId("zoom");
  zoom.append(option("all", "all shown"));
  data.groups.forEach((group, i) => {
    zoom.append(option(String(i), `look alike: ${group.slice(0, 4).map(name).join(", ")}${group.length > 4 ? ", …" : ""}`));
  });

  const drawMatrix = () => {
    const { places } = view;
    const available = canvas.parentElement.clientWidth;
    const measure = canvas.getContext("2d");
    measure.font = "12px system-ui, sans-serif";
    const widest = Math.max(...places.map((place) => measure.measureText(name(classAt(place))).width));
    const labels = Math.min(widest + 10, available * 0.3, 190);
    const withLabels = (available - labels - 4) / places.length >= 11;
    const margin = withLabels ? labels : 4;
    view.cell = Math.max(2, Math.min(46, (available - margin - 4) / places.length));
    view.left = margin;
    view.top = margin;
    const side = view.cell * places.length;
    const context = prepare(canvas, margin + side + 4, margin + side + 4);
    const [paper, ink, muted, diagonal] = ["--paper", "--ink", "--muted", "--diagonal"].map(css);
    const [accent, more, less, rule] = ["--accent", "--more", "--less", "--rule"].map(css);
    let most = 1;
    let largest = 1;
    places.forEach((row) => places.forEach((column) => {
      if (row !== column) most = Math.max(most, countOf(row, column));
      largest = Math.max(largest, Math.abs(countOf(row, column) - baseOf(row, column)));
    }));
    places.forEach((row, i) => places.forEach((column, j) => {
      const count = countOf(row, column);
      let color = paper;
      let strength = 0;
      if (view.mode === "difference") {
        const change = count - baseOf(row, column);
        strength = Math.sqrt(Math.abs(change) / largest);
        // Off the diagonal more is worse, on it more is better.
        color = mix(paper, change > 0 === (row !== column) ? more : less, strength);
      } else if (row === column) {
        color = count ? diagonal : paper;
      } else if (count) {
        strength = Math.sqrt(view.mode === "counts" ? count / most : count / Math.max(1, data.matrix.support[row]));
        strength = Math.min(1, 0.12 + 0.88 * strength);
        color = mix(paper, accent, strength);
      }
      context.fillStyle = color;
      context.fillRect(view.left + j * view.cell, view.top + i * view.cell, Math.ceil(view.cell), Math.ceil(view.cell));
      if (view.cell >= 26 && (count || (view.mode === "difference" && baseOf(row, column)))) {
        context.fillStyle = strength > 0.55 ? paper : row === column ? muted : ink;
        context.textAlign = "center";
        context.textBaseline = "middle";
        const change = count - baseOf(row, column);
        const share = count / Math.max(1, data.matrix.support[row]);
        const shown = view.mode === "difference" ? (change > 0 ? `+${change}` : String(change || ""))
          : view.mode === "counts" ? number(count) : share >= 0.005 ? (100 * share).toFixed(0) : "";
        context.fillText(shown, view.left + (j + 0.5) * view.cell, view.top + (i + 0.5) * view.cell);
      }
    }));
    if (view.cell >= 8) {
      context.strokeStyle = rule;
      context.lineWidth = 0.5;
      for (let i = 0; i <= places.length; i += 1) {
        context.beginPath();
        context.moveTo(view.left, view.top + i * view.cell);
        context.lineTo(view.left + side, view.top + i * view.cell);
        context.moveTo(view.left + i * view.cell, view.top);
        context.lineTo(view.left + i * view.cell, view.top + side);
        context.stroke();
      }
    }
    if (withLabels) {
      context.fillStyle = ink;
      context.font = `${Math.min(12, view.cell - 1)}px system-ui, sans-serif`;
      context.textBaseline = "middle";
      places.forEach((place, i) => {
        const text = cutTo(context, name(classAt(place)), margin - 8);
        context.textAlign = "right";
        context.fillText(text, margin - 6, view.top + (i + 0.5) * view.cell);
        context.save();
        context.translate(view.left + (i + 0.5) * view.cell, margin - 6);
        context.rotate(-Math.PI / 2);
        context.textAlign = "left";
        context.fillText(text, 0, 0);
        context.restore();
      });
    }
    context.strokeStyle = more;
    context.lineWidth = 2;
    context.strokeRect(view.left + view.column * view.cell, view.top + view.row * view.cell, view.cell, view.cell);
  };

  const describe = () => {
    const [row, column] = [view.places[view.row], view.places[view.column]];
    const count = countOf(row, column);
    const support = data.matrix.support[row];
    const share = support ? `, ${percent(count / support)} of ${name(classAt(row))}` : "";
    const before = baseline ? `; the baseline: ${rowsWord(baseOf(row, column))}` : "";
    const what = row === column ? `${name(classAt(row))} found: ` : `${name(classAt(row))} taken for ${name(classAt(column))}: `;
    byId("matrix-status").textContent = `${what}${rowsWord(count)}${share}${before}.`;
  };
  const cellTrue = byId("cell-true");
  const cellPredicted = byId("cell-predicted");
  const inOrder = data.classes.map((_, index) => index).sort((a, b) => name(a).localeCompare(name(b)));
  [cellTrue, cellPredicted].forEach((select) => {
    (data.classes.length <= 2000 ? inOrder : data.matrix.classes).forEach((index) => select.append(option(String(index), name(index))));
  });
  const list = byId("cell-texts");
  const rowsOf = new Map();
  data.rows.forEach((row) => {
    const key = `${row[1]},${row[2]}`;
    if (!rowsOf.has(key)) rowsOf.set(key, []);
    rowsOf.get(key).push(row);
  });
  const rowElement = (row) => {
    const item = document.createElement("li");
    item.append(element("bdi", row[0]));
    const others = row[4].map(([index, probability]) => `${name(index)} ${percent(probability)}`).join(", ");
    const chance = others || (row[3] === null ? "" : `${name(row[2])} ${percent(row[3])}`);
    if (chance) item.append(element("span", chance, "muted"));
    if (row[6]) {
      const nearest = element("span", row[6][2] ? "The same text in training, " : "Nearest training text, ", "muted");
      nearest.append(element("bdi", row[6][1], "name"), ": ", element("bdi", row[6][0]));
      item.append(nearest);
    }
    return item;
  };
  const showCell = (trueClass, predicted) => {
    cellTrue.value = String(trueClass);
    cellPredicted.value = String(predicted);
    const [row, column] = [data.matrix.classes.indexOf(trueClass), data.matrix.classes.indexOf(predicted)];
    const rows = rowsOf.get(`${trueClass},${predicted}`) || [];
    const total = row >= 0 && column >= 0 ? countOf(row, column) : rows.length;
    list.replaceChildren(...(data.hasTexts ? rows.slice(0, 200).map(rowElement) : []));
    const missing = total > rows.length && data.hasTexts ? ` The page holds ${number(rows.length)} of their texts.` : "";
    const what = trueClass === predicted ? `${name(trueClass)}, found` : `${name(trueClass)} taken for ${name(predicted)}`;
    const none = data.hasTexts ? "" : " Texts were not given.";
    const shownCount = row >= 0 && column >= 0 ? rowsWord(total) : "not in the matrix shown";
    byId("cell-note").textContent = `${what}: ${shownCount}.${missing}${none}`;
  };
  [cellTrue, cellPredicted].forEach((select) => {
    select.addEventListener("change", () => {
      showCell(Number(cellTrue.value), Number(cellPredicted.value));
      const [row, column] = [cellTrue, cellPredicted].map((one) => view.places.indexOf(data.matrix.classes.indexOf(Number(one.value))));
      if (row >= 0 && column >= 0) [view.row, view.column] = [row, column];
      drawMatrix();
      describe();
    });
  });

  const cellAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - view.left) / view.cell);
    const row = Math.floor((event.clientY - box.top - view.top) / view.cell);
    const inside = row >= 0 && column >= 0 && row < view.places.length && column < view.places.length;
    return inside ? [row, column] : null;
  };
  const moveTo = (cell) => {
    if (!cell || (cell[0] === view.row && cell[1] === view.column)) return;
    [view.row, view.column] = cell;
    drawMatrix();
    describe();
  };
  const choose = () => showCell(classAt(view.places[view.row]), classAt(view.places[view.column]));
  canvas.addEventListener("pointermove", (event) => moveTo(cellAt(event)));
  canvas.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (!cell) return;
    moveTo(cell);
    choose();
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const last = view.places.length - 1;
    if (step) {
      moveTo([view.row + step[0], view.column + step[1]].map((place) => Math.max(0, Math.min(last, place))));
    } else if (event.key === "Enter" || event.key === " ") {
      choose();
    } else {
      return;
    }
    event.preventDefault();
  });
  document.querySelectorAll('input[name="mode"]').forEach((input) => {
    input.addEventListener("change", () => {
      view.mode = input.value;
      drawMatrix();
    });
  });
  zoom.addEventListener("change", () => {
    const group = zoom.value === "all" ? null : new Set(data.groups[Number(zoom.value)]);
    view.places = group ? all.filter((place) => group.has(classAt(place))) : all;
    [view.row, view.column] = [0, Math.min(1, view.places.length - 1)];
    drawMatrix();
    describe();
  });
  if (data.pairs.length) {
    const [row, column] = data.pairs[0].map((index) => data.matrix.classes.indexOf(index));
    if (row >= 0 && column >= 0) [view.row, view.column] = [row, column];
    showCell(...data.pairs[0]);
  } else {
    showCell(classAt(0), classAt(size - 1));
  }
  redraws.push(drawMatrix);
  drawMatrix();
  describe();

  // Map

  const mapCanvas = byId("map-canvas");
  if (mapCanvas) {
    const points = data.rows.filter((row) => row[5]);
    const panel = (canvas, placeOf, guessOf) => {
      const range = (axis) => {
        const values = points.map((row) => placeOf(row)[axis]);
        return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
      };
      return { canvas, placeOf, guessOf, ranges: [range(0), range(1)], box: [0, 0, 1] };
    };
    const panels = [panel(mapCanvas, (row) => row[5], (row) => row[2])];
    const baseCanvas = byId("map-canvas-baseline");
    if (baseCanvas) panels.unshift(panel(baseCanvas, (row) => row[7][0], (row) => row[7][1]));
    const light = ["#1f5f8b", "#b4501e", "#2f7a4b", "#8a4aa8", "#a8322a", "#7a6a10", "#0f7f86", "#b0407e"];
    const dark = ["#86c1ea", "#ef9a68", "#7fd09a", "#cfa1ea", "#f1998f", "#e0c65a", "#6fd3d8", "#f29ac6"];
    const choice = byId("map-choice");
    const classes = [...new Set(points.map((row) => row[1]))].sort((a, b) => name(a).localeCompare(name(b)));
    const choices = [];
    const addChoice = (text, members) => {
      choice.append(option(String(choices.length), text));
      choices.push(members);
    };
    data.pairs.forEach((pair) => addChoice(`pair: ${pair.map(name).join(" and ")}`, pair));
    data.groups.filter((group) => group.length > 2).forEach((group) => {
      addChoice(`look alike: ${group.slice(0, 4).map(name).join(", ")}${group.length > 4 ? ", …" : ""}`, group);
    });
    if (classes.length <= light.length) addChoice("all classes", classes);
    classes.slice(0, 500).forEach((index) => addChoice(`class: ${name(index)}`, [index]));
    const state = { members: choices[0] || [], at: -1 };
    const place = (map, row) => {
      const [width, height, margin] = map.box;
      const [x, y] = map.placeOf(row).map((value, axis) => {
        const [from, to] = map.ranges[axis];
        return to > from ? (value - from) / (to - from) : 0.5;
      });
      return [margin + x * (width - 2 * margin), height - margin - y * (height - 2 * margin)];
    };
    const color = (index) => {
      const found = state.members.indexOf(index);
      return found < 0 ? null : (isDark() ? dark : light)[found % light.length];
    };
    const drawMap = (map) => {
      const width = map.canvas.parentElement.clientWidth;
      const height = Math.max(280, Math.min(620, width * 0.62));
      map.box = [width, height, 14];
      const context = prepare(map.canvas, width, height);
      const [paper, ink, rule, muted] = ["--paper", "--ink", "--rule", "--muted"].map(css);
      const dot = (row, fill, radius) => {
        const [x, y] = place(map, row);
        context.beginPath();
        context.arc(x, y, radius, 0, 2 * Math.PI);
        context.fillStyle = fill;
        context.fill();
        if (row[1] !== map.guessOf(row) && color(row[1])) {
          context.beginPath();
          context.arc(x, y, radius + 2.5, 0, 2 * Math.PI);
          context.strokeStyle = ink;
          context.lineWidth = 1.2;
          context.stroke();
        }
      };
      points.filter((row) => !color(row[1])).forEach((row) => dot(row, mix(rule, muted, 0.25), 2.2));
      points.filter((row) => color(row[1])).forEach((row) => dot(row, color(row[1]), 3.6));
      context.font = "600 13px system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "middle";
      const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
      const taken = [];
      state.members.forEach((index) => {
        const places = points.filter((row) => row[1] === index).map((row) => place(map, row));
        if (!places.length) return;
        const text = cutTo(context, name(index), 220);
        const half = context.measureText(text).width / 2;
        const x = Math.max(half + 4, Math.min(width - half - 4, median(places.map((one) => one[0]))));
        const middle = median(places.map((one) => one[1]));
        // Above the class's middle, or, where another name stands there, the nearest line that is free.
        const lines = [-16, 16, -32, 32, -48, 48, -64, 64].map((shift) => middle + shift).filter((line) => line >= 12 && line <= height - 12);
        const isFree = (line) => taken.every(([left, right, other]) => x + half < left || x - half > right || Math.abs(line - other) >= 15);
        const y = lines.find(isFree) ?? Math.max(12, middle - 16);
        taken.push([x - half, x + half, y]);
        context.lineWidth = 4;
        context.strokeStyle = paper;
        context.strokeText(text, x, y);
        context.fillStyle = color(index);
        context.fillText(text, x, y);
      });
      if (state.at >= 0) {
        const [x, y] = place(map, points[state.at]);
        context.beginPath();
        context.arc(x, y, 9, 0, 2 * Math.PI);
        context.lineWidth = 2;
        context.strokeStyle = css("--more");
        context.stroke();
      }
    };
    const drawMaps = () => panels.forEach(drawMap);
    const legend = () => {
      byId("map-legend").replaceChildren(...state.members.slice(0, 30).map((index) => {
        const entry = document.createElement("span");
        const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
        mark.setAttribute("viewBox", "0 0 10 10");
        mark.setAttribute("aria-hidden", "true");
        [["cx", 5], ["cy", 5], ["r", 5], ["fill", color(index)]].forEach(([key, value]) => circle.setAttribute(key, value));
        mark.append(circle);
        entry.append(mark, element("bdi", name(index)));
        return entry;
      }));
    };
    const tell = () => {
      const row = points[state.at];
      const mistakes = panels.filter((map) => map.guessOf(row) !== row[1]).map((map) => {
        const by = map.canvas.dataset.name ? ` by ${map.canvas.dataset.name}` : "";
        return `, taken for ${name(map.guessOf(row))}${by}`;
      });
      const status = byId("map-status");
      status.replaceChildren(element("strong", `${name(row[1])}${mistakes.join("")}: `), element("bdi", row[0]));
    };
    const lookAt = (at) => {
      if (at === state.at || at < 0) return;
      state.at = at;
      drawMaps();
      tell();
    };
    panels.forEach((map) => {
      map.canvas.addEventListener("pointermove", (event) => {
        const box = map.canvas.getBoundingClientRect();
        const [x, y] = [event.clientX - box.left, event.clientY - box.top];
        let best = -1;
        let nearest = 14 ** 2;
        points.forEach((row, i) => {
          const [px, py] = place(map, row);
          // A colored point wins over a gray one that covers it.
          const distance = (px - x) ** 2 + (py - y) ** 2 + (color(row[1]) ? 0 : 20);
          if (distance < nearest) [best, nearest] = [i, distance];
        });
        lookAt(best);
      });
      map.canvas.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const ranked = points.map((row, i) => i).filter((i) => !state.members.length || color(points[i][1]));
        ranked.sort((a, b) => map.placeOf(points[a])[0] - map.placeOf(points[b])[0]);
        if (!ranked.length) return;
        const now = ranked.indexOf(state.at);
        lookAt(ranked[(now + step + ranked.length) % ranked.length]);
      });
    });
    choice.addEventListener("change", () => {
      state.members = choices[Number(choice.value)];
      state.at = -1;
      byId("map-status").textContent = "\u00a0";
      legend();
      drawMaps();
    });
    redraws.push(drawMaps, legend);
    legend();
    drawMaps();
  }

  // Printing: every part open, on a light page

  let before = null;
  addEventListener("beforeprint", () => {
    if (before) return;
    before = { theme: document.documentElement.dataset.theme, closed: [...document.querySelectorAll("details:not([open])")] };
    before.closed.forEach((part) => { part.open = true; });
    document.documentElement.dataset.theme = "light";
    redraws.forEach((redraw) => redraw());
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    before.closed.forEach((part) => { part.open = false; });
    if (before.theme) document.documentElement.dataset.theme = before.theme;
    else delete document.documentElement.dataset.theme;
    before = null;
    redraws.forEach((redraw) => redraw());
  });

  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    redraws.forEach((redraw) => redraw());
  });
  showTheme();
})();
