// The page: one HTML file with its script and style beside it, served by `lucida serve`.
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vite'

export default defineConfig({
  base: './',
  plugins: [svelte()],
  build: { outDir: 'dist/app', emptyOutDir: true, target: 'es2022', modulePreload: false, license: { fileName: 'licences.txt' } },
  // `npm run dev` beside a running `lucida serve --port 8765`: the API is taken from there.
  server: { proxy: { '/api': 'http://127.0.0.1:8765' } },
})
