/** The browser of the tests: a real Chromium, or none. */
import { existsSync } from "node:fs";

export const CHROMIUM = process.env["SIBYL_TEST_CHROMIUM"] ?? "/usr/bin/chromium";
export const REQUIRED = process.env["SIBYL_CI_REQUIRE_BROWSER"] === "1";
export const PRESENT = existsSync(CHROMIUM);
export const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

if (!PRESENT && !REQUIRED) {
  console.log(`SKIPPED: no browser at ${CHROMIUM}. Install Chromium, or name one in SIBYL_TEST_CHROMIUM.`);
}
