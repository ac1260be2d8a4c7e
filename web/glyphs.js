// Drawings of HOG features: the arithmetic of `preimage.viz.hog_glyphs`, which tests/web compares with it.

const ORIENTATIONS = 9;
const SUPERSAMPLING = 8;
const stencilsOf = new Map();

/** Return, for each orientation, the pixels of a cell that its stroke covers, and the fractions of them. */
function stencils(side) {
  if (stencilsOf.has(side)) return stencilsOf.get(side);
  const halfLength = 0.47 * side; // a gap, so that the strokes of neighboring cells do not connect
  const halfWidth = Math.max(0.5, 0.045 * side);
  const result = [];
  for (let orientation = 0; orientation < ORIENTATIONS; orientation++) {
    const angle = (orientation * Math.PI) / ORIENTATIONS + Math.PI / 2; // along the edge that caused the gradient
    const [cosine, sine] = [Math.cos(angle), Math.sin(angle)];
    const covered = new Float32Array(side * side);
    for (let row = 0; row < side * SUPERSAMPLING; row++) {
      const y = (row + 0.5) / SUPERSAMPLING - side / 2;
      for (let column = 0; column < side * SUPERSAMPLING; column++) {
        const x = (column + 0.5) / SUPERSAMPLING - side / 2;
        if (Math.abs(x * cosine + y * sine) > halfLength || Math.abs(y * cosine - x * sine) > halfWidth) continue;
        const pixel = Math.floor(row / SUPERSAMPLING) * side + Math.floor(column / SUPERSAMPLING);
        covered[pixel] += 1 / SUPERSAMPLING ** 2;
      }
    }
    const pixels = Uint16Array.from(covered.keys()).filter((pixel) => covered[pixel] > 0);
    result.push({ pixels, fractions: Float32Array.from(pixels, (pixel) => covered[pixel]) });
  }
  stencilsOf.set(side, result);
  return result;
}

/** Return the 95th percentile, interpolated linearly as NumPy does. */
function percentile95(values) {
  const sorted = values.slice().sort();
  const position = 0.95 * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below);
}

/**
 * Draw a star of strokes for each cell, light on black.
 *
 * @param {Float32Array} features (31, rows, columns)
 * @param {number} rows
 * @param {number} columns
 * @param {number} side Side of a drawn cell in pixels.
 * @returns {Uint8ClampedArray} RGBA pixels (rows * side, columns * side, 4).
 */
export function drawGlyphs(features, rows, columns, side = 16) {
  const cells = rows * columns;
  const weights = new Float32Array(ORIENTATIONS * cells); // both directions and the undirected channel, as VLFeat
  const strongest = new Float32Array(cells);
  for (let orientation = 0; orientation < ORIENTATIONS; orientation++) {
    for (let cell = 0; cell < cells; cell++) {
      let weight = 0;
      for (let group = 0; group < 3; group++) weight += features[(group * ORIENTATIONS + orientation) * cells + cell];
      weight = Math.max(weight, 0);
      weights[orientation * cells + cell] = weight;
      strongest[cell] = Math.max(strongest[cell], weight);
    }
  }
  const scale = 255 / Math.max(percentile95(strongest), 1e-6);
  const strokes = stencils(side);
  const area = side * side;
  const pixels = new Uint8ClampedArray(4 * cells * area).fill(255);
  const light = new Float32Array(area);
  for (let cell = 0; cell < cells; cell++) {
    light.fill(0);
    for (let orientation = 0; orientation < ORIENTATIONS; orientation++) {
      const weight = weights[orientation * cells + cell];
      const { pixels: places, fractions } = strokes[orientation];
      for (let index = 0; index < places.length; index++) light[places[index]] += weight * fractions[index];
    }
    const most = strongest[cell];
    let at = 4 * side * (Math.floor(cell / columns) * columns * side + (cell % columns));
    for (let y = 0, pixel = 0; y < side; y++, at += 4 * (columns - 1) * side) {
      for (let x = 0; x < side; x++, pixel++, at += 4) {
        const value = Math.min(light[pixel], most) * scale;
        pixels[at] = pixels[at + 1] = pixels[at + 2] = value; // rounded and clamped by the array
      }
    }
  }
  return pixels;
}
