// The graph for notebooks and exported files: one script with everything in it, its style too.
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vite'

export default defineConfig({
  // Components put their own style into the root they are mounted in: a shadow root has no <head>.
  plugins: [svelte({ emitCss: false, compilerOptions: { css: 'injected' } })],
  build: {
    outDir: 'dist/widget',
    emptyOutDir: true,
    target: 'es2022',
    license: { fileName: 'licences.txt' },
    lib: { entry: 'src/widget/widget.ts', formats: ['es'], fileName: () => 'widget.js' },
    rollupOptions: { output: { codeSplitting: false } },
  },
})
