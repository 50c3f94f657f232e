// Light or dark, as the page around says: a notebook's own switch, else the system's.

/** Whether what stands around is dark: JupyterLab, VS Code and marimo mark their body, others follow the system. */
export function isDark(body: HTMLElement, system: boolean): boolean {
  const jupyter = body.dataset.jpThemeLight
  if (jupyter !== undefined) return jupyter === 'false'
  const code = body.dataset.vscodeThemeKind
  if (code !== undefined) return code.includes('dark') || code === 'vscode-high-contrast'
  const classes = `${body.className} ${body.ownerDocument.documentElement.className}`.split(/\s+/)
  if (classes.includes('dark') || classes.includes('dark-theme')) return true
  if (classes.includes('light') || classes.includes('light-theme')) return false
  return system
}

/** Keep `data-theme` of an element what it should be, until the returned function is called. */
export function followTheme(element: HTMLElement): () => void {
  const system = matchMedia('(prefers-color-scheme: dark)')
  const update = () => {
    if (!element.dataset.chosen) element.dataset.theme = isDark(document.body, system.matches) ? 'dark' : 'light'
  }
  const observer = new MutationObserver(update)
  const attributes = ['class', 'data-jp-theme-light', 'data-vscode-theme-kind']
  observer.observe(document.body, { attributeFilter: attributes })
  observer.observe(document.documentElement, { attributeFilter: attributes })
  system.addEventListener('change', update)
  update()
  return () => {
    observer.disconnect()
    system.removeEventListener('change', update)
  }
}
