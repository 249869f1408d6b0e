import { defineConfig } from "vitest/config";

// One browser and one backend serve all of these tests, one after the other.
export default defineConfig({
  test: {
    include: ["test/browser/*.test.ts"],
    environment: "node",
    fileParallelism: false,
    testTimeout: 90_000,
    hookTimeout: 90_000,
  },
});
