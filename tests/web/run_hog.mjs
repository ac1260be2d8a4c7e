// node run_hog.mjs WEB_FOLDER WORK_FOLDER: for each image of WORK_FOLDER/images.json, read its RGBA pixels and write its
// HOG and the drawing of it; write the milliseconds of a call for each to times.json.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [web, work] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(join(web, name)));
const [{ loadHog }, { drawGlyphs }] = await Promise.all([load("hog.js"), load("glyphs.js")]);
const hog = await loadHog(await readFile(join(web, "hog.wasm")));
const refused = (pixels, width, height) => {
  try {
    hog(new Uint8ClampedArray(pixels), width, height);
  } catch (error) {
    return error instanceof RangeError ? error.message : "";
  }
  return "";
};
const times = {};
for (const { name, width, height } of JSON.parse(await readFile(join(work, "images.json")))) {
  const pixels = new Uint8ClampedArray(await readFile(join(work, `${name}.rgba`)));
  const { features, rows, columns } = hog(pixels, width, height);
  await writeFile(join(work, `${name}.features`), features);
  await writeFile(join(work, `${name}.glyphs`), drawGlyphs(features, rows, columns));
  const calls = [];
  for (let call = 0; call < 20; call++) {
    const began = performance.now();
    hog(pixels, width, height);
    calls.push(performance.now() - began);
  }
  times[name] = calls.sort((a, b) => a - b)[10];
}
await writeFile(join(work, "times.json"), JSON.stringify(times));
await writeFile(join(work, "refused.json"), JSON.stringify([refused(36, 3, 3), refused(100, 8, 8)]));
