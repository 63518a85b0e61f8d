// Filters as tiles: one strip for each filter, its channels side by side; zero is the page's own colour.

const GAP = 2; // pixels of the picture between two strips

export function drawFilters(canvas, { shape, pixels }) {
  const [filters, channels, height, width] = shape;
  const bytes = Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0));
  const strip = { width: channels * (width + 1) - 1, height };
  const room = canvas.parentElement.clientWidth;
  const across = bestAcross(filters, strip, room);
  const rows = Math.ceil(filters / across);
  canvas.width = across * (strip.width + GAP) - GAP;
  canvas.height = rows * (strip.height + GAP) - GAP;
  const scale = Math.max(1, Math.min(10, Math.floor(room / canvas.width)));
  canvas.style.width = `${canvas.width * scale}px`;
  canvas.style.height = `${canvas.height * scale}px`;
  const [zero, minus, plus] = ["--faint", "--accent", "--plus"].map((name) => colour(canvas, name));
  const context = canvas.getContext("2d");
  const tile = context.createImageData(width, height);
  for (let filter = 0; filter < filters; filter++) {
    for (let channel = 0; channel < channels; channel++) {
      const start = (filter * channels + channel) * width * height;
      for (let i = 0; i < width * height; i++) {
        const value = (bytes[start + i] - 128) / 127; // −1 … 1
        const end = value < 0 ? minus : plus;
        for (let c = 0; c < 3; c++) tile.data[4 * i + c] = zero[c] + (end[c] - zero[c]) * Math.abs(value);
        tile.data[4 * i + 3] = 255;
      }
      const left = (filter % across) * (strip.width + GAP) + channel * (width + 1);
      context.putImageData(tile, left, Math.floor(filter / across) * (strip.height + GAP));
    }
  }
}

// How many strips stand side by side: a picture about half as high as wide.
function bestAcross(filters, strip, room) {
  let best = 1;
  for (let across = 1; across <= filters; across++) {
    const wide = across * (strip.width + GAP);
    const high = Math.ceil(filters / across) * (strip.height + GAP);
    if (wide > room) break;
    best = across;
    if (wide >= 1.4 * high) break;
  }
  return best;
}

// A custom property of the page as red, green, blue.
function colour(canvas, name) {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = getComputedStyle(canvas).getPropertyValue(name).trim();
  const hex = context.fillStyle; // always #rrggbb for opaque colours
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}
