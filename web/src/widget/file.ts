// What an exported file carries: a view, packed, and the notes of its reader (lucida/graph/html.py is the writer).
import type { Notes } from '../api/schema'

export interface FileNotes {
  notes?: Partial<Notes>
  about?: About
}

/** What is said above the graph; every field may be missing. */
export interface About {
  title?: string
  summary?: string
  answers?: { text: string; probability: number | null }[]
  scores?: { replacement: number; completeness: number; error_share: number; unexpanded: number }
  made?: string
  generator?: string
  /** Which weights: what they were loaded from, and their fingerprint. */
  origins?: { model?: string; dictionary?: string }
  version?: string
}

/** The graph in an element's text: JSON with the notes, and the view as base64 of gzip. */
export async function unpacked(element: HTMLElement): Promise<{ bytes: ArrayBuffer; notes: FileNotes }> {
  const { view, ...notes } = JSON.parse(element.textContent ?? '') as FileNotes & { view: string }
  const packed = Uint8Array.from(atob(view), (letter) => letter.charCodeAt(0))
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'))
  return { bytes: await new Response(plain).arrayBuffer(), notes }
}
