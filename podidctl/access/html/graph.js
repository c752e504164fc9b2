// The canvas: drawing, zoom and movement by D3, and the object at a point.

const STYLE = getComputedStyle(document.documentElement);
const COLORS = {
  pod: STYLE.getPropertyValue("--pod"), binding: STYLE.getPropertyValue("--binding"),
  identity: STYLE.getPropertyValue("--identity"), other: "#ffffff", host: STYLE.getPropertyValue("--host"),
};
const LINKS = {
  grant: { color: "#8a97a5", dash: [] }, attached: { color: "#9fb99b", dash: [] }, reach: { color: "#d97706", dash: [5, 4] },
};
const LABELS_MAX = 400;
const LABEL_FONT = "12px system-ui, 'DejaVu Sans', sans-serif";

function labelOf(object) {
  return object.name.length > 60 ? object.name.slice(0, 59) + "…" : object.name;
}

function makeCanvas(graph, onSelect) {
  const canvas = document.getElementById("graph");
  const context = canvas.getContext("2d");
  const zoom = d3.behavior.zoom().scaleExtent([0.005, 8]);
  const view = {
    visible: new Set(), size: DENSE, selected: null, highlighted: null, tree: d3.geom.quadtree([]), isRequested: false,
  };

  function toScreen(object) {
    const [left, top] = zoom.translate();
    return [object.x * zoom.scale() + left, object.y * zoom.scale() + top];
  }

  function draw() {
    view.isRequested = false;
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    for (const kind of Object.keys(LINKS)) {
      drawLinks(kind, (link) => !view.highlighted || (view.highlighted.has(link.from) && view.highlighted.has(link.to)),
        view.highlighted ? 0.9 : 0.45);
      if (view.highlighted) drawLinks(kind, () => true, 0.08);
    }
    const scale = zoom.scale();
    const radius = Math.max(1.2, Math.min(view.size.radius * Math.max(scale, 0.25), 12));
    const onScreen = [];
    for (const object of view.visible) {
      const [x, y] = toScreen(object);
      if (x < -20 || y < -20 || x > width + 20 || y > height + 20) continue;
      onScreen.push([object, x, y]);
      context.globalAlpha = !view.highlighted || view.highlighted.has(object) ? 1 : 0.18;
      drawShape(object, x, y, object.kind === "pod" ? radius : radius * 1.3);
    }
    drawLabels(onScreen, radius, scale);
    context.globalAlpha = 1;
  }

  function drawLinks(kind, chosen, alpha) {
    const { color, dash } = LINKS[kind];
    context.globalAlpha = alpha;
    context.strokeStyle = color;
    context.setLineDash(dash);
    context.lineWidth = 1;
    context.beginPath();
    for (const link of graph.links) {
      if (link.kind !== kind || !view.visible.has(link.from) || !view.visible.has(link.to) || !chosen(link)) continue;
      const [x, y] = toScreen(link.from), [x2, y2] = toScreen(link.to);
      context.moveTo(x, y);
      context.lineTo(x2, y2);
    }
    context.stroke();
    context.setLineDash([]);
  }

  function drawShape(object, x, y, radius) {
    context.fillStyle = COLORS[object.kind];
    context.beginPath();
    if (object.kind === "binding" || object.kind === "host") {
      context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    } else {
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    context.fill();
    if (object.kind === "other" || object === view.selected) {
      context.lineWidth = object === view.selected ? 3 : 1.5;
      context.strokeStyle = object === view.selected ? "#1b1f24" : COLORS.identity;
      context.stroke();
    }
  }

  function drawLabels(onScreen, radius, scale) {
    const all = view.size.row * scale >= 13 && onScreen.length <= LABELS_MAX;
    context.font = LABEL_FONT;
    context.textBaseline = "middle";
    context.strokeStyle = "#ffffff";
    context.lineWidth = 4;
    context.fillStyle = "#1b1f24";
    const { binding, identity, host, labelSpace } = view.size;
    const room = { binding: identity - binding, identity: host, other: host };
    for (const [object, x, y] of onScreen) {
      const own = object === view.selected;
      if (!own && !all && !(view.highlighted && view.highlighted.size <= 40 && view.highlighted.has(object))) continue;
      if (object.kind === "pod" && view.size === DENSE && !own && scale < 2) continue;
      context.globalAlpha = !view.highlighted || view.highlighted.has(object) ? 1 : 0.25;
      context.textAlign = object.kind === "pod" ? "right" : "left";
      const label = labelSpace && room[object.kind]
        ? shortened(labelOf(object), room[object.kind] * scale - 3 * radius - 6) : labelOf(object);
      const at = x + (object.kind === "pod" ? -1 : 1) * (radius + 6);
      context.strokeText(label, at, y);
      context.fillText(label, at, y);
    }
  }

  // Return as much of *label* as fits into *width* on the screen, so that it covers no object of the next column.
  function shortened(label, width) {
    const full = widthOf(label);
    return full <= width ? label : label.slice(0, Math.max(0, Math.floor((label.length * width) / full) - 2)) + "…";
  }

  function widthOf(label) {
    context.font = LABEL_FONT;
    return context.measureText(label).width;
  }

  function redraw() {
    if (view.isRequested) return;
    view.isRequested = true;
    requestAnimationFrame(draw);
  }

  function show(visible) {
    view.visible = visible;
    view.size = place(graph, visible, (object) => widthOf(labelOf(object)));
    view.tree = d3.geom.quadtree([...visible]);
    redraw();
  }

  function moveTo(translate, scale) {
    zoom.scale(scale).translate(translate);
    redraw();
  }

  function fit() {
    const shown = [...view.visible];
    if (!shown.length) return redraw();
    const [left, right] = d3.extent(shown, (object) => object.x);
    const [top, bottom] = d3.extent(shown, (object) => object.y);
    const width = canvas.clientWidth, height = canvas.clientHeight;
    // Labels keep their size on the screen, so that their space does not depend on the scale.
    const outer = shown.filter((object) => object.kind === "pod" || object.x === right);
    const labels = view.size.labelSpace ? d3.max(outer, (object) => widthOf(labelOf(object))) + 20 : 60;
    const space = width - 2 * Math.min(labels, width / 3);
    const scale = Math.min(space / Math.max(1, right - left), height / (bottom - top + 80), 1.5);
    moveTo([width / 2 - ((left + right) / 2) * scale, height / 2 - ((top + bottom) / 2) * scale], scale);
  }

  function center(object) {
    const [x, y] = toScreen(object), scale = Math.max(zoom.scale(), view.size.labelSpace ? 0.5 : 0.8);
    const inside = x > 40 && y > 20 && x < canvas.clientWidth - 40 && y < canvas.clientHeight - 20;
    if (inside && zoom.scale() === scale) return;
    moveTo([canvas.clientWidth / 2 - object.x * scale, canvas.clientHeight / 2 - object.y * scale], scale);
  }

  function objectAt(x, y) {
    if (!view.visible.size) return null;
    const [left, top] = zoom.translate(), scale = zoom.scale();
    const nearest = view.tree.find([(x - left) / scale, (y - top) / scale]);
    if (!nearest) return null;
    const [nearX, nearY] = toScreen(nearest);
    return Math.hypot(nearX - x, nearY - y) <= 14 ? nearest : null;
  }

  function mark(object, highlighted) {
    view.selected = object;
    view.highlighted = highlighted;
    redraw();
  }

  function onKey(event) {
    const [left, top] = zoom.translate(), step = 60;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const zooms = { "+": 1.25, "=": 1.25, "-": 0.8 };
    if (moves[event.key]) {
      moveTo([left + moves[event.key][0], top + moves[event.key][1]], zoom.scale());
    } else if (zooms[event.key]) {
      const scale = Math.max(0.005, Math.min(8, zoom.scale() * zooms[event.key])), by = scale / zoom.scale();
      const x = canvas.clientWidth / 2, y = canvas.clientHeight / 2;
      moveTo([x - (x - left) * by, y - (y - top) * by], scale);
    } else if (event.key === "0") {
      fit();
    } else {
      return;
    }
    event.preventDefault();
  }

  zoom.on("zoom", redraw);
  d3.select(canvas).call(zoom).on("dblclick.zoom", null);
  canvas.addEventListener("click", (event) => {
    if (event.defaultPrevented) return; // the end of a drag
    const box = canvas.getBoundingClientRect();
    onSelect(objectAt(event.clientX - box.left, event.clientY - box.top));
  });
  canvas.addEventListener("keydown", onKey);
  window.addEventListener("resize", redraw);
  return { show, fit, center, mark, draw };
}
