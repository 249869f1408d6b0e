import { defineConfig } from "vite";

// The page is part of the Python package: what is built here is served by the API under "/".
const API = process.env["SIBYL_DEV_API"] ?? "http://127.0.0.1:8000";

export default defineConfig({
  build: {
    outDir: "../Backend/sibyl/page",
    emptyOutDir: true,
    target: "es2022",
    // Nothing inline, so that the page works under `default-src 'self'`.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    host: "127.0.0.1",
    proxy: { "/api": API, "/readyz": API, "/healthz": API, "/ws": { target: API, ws: true } },
  },
});
